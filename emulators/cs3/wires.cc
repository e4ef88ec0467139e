#include "emulators/cs3/wires.h"

#include <algorithm>
#include <utility>

namespace baton::cs3 {

Wires wires_of(const Submission& s, const Rectangle* r, const Conditions& c) {
  const bool port = Op(s.op) == Op::send || Op(s.op) == Op::receive;
  Wires w;
  w.inward = is_inward(Op(s.op));
  const uint64_t bytes = std::min(s.total, UINT64_MAX / 16);  // beyond any wafer, so that nothing wraps
  w.wavelets = r ? r->tensor_elements() : s.element_bits == 16 ? (bytes + 1) / 2 : (bytes + 3) / 4;
  w.wanted = port ? 1 : s.channels;  // a stream is bound to one PE port (facts/cs3 1.1)
  w.conditions = &c;
  const double channels = double(kMaxChannels) / std::max(1u, c.alive(w.wanted));
  const double order = !port && Order(s.order) == Order::row_major ? kRowMajorCost : 1;
  w.equivalent_bytes = uint64_t(std::min(1e18, double(w.bytes()) * channels * order * (w.inward ? c.slow_ingress : 1)));
  return w;
}

WireTime Wires::time(const engine::CostModel* cost) const {
  if (!cost) return {};
  WireTime t;
  t.even_ns = cost->copy_ns(equivalent_bytes, inward) - cost->copy_ns(0, inward);
  t.waited_ns = t.even_ns * (conditions->slowest(wanted) - 1);
  t.cost_ns = cost->copy_ns(0, inward) + t.even_ns + t.waited_ns;
  return t;
}

void Wires::count(TelemetryReply& t, const WireTime& time) const {
  ++t.transactions;
  (inward ? t.wavelets_in : t.wavelets_out) += wavelets;
  (inward ? t.wire_bytes_in : t.wire_bytes_out) += bytes();
  t.waited_ns += uint64_t(time.waited_ns);
  // Evenly, and what does not divide on the first.
  const auto used = conditions->used(wanted);
  const uint64_t share = uint64_t(std::count(used.begin(), used.end(), true)), each = bytes() / share;
  uint64_t rest = bytes() - each * share;
  for (uint32_t i = 0; i < kMaxChannels; ++i) {
    if (!used[i]) continue;
    const uint64_t n = each + std::exchange(rest, 0);
    const double ns = time.even_ns * conditions->slow[i];
    t.channel_bytes[i] += n;
    t.channel_ns[i] += uint64_t(ns);
    if (ns > 0) t.channel_rate[i] = std::max<uint64_t>(1, uint64_t(double(each) * 1e9 / ns));
  }
}

}  // namespace baton::cs3
