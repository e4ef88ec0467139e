// submit_bench: submit to completion under Google Benchmark, with the allocations that an op costs once things are warm.
//
//     build/release/tests/submit_bench --benchmark_filter=Host
#include "hal/baton.hpp"

#include <benchmark/benchmark.h>

#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<uint64_t> g_allocations;  // by any thread of this process, libbaton and drivers included
}

void* operator new(std::size_t n) {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* p = std::malloc(n ? n : 1)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace {

using namespace baton;

struct Lane {
  Instance in;
  Device device;
  Queue queue;
  Timeline done;
};

Result<Lane> open(const char* uri) {
  Lane l;
  BATON_ASSIGN(l.in, Instance::create());
  BATON_ASSIGN(l.device, l.in.open(uri));
  BATON_ASSIGN(l.queue, l.device.queue(0));
  BATON_ASSIGN(l.done, l.in.timeline("bench"));
  return l;
}

bool nops(Lane& l, std::vector<Op>& ops, uint64_t& value) {
  for (Op& op : ops) op = nop().signal(l.done, ++value);
  if (!l.queue.submit(ops).ok()) return false;
  for (uint64_t seen = 0; seen < value;) {
    l.in.poll();
    if (baton_timeline_query(l.done.get(), &seen, nullptr)) return false;
  }
  return true;
}

void submit(benchmark::State& state, const char* uri) {
  auto lane = open(uri);
  if (!lane) return state.SkipWithError(lane.error().text().c_str());
  std::vector<Op> ops(size_t(state.range(0)));
  uint64_t value = 0;
  for (int i = 0; i < 100; ++i)
    if (!nops(*lane, ops, value)) return state.SkipWithError("an empty op failed");
  uint64_t before = g_allocations.load();
  for (auto _ : state)
    if (!nops(*lane, ops, value)) return state.SkipWithError("an empty op failed");
  double done = double(state.iterations()) * double(state.range(0));
  state.counters["allocs/op"] = double(g_allocations.load() - before) / done;
  state.SetItemsProcessed(int64_t(done));
}

void timeline(benchmark::State& state) {
  auto in = Instance::create();
  auto t = in->timeline("bench");
  uint64_t value = 0;
  for (auto _ : state) {
    t->signal(++value);
    uint64_t seen = 0;
    benchmark::DoNotOptimize(baton_timeline_query(t->get(), &seen, nullptr));
  }
}

BENCHMARK_CAPTURE(submit, Host, "host://")->Arg(1)->Arg(64)->UseRealTime();
BENCHMARK_CAPTURE(submit, Neuron, "emu+neuron://0")->Arg(1)->Arg(64)->UseRealTime();
BENCHMARK_CAPTURE(submit, Cs3, "emu+cs3://0")->Arg(1)->Arg(64)->UseRealTime();
BENCHMARK(timeline);

}  // namespace

BENCHMARK_MAIN();
