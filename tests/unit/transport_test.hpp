// transport_test.hpp: what the transport's tests share: two endpoints of one instance, KV buffers with known contents, leak counts.
#pragma once

#include "transport/fabric.hpp"
#include "transport/fabrics.hpp"
#include "transport/kv_link.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <dirent.h>

#include <fstream>
#include <numeric>
#include <random>

namespace baton::transport {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

#define ASSERT_OK(expr)                                                  \
  do {                                                                   \
    const auto& s_ = (expr);                                             \
    ASSERT_TRUE(s_.ok()) << s_.error().text() << " | " << s_.error().next; \
  } while (0)
#define EXPECT_OK(expr)                                                  \
  do {                                                                   \
    const auto& s_ = (expr);                                             \
    EXPECT_TRUE(s_.ok()) << s_.error().text() << " | " << s_.error().next; \
  } while (0)

template <class T>
T must(Result<T> r, const char* what = "") {
  if (!r.ok()) {
    ADD_FAILURE() << what << ": " << r.error().text() << " | " << r.error().next;
    abort();
  }
  return std::move(*r);
}

template <class F>
bool poll_until(const Instance& in, F done, uint64_t ms = 5000) {
  const uint64_t until = deadline_in_ms(ms);
  while (!done()) {
    if (now_ns() > until) return false;
    in.poll_wait(now_ns() + 2'000'000);
  }
  return true;
}

// A decode endpoint and a prefill endpoint in one process.
struct TwoEnds {
  Instance in = must(Instance::create(), "instance");
  Device host = must(in.open("host://"), "host://");
  Key key = random_key();
  Endpoint decode, prefill;
  std::unique_ptr<Session> at_prefill, at_decode;

  explicit TwoEnds(uint64_t lease_ns = 1'500'000'000)
      : decode(must(Endpoint::open(in, {"127.0.0.1:0", key, "decode", lease_ns}))), prefill(must(Endpoint::open(in, {"", key, "prefill", lease_ns}))) {
    connect();
  }
  void connect() {
    at_prefill = must(prefill.connect(decode.address(), deadline_in_ms(5000)), "connect");
    EXPECT_TRUE(poll_until(in, [&] { return (at_decode = decode.accept()) != nullptr; }));
  }
};

inline KvLayout small_layout(KvOrder order, uint32_t block_tokens, uint32_t blocks, uint32_t head_begin = 0, uint32_t head_count = 2) {
  KvLayout l;
  l.layers = 4, l.kv_heads = 2, l.head_dim = 16;
  l.order = order, l.block_tokens = block_tokens, l.blocks = blocks;
  l.head_begin = head_begin, l.head_count = head_count;
  return l;
}

inline std::vector<int32_t> shuffled_blocks(std::mt19937& rng, const KvLayout& l, uint64_t tokens) {
  std::vector<int32_t> b(l.blocks);
  std::iota(b.begin(), b.end(), 0);
  std::shuffle(b.begin(), b.end(), rng);
  b.resize((tokens + l.block_tokens - 1) / l.block_tokens);
  return b;
}

// The value of each element says where it belongs in the model, so that equality is a check of every move.
inline uint16_t value_of(uint32_t layer, bool v, uint64_t token, uint32_t head, uint32_t d, uint32_t salt) {
  uint64_t x = ((((uint64_t(layer) * 2 + v) * 100003 + token) * 257 + head) * 1021 + d) * 2654435761u + salt;
  return uint16_t(x ^ x >> 16 ^ x >> 32);
}

template <class F>
void each_element(const KvLayout& l, const std::vector<int32_t>& blocks, uint64_t tokens, F f) {
  const auto w = l.view();
  for (uint32_t y = 0; y < l.layers; ++y)
    for (int v = 0; v < 2; ++v)
      for (uint64_t t = 0; t < tokens; ++t)
        for (uint32_t h = 0; h < l.head_count; ++h)
          for (uint32_t d = 0; d < l.head_dim; ++d)
            f(y * w.layer_stride + v * w.v_offset + uint64_t(blocks[t / l.block_tokens]) * w.block_stride + t % l.block_tokens * w.token_stride + h * w.head_stride + d, y, v, t,
              l.head_begin + h, d);
}

inline void fill_kv(const Buffer& b, const KvLayout& l, const std::vector<int32_t>& blocks, uint64_t tokens, uint32_t salt) {
  auto* p = static_cast<uint16_t*>(must(b.map()));
  each_element(l, blocks, tokens, [&](uint64_t at, uint32_t y, bool v, uint64_t t, uint32_t h, uint32_t d) { p[at] = value_of(y, v, t, h, d, salt); });
}

// Elements that differ.
inline uint64_t wrong_kv(const Buffer& b, const KvLayout& l, const std::vector<int32_t>& blocks, uint64_t tokens, uint32_t salt) {
  const auto* p = static_cast<const uint16_t*>(must(b.map()));
  uint64_t wrong = 0;
  each_element(l, blocks, tokens, [&](uint64_t at, uint32_t y, bool v, uint64_t t, uint32_t h, uint32_t d) { wrong += p[at] != value_of(y, v, t, h, d, salt); });
  return wrong;
}

inline size_t count_dir(const char* path, const char* prefix = "") {
  size_t n = 0;
  if (DIR* d = opendir(path)) {
    while (dirent* e = readdir(d)) n += e->d_name[0] != '.' && !strncmp(e->d_name, prefix, strlen(prefix));
    closedir(d);
  }
  return n;
}
inline size_t open_fds() { return count_dir("/proc/self/fd"); }
inline size_t shm_files() { return count_dir("/dev/shm", "baton-"); }
inline size_t memfd_mappings() {
  std::ifstream maps("/proc/self/maps");
  size_t n = 0;
  for (std::string line; std::getline(maps, line);) n += line.find("memfd:") != std::string::npos || line.find("/dev/shm") != std::string::npos;
  return n;
}

}  // namespace baton::transport
