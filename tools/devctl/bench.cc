#include "tools/devctl/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace baton::devctl {

double Times::at(double quantile) const {
  if (ns.empty()) return 0;
  auto v = ns;
  std::sort(v.begin(), v.end());
  return v[std::min(v.size() - 1, size_t(std::max(1.0, std::ceil(quantile * double(v.size())))) - 1)];
}

double Times::median() const { return ns.size() % 2 ? at(0.5) : (at(0.5) + at(0.5 + 1.0 / double(std::max<size_t>(ns.size(), 2)))) / 2; }

json times_json(const Times& t, uint64_t bytes) {
  const double m = t.median();
  json j = {{"median_ns", m}, {"p99_ns", t.at(0.99)}, {"min_ns", t.at(0)}, {"max_ns", t.at(1)}};
  if (bytes) j["bytes_per_s"] = m > 0 ? double(bytes) / m * 1e9 : 0;
  return j;
}

Status await(const Timeline& t, uint64_t value) {
  for (const uint64_t until = deadline_in_ms(kBenchPatienceMs);;) {
    Status s = t.wait_until(value, std::min(until, deadline_in_ms(100)));
    if (s.ok() || s.error().code != BATON_DEADLINE) return s;
    BATON_TRY(t.value());  // its own deadline may have poisoned it
    if (interrupted()) return Error(BATON_CANCELLED, "interrupted", "");
    if (now_ns() >= until) return s;
  }
}

Result<Ends> Ends::open(const Devices& devices, const std::string& from, const std::string& to) {
  Ends e;
  e.same = from == to;
  BATON_ASSIGN(e.from, devices.open(from));
  if (!e.same) {
    BATON_ASSIGN(e.other, devices.open(to));
  }
  BATON_ASSIGN(e.a, e.from.info());
  BATON_ASSIGN(e.b, e.to().info());
  return e;
}

Result<Queue> Ends::queue(const Instance& in) const { return same ? from.queue(0) : in.link(from, other); }

std::string shown(const DeviceInfo& d) { return fmt::format("{} ({})", clean(label(d)), kind(d)); }

Result<Check> Check::create(const Instance& in, const Ends& ends, uint64_t bytes) {
  Check c;
  c.bytes_ = bytes;
  BATON_ASSIGN(Device host, in.open("host://"));
  BATON_ASSIGN(c.sent_, host.alloc(bytes));
  BATON_ASSIGN(c.seen_, host.alloc(bytes));
  BATON_ASSIGN(void* sent, c.sent_.map());
  BATON_ASSIGN(void* seen, c.seen_.map());
  c.sent_at_ = static_cast<uint8_t*>(sent), c.seen_at_ = static_cast<uint8_t*>(seen);
  BATON_ASSIGN(c.in_, in.link(host, ends.from));
  BATON_ASSIGN(c.blank_, in.link(host, ends.to()));
  BATON_ASSIGN(c.out_, in.link(ends.to(), host));
  BATON_ASSIGN(c.done_, in.timeline("bench --check"));
  return c;
}

Status Check::move(const Queue& q, const Buffer& from, const Buffer& to) {
  BATON_TRY(q.submit(copy(from, 0, to, 0, bytes_).signal(done_, value_ + 1)));
  return await(done_, ++value_);
}

Status Check::arm(const Buffer& src, const Buffer& dst) {
  ++rounds_;
  std::memset(sent_at_, int(~rounds_ & 0xff), bytes_);
  BATON_TRY(move(blank_, sent_, dst));
  for (uint64_t i = 0; i < bytes_; i += 8) {
    const uint64_t word = (i + rounds_ * 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9;
    std::memcpy(sent_at_ + i, &word, std::min<uint64_t>(8, bytes_ - i));
  }
  std::memset(seen_at_, 0, bytes_);
  return move(in_, sent_, src);
}

Status Check::look(const Buffer& dst) {
  BATON_TRY(move(out_, dst, seen_));
  if (!std::memcmp(sent_at_, seen_at_, bytes_)) return {};
  for (uint64_t i = 0; i < bytes_; ++i) {
    if (sent_at_[i] == seen_at_[i]) continue;
    if (!wrong_++) first_ = fmt::format("round {}, byte {}: {:#04x}, and {:#04x} was sent", rounds_, i, seen_at_[i], sent_at_[i]);
  }
  return {};
}

json Check::document() const { return {{"rounds", rounds_}, {"bytes_compared", rounds_ * bytes_}, {"bytes_wrong", wrong_}, {"first_wrong", wrong_ ? json(first_) : json(nullptr)}}; }

std::string Check::text() const {
  return wrong_ ? fmt::format("{} of {} bytes arrived wrong; the first: {}", wrong_, rounds_ * bytes_, first_) : fmt::format("{} x {} compared at the destination, every byte arrived", rounds_, bytes_text(bytes_));
}

int ended(const Context& c, const std::string& wrong) {
  if (!wrong.empty()) return c.out.fail(kFinding, wrong, "run it again; devctl diag -l 3 tests every pair of devices and names the one that is bad");
  return interrupted() ? kInterrupted : kOk;
}

}  // namespace baton::devctl
