// neff.hpp: the NEFF container around a portable program: the documented 1024-byte header, then a ustar archive.
//
//   baton/index.json        {"schema":"baton.neff/1","program_bytes":n,"constants":[{"name":"w","bytes":n}]}
//   baton/program.bin       hal/program's serialized form
//   baton/constants/<i>     constant i of the index, dense; none for one with "input":true, which every launch binds by its name instead
//
// A compiler that lowers the program for the device would put its own NEFF here; nrt_load cannot tell the difference.
//
// Owner    A Neff owns its bytes: one anonymous mapping, page aligned, so that constants lie 512-byte aligned in place.
// Threads  none of its own.   Cost  build() copies program and constants once (nrt_load takes one contiguous range).
// Errors   CAPACITY: no memory, or an entry over the 8 GiB that a ustar size field can say.
//
//     BATON_ASSIGN(auto neff, neuron::Neff::build("prefill", 2, program, constants));
//     port.load(neff.data(), neff.bytes(), vnc, -1, &model);
#pragma once

#include "hal/baton.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace baton::neuron {

// Field order and offsets: SDK neuron-runtime/explore/work-with-neff-files.rst.
struct __attribute__((packed)) NeffHeader {
  uint64_t pkg_version;
  uint64_t header_size;
  uint64_t data_size;
  uint64_t version_major, version_minor;
  char build_version[128];
  uint32_t num_tpb;
  uint8_t hash[32];
  uint8_t uuid[16];
  char name[256];
  uint32_t requested_tpb_count;
  uint8_t tpb_per_node[64];
  uint64_t feature_bits;
  uint32_t lnc_size;
  uint8_t pad[468];
};
static_assert(sizeof(NeffHeader) == 1024 && offsetof(NeffHeader, hash) == 172 && offsetof(NeffHeader, name) == 220 &&
              offsetof(NeffHeader, feature_bits) == 544 && offsetof(NeffHeader, lnc_size) == 552);

inline constexpr uint64_t kNeffPackage = 2;       // guess: the newest package version
inline constexpr uint64_t kNeffVersionMajor = 2;  // guess
inline constexpr char kNeffBuiltBy[] = "baton ";  // build_version of what build() makes: no compiler's
inline constexpr char kNeffIndex[] = "baton/index.json";
inline constexpr char kNeffProgram[] = "baton/program.bin";
inline constexpr char kNeffConstants[] = "baton/constants/";
inline constexpr char kNeffSchema[] = "baton.neff/1";

// POSIX.1-1988 ustar, the fields that are used.
struct TarHeader {
  char name[100];
  char mode[8], uid[8], gid[8];
  char size[12];  // octal
  char mtime[12];
  char checksum[8];  // octal sum of the header's bytes with this field as spaces
  char type;         // '0': a file
  char link[100];
  char magic[6];  // "ustar"
  char version[2];
  char user[32], group[32];
  char major[8], minor[8];
  char prefix[155];
  char pad[12];
};
static_assert(sizeof(TarHeader) == 512);
uint32_t tar_checksum(const TarHeader&);

class Neff {
 public:
  // A constant without data is an input of the model.
  static Result<Neff> build(std::string_view name, uint32_t lnc, std::span<const uint8_t> program,
                            std::span<const baton_constant> constants);
  Neff(Neff&& o) noexcept : data_(std::exchange(o.data_, nullptr)), bytes_(std::exchange(o.bytes_, 0)) {}
  Neff& operator=(Neff&&) = delete;
  ~Neff();
  uint8_t* data() { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  Neff(uint8_t* data, uint64_t bytes) : data_(data), bytes_(bytes) {}
  uint8_t* data_;
  uint64_t bytes_;
};

}  // namespace baton::neuron
