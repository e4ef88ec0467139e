// queue.hpp: one lane's command queue: a ring of requests, a thread that runs them, a descriptor that says when to poll.
//
// nrt_execute, nrt_tensor_read and nrt_tensor_write block, so a queue owns one thread; this is the driver's only threading. The ring has
// three watermarks: submitted (written by submit), executed (by the thread), reaped (by poll). Nothing else is shared while an op runs.
// Marks of a running launch are stores to device memory that nothing announces: while one is wanted, a timer makes the
// descriptor readable every kProgressTickNs, so that a sleeping poller looks at the page.
//
// Owner    the Device.
// Threads  submit, poll, stop under the core's device lock; run() is the thread.
// Cost     an op is two futex or eventfd wake-ups; nothing is allocated for COPY and FILL.
// Errors   per op, through complete(). After a fatal status every op ends with DEVICE_LOST until the device is reset.
//
//     BATON_ASSIGN(auto q, Queue::open(shared, place));
//     q->submit(ops, n);  q->poll(64);  q->stop();
#pragma once

#include "drivers/neuron/loaded_program.hpp"
#include "drivers/neuron/memory.hpp"
#include "drivers/neuron/sysfs.hpp"

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

namespace baton::neuron {

struct Counters {
  std::atomic<uint64_t> ops_done{0}, ops_failed{0}, launches{0}, bytes_in{0}, bytes_out{0}, busy_ns{0}, modelled_ns{0};
};

// What the queues of one device have in common.
struct Shared {
  const Port& port;
  const baton_driver_host& host;
  std::string uri;
  Sysfs sysfs;                       // of the machine
  uint32_t chip;
  Health opened{};                   // when the device was opened
  Counters counters;
  std::atomic<bool> claimed{false};  // whose fatal status is the cause
  std::atomic<bool> failing{false};  // a fatal status was seen: run nothing more
  Error cause;                       // of failing; written before it is set
  bool reported = false;             // the core was told; under the core's lock
};

// An open descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& o) noexcept {
    std::swap(fd_, o.fd_);
    return *this;
  }
  ~Descriptor();
  int get() const { return fd_; }

 private:
  int fd_;
};

class Queue {
 public:
  static Result<std::unique_ptr<Queue>> open(Shared&, const Placement&);
  ~Queue();
  Queue(const Queue&) = delete;

  int fd() const { return epoll_.get(); }
  uint32_t submit(const baton_driver_op* ops, uint32_t count);  // how many were taken
  uint32_t poll(uint32_t budget);
  // Asks the launches in the ring to stop; they end with CANCELLED or as they would have.
  void cancel();
  // cancel(), skips what has not begun, ends the thread; completes nothing. The queue takes no more ops. Idempotent.
  void stop();
  bool idle() const { return reaped_ == submitted_.load(std::memory_order_relaxed); }

 private:
  struct Request {
    uint8_t opcode = 0;
    void* cookie = nullptr;
    Memory *src = nullptr, *dst = nullptr;  // COPY, FILL; acquired
    uint8_t* host = nullptr;                // COPY: the side that is no memory of this device
    uint64_t src_offset = 0, dst_offset = 0, bytes = 0;
    uint32_t pattern = 0, pattern_bytes = 0;
    LoadedProgram* program = nullptr;
    LaunchSlot* slot = nullptr;
    bool watched = false, cancelled = false;
    uint64_t reported = 0;  // marks given to the core
    uint64_t asked_ns = 0;  // when the core last had a chance to cancel
    bool failed = false;    // with `error`
    uint64_t cost_ns = 0;
    Error error;
  };
  static constexpr uint32_t kRing = 64;

  Queue(Shared& shared, const Placement& place) : shared_(shared), place_(place), ring_(kRing) {}
  Status open_descriptors();
  Request& at(uint64_t n) { return ring_[n % kRing]; }
  // submit
  bool accept(const baton_driver_op& op, Request& r);
  void hold(Request& r, const baton_driver_op& op);
  void watch(bool on);
  // the thread
  void run();
  void execute(Request& r);
  int32_t copy(Request& r, const char*& call);
  int32_t copy_on_device(Request& r, const char*& call);
  int32_t read_from(Request& r, uint8_t* to, uint64_t at, uint64_t bytes, const char*& call);
  int32_t write_to(Request& r, const uint8_t* from, uint64_t at, uint64_t bytes, const char*& call);
  int32_t copy_through_host(Request& r, const char*& call);
  int32_t fill(Request& r, const char*& call);
  void launch(Request& r);
  void fail(Request& r, int32_t status, const char* call, const std::string& context);
  // poll
  bool report_marks(Request& r, bool over);
  void finish(Request& r);
  void release(Request& r);

  Shared& shared_;
  Placement place_;
  std::vector<Request> ring_;
  std::vector<uint8_t> bounce_;       // the thread's
  std::vector<Memory*> freed_;        // poll's
  Descriptor epoll_, done_, timer_;
  uint64_t reaped_ = 0;
  uint32_t watched_ = 0;              // launches in flight with progress
  alignas(64) std::atomic<uint64_t> submitted_{0};
  alignas(64) std::atomic<uint64_t> executed_{0};
  std::atomic<bool> stopping_{false}, signalled_{false};
  std::thread thread_;
};

}  // namespace baton::neuron
