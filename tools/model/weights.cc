#include "tools/model/weights.hpp"

#include "tools/model/fail.hpp"
#include "tools/model/json_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>

namespace baton::model {

using nlohmann::json;

namespace {

constexpr const char* kAgain = "fetch the file again";
constexpr uint64_t kMaxHeader = 100'000'000; // bytes; the limit that the format's own readers apply

uint64_t element_bytes(std::string_view dtype) {
  if (dtype == "BF16" || dtype == "F16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL" || dtype.starts_with("F8")) return 1;
  return 0;
}

std::string shape_text(const std::vector<uint64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

bool multiply(uint64_t& a, uint64_t b) { return !__builtin_mul_overflow(a, b, &a); }

struct Entry {
  std::string name, dtype;
  std::vector<uint64_t> shape;
  uint64_t begin = 0, end = 0;
};

// One entry of the header; `data_bytes` follow the header in the file.
Result<Entry> parse_entry(const std::string& path, const std::string& name, const json& j, uint64_t data_bytes) {
  auto bad = [&](const std::string& what) { return fail(BATON_CORRUPT, kAgain, "{}: tensor '{}': {}", path, name.substr(0, 80), what); };
  Entry e;
  e.name = name;
  if (!j.is_object() || !j.contains("dtype") || !j.contains("shape") || !j.contains("data_offsets"))
    return bad("header entry without dtype, shape or data_offsets");
  const json &dtype = j["dtype"], &shape = j["shape"], &offsets = j["data_offsets"];
  if (!dtype.is_string() || !shape.is_array() || !offsets.is_array() || offsets.size() != 2) return bad("header entry with fields of the wrong type");
  e.dtype = dtype.get<std::string>();
  uint64_t bytes = element_bytes(e.dtype);
  if (bytes == 0) return bad(fmt::format("unknown dtype {}", e.dtype.substr(0, 16)));
  for (const json& d : shape) {
    if (!is_u64(d)) return bad("shape is not a list of sizes");
    e.shape.push_back(d.get<uint64_t>());
    if (!multiply(bytes, e.shape.back())) return bad("shape overflows 64 bits");
  }
  if (!is_u64(offsets[0]) || !is_u64(offsets[1])) return bad("data_offsets are not two numbers");
  e.begin = offsets[0].get<uint64_t>();
  e.end = offsets[1].get<uint64_t>();
  if (e.begin > e.end || e.end > data_bytes)
    return bad(fmt::format("bytes {}..{} lie outside the file's {} bytes of data (truncated?)", e.begin, e.end, data_bytes));
  if (e.end - e.begin != bytes)
    return bad(fmt::format("{} {} needs {} bytes, data_offsets give {}", e.dtype, shape_text(e.shape), bytes, e.end - e.begin));
  return e;
}

}  // namespace

struct Weights::Mapping {
  uint8_t* data = nullptr;
  uint64_t bytes = 0;
  Mapping() = default;
  Mapping(const Mapping&) = delete;
  ~Mapping() {
    if (data) ::munmap(data, bytes);
  }
  static Result<std::unique_ptr<Mapping>> open(const std::string& path) {
    int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail(BATON_INVALID_ARGUMENT, "check --model", "{}: {}", path, std::strerror(errno));
    auto m = std::make_unique<Mapping>();
    struct stat s;
    int bad = ::fstat(fd, &s);
    if (!bad && !S_ISREG(s.st_mode)) {
      ::close(fd);
      return fail(BATON_INVALID_ARGUMENT, "check --model", "{}: not a regular file", path);
    }
    if (!bad && s.st_size > 0) {
      void* p = ::mmap(nullptr, size_t(s.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
      bad = p == MAP_FAILED;
      if (!bad) m->data = static_cast<uint8_t*>(p), m->bytes = uint64_t(s.st_size);
    }
    int cause = errno;
    ::close(fd);
    if (bad) return fail(BATON_IO, "check the file system", "{}: cannot be mapped: {}", path, std::strerror(cause));
    return m;
  }
};

Weights::Weights() = default;
Weights::Weights(Weights&&) noexcept = default;
Weights& Weights::operator=(Weights&&) noexcept = default;
Weights::~Weights() = default;

program::DType TensorView::type() const {
  return dtype == "BF16" ? program::DType::bf16 : dtype == "F16" ? program::DType::f16 : program::DType::f32;
}

Weights Weights::from_memory(std::string name, std::map<std::string, TensorView> tensors, std::shared_ptr<void> owner) {
  Weights w;
  w.where_ = std::move(name);
  w.tensors_ = std::move(tensors);
  w.owner_ = std::move(owner);
  return w;
}

// Maps one file and takes its tensors: all, or those that the index places in it.
Status Weights::add_file(const std::string& path, const std::map<std::string, std::string>* expected) {
  BATON_ASSIGN(auto file, Mapping::open(path));
  if (file->bytes < 8) return fail(BATON_CORRUPT, kAgain, "{}: {} bytes; a safetensors file has at least 8", path, file->bytes);
  uint64_t header;
  std::memcpy(&header, file->data, 8);
  if (header > kMaxHeader || header > file->bytes - 8)
    return fail(BATON_CORRUPT, kAgain, "{}: header of {} bytes in a file of {} bytes (truncated, or not safetensors)", path, header, file->bytes);
  BATON_ASSIGN(json doc, parse_json(path + ": header", std::string_view(reinterpret_cast<char*>(file->data) + 8, header)));
  if (!doc.is_object()) return fail(BATON_CORRUPT, kAgain, "{}: header is not an object", path);
  uint64_t data_bytes = file->bytes - 8 - header;
  const uint8_t* data = file->data + 8 + header;

  std::vector<Entry> entries;
  for (auto& [name, j] : doc.items()) {
    if (name == "__metadata__") continue;
    BATON_ASSIGN(Entry e, parse_entry(path, name, j, data_bytes));
    entries.push_back(std::move(e));
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return std::tie(a.begin, a.end) < std::tie(b.begin, b.end); });
  for (size_t i = 1; i < entries.size(); ++i)
    if (entries[i].begin < entries[i - 1].end)
      return fail(BATON_CORRUPT, kAgain, "{}: tensors '{}' and '{}' overlap at byte {}", path, entries[i - 1].name, entries[i].name, entries[i].begin);

  for (Entry& e : entries) {
    if (expected && !expected->contains(e.name)) continue;
    TensorView view{e.dtype, e.shape, {data + e.begin, e.end - e.begin}};
    if (reinterpret_cast<uintptr_t>(view.data.data()) % element_bytes(e.dtype)) {
      realigned_.emplace_back(view.data.begin(), view.data.end());
      view.data = realigned_.back();
    }
    if (!tensors_.emplace(e.name, std::move(view)).second) return fail(BATON_CORRUPT, kAgain, "{}: tensor '{}' is in two files", path, e.name);
  }
  files_.push_back(std::move(file));
  return {};
}

Result<Weights> Weights::open(const std::string& dir) {
  Weights w;
  std::string index_path = dir + "/model.safetensors.index.json";
  if (!file_exists(index_path)) {
    w.where_ = dir + "/model.safetensors";
    if (!file_exists(w.where_))
      return fail(BATON_INVALID_ARGUMENT, "name a folder with config.json, tokenizer.json and model.safetensors",
                  "{}: neither model.safetensors nor model.safetensors.index.json", dir);
    BATON_TRY(w.add_file(w.where_, nullptr));
    return w;
  }
  w.where_ = index_path;
  BATON_ASSIGN(json index, read_json(index_path));
  auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object() || map->empty())
    return fail(BATON_CORRUPT, kAgain, "{}: field 'weight_map' is missing or not an object", index_path);
  std::map<std::string, std::map<std::string, std::string>> by_file;
  for (auto& [name, file] : map->items()) {
    if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos || file.get<std::string>().empty())
      return fail(BATON_CORRUPT, kAgain, "{}: weight_map['{}'] = {} is not a file name", index_path, name.substr(0, 80), file.dump().substr(0, 60));
    by_file[file.get<std::string>()][name] = name;
  }
  for (auto& [file, names] : by_file) {
    BATON_TRY(w.add_file(dir + "/" + file, &names));
    for (auto& [name, _] : names)
      if (!w.has(name)) return fail(BATON_CORRUPT, kAgain, "{}: tensor '{}' is not in {}, where the index places it", index_path, name.substr(0, 80), file);
  }
  return w;
}

bool Weights::has(const std::string& name) const { return tensors_.contains(name); }

Result<TensorView> Weights::tensor(const std::string& name, const std::vector<uint64_t>& shape) const {
  auto it = tensors_.find(name);
  if (it == tensors_.end())
    return fail(BATON_INVALID_ARGUMENT, "use a checkpoint that fits its config.json", "{}: tensor '{}' {} is missing ({} tensors are there)", where_, name, shape_text(shape),
                tensors_.size());
  const TensorView& t = it->second;
  if (t.dtype != "BF16" && t.dtype != "F16" && t.dtype != "F32")
    return fail(BATON_UNSUPPORTED, "use a checkpoint in BF16, F16 or F32", "{}: tensor '{}' has dtype {}", where_, name, t.dtype);
  if (t.shape != shape)
    return fail(BATON_CORRUPT, "use a checkpoint that fits its config.json", "{}: tensor '{}' has shape {}, config.json asks for {}", where_, name, shape_text(t.shape),
                shape_text(shape));
  return t;
}

uint64_t Weights::bytes() const {
  uint64_t sum = 0;
  for (auto& [_, t] : tensors_) sum += t.data.size();
  return sum;
}

uint64_t Weights::hash() const {
  constexpr uint64_t kWhole = 1 << 20, kWindow = 4096, kWindows = 64;
  uint64_t h = 0;
  for (auto& [name, t] : tensors_) {
    std::string head = fmt::format("{} {} {}", name, t.dtype, shape_text(t.shape));
    h = XXH3_64bits_withSeed(head.data(), head.size(), h);
    uint64_t n = t.data.size();
    if (n <= kWhole) {
      h = XXH3_64bits_withSeed(t.data.data(), n, h);
      continue;
    }
    for (uint64_t i = 0; i < kWindows; ++i)
      h = XXH3_64bits_withSeed(t.data.data() + (n - kWindow) * i / (kWindows - 1), kWindow, h);
  }
  return h;
}

}  // namespace baton::model
