#include "drivers/neuron/neff.hpp"

#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

namespace baton::neuron {
namespace {

constexpr uint64_t kTarBlock = 512;
constexpr uint64_t kTarMaxBytes = (1ull << 33) - 1;  // 11 octal digits

uint64_t padded(uint64_t bytes) { return (bytes + kTarBlock - 1) / kTarBlock * kTarBlock; }

uint8_t* put_entry(uint8_t* at, const std::string& name, const void* data, uint64_t bytes) {
  TarHeader h{};
  std::snprintf(h.name, sizeof h.name, "%s", name.c_str());
  std::memcpy(h.mode, "0000444", 8);
  std::memcpy(h.uid, "0000000", 8);
  std::memcpy(h.gid, "0000000", 8);
  std::snprintf(h.size, sizeof h.size, "%011llo", static_cast<unsigned long long>(bytes));
  std::memcpy(h.mtime, "00000000000", 12);
  h.type = '0';
  std::memcpy(h.magic, "ustar", 6);
  std::memcpy(h.version, "00", 2);
  std::snprintf(h.checksum, sizeof h.checksum, "%06o", tar_checksum(h));
  h.checksum[7] = ' ';
  std::memcpy(at, &h, sizeof h);
  if (bytes) std::memcpy(at + sizeof h, data, bytes);
  return at + sizeof h + padded(bytes);  // the mapping is zero, so is the padding
}

std::string index_text(uint64_t program_bytes, std::span<const baton_constant> constants) {
  nlohmann::json list = nlohmann::json::array();
  for (const auto& c : constants) {
    list.push_back({{"name", c.name}, {"bytes", c.bytes}});
    if (!c.data) list.back()["input"] = true;
  }
  nlohmann::json index{{"schema", kNeffSchema}, {"program_bytes", program_bytes}, {"constants", std::move(list)}};
  return index.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

uint32_t tar_checksum(const TarHeader& header) {
  TarHeader h = header;
  std::memset(h.checksum, ' ', sizeof h.checksum);
  uint32_t sum = 0;
  for (size_t i = 0; i < sizeof h; ++i) sum += reinterpret_cast<const uint8_t*>(&h)[i];
  return sum;
}

Result<Neff> Neff::build(std::string_view name, uint32_t lnc, std::span<const uint8_t> program,
                         std::span<const baton_constant> constants) {
  std::string index = index_text(program.size(), constants);
  uint64_t tar = 3 * kTarBlock + padded(index.size()) + padded(program.size()) + kTarBlock;  // ends in two zero blocks
  for (const auto& c : constants) {
    if (c.bytes > kTarMaxBytes)
      return Error(BATON_CAPACITY, std::string("constant ") + c.name + " has " + std::to_string(c.bytes) + " bytes, a container entry holds " +
                                       std::to_string(kTarMaxBytes), "split the matrix or shard the model over more lanes");
    if (c.data) tar += kTarBlock + padded(c.bytes);
  }
  uint64_t bytes = sizeof(NeffHeader) + tar;
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED)
    return Error(BATON_CAPACITY, "no address space for a container of " + std::to_string(bytes) + " bytes", "free memory, or shard the model over more lanes");
  Neff neff(static_cast<uint8_t*>(at), bytes);

  NeffHeader h{};
  h.pkg_version = kNeffPackage;
  h.header_size = sizeof h;
  h.data_size = tar;
  h.version_major = kNeffVersionMajor;
  std::snprintf(h.build_version, sizeof h.build_version, "%s%s", kNeffBuiltBy, BATON_VERSION_STRING);
  h.num_tpb = h.requested_tpb_count = 1;
  h.tpb_per_node[0] = 1;
  std::snprintf(h.name, sizeof h.name, "%.*s", int(std::min<size_t>(name.size(), sizeof h.name - 1)), name.data());
  h.lnc_size = lnc;
  std::memcpy(neff.data_, &h, sizeof h);

  uint8_t* p = put_entry(neff.data_ + sizeof h, kNeffIndex, index.data(), index.size());
  p = put_entry(p, kNeffProgram, program.data(), program.size());
  for (size_t i = 0; i < constants.size(); ++i)
    if (constants[i].data) p = put_entry(p, kNeffConstants + std::to_string(i), constants[i].data, constants[i].bytes);
  return neff;
}

Neff::~Neff() {
  if (data_) munmap(data_, bytes_);
}

}  // namespace baton::neuron
