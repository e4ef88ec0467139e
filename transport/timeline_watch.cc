#include "transport/timeline_watch.hpp"

namespace baton::transport {

Status TimelineWatch::start(const Instance& in, int fd, const std::string& hop, baton_timeline* t, Listener& l) {
  timeline_ = t;
  listener_ = &l;
  host_ = baton_queue_host(in.get());
  BATON_ASSIGN(shadow_, in.timeline(hop));
  table_.struct_size = sizeof table_;
  table_.abi_version = BATON_ABI_VERSION;
  table_.scheme = "timeline";
  table_.description = "a watched timeline";
  table_.submit = [](void* self, void*, const baton_driver_op* ops, uint32_t n, uint32_t* taken, baton_error*) {
    *taken = n;
    return static_cast<TimelineWatch*>(self)->taken(ops, n);
  };
  table_.poll = [](void* self, void*, uint32_t) { return static_cast<TimelineWatch*>(self)->look(); };
  Error e;
  baton_queue* q = nullptr;
  if (baton_queue_from_table(in.get(), hop.c_str(), &table_, this, fd, &q, &e)) return e;
  queue_ = Queue(q);
  arm(1);
  return {};
}

void TimelineWatch::arm(uint64_t next) {
  Op op = nop().signal(shadow_, next);
  op.baton_op::wait[0] = {timeline_, next};
  if (Status s = queue_.submit(op); !s.ok()) shadow_.poison(s.error());
}

int32_t TimelineWatch::taken(const baton_driver_op* ops, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) host_->complete(ops[i].cookie, 0, nullptr);
  uint64_t value = 0;
  (void)baton_timeline_query(timeline_, &value, nullptr); // a poison fails the next op
  const uint64_t modelled = baton_timeline_modelled(timeline_, value);
  if (value == UINT64_MAX) over_ = true; // cannot rise; without an op there is no hold on it
  else arm(value + 1); // holds the timeline again before anybody is told
  listener_->rose(value, modelled);
  return BATON_OK;
}

uint32_t TimelineWatch::look() {
  if (over_) return 0;
  const auto v = shadow_.value();
  if (v.ok()) return 0;
  over_ = true;
  listener_->failed(v.error());
  return 1;
}

void TimelineWatch::raise(uint64_t value, uint64_t modelled_ns) {
  if (!over_ && shadow_.value().ok()) baton_timeline_signal(timeline_, value, modelled_ns);
}

void TimelineWatch::poison(const Error& cause) {
  if (!over_ && shadow_.value().ok()) baton_timeline_poison(timeline_, &cause);
}

}  // namespace baton::transport
