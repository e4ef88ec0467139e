#include "emulators/neuron/machine_data.hpp"

#include "emulators/timing/timing.hpp"
#include "hal/json_depth.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <optional>

namespace baton::neuron_emu {
namespace {

constexpr const char* kSchema = "baton.neuron-machine/1";
constexpr uint64_t kMaxFile = 1 << 20;

using Json = nlohmann::json;

// Reads members of one object; the first that is wrong is the error, and what is read after it does not matter.
class Reader {
 public:
  Reader(const std::string& where) : where_(where) {}
  const Status& status() const { return status_; }

  const Json& object(const Json& in, const char* key) {
    static const Json empty = Json::object();
    auto it = in.find(key);
    if (it != in.end() && it->is_object()) return *it;
    return wrong(key, "must be an object"), empty;
  }
  // An object whose figures say where they are from.
  const Json& sourced(const Json& in, const char* key) {
    const Json& o = object(in, key);
    text(o, "source");
    return o;
  }
  uint64_t number(const Json& in, const char* key, uint64_t least, uint64_t most) {
    auto it = in.find(key);
    if (it != in.end() && it->is_number_unsigned() && it->get<uint64_t>() >= least && it->get<uint64_t>() <= most) return it->get<uint64_t>();
    return wrong(key, fmt::format("must be a whole number from {} to {}", least, most)), least;
  }
  uint32_t small(const Json& in, const char* key, uint32_t least, uint32_t most) { return uint32_t(number(in, key, least, most)); }
  std::string text(const Json& in, const char* key) {
    auto it = in.find(key);
    if (it != in.end() && it->is_string() && !it->get_ref<const std::string&>().empty()) return it->get<std::string>();
    return wrong(key, "must be a text that is not empty"), "";
  }
  uint64_t hex(const std::string& text, const char* key, uint64_t most) {
    uint64_t n = 0;
    const char* end = text.data() + text.size();
    if (text.starts_with("0x")) {
      auto [at, ec] = std::from_chars(text.data() + 2, end, n, 16);
      if (ec == std::errc() && at == end && n <= most) return n;
    }
    return wrong(key, fmt::format("'{}' must be a number in hexadecimal, as 0x7364", text)), 0;
  }
  uint16_t id(const Json& in, const char* key) { return uint16_t(hex(text(in, key), key, UINT16_MAX)); }
  std::vector<std::string> texts(const Json& in, const char* key) {
    std::vector<std::string> all;
    for (const Json& each : list(in, key)) {
      if (!each.is_string()) return wrong(key, "must be a list of texts"), all;
      all.push_back(each.get<std::string>());
    }
    return all;
  }
  const Json& list(const Json& in, const char* key) {
    static const Json empty = Json::array();
    auto it = in.find(key);
    if (it != in.end() && it->is_array()) return *it;
    return wrong(key, "must be a list"), empty;
  }
  std::vector<std::string> addresses(const Json& in, const char* key) {
    std::vector<std::string> all = texts(in, key);
    for (const std::string& a : all) bdf(a, key);
    return all;
  }
  std::string bdf(const std::string& a, const char* key) {
    unsigned domain, bus, device, function;
    int used = 0;
    if (a.size() != 12 || std::sscanf(a.c_str(), "%4x:%2x:%2x.%1x%n", &domain, &bus, &device, &function, &used) != 4 || used != 12 || device > 31 || function > 7)
      wrong(key, fmt::format("'{}' must be a PCI address, as 0000:cc:00.0", a));
    return a;
  }
  void wrong(const char* key, const std::string& why) {
    if (status_.ok()) status_ = Error(BATON_CORRUPT, fmt::format("{}: '{}' {}", where_, key, why), "compare it with emulators/neuron/machines/trn2.json");
  }

 private:
  std::string where_;
  Status status_;
};

ChipData read_chip(Reader& r, const Json& file) {
  ChipData c;
  const Json& chip = r.sourced(file, "chip");
  c.model = r.text(chip, "model");
  c.cores = r.small(chip, "cores", 1, kMaxCoresPerChip);
  c.max_lnc = r.small(chip, "max_lnc", 1, 2);
  c.lnc = r.small(chip, "lnc", 1, c.max_lnc);
  if (c.cores % c.max_lnc) r.wrong("max_lnc", "must divide the cores");
  const Json& names = r.sourced(chip, "names");
  c.arch_type = r.text(names, "arch_type");
  c.core_arch_type = r.text(names, "core_arch_type");
  c.instance_type = r.text(names, "instance_type");
  c.device_name = r.text(names, "device_name");
  c.revision = r.text(names, "revision");
  const Json& pci = r.sourced(chip, "pci");
  c.pci_vendor = r.id(pci, "vendor");
  c.pci_device = r.id(pci, "device");
  c.pci_class = r.id(pci, "class");
  c.efa_device = r.id(pci, "efa");
  const Json& hbm = r.sourced(chip, "hbm");
  c.hbm_bytes = r.number(hbm, "bytes", 1 << 20, 1ull << 40);
  for (const std::string& at : r.texts(hbm, "at")) c.hbm_at.push_back(r.hex(at, "at", UINT64_MAX));
  if (!c.stacks() || c.stacks() > kMaxStacksPerChip || c.cores % c.stacks()) r.wrong("at", "must have a stack for each core, or for some of them together");
  const Json& tensor = r.sourced(chip, "tensor");
  c.tensor_rows = r.small(tensor, "rows", 1, 4096);
  c.tensor_columns = r.small(tensor, "columns", 1, 4096);
  c.row_groups = r.small(tensor, "row_groups", 1, 64);
  c.tensor_hz = r.number(tensor, "clock_hz", 1, 1ull << 40);
  return c;
}

DeviceData read_device(Reader& r, const Json& j, const MachineData& m, size_t count) {
  DeviceData d;
  d.bdf = r.bdf(r.text(j, "bdf"), "bdf");
  d.numa = r.small(j, "numa", 0, m.numa_nodes - 1);
  for (const Json& link : r.list(j, "links")) {
    if (!link.is_number_unsigned() || link.get<uint64_t>() >= count) r.wrong("links", fmt::format("must be chips from 0 to {}", count - 1));
    else d.links.push_back(link.get<uint32_t>());
  }
  d.efa = r.addresses(j, "efa");
  return d;
}

MachineData read_machine(Reader& r, const Json& j, const ChipData& chip) {
  MachineData m;
  m.chip = chip;
  r.text(j, "source");
  r.text(j, "where");  // the source of the addresses
  m.family = r.small(j, "family", 0, 255);
  m.size = r.small(j, "size", 0, 255);
  m.vcpus = r.small(j, "vcpus", 1, 4096);
  m.numa_nodes = r.small(j, "numa_nodes", 1, 64);
  m.host_bytes = r.number(j, "host_bytes", 1 << 20, 1ull << 50);
  m.host_efa = r.addresses(j, "host_efa");
  const Json& devices = r.list(j, "devices");
  if (devices.empty() || devices.size() > kMaxChips) r.wrong("devices", fmt::format("must have 1 to {} chips", kMaxChips));
  for (const Json& d : devices) m.devices.push_back(read_device(r, d, m, devices.size()));
  return m;
}

Result<std::string> read_file(const std::string& path) {
  std::FILE* f = std::fopen(path.c_str(), "rb");
  if (!f) return Error(BATON_IO, fmt::format("{}: cannot be opened (errno {})", path, errno), "see that it is readable");
  std::string text(kMaxFile + 1, 0);
  text.resize(std::fread(text.data(), 1, text.size(), f));
  std::fclose(f);
  if (text.size() > kMaxFile) return Error(BATON_CORRUPT, fmt::format("{}: larger than {} bytes", path, kMaxFile), "name a file of machines");
  return text;
}

// The JSON files of a folder, in order of name.
std::vector<std::string> files_of(const std::string& folder) {
  std::vector<std::string> all;
  std::error_code ec;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ec))
    if (entry.path().extension() == ".json") all.push_back(entry.path().string());
  std::sort(all.begin(), all.end());
  return all;
}

}  // namespace

Result<std::vector<MachineData>> parse_machines(std::string_view text, const std::string& where) {
  const Json j = json_too_deep(text) ? Json() : Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!j.is_object()) return Error(BATON_CORRUPT, where + ": not a JSON object", "compare it with emulators/neuron/machines/trn2.json");
  Reader file(where);
  const std::string schema = file.text(j, "schema");
  if (file.status().ok() && schema != kSchema)
    return Error(BATON_VERSION, fmt::format("{}: schema '{}', this build reads '{}'", where, schema, kSchema), "use a file of this release");
  const ChipData chip = read_chip(file, j);
  const Json& machines = file.object(j, "machines");
  BATON_TRY(file.status());
  std::vector<MachineData> all;
  for (const auto& entry : machines.items()) {
    Reader r(where + ", machine '" + entry.key() + "'");
    all.push_back(read_machine(r, entry.value().is_object() ? entry.value() : Json::object(), chip));
    BATON_TRY(r.status());
    all.back().name = entry.key();
    all.back().file = where;
  }
  return all;
}

Result<MachineData> load_machine(std::string_view name) {
  const size_t slash = name.rfind('/');
  const std::string wanted(slash == std::string_view::npos ? name : name.substr(slash + 1));
  const std::string folder = slash == std::string_view::npos ? timing::data_folder("machines") : std::string(name.substr(0, slash));
  std::string known;
  for (const std::string& path : files_of(folder)) {
    BATON_ASSIGN(std::string text, read_file(path));
    BATON_ASSIGN(auto machines, parse_machines(text, path));
    for (MachineData& m : machines) {
      if (m.name == wanted) return std::move(m);
      known += (known.empty() ? "" : ", ") + m.name;
    }
  }
  if (known.empty()) return Error(BATON_NOT_FOUND, fmt::format("no machines in '{}'", folder), "build the target baton_neuron_machines, or name FOLDER/NAME");
  return Error(BATON_NOT_FOUND, fmt::format("no machine '{}'", wanted), "machines: " + known);
}

}  // namespace baton::neuron_emu
