// What the contract itself costs on `host://`, where the device adds nothing: submit, wait, query, signal, and a timeline's memory.
#include "tests/bench/groups.h"
#include "tests/support/count_calls.h"

#include <fmt/format.h>

#include <cstdlib>
#include <fstream>

namespace baton::bench {
namespace {

constexpr uint32_t kBatch = 64;
constexpr const char* kYard = "function call + atomic add";

struct Bed {
  Instance in;
  Device device;
  Queue queue;
  Timeline done;
  uint64_t value = 0;
  std::vector<Op> ops = std::vector<Op>(kBatch);

  static Result<Bed> make() {
    BATON_ASSIGN(Instance in, Instance::create());
    BATON_ASSIGN(Device d, in.open("host://"));
    BATON_ASSIGN(Queue q, d.queue(0));
    BATON_ASSIGN(Timeline t, in.timeline("bench"));
    return Bed{std::move(in), std::move(d), std::move(q), std::move(t)};
  }
  bool submit() { return baton_submit(queue.get(), ops.data(), kBatch, nullptr) == BATON_OK; }
  // A batch, each op with a value of its own to signal. The ops are complete when submit returns: the host has nothing to wait for.
  bool nops(uint64_t& in_submit_ns) {
    for (Op& op : ops) op = nop().signal(done, ++value);
    const uint64_t start = now_ns();
    const bool taken = submit();
    in_submit_ns += now_ns() - start;
    uint64_t seen = 0;
    return taken && !baton_timeline_query(done.get(), &seen, nullptr) && seen == value;
  }
};

// ns of `call`, each; the best that a loop around it can tell.
template <class F>
double each_ns(uint32_t rounds, F&& call) {
  const uint64_t start = now_ns();
  for (uint32_t i = 0; i < rounds; ++i) call();
  return double(now_ns() - start) / rounds;
}

Status add_submit(const Settings& s, Report& report, Bed& bed) {
  constexpr uint32_t kRounds = 500;
  bool good = true;
  auto alone = [&] {
    uint64_t ns = 0;
    for (uint32_t r = 0; r < kRounds; ++r) good = good && bed.nops(ns);
    return double(ns) / kRounds / kBatch;
  };
  auto there_and_back = [&] {
    uint64_t ns = 0;
    return each_ns(kRounds, [&] {
             good = good && bed.nops(ns);
             bed.in.poll();
           }) / kBatch;
  };
  auto yard = [] { return call_and_atomic_ns(200'000); };
  alone();
  auto p = interleave(s.repeats(31), alone, yard);
  report.add({.group = "submit", .figure = "64 NOPs, the submit alone, each, host://", .unit = "ns", .value = p.figure, .yardstick = kYard,
              .against = p.yardstick, .ratio = p.ratio.median, .aim_on = AimOn::value_below, .aim = 50,
              .note = "the call of baton_submit, with a clock read before and after; the ops complete within it"});
  p = interleave(s.repeats(31), there_and_back, yard);
  report.add({.group = "submit", .figure = "64 NOPs, there and back, each, host://", .unit = "ns", .value = p.figure, .yardstick = kYard,
              .against = p.yardstick, .ratio = p.ratio.median, .note = "making the ops, submit, query and poll"});
  if (!good) return Error(BATON_FAILED, "an empty op on host:// failed", "");

  const test::Calls before = test::calls();
  there_and_back();
  const test::Calls after = test::calls();
  const double n = double(kRounds) * kBatch;
  auto once = [](double v) { return Sample{v, v, v, 1}; };
  report.add({.group = "submit", .figure = "NOP, allocations, host://", .unit = "an op", .value = once(double(after.allocations - before.allocations) / n),
              .aim_on = AimOn::value_below, .aim = 1e-9});
  report.add({.group = "submit", .figure = "NOP, locks and futexes, host://", .unit = "an op",
              .value = once(double(after.locks - before.locks + after.futexes - before.futexes) / n), .aim_on = AimOn::value_below, .aim = 1e-9});
  return {};
}

void add_timeline(const Settings& s, Report& report, Bed& bed) {
  baton_timeline* t = bed.done.get();
  auto row = [&](const char* what, double aim, auto&& call) {
    constexpr uint32_t kRounds = 200'000;
    auto p = interleave(s.repeats(31), [&] { return each_ns(kRounds, call); }, [] { return call_and_atomic_ns(200'000); });
    Row r{.group = "submit", .figure = what, .unit = "ns", .value = p.figure, .yardstick = kYard, .against = p.yardstick, .ratio = p.ratio.median};
    if (aim > 0) r.aim_on = AimOn::value_below, r.aim = aim;
    report.add(std::move(r));
  };
  row("wait on a satisfied timeline", 10, [&] { baton_timeline_wait(t, bed.value, BATON_NO_DEADLINE, nullptr); });
  row("query of a timeline", 0, [&] {
    uint64_t v;
    baton_timeline_query(t, &v, nullptr);
  });
  row("signal that nobody waits for", 0, [&] { baton_timeline_signal(t, ++bed.value, 0); });
}

uint64_t resident_bytes() {
  std::ifstream f("/proc/self/statm");
  uint64_t pages = 0;
  f >> pages >> pages;
  return pages * 4096;
}

// Named as a runtime would: one or two a request.
Status add_memory(Report& report, Bed& bed) {
  constexpr size_t kCount = 1'000'000;
  std::vector<Timeline> all(kCount);
  std::vector<void*> blocks(kCount, &all);
  for (void*& b : blocks) b = nullptr;
  const uint64_t before = resident_bytes();
  for (size_t i = 0; i < kCount; ++i) {
    BATON_ASSIGN(all[i], bed.in.timeline(fmt::format("request {}", i)));
  }
  const uint64_t between = resident_bytes();
  for (void*& b : blocks) b = std::malloc(64);
  const uint64_t after = resident_bytes();
  for (void* b : blocks) std::free(b);
  auto each = [](uint64_t bytes) {
    const double v = double(bytes) / kCount;
    return Sample{v, v, v, 1};
  };
  const Sample ours = each(between - before), malloc64 = each(after - between);
  report.add({.group = "submit", .figure = "memory of a timeline, of a million with names", .unit = "bytes", .value = ours,
              .yardstick = "malloc(64)", .against = malloc64, .ratio = ours.median / malloc64.median, .aim_on = AimOn::value_below, .aim = 128,
              .note = "resident memory of the process, after less before"});
  return {};
}

}  // namespace

Status hot_path_rows(const Settings& s, Report& report) {
  progress("submit: what the contract itself costs");
  BATON_ASSIGN(Bed bed, Bed::make());
  BATON_TRY(add_memory(report, bed));
  BATON_TRY(add_submit(s, report, bed));
  add_timeline(s, report, bed);
  return {};
}

}  // namespace baton::bench
