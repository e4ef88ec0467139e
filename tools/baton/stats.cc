#include "tools/baton/stats.hpp"

#include <algorithm>
#include <cmath>

namespace baton::runtime {

namespace {

struct Interval {
  uint64_t begin, end;
};

// Sorted, overlapping ones joined: several ranks push at once.
std::vector<Interval> join(std::vector<Interval> all) {
  std::sort(all.begin(), all.end(), [](auto& a, auto& b) { return a.begin < b.begin; });
  std::vector<Interval> out;
  for (const Interval& i : all) {
    if (!out.empty() && i.begin <= out.back().end) out.back().end = std::max(out.back().end, i.end);
    else out.push_back(i);
  }
  return out;
}

struct View { // one of the two clocks
  bool wall;
  Interval of(const Span& s) const { return wall ? Interval{s.wall_begin, s.wall_end} : Interval{s.modelled_begin, s.modelled_end}; }
  uint64_t of(const Token& t) const { return wall ? t.wall_ns : t.modelled_ns; }
  uint64_t of(const Moment& m) const { return wall ? m.wall : m.modelled; }
};

double ms(uint64_t begin, uint64_t end) { return end > begin ? double(end - begin) / 1e6 : 0; }

Interval launches(const Leg& leg, const View& view) {
  Interval whole{UINT64_MAX, 0};
  for (const Span& s : leg.spans) {
    if (s.what != "LAUNCH" || s.failed) continue;
    Interval i = view.of(s);
    whole = {std::min(whole.begin, i.begin), std::max(whole.end, i.end)};
  }
  return whole.end ? whole : Interval{0, 0};
}

void transfer(const Answer& a, const View& view, uint64_t prefill_end, ClockStats& c) {
  std::vector<Interval> pushes;
  for (const Span& s : a.transfer.spans)
    if (!s.failed && view.of(s).end > view.of(s).begin) pushes.push_back(view.of(s));
  uint64_t total = 0, hidden = 0;
  for (const Interval& i : join(std::move(pushes))) {
    total += i.end - i.begin;
    hidden += std::max(i.begin, std::min(i.end, prefill_end)) - i.begin;
  }
  c.transfer_ms = double(total) / 1e6;
  c.hidden = total ? double(hidden) / double(total) : 0;
}

ClockStats clock(const Answer& a, const View& view) {
  ClockStats c;
  if (a.tokens.empty()) return c;
  Interval prefill = launches(a.prefill, view);
  c.prefill = view.wall || !a.prefill.timing.empty();
  c.decode = view.wall || !a.decode.timing.empty();
  c.ttft_ms = ms(view.of(a.began), view.of(a.tokens[0]));
  c.prefill_ms = ms(prefill.begin, prefill.end);
  if (c.prefill_ms > 0) c.prefill_per_s = a.prompt_tokens / c.prefill_ms * 1e3;
  std::vector<double> gaps;
  for (size_t i = 1; i < a.tokens.size(); ++i) gaps.push_back(ms(view.of(a.tokens[i - 1]), view.of(a.tokens[i])));
  if (!gaps.empty()) {
    double sum = 0;
    for (double g : gaps) sum += g;
    if (sum > 0) c.decode_per_s = double(gaps.size()) / sum * 1e3;
    std::sort(gaps.begin(), gaps.end());
    c.itl_median_ms = gaps[gaps.size() / 2];
    c.itl_p99_ms = gaps[size_t(std::ceil(0.99 * double(gaps.size()))) - 1];
  }
  transfer(a, view, prefill.end, c);
  return c;
}

}  // namespace

Stats stats_of(const Answer& a) {
  Stats s{clock(a, View{true}), clock(a, View{false}), a.transfer.bytes, a.transfer.segments, a.transfer.fabric};
  return s;
}

}  // namespace baton::runtime
