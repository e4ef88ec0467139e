// yardstick.h: what this machine can do, measured: the figure that stands beside each of Baton's in the benchmark table.
//
// Each yardstick is an object that is set up once (memory touched, helper started) and measured many times by once(), so that a
// caller can interleave it with the figure that it is compared to: on a shared machine the two then see the same weather.
//
// Owner    The caller. Helper threads and processes end with the object.
// Threads  One caller at a time. `threads` counts the caller's measuring threads.
// Cost     once(): 10..150 ms for bandwidth and rates; `rounds` round trips for the ping-pongs.
// Errors   A yardstick that this machine cannot run returns 0 from once().
//
//     ReadBandwidth read(1u << 30, 2);
//     Sample s = repeat(5, [&] { return read.once(); });   // bytes/s
//     printf("%.1f GB/s (%.1f..%.1f)\n", s.median / 1e9, s.min / 1e9, s.max / 1e9);
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

namespace baton::bench {

// ---- samples ----

struct Sample {
  double median = 0, min = 0, max = 0;
  uint32_t runs = 0;
};
Sample summarize(std::vector<double> values);  // runs == 0 if empty

template <class F>
Sample repeat(uint32_t runs, F&& once) {
  std::vector<double> v;
  for (uint32_t i = 0; i < runs; ++i) v.push_back(once());
  return summarize(std::move(v));
}

struct Pair {
  Sample figure, yardstick;
  Sample ratio;  // figure / yardstick of the same round
};
// figure, yardstick, figure, yardstick, ...: each round's two lie next to each other in time, in alternating order.
template <class F, class Y>
Pair interleave(uint32_t runs, F&& figure, Y&& yardstick) {
  std::vector<double> f, y, r;
  for (uint32_t i = 0; i < runs; ++i) {
    if (i % 2 == 0) f.push_back(figure());
    y.push_back(yardstick());
    if (i % 2 == 1) f.push_back(figure());
    r.push_back(y.back() > 0 ? f.back() / y.back() : 0);
  }
  return {summarize(std::move(f)), summarize(std::move(y)), summarize(std::move(r))};
}

// ---- the machine ----

struct Machine {
  std::string cpu;              // model name as the kernel tells it
  uint32_t cores = 0;           // that this process may run on
  uint64_t memory_bytes = 0, available_bytes = 0;
  bool avx2_fma = false, avx512f = false, avx512_bf16 = false, amx_bf16 = false;
  std::string flags() const;    // "avx2 avx512f avx512_bf16"
};
Machine probe_machine();        // by CPUID bits, XCR0 and arch_prctl, never by family or model

// Memory with every page touched, huge pages where the kernel gives them; unmapped with the object.
class Area {
 public:
  explicit Area(size_t bytes, bool shared = false);
  ~Area();
  Area(Area&& o) noexcept : p_(o.p_), bytes_(o.bytes_) { o.p_ = nullptr; }
  Area(const Area&) = delete;
  uint8_t* data() const { return p_; }
  size_t bytes() const { return bytes_; }

 private:
  uint8_t* p_ = nullptr;
  size_t bytes_ = 0;
};

// Runs the calling thread on one core while alive, then where it was allowed before. No effect with a core that is not allowed.
class Pin {
 public:
  explicit Pin(uint32_t nth_allowed_core);
  ~Pin();

 private:
  std::vector<uint8_t> saved_;
};

// ---- memory ----

class Memcpy {  // one thread, one call of memcpy
 public:
  explicit Memcpy(size_t bytes) : src_(bytes), dst_(bytes) {}
  double once();  // seconds

 private:
  Area src_, dst_;
};

// Loads with the widest vectors. `bytes` well above the last-level cache: memory; below: that cache, read again and again.
class ReadBandwidth {
 public:
  ReadBandwidth(size_t bytes, uint32_t threads) : area_(bytes), threads_(threads) {}
  double once();              // bytes/s, all threads
  static const char* path();  // "avx512", "avx2", "scalar"

 private:
  Area area_;
  uint32_t threads_;
};

// ---- arithmetic, operands in registers ----

class FmaRate {  // f32 fused multiply-add with the widest vectors
 public:
  explicit FmaRate(uint32_t threads) : threads_(threads) {}
  double once();  // flop/s, all threads (a fused multiply-add counts 2)
  static const char* path();  // "AVX-512 f32 FMA", "AVX2 f32 FMA", "scalar f32 FMA"

 private:
  uint32_t threads_;
};

class AmxRate {  // TDPBF16PS from tile registers
 public:
  explicit AmxRate(uint32_t threads) : threads_(threads) {}
  double once();  // flop/s; 0 where there is no AMX

 private:
  uint32_t threads_;
};

// ---- round trips ----

double call_and_atomic_ns(uint32_t rounds);  // an opaque function call and one locked add: ns each

class EventfdPingPong {  // two threads, two eventfds, blocking reads: ns a round trip
 public:
  EventfdPingPong();
  ~EventfdPingPong();
  double once(uint32_t rounds);

 private:
  int there_ = -1, back_ = -1;
  std::thread peer_;
};

class ShmPingPong {  // two processes on two cores, two cache lines of shared memory, both spin: ns a round trip
 public:
  ShmPingPong();
  double once(uint32_t rounds);  // more than 100; 0 where the process may use one core only

 private:
  struct Lines;
  Area area_;
  Lines* lines_;
};

}  // namespace baton::bench
