#include "tests/bench/yardstick.h"

#include "tests/bench/yardstick_simd.h"

#include <immintrin.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>

namespace baton::bench {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

std::vector<int> allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set)) return cores;
  for (int i = 0; i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(i, &set)) cores.push_back(i);
  return cores;
}

// Starts fn(0..threads-1) together and returns the seconds from the common start until the last has ended.
template <class F>
double together(uint32_t threads, F&& fn) {
  std::atomic<uint32_t> ready{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> others;
  for (uint32_t t = 1; t < threads; ++t)
    others.emplace_back([&, t] {
      ready.fetch_add(1);
      while (!go.load(std::memory_order_acquire)) _mm_pause();
      fn(t);
    });
  while (ready.load() + 1 < threads) sched_yield();
  auto start = Clock::now();
  go.store(true, std::memory_order_release);
  fn(0);
  for (auto& o : others) o.join();
  return seconds_since(start);
}

std::atomic<uint64_t> sink;  // keeps results alive

__attribute__((noinline)) uint64_t opaque_call(std::atomic<uint64_t>& counter) {
  asm volatile("");
  return counter.fetch_add(1, std::memory_order_seq_cst);
}

}  // namespace

Sample summarize(std::vector<double> v) {
  if (v.empty()) return {};
  std::sort(v.begin(), v.end());
  size_t n = v.size();
  double median = n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
  return {median, v.front(), v.back(), uint32_t(n)};
}

// ---- the machine ----

std::string Machine::flags() const {
  std::string s;
  for (auto& [has, name] : {std::pair{avx2_fma, "avx2"}, {avx512f, "avx512f"}, {avx512_bf16, "avx512_bf16"}, {amx_bf16, "amx_bf16"}})
    if (has) s.append(s.empty() ? "" : " ").append(name);
  return s.empty() ? "no vector extensions that the engine uses" : s;
}

Machine probe_machine() {
  Machine m;
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);)
    if (line.rfind("model name", 0) == 0 && line.find(": ") != std::string::npos) {
      m.cpu = line.substr(line.find(": ") + 2);
      break;
    }
  std::ifstream meminfo("/proc/meminfo");
  for (std::string line; std::getline(meminfo, line);)
    if (line.rfind("MemAvailable:", 0) == 0) m.available_bytes = std::strtoull(line.c_str() + 13, nullptr, 10) * 1024;  // kB
  m.cores = uint32_t(allowed_cores().size());
  m.memory_bytes = uint64_t(sysconf(_SC_PHYS_PAGES)) * uint64_t(sysconf(_SC_PAGESIZE));
  __builtin_cpu_init();
  m.avx2_fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  m.avx512f = __builtin_cpu_supports("avx512f");
  m.avx512_bf16 = __builtin_cpu_supports("avx512bf16");
  m.amx_bf16 = amx_bf16_available();
  return m;
}

Area::Area(size_t bytes, bool shared) : bytes_(bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  p_ = static_cast<uint8_t*>(p);
  madvise(p_, bytes, MADV_HUGEPAGE);
  std::memset(p_, 1, bytes);
}
Area::~Area() {
  if (p_) munmap(p_, bytes_);
}

Pin::Pin(uint32_t nth) {
  auto cores = allowed_cores();
  if (nth >= cores.size()) return;
  cpu_set_t old, one;
  if (sched_getaffinity(0, sizeof old, &old)) return;
  CPU_ZERO(&one);
  CPU_SET(cores[nth], &one);
  if (sched_setaffinity(0, sizeof one, &one)) return;
  saved_.resize(sizeof old);
  std::memcpy(saved_.data(), &old, sizeof old);
}
Pin::~Pin() {
  if (!saved_.empty()) sched_setaffinity(0, sizeof(cpu_set_t), reinterpret_cast<cpu_set_t*>(saved_.data()));
}

// ---- memory ----

double Memcpy::once() {
  auto start = Clock::now();
  std::memcpy(dst_.data(), src_.data(), src_.bytes());
  asm volatile("" ::"r"(dst_.data()) : "memory");
  return seconds_since(start);
}

const char* ReadBandwidth::path() { return simd_loops().read_path; }

double ReadBandwidth::once() {
  static const SimdLoops loops = simd_loops();
  size_t share = area_.bytes() / threads_ / 1024 * 1024;
  size_t passes = std::max<size_t>(1, (256u << 20) / area_.bytes());
  double s = together(threads_, [&](uint32_t t) {
    for (size_t i = 0; i < passes; ++i) sink.fetch_add(loops.read(area_.data() + t * share, share));
  });
  return double(share * threads_ * passes) / s;
}

// ---- arithmetic ----

const char* FmaRate::path() { return simd_loops().fma_path; }

double FmaRate::once() {
  static const SimdLoops loops = simd_loops();
  constexpr uint64_t rounds = 2'000'000;  // 8..20 ms
  double s = together(threads_, [&](uint32_t) { sink.fetch_add(uint64_t(loops.fma(rounds))); });
  return double(rounds) * loops.flops_per_round * threads_ / s;
}

double AmxRate::once() {
  static const bool available = amx_bf16_available();
  if (!available) return 0;
  constexpr uint64_t rounds = 500'000;  // ~20 ms
  double s = together(threads_, [&](uint32_t) { amx_rounds(rounds); });
  return double(rounds) * kAmxFlopsPerRound * threads_ / s;
}

// ---- round trips ----

double call_and_atomic_ns(uint32_t rounds) {
  std::atomic<uint64_t> counter{0};
  auto start = Clock::now();
  for (uint32_t i = 0; i < rounds; ++i) opaque_call(counter);
  double s = seconds_since(start);
  sink.fetch_add(counter.load());
  return s / rounds * 1e9;
}

EventfdPingPong::EventfdPingPong() : there_(eventfd(0, EFD_CLOEXEC)), back_(eventfd(0, EFD_CLOEXEC)) {
  peer_ = std::thread([this] {
    uint64_t v = 0;
    while (read(there_, &v, sizeof v) == sizeof v) {
      bool last = v > 1;  // the destructor writes 2
      v = 1;
      if (write(back_, &v, sizeof v) != sizeof v || last) return;
    }
  });
}
EventfdPingPong::~EventfdPingPong() {
  uint64_t end = 2;
  if (write(there_, &end, sizeof end) == sizeof end) peer_.join();
  else peer_.detach();
  close(there_);
  close(back_);
}
double EventfdPingPong::once(uint32_t rounds) {
  uint64_t v = 1;
  auto start = Clock::now();
  for (uint32_t i = 0; i < rounds; ++i) {
    v = 1;
    if (write(there_, &v, sizeof v) != sizeof v || read(back_, &v, sizeof v) != sizeof v) return 0;
  }
  return seconds_since(start) / rounds * 1e9;
}

struct ShmPingPong::Lines {
  alignas(64) std::atomic<uint64_t> there;
  alignas(64) std::atomic<uint64_t> back;
};

ShmPingPong::ShmPingPong() : area_(4096, true), lines_(new (area_.data()) Lines{}) {}

double ShmPingPong::once(uint32_t rounds) {
  if (allowed_cores().size() < 2) return 0;
  lines_->there.store(0);
  lines_->back.store(0);
  pid_t parent = getpid();
  // The peer lives for one measurement: a process that spins may not outlast it.
  pid_t peer = fork();
  if (peer < 0) return 0;
  if (peer == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    Pin core(1);
    for (uint64_t i = 1; i <= rounds; ++i) {
      while (lines_->there.load(std::memory_order_acquire) != i) _mm_pause();
      lines_->back.store(i, std::memory_order_release);
    }
    _exit(0);
  }
  double s;
  {
    Pin core(0);
    Clock::time_point start;
    for (uint64_t i = 1, spins = 0; i <= rounds; ++i) {
      if (i == 101) start = Clock::now();  // the first hundred start the peer
      lines_->there.store(i, std::memory_order_release);
      while (lines_->back.load(std::memory_order_acquire) != i) {
        _mm_pause();
        if (++spins % (1u << 22) == 0 && waitpid(peer, nullptr, WNOHANG) == peer) return 0;  // killed from outside
      }
    }
    s = seconds_since(start);
  }
  waitpid(peer, nullptr, 0);
  return rounds > 100 ? s / (rounds - 100) * 1e9 : 0;
}

}  // namespace baton::bench
