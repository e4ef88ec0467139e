#include "transport/bench/kv_shapes.hpp"

#include "transport/kv_pieces.hpp"

#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <thread>

namespace baton::transport {
namespace {

constexpr Shape kShapes[] = {{"1x64MiB", 256, false}, {"4096x16KiB", 256, true}, {"16384x4KiB", 64, true}};

KvMove move_of(const Shape& s, std::mt19937& rng) {
  const KvLayout l = s.layout();
  auto plan = KvPlan::compile(l, l);
  return std::move(*plan->instantiate(s.table(rng), s.table(rng), 0, s.tokens()));
}

uint64_t word(uint64_t salt, uint64_t index) { return salt * 0x9e3779b97f4a7c15ull + index; }

}  // namespace

std::span<const Shape> shapes() { return kShapes; }

KvLayout Shape::layout() const {
  KvLayout l;
  l.layers = l.kv_heads = l.head_count = 1;
  l.head_dim = head_dim;
  l.order = KvOrder::block_major;
  l.blocks = uint32_t(kPool / block_bytes());
  return l;
}

std::vector<int32_t> Shape::table(std::mt19937& rng) const {
  std::vector<int32_t> all(kPool / block_bytes());
  std::iota(all.begin(), all.end(), 0);
  if (random) std::shuffle(all.begin(), all.end(), rng);
  all.resize(kMoved / block_bytes());
  return all;
}

void fill(uint8_t* pool, const Shape& s, const std::vector<int32_t>& table, uint64_t salt) {
  const uint64_t words = s.block_bytes() / 8;
  for (size_t i = 0; i < table.size(); ++i) {
    auto* w = reinterpret_cast<uint64_t*>(pool + uint64_t(table[i]) * s.block_bytes());
    for (uint64_t k = 0; k < words; ++k) w[k] = word(salt, i * words + k);
  }
}

uint64_t wrong(const uint8_t* pool, const Shape& s, const std::vector<int32_t>& table, uint64_t salt) {
  const uint64_t words = s.block_bytes() / 8;
  uint64_t bad = 0;
  for (size_t i = 0; i < table.size(); ++i) {
    auto* w = reinterpret_cast<const uint64_t*>(pool + uint64_t(table[i]) * s.block_bytes());
    for (uint64_t k = 0; k < words; ++k) bad += w[k] != word(salt, i * words + k);
  }
  return bad;
}

double Floor::memcpy_ms(const Shape& s, std::mt19937& rng) {
  const KvMove move = move_of(s, rng);
  const uint64_t start = now_ns();
  for (const KvSegment& g : move.layer(0)) std::memcpy(&plain_.to[g.dst], &plain_.from[g.src], g.bytes);
  return double(now_ns() - start) / 1e6;
}

void Floor::cool(const Shape& s, std::mt19937& rng) {
  memcpy_ms(s, rng);
  for (Pair* p : {&one_, &two_}) streamed(s, rng, 1, *p);
}

double Floor::streamed(const Shape& s, std::mt19937& rng, uint32_t threads, Pair& pair) {
  const KvMove move = move_of(s, rng);
  const KvPieces pieces(move.layer(0), move.bytes(0));
  std::atomic<uint32_t> next{0}, ready{0}, done{0};
  std::atomic<bool> go{false};
  auto work = [&] {
    for (uint32_t i; (i = next.fetch_add(1)) < pieces.count();) {
      pieces.copy(i, pair.to.data(), pair.from.data(), CopyMode::streaming);
      copy_fence();
      done.fetch_add(1);
    }
  };
  std::thread helper;
  if (threads > 1) {
    helper = std::thread([&] {
      for (ready = 1; !go;) {
      }
      work();
    });
    while (!ready) std::this_thread::yield();
  }
  const uint64_t start = now_ns();
  go = true;
  work();
  while (done != pieces.count()) {
  }
  const double ms = double(now_ns() - start) / 1e6;
  if (helper.joinable()) helper.join();
  return ms;
}

// The two on cores of their own, as the processes of a row are: on one core a wake is a switch (4 us on a virtual machine where
// waking a core that has gone idle takes 45).
double wake_ns(uint32_t rounds) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) return 0;
  cpu_set_t allowed, here, there;
  sched_getaffinity(0, sizeof allowed, &allowed);
  CPU_ZERO(&here);
  CPU_SET(sched_getcpu(), &here);
  CPU_XOR(&there, &allowed, &here);
  const bool two = CPU_COUNT(&there) > 0;
  if (two) sched_setaffinity(0, sizeof here, &here);
  std::atomic<uint32_t> heard{0};
  std::thread sleeper([&] {
    if (two) sched_setaffinity(0, sizeof there, &there);
    for (uint8_t byte; read(pair[1], &byte, 1) == 1;) heard.fetch_add(1);
  });
  std::vector<double> ns;
  for (uint32_t i = 1; i <= rounds; ++i) {
    usleep(1000);
    const uint8_t byte = 1;
    const uint64_t start = now_ns();
    if (write(pair[0], &byte, 1) != 1) break;
    while (heard != i) {
    }
    ns.push_back(double(now_ns() - start));
  }
  close(pair[0]);
  sleeper.join();
  if (two) sched_setaffinity(0, sizeof allowed, &allowed);
  close(pair[1]);
  return median(ns);
}

double median(std::vector<double> v) {
  if (v.empty()) return 0;
  std::nth_element(v.begin(), v.begin() + ptrdiff_t(v.size() / 2), v.end());
  return v[v.size() / 2];
}

}  // namespace baton::transport
