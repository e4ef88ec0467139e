#include "drivers/neuron/loaded_model.hpp"

#include "drivers/neuron/neff.hpp"
#include "drivers/neuron/quirks.hpp"

#define XXH_STATIC_LINKING_ONLY  // the state as a value
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace baton::neuron {
namespace {

// A file, mapped for as long as the runtime reads it.
class Mapped {
 public:
  static Result<Mapped> open(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat st {};
    void* at = MAP_FAILED;
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0) at = mmap(nullptr, size_t(st.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
    const int why = st.st_size || fd < 0 ? errno : EINVAL;
    if (fd >= 0) ::close(fd);
    if (at == MAP_FAILED) return Error(BATON_IO, path + ": " + (why == EINVAL ? "an empty file" : std::strerror(why)), "compile the program into it again");
    return Mapped(at, uint64_t(st.st_size));
  }
  Mapped(Mapped&& o) noexcept : data(std::exchange(o.data, nullptr)), bytes(o.bytes) {}
  ~Mapped() {
    if (data) munmap(data, bytes);
  }
  void* data;
  uint64_t bytes;

 private:
  Mapped(void* at, uint64_t n) : data(at), bytes(n) {}
};

std::string hash_of(std::span<const baton_constant> constants) {
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  for (const baton_constant& c : constants) {
    XXH3_128bits_update(&state, c.name, std::strlen(c.name) + 1);
    XXH3_128bits_update(&state, &c.bytes, sizeof c.bytes);
    if (c.bytes) XXH3_128bits_update(&state, c.data, c.bytes);
  }
  const XXH128_hash_t h = XXH3_128bits_digest(&state);
  return fmt::format("{:016x}{:016x}", h.high64, h.low64);
}

const char kNoFolder[] = "name a folder of compiled programs by artifacts=FOLDER or BATON_NEURON_ARTIFACTS; devctl artifacts lists what a model needs";

}  // namespace

LoadedModel::~LoadedModel() {
  if (model_) port_.unload(model_);
}

Status LoadedModel::load(const LoadCall& call, const Placement& place, const void* neff, uint64_t bytes) {
  const int32_t s = call.ranks > 1 ? port_.load_collectives(neff, bytes, place.vnc, -1, call.rank, call.ranks, &model_) : port_.load(neff, bytes, place.vnc, -1, &model_);
  if (!s) return {};
  model_ = nullptr;
  return status_error(port_, s, call.ranks > 1 ? "nrt_load_collectives" : "nrt_load", fmt::format("program '{}' on lane {}", call.program.name, place.lane));
}

Status LoadedModel::load_portable(const LoadCall& call, const Placement& place, const std::string& artifact) {
  BATON_ASSIGN(Neff neff, Neff::build(call.program.name, place.lnc, call.bytes, call.constants));
  Status s = load(call, place, neff.data(), neff.bytes());
  if (s.ok() || s.error().code != BATON_VERSION) return s;
  // A runtime that is no emulator: what it takes is machine code.
  return Error(BATON_VERSION, fmt::format("program '{}' is not compiled for this runtime, and {} ({})", call.program.name,
                                          artifact.empty() ? "no folder of artifacts is named" : "there is no " + artifact, s.error().what),
               artifact.empty() ? kNoFolder : "compile it into that file; devctl artifacts --programs writes what a compiler reads");
}

// What the artifact declares against what the program has: a name that is missing would be a launch on garbage.
Status LoadedModel::check_inputs(const LoadCall& call, const std::string& file) const {
  nrt::TensorInfoArray* array = nullptr;
  if (!port_.tensor_info || !port_.free_tensor_info) return {};
  if (int32_t s = port_.tensor_info(model_, &array)) return status_error(port_, s, "nrt_get_model_tensor_info", file);
  auto declared = [&](const std::string& name, int32_t usage) -> const nrt::TensorInfo* {
    for (uint64_t i = 0; i < array->count; ++i)
      if (array->entries[i].usage == usage && !std::strncmp(array->entries[i].name, name.c_str(), sizeof array->entries[i].name)) return &array->entries[i];
    return nullptr;
  };
  std::string wrong;
  for (const program::Value& v : call.program.values) {
    using program::Storage;
    const bool in = v.storage == Storage::input || v.storage == Storage::inout || v.storage == Storage::cache || v.storage == Storage::constant;
    const bool out = v.storage == Storage::output || v.storage == Storage::inout || v.storage == Storage::cache;
    if (!wrong.empty()) break;
    if (in && !declared(v.name, nrt::kUsageInput)) wrong = fmt::format("it has no input '{}'", v.name);
    else if (out && !v.optional && !declared(v.name, nrt::kUsageOutput)) wrong = fmt::format("it has no output '{}'", v.name);
  }
  for (const baton_constant& c : call.constants)
    if (const nrt::TensorInfo* t = declared(c.name, nrt::kUsageInput); wrong.empty() && t && t->size != c.bytes)
      wrong = fmt::format("its input '{}' has {} bytes, the weight has {}", c.name, t->size, c.bytes);
  port_.free_tensor_info(array);
  if (wrong.empty()) return {};
  return Error(BATON_MISMATCH, fmt::format("{} is not program '{}': {}", file, call.program.name, wrong), "compile the program with its constants as inputs of their names");
}

Status LoadedModel::load_artifact(const LoadCall& call, const Placement& place, const std::string& file) {
  {
    BATON_ASSIGN(Mapped neff, Mapped::open(file));
    BATON_TRY(load(call, place, neff.data, neff.bytes));
  }
  BATON_TRY(check_inputs(call, file));
  for (const baton_constant& c : call.constants) {
    BATON_ASSIGN(auto memory, Memory::allocate(port_, place.vnc, place.lane, c.bytes));
    if (c.data)
      if (int32_t s = port_.tensor_write(memory->tensor(), c.data, 0, c.bytes)) return status_error(port_, s, "nrt_tensor_write", c.name);
    weights_.emplace_back(c.name, std::move(memory));
  }
  return {};
}

Status LoadedModel::bind_weights(void* set) const {
  for (const auto& [name, memory] : weights_)
    if (int32_t s = port_.set_add(set, name.c_str(), memory->tensor())) return status_error(port_, s, "nrt_add_tensor_to_tensor_set", name);
  return {};
}

Result<std::shared_ptr<LoadedModel>> ModelCache::load(const LoadCall& call, const Placement& place) {
  const std::string print = program::fingerprint(call.bytes);
  const std::string key = fmt::format("{} {} {}/{} {}", place.lane, print, call.rank, call.ranks, hash_of(call.constants));
  std::erase_if(loaded_, [](const auto& each) { return each.second.expired(); });
  if (auto it = loaded_.find(key); it != loaded_.end())
    if (auto model = it->second.lock()) return model;
  std::shared_ptr<LoadedModel> model(new LoadedModel(port_));
  const std::string file = artifacts_.empty() ? "" : artifacts_ + "/" + print + ".neff";
  if (!file.empty() && access(file.c_str(), F_OK) == 0) BATON_TRY(model->load_artifact(call, place, file));
  else BATON_TRY(model->load_portable(call, place, file));
  loaded_[key] = model;
  return model;
}

}  // namespace baton::neuron
