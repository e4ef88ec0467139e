// Submit to completion of an empty op: what the HAL costs when the device has nothing to do.
#include "tests/bench/groups.h"

#include <fmt/format.h>

namespace baton::bench {
namespace {

// A queue with nothing in it, and the next value to signal.
struct Lane {
  const Instance& in;
  Device device;
  Queue queue;
  Timeline done;
  uint64_t value = 0;

  static Result<Lane> open(const Instance& in, const std::string& uri) {
    BATON_ASSIGN(Device d, in.open(uri));
    BATON_ASSIGN(Queue q, d.queue(0));
    BATON_ASSIGN(Timeline t, in.timeline("bench"));
    return Lane{in, std::move(d), std::move(q), std::move(t)};
  }
  // `rounds` NOPs, each waited for by polling: ns an op; negative if one failed.
  double nops(uint32_t rounds) {
    uint64_t start = now_ns();
    for (uint32_t r = 0; r < rounds; ++r) {
      if (!queue.submit(nop().signal(done, ++value)).ok()) return -1;
      for (uint64_t seen = 0; seen < value;) {
        in.poll();
        if (baton_timeline_query(done.get(), &seen, nullptr)) return -1;
      }
    }
    return double(now_ns() - start) / rounds;
  }
};

struct Measure {
  const char* uri;
  uint32_t rounds;
  double aim_us;  // 0: none
  const char* yardstick;
};

template <class Yard>
Status add_row(const Settings& s, Report& report, Lane& lane, const Measure& m, Yard&& yard) {
  progress(fmt::format("submit: NOP on {}", m.uri));
  lane.nops(m.rounds / 4 + 1);  // the first ones grow what submit keeps
  auto p = interleave(s.repeats(15), [&] { return lane.nops(m.rounds) / 1e3; }, [&] { return yard() / 1e3; });
  if (p.figure.min < 0) {
    BATON_TRY(lane.done.value());
    return Error(BATON_FAILED, fmt::format("an empty op on {} failed", m.uri), "");
  }
  Row r{.group = "submit", .figure = fmt::format("NOP, there and back, {}", m.uri),
        .unit = "us", .value = p.figure, .yardstick = m.yardstick, .against = p.yardstick, .ratio = p.ratio.median};
  if (m.aim_us > 0) r.aim_on = AimOn::value_below, r.aim = m.aim_us;
  report.add(std::move(r));
  return {};
}

}  // namespace

Status submit_rows(const Settings& s, Report& report) {
  BATON_TRY(hot_path_rows(s, report));
  BATON_ASSIGN(Instance in, Instance::create());
  auto call = [] { return call_and_atomic_ns(200'000); };
  {
    BATON_ASSIGN(Lane host, Lane::open(in, "host://"));
    BATON_TRY(add_row(s, report, host, {"host://", 5000, 2, "function call + atomic add"}, call));
  }
  Status first;
  {
    auto lane = Lane::open(in, "emu+neuron://0");
    EventfdPingPong threads;
    Status st = lane ? add_row(s, report, *lane, {"emu+neuron://0", 200, 0, "eventfd, two threads"}, [&] { return threads.once(200); })
                     : Status(lane.error());
    if (!st.ok()) first = st;
  }
  auto lane = Lane::open(in, "emu+cs3://0");
  if (!lane) return first.ok() ? Status(lane.error()) : first;
  ShmPingPong processes;
  Status st = add_row(s, report, *lane, {"emu+cs3://0", 500, 15, "shared memory, two processes"}, [&] { return processes.once(5000); });
  return first.ok() ? st : first;
}

}  // namespace baton::bench
