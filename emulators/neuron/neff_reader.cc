#include "emulators/neuron/neff_reader.hpp"

#include "drivers/neuron/neff.hpp"

#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <openssl/evp.h>

namespace baton::neuron_emu {
namespace {

using neuron::NeffHeader;
using neuron::TarHeader;
using Bytes = std::span<const uint8_t>;

Error corrupt(const std::string& what) { return Error(BATON_CORRUPT, what, "build the container again"); }

Error compiled() {
  return Error(BATON_VERSION, "this is a compiled NEFF (no baton/program.bin in it): the emulator executes Baton's portable programs, machine code for NeuronCores needs the chip",
               "load it on hardware, or load the portable program");
}

Result<NeffHeader> read_header(Bytes bytes) {
  NeffHeader h;
  if (bytes.size() < sizeof h) return corrupt("a NEFF has a header of 1024 bytes, these are " + std::to_string(bytes.size()));
  std::memcpy(&h, bytes.data(), sizeof h);
  if (h.header_size != sizeof h) return corrupt("header_size is " + std::to_string(h.header_size) + ", a NEFF's is 1024");
  if (h.pkg_version > neuron::kNeffPackage || h.version_major > neuron::kNeffVersionMajor)
    return Error(BATON_VERSION, "NEFF package " + std::to_string(h.pkg_version) + " version " + std::to_string(h.version_major) + "." +
                                    std::to_string(h.version_minor) + ", known up to " + std::to_string(neuron::kNeffPackage) + " and " +
                                    std::to_string(neuron::kNeffVersionMajor), "use a runtime of the compiler's release");
  if (h.data_size != bytes.size() - sizeof h)
    return corrupt("data_size is " + std::to_string(h.data_size) + ", " + std::to_string(bytes.size() - sizeof h) + " bytes follow the header");
  return h;
}

bool octal(const char* text, size_t n, uint64_t& out) {
  out = 0;
  size_t i = 0;
  for (; i < n && text[i] >= '0' && text[i] <= '7'; ++i) out = out * 8 + uint64_t(text[i] - '0');
  return i > 0 && (i == n || text[i] == 0 || text[i] == ' ');
}

Result<std::map<std::string, Bytes>> read_tar(Bytes tar) {
  std::map<std::string, Bytes> entries;
  if (tar.size() >= 2 && tar[0] == 0x1f && tar[1] == 0x8b) return compiled();  // gzip: ours is not compressed
  uint64_t at = 0;
  while (tar.size() - at >= sizeof(TarHeader)) {
    TarHeader h;
    std::memcpy(&h, tar.data() + at, sizeof h);
    if (!h.name[0]) return entries;
    uint64_t bytes = 0, sum = 0;
    std::string where = "archive entry at byte " + std::to_string(at);
    if (std::memcmp(h.magic, "ustar", 5) != 0) return corrupt(where + " is not ustar");
    if (!octal(h.checksum, sizeof h.checksum, sum) || sum != neuron::tar_checksum(h)) return corrupt(where + " fails its checksum");
    if (!octal(h.size, sizeof h.size, bytes)) return corrupt(where + " has no size");
    at += sizeof h;
    uint64_t padded = (bytes + 511) / 512 * 512;
    if (padded > tar.size() - at) return corrupt(where + " has " + std::to_string(bytes) + " bytes, " + std::to_string(tar.size() - at) + " are left");
    std::string name(h.name, strnlen(h.name, sizeof h.name));
    if (h.type == '0' || h.type == 0) entries[name] = tar.subspan(at, bytes);
    at += padded;
  }
  return corrupt("the archive has no end");
}

Status read_index(Bytes text, const std::map<std::string, Bytes>& entries, NeffView& view) {
  nlohmann::json index = nlohmann::json::parse(text.begin(), text.end(), nullptr, false);
  if (!index.is_object()) return corrupt("baton/index.json is no JSON object");
  auto schema = index.find("schema");
  if (schema == index.end() || !schema->is_string()) return corrupt("baton/index.json has no schema");
  if (schema->get<std::string>() != neuron::kNeffSchema)
    return Error(BATON_VERSION, "index schema " + schema->get<std::string>() + ", known is " + neuron::kNeffSchema, "use one release of Baton on both sides");
  auto list = index.find("constants");
  if (list == index.end() || !list->is_array()) return corrupt("baton/index.json has no constants");
  view.names.reserve(list->size());  // constants point into it
  for (size_t i = 0; i < list->size(); ++i) {
    const nlohmann::json& c = (*list)[i];
    std::string path = neuron::kNeffConstants + std::to_string(i);
    auto entry = entries.find(path);
    if (!c.is_object() || !c.contains("name") || !c["name"].is_string() || !c.contains("bytes") || !c["bytes"].is_number_unsigned())
      return corrupt("constant " + std::to_string(i) + " of the index has no name or size");
    if (c.contains("input") && c["input"] == true) {
      view.inputs.push_back(c["name"].get<std::string>());
      continue;
    }
    if (entry == entries.end() || entry->second.size() != c["bytes"].get<uint64_t>())
      return corrupt(path + " has " + std::to_string(entry == entries.end() ? 0 : entry->second.size()) + " bytes, the index says " +
                     std::to_string(c["bytes"].get<uint64_t>()));
    view.names.push_back(c["name"].get<std::string>());
    view.constants.push_back({view.names.back(), entry->second});
  }
  return {};
}

}  // namespace

std::array<uint8_t, 32> neff_hash(Bytes archive, uint64_t package) {
  std::array<uint8_t, 32> hash{};
  unsigned n = 0;
  EVP_Digest(archive.data(), archive.size(), hash.data(), &n, package < neuron::kNeffPackage ? EVP_md5() : EVP_sha256(), nullptr);
  return hash;
}

Result<NeffView> read_neff(Bytes bytes, bool validate_hash) {
  BATON_ASSIGN(NeffHeader h, read_header(bytes));
  const std::array<uint8_t, sizeof h.hash> none{};
  if (validate_hash && std::memcmp(h.hash, none.data(), none.size()) != 0)
    if (const auto hash = neff_hash(bytes.subspan(sizeof h), h.pkg_version); std::memcmp(h.hash, hash.data(), hash.size()) != 0)
      return corrupt("the header's hash is not that of the " + std::to_string(h.data_size) + " bytes that follow it");
  BATON_ASSIGN(auto entries, read_tar(bytes.subspan(sizeof h)));
  auto program = entries.find(neuron::kNeffProgram);
  auto index = entries.find(neuron::kNeffIndex);
  if (program == entries.end() && index == entries.end()) return compiled();
  if (program == entries.end() || index == entries.end()) return corrupt("the archive lacks baton/program.bin or baton/index.json");
  NeffView view;
  view.name = std::string(h.name, strnlen(h.name, sizeof h.name));
  view.lnc = h.lnc_size;
  view.portable = !std::strncmp(h.build_version, neuron::kNeffBuiltBy, sizeof neuron::kNeffBuiltBy - 1);
  view.program = program->second;
  BATON_TRY(read_index(index->second, entries, view));
  return view;
}

}  // namespace baton::neuron_emu
