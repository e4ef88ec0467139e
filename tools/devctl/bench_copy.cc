// bench copy: what a COPY between two devices takes through the HAL, beside memcpy of as many bytes in the same run.
#include "tools/devctl/verbs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

namespace baton::devctl {
namespace {

constexpr uint64_t kPatienceMs = 60'000;  // for one copy

struct Times {
  std::vector<double> ns;
  double median() const {
    auto v = ns;
    std::sort(v.begin(), v.end());
    size_t n = v.size();
    return n == 0 ? 0 : n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
  }
  double min() const { return *std::min_element(ns.begin(), ns.end()); }
  double max() const { return *std::max_element(ns.begin(), ns.end()); }
};

struct Measured {
  Times wall, modelled, memcpy;
  DeviceInfo from{}, to{};
  std::string plan;
};

json times_json(const Times& t, uint64_t bytes) {
  double m = t.median();
  return {{"median_ns", m}, {"min_ns", t.min()}, {"max_ns", t.max()}, {"bytes_per_s", m > 0 ? double(bytes) / m * 1e9 : 0}};
}

Result<Measured> measure(const Context& c, const CopyBench& b) {
  const Instance& in = c.devices.instance();
  bool same = b.from == b.to;
  BATON_ASSIGN(Device from, c.devices.open(b.from));
  Device other;
  if (!same) {
    BATON_ASSIGN(other, c.devices.open(b.to));
  }
  const Device& to = same ? from : other;
  Measured m;
  BATON_ASSIGN(m.from, from.info());
  BATON_ASSIGN(m.to, to.info());
  BATON_ASSIGN(m.plan, in.plan_copy(from, to));
  BATON_ASSIGN(Buffer src, from.alloc(b.bytes));
  BATON_ASSIGN(Buffer dst, to.alloc(b.bytes));
  BATON_ASSIGN(Timeline done, in.timeline("bench copy"));
  uint64_t value = 0;
  {  // an emulator refuses to read memory that nobody wrote, and pages should be there before the clock runs
    BATON_ASSIGN(Queue fills, from.queue(0));
    BATON_TRY(fills.submit(fill(src, 0, b.bytes, 0x5a).signal(done, ++value)));
    BATON_TRY(done.wait_until(value, deadline_in_ms(kPatienceMs)));
  }
  BATON_ASSIGN(Queue queue, same ? from.queue(0) : in.link(from, to));
  auto plain = std::unique_ptr<uint8_t[]>(new (std::nothrow) uint8_t[2 * b.bytes]);
  if (!plain)
    return Error(BATON_CAPACITY, fmt::format("no {} of host memory for the memcpy beside it", bytes_text(2 * b.bytes)), "give fewer --bytes");
  std::memset(plain.get(), 1, 2 * b.bytes);

  for (uint32_t i = 0; i <= b.count && !interrupted(); ++i) {  // the first round warms up and is not counted
    uint64_t t0 = now_ns();
    BATON_TRY(queue.submit(copy(src, 0, dst, 0, b.bytes).signal(done, ++value)));
    BATON_TRY(done.wait_until(value, deadline_in_ms(kPatienceMs)));
    uint64_t t1 = now_ns();
    std::memcpy(plain.get() + b.bytes, plain.get(), b.bytes);
    asm volatile("" ::"r"(plain.get()) : "memory");
    uint64_t t2 = now_ns();
    if (i == 0) continue;
    m.wall.ns.push_back(double(t1 - t0));
    m.memcpy.ns.push_back(double(t2 - t1));
    m.modelled.ns.push_back(double(done.modelled_ns(value)) - double(done.modelled_ns(value - 1)));
  }
  return m;
}

}  // namespace

int bench_copy(const Context& c, const CopyBench& b) {
  auto m = measure(c, b);
  if (interrupted()) return kInterrupted;
  if (!m) return c.out.fail(m.error());
  double ratio = m->wall.median() / m->memcpy.median();
  bool modelled = m->modelled.median() > 0;
  if (c.out.is_json()) {
    c.out.document("bench.copy", {{"from", m->from.uri},
                                  {"to", m->to.uri},
                                  {"emulated", m->from.emulated || m->to.emulated},
                                  {"bytes", b.bytes},
                                  {"count", b.count},
                                  {"plan", m->plan},
                                  {"wall", times_json(m->wall, b.bytes)},
                                  {"modelled", modelled ? times_json(m->modelled, b.bytes) : json(nullptr)},
                                  {"memcpy", times_json(m->memcpy, b.bytes)},
                                  {"wall_over_memcpy", ratio}});
    return kOk;
  }
  auto side = [](const DeviceInfo& d) { return fmt::format("{} ({})", clean(label(d)), kind(d)); };
  c.out.print(fmt::format("{} -> {}: {}, {} times\n{}", side(m->from), side(m->to), bytes_text(b.bytes), b.count, clean(m->plan.substr(0, m->plan.find('\n'))) + "\n"));
  Table t({"", "MEDIAN", "MIN", "MAX", "RATE", "OVER MEMCPY"});
  auto row = [&](const char* name, const Times& x, const std::string& over) {
    t.row({name, ns_text(x.median()), ns_text(x.min()), ns_text(x.max()), rate_text(double(b.bytes) / x.median() * 1e9), over});
  };
  row("copy, wall", m->wall, fmt::format("{:.2f}", ratio));
  row("memcpy, wall", m->memcpy, "1");
  if (modelled) row("copy, modelled", m->modelled, "");
  for (size_t i = 1; i < 6; ++i) t.right(i);
  c.out.print(t.text());
  return kOk;
}

}  // namespace baton::devctl
