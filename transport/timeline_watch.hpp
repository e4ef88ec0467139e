// timeline_watch.hpp (internal): calls back when a timeline rises or is poisoned, by the public ABI alone.
//
// A watch is a queue of its own with one op in it: NOP, waiting for the watermark plus one, signalling a shadow. When the wait is met the core hands the
// op to the queue's submit, which tells the listener and puts in the next one. When the timeline is poisoned, or destroyed, the op fails and
// poisons the shadow with the cause, which the queue's poll sees. The op keeps the timeline's memory; a failed watch does not touch it again.
//
// Owner    whoever made it.   Threads  the callbacks run inside a poll or a submit of the instance.
// Cost     a rise: one op (values that come meanwhile are one rise). A poll: one load.   Errors  of the queue.
//
//     BATON_TRY(watch.start(in, epoll_fd, "prefill", t, listener));
#pragma once

#include "hal/baton.hpp"

namespace baton::transport {

class TimelineWatch {
 public:
  class Listener {
   public:
    virtual void rose(uint64_t value, uint64_t modelled_ns) = 0;
    virtual void failed(const Error&) = 0; // once, the last call
   protected:
    ~Listener() = default;
  };

  TimelineWatch() = default;
  TimelineWatch(const TimelineWatch&) = delete;
  // `fd`: any descriptor that the instance's sleepers may watch; the core itself wakes them when the timeline changes.
  Status start(const Instance&, int fd, const std::string& hop, baton_timeline*, Listener&);
  bool over() const { return over_; }
  // Raises the timeline; the listener hears of it if it was below. Nothing once it is over.
  void raise(uint64_t value, uint64_t modelled_ns);
  void poison(const Error& cause); // the listener hears of it

 private:
  int32_t taken(const baton_driver_op* ops, uint32_t count);
  uint32_t look();
  void arm(uint64_t next);

  baton_timeline* timeline_ = nullptr;
  Listener* listener_ = nullptr;
  const baton_driver_host* host_ = nullptr;
  baton_driver table_{};
  bool over_ = false;
  Timeline shadow_;
  Queue queue_; // destroyed first: its op lets go of both timelines
};

}  // namespace baton::transport
