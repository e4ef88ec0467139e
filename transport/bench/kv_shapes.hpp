// kv_shapes.hpp (internal): the requests that the movers are measured on: 64 MiB of 128, in one piece or in blocks of two random permutations, with
// words that say where they belong; and what the machine itself takes for the same segments.
//
// Owner    values.   Threads  one; Floor::streamed with 2 threads starts a helper.   Cost  10 ms each.   Errors  none.
#pragma once

#include "transport/copy_kernel.hpp"

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace baton::transport {

inline constexpr uint64_t kMoved = 64u << 20, kPool = 128u << 20;

struct Shape {
  const char* name;
  uint32_t head_dim; // of one head, 16 tokens, bf16, k and v: the bytes of a block
  bool random;
  uint64_t block_bytes() const { return 2ull * 16 * head_dim * 2; }
  uint64_t tokens() const { return kMoved / block_bytes() * 16; }
  KvLayout layout() const; // one layer, blocks whole: [block][k|v][token][d]. A block is one segment, and neighbours merge
  std::vector<int32_t> table(std::mt19937&) const;
};
std::span<const Shape> shapes();

void fill(uint8_t* pool, const Shape&, const std::vector<int32_t>& table, uint64_t salt);
uint64_t wrong(const uint8_t* pool, const Shape&, const std::vector<int32_t>& table, uint64_t salt); // words

// What the machine takes, in this process, out of and into memory that was last touched long ago. Each yardstick has a pair of pools of its own, which
// is touched once a round as a fabric's is: a large L3 keeps much of what the yardstick before read, and 64 MiB out of it take two thirds of the time.
class Floor {
 public:
  double memcpy_ms(const Shape&, std::mt19937&);
  // The copy kernel that the fabric mapped uses; 1 or 2 threads.
  double streamed_ms(const Shape& s, std::mt19937& rng, uint32_t threads) { return streamed(s, rng, threads, threads > 1 ? two_ : one_); }
  void cool(const Shape&, std::mt19937&); // touches as much as all three, by this thread alone

 private:
  struct Pair {
    std::vector<uint8_t> from = std::vector<uint8_t>(kPool, 1), to = from;
  };
  double streamed(const Shape&, std::mt19937&, uint32_t threads, Pair&);
  Pair plain_, one_, two_;
};

// What waking a thread takes at the least: a byte to a socket on which one sleeps, and its answer through memory that this one looks at. ns, median.
double wake_ns(uint32_t rounds);

double median(std::vector<double>);

}  // namespace baton::transport
