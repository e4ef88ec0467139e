#include "emulators/cs3/wires.h"

#include <algorithm>

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

void Wires::count(TelemetryReply& t) const {
  ++t.transactions;
  (inward ? t.wavelets_in : t.wavelets_out) += wavelets;
  (inward ? t.wire_bytes_in : t.wire_bytes_out) += bytes();
  // Evenly, and what does not divide on the first; all of the wanted ones dead: any other that works.
  const uint32_t alive = conditions->alive(wanted), end = alive && wanted ? wanted : kMaxChannels, share = alive ? alive : 1;
  const uint64_t each = bytes() / share;
  for (uint32_t i = 0, used = 0; i < end && used < share; ++i) {
    if (conditions->dead[i]) continue;
    t.channel_bytes[i] += used++ == 0 ? bytes() - each * (share - 1) : each;
  }
}

}  // namespace baton::cs3
