// transport_spill_test.hpp: what the tests of KvSpill share: a folder, blocks whose bytes follow from their key, memory at any alignment.
#pragma once

#include "transport_test.hpp"

#include "tests/support/process.h"
#include "transport/kv_spill.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <map>

namespace baton::transport {

inline constexpr uint64_t kBlock = 16384;

inline KvBlockKey key_of(uint64_t n) { return {n * 0x9e3779b97f4a7c15ull, n}; }

inline void fill_block(uint8_t* at, uint64_t bytes, uint64_t n) {
  uint64_t s = n * 0x2545f4914f6cdd1dull + 1;
  for (uint64_t i = 0; i < bytes; ++i) {
    if (i % 8 == 0) s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    at[i] = uint8_t(s >> (i % 8 * 8));
  }
}
inline std::vector<uint8_t> block_of(uint64_t bytes, uint64_t n) {
  std::vector<uint8_t> v(bytes);
  fill_block(v.data(), bytes, n);
  return v;
}

struct SpillTest : testing::Test {
  test::TempDir dir;
  KvSpillOptions options{.folder = dir.path() + "/kv", .layout = 0x1234, .block_bytes = kBlock, .blocks = 64};

  // A busy disk may still have writes of a killed process: then as the error says, again.
  KvSpill open() {
    const uint64_t until = deadline_in_ms(kSoonMs);
    for (;;) {
      auto spill = KvSpill::open(options);
      if (spill.ok() || spill.error().code != BATON_BUSY || now_ns() > until) return must(std::move(spill));
    }
  }
  std::string path(const char* name) const { return options.folder + "/" + name; }
  std::string read(const char* name) const {
    std::ifstream f(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(f), {}};
  }
  void write(const char* name, const std::string& bytes) const {
    std::ofstream f(path(name), std::ios::binary | std::ios::trunc);
    f << bytes;
  }
  void flip(const char* name, uint64_t at) const {
    const int fd = ::open(path(name).c_str(), O_RDWR | O_CLOEXEC);
    char c;
    EXPECT_EQ(::pread(fd, &c, 1, off_t(at)), 1);
    c ^= 4;
    EXPECT_EQ(::pwrite(fd, &c, 1, off_t(at)), 1);
    ::close(fd);
  }
};

inline Status put_one(KvSpill& s, uint64_t n, uint64_t bytes = kBlock) {
  const auto v = block_of(bytes, n);
  const KvSpill::Put p{key_of(n), v.data(), bytes};
  return s.put({&p, 1});
}
// OK only with the bytes that belong to the key.
inline Status get_one(KvSpill& s, uint64_t n, uint64_t bytes = kBlock) {
  std::vector<uint8_t> v(bytes, 0xee);
  const KvSpill::Get g{key_of(n), v.data(), bytes};
  BATON_TRY(s.get({&g, 1}));
  if (v != block_of(bytes, n)) return Error(BATON_INTERNAL, "get() returned other bytes than were put");
  return {};
}
inline Status drop_one(KvSpill& s, uint64_t n) {
  const KvBlockKey k = key_of(n);
  return s.drop({&k, 1});
}

}  // namespace baton::transport
