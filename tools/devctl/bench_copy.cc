// bench copy: what a COPY between two devices takes through the HAL, beside memcpy of as many bytes in the same run.
#include "tools/devctl/bench.h"
#include "tools/devctl/progress.h"

#include <fmt/format.h>

#include <cstring>
#include <memory>
#include <new>
#include <optional>

namespace baton::devctl {
namespace {

struct Measured {
  Times wall, modelled, memcpy;
  DeviceInfo from{}, to{};
  std::string plan;
  std::optional<Check> check;
};

// Fills `m` round by round, so that what an interruption leaves is there.
Status measure(const Context& c, const CopyBench& b, Measured& m) {
  const Instance& in = c.devices.instance();
  BATON_ASSIGN(Ends ends, Ends::open(c.devices, b.from, b.to));
  m.from = ends.a, m.to = ends.b;
  BATON_ASSIGN(m.plan, in.plan_copy(ends.from, ends.to()));
  BATON_ASSIGN(Buffer src, ends.from.alloc(b.bytes));
  BATON_ASSIGN(Buffer dst, ends.to().alloc(b.bytes));
  BATON_ASSIGN(Timeline done, in.timeline("bench copy"));
  uint64_t value = 0;
  if (b.check) {
    BATON_ASSIGN(m.check, Check::create(in, ends, b.bytes));
  } else {  // an emulator refuses to read memory that nobody wrote, and pages should be there before the clock runs
    BATON_ASSIGN(Queue fills, ends.from.queue(0));
    BATON_TRY(fills.submit(fill(src, 0, b.bytes, 0x5a).signal(done, ++value)));
    BATON_TRY(await(done, value));
  }
  BATON_ASSIGN(Queue queue, ends.queue(in));
  auto plain = std::unique_ptr<uint8_t[]>(new (std::nothrow) uint8_t[2 * b.bytes]);
  if (!plain)
    return Error(BATON_CAPACITY, fmt::format("no {} of host memory for the memcpy beside it", bytes_text(2 * b.bytes)), "give fewer --bytes");
  std::memset(plain.get(), 1, 2 * b.bytes);

  Progress bar(b.count + 1);
  for (uint32_t i = 0; i <= b.count && !interrupted(); ++i) {  // the first round warms up and is not counted
    bar.step(i ? "copy" : "warming up");
    if (m.check) BATON_TRY(m.check->arm(src, dst));
    const uint64_t t0 = now_ns();
    BATON_TRY(queue.submit(copy(src, 0, dst, 0, b.bytes).tagged(kBenchTag).signal(done, ++value)));
    BATON_TRY(await(done, value));
    const uint64_t t1 = now_ns();
    std::memcpy(plain.get() + b.bytes, plain.get(), b.bytes);
    asm volatile("" ::"r"(plain.get()) : "memory");
    const uint64_t t2 = now_ns();
    if (m.check) BATON_TRY(m.check->look(dst));
    if (i == 0) continue;
    m.wall.ns.push_back(double(t1 - t0));
    m.memcpy.ns.push_back(double(t2 - t1));
    m.modelled.ns.push_back(double(done.modelled_ns(value)) - double(done.modelled_ns(value - 1)));
  }
  return {};
}

std::string text(const CopyBench& b, const Measured& m) {
  std::string head = fmt::format("{} -> {}: {}, {} times{}\n{}\n", shown(m.from), shown(m.to), bytes_text(b.bytes), m.wall.ns.size(),
                                 m.wall.ns.size() < b.count ? fmt::format(", interrupted: {} were asked for", b.count) : "", clean(m.plan.substr(0, m.plan.find('\n'))));
  Table t({"", "MEDIAN", "P99", "MIN", "MAX", "RATE", "OVER MEMCPY"});
  auto row = [&](const char* name, const Times& x, const std::string& over) {
    t.row({name, ns_text(x.median()), ns_text(x.at(0.99)), ns_text(x.at(0)), ns_text(x.at(1)), rate_text(double(b.bytes) / x.median() * 1e9), over});
  };
  row("copy, wall", m.wall, fmt::format("{:.2f}", m.wall.median() / m.memcpy.median()));
  row("memcpy, wall", m.memcpy, "1");
  if (m.modelled.median() > 0) row("copy, modelled", m.modelled, "");
  for (size_t i = 1; i < 7; ++i) t.right(i);
  return head + t.text() + (m.check ? "check: " + m.check->text() + "\n" : "");
}

}  // namespace

int bench_copy(const Context& c, const CopyBench& b) {
  Measured m;
  const Status s = measure(c, b, m);
  if (!s.ok() && !interrupted()) return c.out.fail(s.error());
  if (m.wall.empty()) return kInterrupted;
  const bool modelled = m.modelled.median() > 0;
  if (c.out.is_json())
    c.out.document("bench.copy", {{"from", m.from.uri},
                                  {"to", m.to.uri},
                                  {"emulated", m.from.emulated || m.to.emulated},
                                  {"bytes", b.bytes},
                                  {"count", m.wall.ns.size()},
                                  {"planned", b.count},
                                  {"complete", m.wall.ns.size() == b.count},
                                  {"plan", m.plan},
                                  {"wall", times_json(m.wall, b.bytes)},
                                  {"modelled", modelled ? times_json(m.modelled, b.bytes) : json(nullptr)},
                                  {"memcpy", times_json(m.memcpy, b.bytes)},
                                  {"wall_over_memcpy", m.wall.median() / m.memcpy.median()},
                                  {"check", m.check ? m.check->document() : json(nullptr)}});
  else c.out.print(text(b, m));
  return ended(c, m.check && m.check->wrong() ? m.check->text() : "");
}

}  // namespace baton::devctl
