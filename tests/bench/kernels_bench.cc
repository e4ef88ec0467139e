// kernels_bench: matmul, attention and the small kernels beside what this machine can do, measured in the same run.
//
// Each benchmark measures its yardstick (read bandwidth, FMA or AMX rate from registers; same number of threads) right before and right after
// and reports the best of each: `best` (flop/s or bytes/s of the fastest iteration), `yardstick`, and `share` = best / yardstick.
// One thread is timed by its CPU clock, so that a neighbour's time slices count for neither side; two threads by the wall clock.
// Shapes are those of a layer of TinyLlama 1.1B (hidden 2048, intermediate 5632, 32 heads, 4 kv heads, head_dim 64).
//
//     kernels_bench --benchmark_filter='gemm/.*/threads:1'
#include "emulators/engine/kernels_paths.h"
#include "tests/bench/yardstick.h"

#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>

namespace baton::engine {
namespace {

using program::Act;
using program::DType;

constexpr uint64_t kReadBytes = 1ull << 29;  // well above any last-level share of a virtual machine

double clock_now(clockid_t id) {
  timespec t;
  clock_gettime(id, &t);
  return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}
double wall_now() { return clock_now(CLOCK_MONOTONIC); }
double cpu_now() { return clock_now(CLOCK_PROCESS_CPUTIME_ID); }

// A rate by the wall clock, turned into one by the CPU clock where one thread ran.
template <class Y>
double measured(uint32_t threads, Y&& yardstick) {
  const double wall = wall_now(), cpu = cpu_now(), rate = yardstick();
  return threads == 1 ? rate * (wall_now() - wall) / (cpu_now() - cpu) : rate;
}

std::vector<float> random_values(uint64_t n) {
  std::mt19937 g(1);
  std::vector<float> v(n);
  for (float& x : v) x = float(int32_t(g())) * 0x1p-31f;
  return v;
}

// Work per iteration over the fastest iteration, and a yardstick of the same unit before and after.
class Figure {
 public:
  template <class Y, class F>
  Figure(benchmark::State& state, uint32_t threads, double work, Y&& yardstick, F&& iteration) {
    double peak = measured(threads, yardstick), best = 1e30;
    iteration();
    for (auto _ : state) {
      const double start = threads == 1 ? cpu_now() : wall_now();
      iteration();
      const double took = (threads == 1 ? cpu_now() : wall_now()) - start;
      best = std::min(best, took);
      state.SetIterationTime(took);
    }
    peak = std::max(peak, measured(threads, yardstick));
    state.counters["best"] = work / best;
    state.counters["yardstick"] = peak;
    state.counters["share"] = peak > 0 ? work / best / peak : 0;
  }
};

double fma_peak(uint32_t threads) { return bench::FmaRate(threads).once(); }
double amx_peak(uint32_t threads) { return bench::AmxRate(threads).once(); }
double read_peak(uint32_t threads) {
  static std::unique_ptr<bench::ReadBandwidth> read[3];
  if (!read[threads]) read[threads] = std::make_unique<bench::ReadBandwidth>(kReadBytes, threads);
  return read[threads]->once();
}
double matrix_peak(const KernelTable& t, DType dtype, Act act, uint32_t threads) {
  return t.isa == Isa::amx && dtype == DType::bf16 && act == Act::bf16 ? amx_peak(threads) : fma_peak(threads);
}

struct Weights {
  bench::Area area;
  std::vector<PackedMatrix> copies;
  Weights(DType t, uint32_t n, uint32_t k, uint64_t at_least_bytes, Pool& pool)
      : area((at_least_bytes / packed_shape(t, n, k, 1).bytes() + 1) * packed_shape(t, n, k, 1).bytes()) {
    const std::vector<float> values = random_values(uint64_t(n) * k);
    std::vector<uint8_t> dense(values.size() * program::dtype_bytes(t));
    kernels(Isa::scalar).round_to(values.data(), values.size(), t, dense.data());
    PackedMatrix m = packed_shape(t, n, k, 1);
    for (uint64_t at = 0; at + m.bytes() <= area.bytes(); at += m.bytes()) {
      m.data = area.data() + at;
      if (copies.empty())
        pack(dense.data(), m, pool);
      else
        std::memcpy(m.data, copies[0].data, m.bytes());
      copies.push_back(m);
    }
  }
};

struct Case {
  const KernelTable* table;
  const char* path;
  DType dtype;
  Act act;
  uint32_t threads;
  std::string name(const char* what) const {
    return std::string(what) + "/" + path + "/" + program::dtype_name(dtype) + (act == Act::bf16 ? "" : "/act_f32") + "/threads:" +
           std::to_string(threads);
  }
};

void gemm(benchmark::State& state, Case c) {
  FlushDenormals flush;
  const uint32_t m = uint32_t(state.range(0)), k = uint32_t(state.range(1)), n = uint32_t(state.range(2));
  Pool pool(c.threads);
  Weights w(c.dtype, n, k, 1, pool);
  const std::vector<float> x = random_values(uint64_t(m) * k);
  std::vector<float> y(uint64_t(m) * n);
  Figure(state, c.threads, 2.0 * m * n * k, [&] { return matrix_peak(*c.table, c.dtype, c.act, c.threads); },
         [&] { c.table->matmul(pool, x.data(), k, m, w.copies[0], nullptr, c.act, y.data(), n); });
}

// Weights from memory: copies in rotation.
void gemv(benchmark::State& state, Case c) {
  FlushDenormals flush;
  const uint32_t m = uint32_t(state.range(0)), k = uint32_t(state.range(1)), n = uint32_t(state.range(2));
  Pool pool(c.threads);
  Weights w(c.dtype, n, k, kReadBytes, pool);
  const std::vector<float> x = random_values(uint64_t(m) * k);
  std::vector<float> y(uint64_t(m) * n);
  Figure(state, c.threads, double(w.copies[0].bytes()) * w.copies.size(), [&] { return read_peak(c.threads); }, [&] {
    for (const PackedMatrix& p : w.copies) c.table->matmul(pool, x.data(), k, m, p, nullptr, c.act, y.data(), n);
  });
}

void attention(benchmark::State& state, Case c) {
  FlushDenormals flush;
  const uint32_t rows = uint32_t(state.range(0)), position = uint32_t(state.range(1)), heads = 32, kv_heads = 4, dim = 64;
  Pool pool(c.threads);
  const uint32_t keys = position + rows, blocks = (keys + 15) / 16;
  AttentionArgs a{};
  std::vector<float> q = random_values(uint64_t(rows) * heads * dim), out(q.size());
  a.view.block_tokens = 16;
  a.view.token_stride = kv_heads * dim;
  a.view.head_stride = dim;
  a.view.block_stride = 16 * kv_heads * dim;
  a.view.v_offset = blocks * a.view.block_stride;
  const std::vector<float> kv = random_values(2 * a.view.v_offset);
  std::vector<uint16_t> cache(kv.size());
  c.table->round_to(kv.data(), kv.size(), DType::bf16, cache.data());
  std::vector<int32_t> table(blocks);
  for (uint32_t i = 0; i < blocks; ++i) table[i] = int32_t(i);
  a.q = q.data();
  a.out = out.data();
  a.rows = rows;
  a.heads = heads;
  a.kv_heads = kv_heads;
  a.head_dim = dim;
  a.position = position;
  a.scale = 0.125f;
  a.act = Act::bf16;
  a.kv_dtype = DType::bf16;
  a.cache = reinterpret_cast<const uint8_t*>(cache.data());
  a.block_table = table.data();
  // Multiply-adds that causality asks for; a whole launch has these and the layer's matmuls.
  const double flops = 4.0 * heads * dim * (double(rows) * position + 0.5 * rows * (rows + 1.0));
  const double layer = 2.0 * rows * (2048.0 * (2048 + 2 * 256 + 2048 + 3 * 5632));
  Figure(state, c.threads, flops, [&] { return matrix_peak(*c.table, DType::bf16, Act::bf16, c.threads); }, [&] { c.table->attention(pool, a); });
  state.counters["flops_of_layer"] = flops / layer;
}

void elements(benchmark::State& state, Case c, int which) {
  FlushDenormals flush;
  Pool pool(c.threads);
  const uint64_t n = 1 << 16;
  const std::vector<float> x = random_values(n), w = random_values(n);
  std::vector<float> y(n);
  Figure(state, c.threads, double(n), [] { return 0.0; }, [&] {
    switch (which) {
      case 0: c.table->exp(x.data(), n, y.data()); break;
      case 1: c.table->silu_mul(pool, x.data(), w.data(), n, y.data()); break;
      case 2: c.table->rms_norm(pool, x.data(), n / 2048, 2048, w.data(), 1e-5f, y.data()); break;
      case 3: c.table->round_to(x.data(), n, DType::bf16, y.data()); break;
      default: benchmark::DoNotOptimize(c.table->argmax(x.data(), uint32_t(n)));
    }
  });
}

void fork_join(benchmark::State& state) {
  Pool pool(2);
  Figure(state, 2, 1, [] { return 0.0; }, [&] { pool.run(2, [](uint64_t, uint64_t, uint32_t) {}); });
}

void register_all() {
  struct Path {
    const char* name;
    const KernelTable* table;
  };
  std::vector<Path> paths;
#if defined(__x86_64__)
  const CpuFeatures& cpu = cpu_features();
  if (cpu.amx) paths.push_back({"amx", &kernels_amx()});
  if (cpu.avx512) paths.push_back({"avx512", &kernels_avx512()});
  if (cpu.avx2) paths.push_back({"avx2", &kernels_avx2()});
#endif
  if (paths.empty()) paths.push_back({"portable", &kernels_portable()});
  auto add = [](const std::string& name, auto&& f) {
    return benchmark::RegisterBenchmark(name.c_str(), f)->UseManualTime()->MinTime(0.2)->Unit(benchmark::kMicrosecond);
  };
  for (const Path& p : paths)
    for (uint32_t threads : {1u, 2u})
      for (DType t : {DType::bf16, DType::f16, DType::f32})
        for (Act act : {Act::bf16, Act::f32}) {
          const Case c{p.table, p.name, t, act, threads};
          auto* g = add(c.name("gemm"), [c](benchmark::State& s) { gemm(s, c); });
          g->Args({512, 2048, 2048});
          if (t == DType::bf16 && act == Act::bf16) g->Args({512, 2048, 5632})->Args({512, 5632, 2048})->Args({64, 2048, 5632})->Args({16, 2048, 5632})->Args({8, 2048, 5632});
          if (act != Act::bf16) continue;
          auto* v = add(c.name("gemv"), [c](benchmark::State& s) { gemv(s, c); });
          v->Args({1, 2048, 5632});
          if (t == DType::bf16) v->Args({1, 5632, 2048})->Args({2, 2048, 5632})->Args({4, 2048, 5632})->Args({8, 2048, 5632});
          if (t != DType::bf16) continue;
          add(c.name("attention"), [c](benchmark::State& s) { attention(s, c); })->Args({512, 0})->Args({512, 1536})->Args({1, 511})->Args({1, 2047});
          if (threads > 1) continue;
          const char* names[] = {"exp", "silu_mul", "rms_norm", "round_bf16", "argmax"};
          for (int i = 0; i < 5; ++i) add(c.name(names[i]), [c, i](benchmark::State& s) { elements(s, c, i); });
        }
  add("fork_join/threads:2", fork_join);
}

}  // namespace
}  // namespace baton::engine

int main(int argc, char** argv) {
  baton::engine::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
