#include "drivers/neuron/queue.hpp"

#include "drivers/neuron/quirks.hpp"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace baton::neuron {
namespace {

// A launch without a new mark for so long is asked about again, so that a cancel is felt while it waits for another rank.
constexpr uint64_t kAskAgainNs = 250'000'000;

Status watch_descriptor(int epoll, int fd) {
  epoll_event e{};
  e.events = EPOLLIN;
  e.data.fd = fd;
  if (fd < 0 || epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e))
    return Error(BATON_IO, std::string("descriptors of a queue: ") + std::strerror(errno), "raise the limit on open files (ulimit -n)");
  return {};
}

}  // namespace

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

// ---- opening and ending ----

Result<std::unique_ptr<Queue>> Queue::open(Shared& shared, const Placement& place) {
  std::unique_ptr<Queue> q(new Queue(shared, place));
  BATON_TRY(q->open_descriptors());
  // Signals are the application's: none is delivered here.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  q->thread_ = std::thread([raw = q.get()] { raw->run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return q;
}

Status Queue::open_descriptors() {
  epoll_ = Descriptor(epoll_create1(EPOLL_CLOEXEC));
  done_ = Descriptor(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  timer_ = Descriptor(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  BATON_TRY(watch_descriptor(epoll_.get(), done_.get()));
  return watch_descriptor(epoll_.get(), timer_.get());
}

Queue::~Queue() { stop(); }

void Queue::cancel() {
  for (uint64_t n = reaped_; n < submitted_.load(std::memory_order_relaxed); ++n) {
    Request& r = at(n);
    if (!r.slot) continue;
    r.cancelled = true;
    LoadedProgram::cancel(*r.slot);
  }
}

void Queue::stop() {
  if (!thread_.joinable()) return;
  stopping_.store(true, std::memory_order_seq_cst);
  cancel();
  // A futex wait sees only changes of its word; the empty request is one.
  uint64_t last = submitted_.load(std::memory_order_relaxed);
  submitted_.store(last + 1, std::memory_order_release);
  submitted_.notify_one();
  thread_.join();
  for (; reaped_ < last; ++reaped_) release(at(reaped_));
  submitted_.store(last, std::memory_order_relaxed);
}

// ---- submit ----

uint32_t Queue::submit(const baton_driver_op* ops, uint32_t count) {
  uint32_t taken = 0;
  uint64_t head = submitted_.load(std::memory_order_relaxed);
  for (; taken < count && head - reaped_ < kRing && thread_.joinable(); ++taken) {
    const baton_driver_op& op = ops[taken];
    if (op.opcode == BATON_OP_LAUNCH && !static_cast<LoadedProgram*>(op.u.launch.program)->has_free_slot()) break;
    Request& r = at(head);
    if (!accept(op, r)) {
      Error::put(r.error.device, shared_.uri);
      shared_.counters.ops_failed.fetch_add(1, std::memory_order_relaxed);
      shared_.host.complete(op.cookie, 0, &r.error);
      continue;
    }
    submitted_.store(++head, std::memory_order_release);
  }
  if (taken) submitted_.notify_one();
  return taken;
}

bool Queue::accept(const baton_driver_op& op, Request& r) {
  r = Request{};
  r.opcode = op.opcode;
  r.cookie = op.cookie;
  switch (op.opcode) {
    case BATON_OP_NOP: return true;
    case BATON_OP_COPY:
    case BATON_OP_FILL: hold(r, op); break;
    case BATON_OP_LAUNCH: {
      r.program = static_cast<LoadedProgram*>(op.u.launch.program);
      if (r.program->placement().lane != place_.lane) {
        r.error = Error(BATON_INVALID_ARGUMENT, "program '" + r.program->name() + "' is loaded on lane " + std::to_string(r.program->placement().lane) +
                                                    ", this queue is on lane " + std::to_string(place_.lane), "launch it on its lane's queue");
        return false;
      }
      r.slot = r.program->begin(op, r.error);
      r.watched = r.slot && op.u.launch.want_progress;
      if (r.watched && ++watched_ == 1) watch(true);
      return r.slot != nullptr;
    }
    default:
      r.error = Error(BATON_UNSUPPORTED, "opcode " + std::to_string(op.opcode), "this driver runs NOP, COPY, FILL and LAUNCH");
      return false;
  }
  for (Memory* m : {r.src, r.dst})
    if (m && !m->tensor()) {
      release(r);
      r.error = Error(BATON_DEVICE_LOST, "the buffer was lost in a reset", "allocate it again");
      return false;
    }
  return true;
}

void Queue::hold(Request& r, const baton_driver_op& op) {
  if (op.opcode == BATON_OP_COPY) {
    const auto& c = op.u.copy;
    r.src = static_cast<Memory*>(c.src.mem);
    r.dst = static_cast<Memory*>(c.dst.mem);
    r.host = static_cast<uint8_t*>(r.src ? c.dst.ptr : c.src.ptr);
    r.src_offset = c.src.offset;
    r.dst_offset = c.dst.offset;
    r.bytes = c.bytes;
  } else {
    r.dst = static_cast<Memory*>(op.u.fill.mem);
    r.dst_offset = op.u.fill.offset;
    r.bytes = op.u.fill.bytes;
    r.pattern = op.u.fill.pattern;
    r.pattern_bytes = op.u.fill.pattern_bytes;
  }
  if (r.src) r.src->acquire();
  if (r.dst) r.dst->acquire();
}

void Queue::watch(bool on) {
  timespec tick{0, on ? long(kProgressTickNs) : 0};
  itimerspec t{tick, tick};
  timerfd_settime(timer_.get(), 0, &t, nullptr);
}

// ---- the thread ----

void Queue::run() {
  for (uint64_t n = 0;;) {
    submitted_.wait(n, std::memory_order_acquire);
    uint64_t head = submitted_.load(std::memory_order_acquire);
    for (; n < head; ++n) {
      if (stopping_.load(std::memory_order_seq_cst)) return;
      execute(at(n));
      executed_.store(n + 1, std::memory_order_seq_cst);
      if (signalled_.exchange(true, std::memory_order_seq_cst)) continue;
      uint64_t one = 1;
      (void)!write(done_.get(), &one, sizeof one);
    }
  }
}

void Queue::execute(Request& r) {
  if (shared_.failing.load(std::memory_order_acquire)) {
    r.failed = true;
    r.error = shared_.cause;
    return;
  }
  const char* call = "";
  int32_t status = 0;
  uint64_t began = now_ns();
  switch (r.opcode) {
    case BATON_OP_COPY: status = copy(r, call); break;
    case BATON_OP_FILL: status = fill(r, call); break;
    case BATON_OP_LAUNCH: launch(r); break;
    default: return;  // NOP
  }
  if (status) fail(r, status, call, std::to_string(r.bytes) + " bytes");
  shared_.counters.busy_ns.fetch_add(now_ns() - began, std::memory_order_relaxed);
}

int32_t Queue::copy(Request& r, const char*& call) {
  if (!r.bytes) return nrt::kSuccess;
  if (r.src && r.dst) return copy_on_device(r, call);
  return r.src ? read_from(r, r.host, 0, r.bytes, call) : write_to(r, r.host, 0, r.bytes, call);
}

// Bytes [at, at + bytes) of the request.
int32_t Queue::read_from(Request& r, uint8_t* to, uint64_t at, uint64_t bytes, const char*& call) {
  call = "nrt_tensor_read";
  const int32_t status = shared_.port.tensor_read(r.src->tensor(), to, r.src_offset + at, bytes);
  if (shared_.port.cost_ns) r.cost_ns += shared_.port.cost_ns();
  return status;
}

int32_t Queue::write_to(Request& r, const uint8_t* from, uint64_t at, uint64_t bytes, const char*& call) {
  call = "nrt_tensor_write";
  const int32_t status = shared_.port.tensor_write(r.dst->tensor(), from, r.dst_offset + at, bytes);
  if (shared_.port.cost_ns) r.cost_ns += shared_.port.cost_ns();
  return status;
}

int32_t Queue::copy_on_device(Request& r, const char*& call) {
  call = "nrt_tensor_copy";
  bool same_core = r.src->vnc() < 0 || r.dst->vnc() < 0 || r.src->vnc() == r.dst->vnc();
  if (same_core && shared_.port.tensor_copy) {
    int32_t s = shared_.port.tensor_copy(r.src->tensor(), r.src_offset, r.dst->tensor(), r.dst_offset, r.bytes);
    if (shared_.port.cost_ns) r.cost_ns += shared_.port.cost_ns();
    if (s != nrt::kInvalid || !kCopyFallsBackToHost) return s;
  }
  return copy_through_host(r, call);
}

int32_t Queue::copy_through_host(Request& r, const char*& call) {
  if (bounce_.empty()) bounce_.resize(kBounceBytes);
  for (uint64_t done = 0; done < r.bytes;) {
    uint64_t n = std::min(kBounceBytes, r.bytes - done);
    if (int32_t s = read_from(r, bounce_.data(), done, n, call)) return s;
    if (int32_t s = write_to(r, bounce_.data(), done, n, call)) return s;
    done += n;
  }
  return nrt::kSuccess;
}

int32_t Queue::fill(Request& r, const char*& call) {
  uint8_t bytes[4];
  std::memcpy(bytes, &r.pattern, sizeof bytes);
  uint32_t width = std::clamp<uint32_t>(r.pattern_bytes, 1, 4);
  bool uniform = std::all_of(bytes, bytes + width, [&](uint8_t b) { return b == bytes[0]; });
  if (uniform && shared_.port.tensor_memset) {
    call = "nrt_tensor_memset";
    const int32_t status = shared_.port.tensor_memset(r.dst->tensor(), r.dst_offset, bytes[0], r.bytes);
    if (shared_.port.cost_ns) r.cost_ns += shared_.port.cost_ns();
    return status;
  }
  if (bounce_.empty()) bounce_.resize(kBounceBytes);
  uint64_t run = std::min(kBounceBytes, r.bytes);  // kBounceBytes is a multiple of 4
  for (uint64_t i = 0; i < run; ++i) bounce_[i] = bytes[i % width];
  for (uint64_t done = 0; done < r.bytes; done += run)
    if (int32_t s = write_to(r, bounce_.data(), done, std::min(run, r.bytes - done), call)) return s;
  return nrt::kSuccess;
}

void Queue::launch(Request& r) {
  LaunchResult result = r.program->execute(*r.slot);
  r.cost_ns = result.cost_ns;
  if (result.status)
    fail(r, result.status, "nrt_execute", "program '" + r.program->name() + "' on lane " + std::to_string(place_.lane));
}

void Queue::fail(Request& r, int32_t status, const char* call, const std::string& context) {
  r.failed = true;
  std::string seen;
  if (status_info(status).fatal)
    if (auto now = shared_.sysfs.health(shared_.chip)) seen = troubles(shared_.opened, *now);
  r.error = status_error(shared_.port, status, call, seen.empty() ? context : context + "; since it was opened: " + seen);
  Error::put(r.error.device, shared_.uri);
  if (!status_info(status).fatal || shared_.failing.load(std::memory_order_acquire)) return;
  if (shared_.claimed.exchange(true)) return;
  shared_.cause = r.error;
  shared_.failing.store(true, std::memory_order_release);
}

// ---- poll ----

uint32_t Queue::poll(uint32_t budget) {
  // Cleared before looking, so that an op that ends in between writes the descriptor again. If the flag is up and the write is still to
  // come, both stay: clearing the flag alone would leave the descriptor readable with nobody to read it.
  uint64_t ticks;
  if (signalled_.load(std::memory_order_relaxed) && read(done_.get(), &ticks, sizeof ticks) == sizeof ticks)
    signalled_.store(false, std::memory_order_seq_cst);
  uint32_t handled = 0;
  uint64_t executed = executed_.load(std::memory_order_seq_cst);
  while (reaped_ < executed && handled < budget) {
    Request& r = at(reaped_);
    if (r.watched) report_marks(r, true);
    finish(r);
    ++handled;
  }
  if (reaped_ < executed && !signalled_.exchange(true, std::memory_order_seq_cst)) {  // more than the budget: come back
    uint64_t one = 1;
    (void)!write(done_.get(), &one, sizeof one);
  }
  if (watched_) {
    (void)!read(timer_.get(), &ticks, sizeof ticks);
    if (reaped_ == executed && reaped_ < submitted_.load(std::memory_order_relaxed) && at(reaped_).watched) handled += report_marks(at(reaped_), false);
  }
  return handled;
}

// The launch at the ring's end: over, or still running (or about to).
bool Queue::report_marks(Request& r, bool over) {
  if (!over && !r.slot->mapped) return false;
  uint64_t reached = LoadedProgram::marks(*r.slot), now = now_ns();
  bool any = r.reported < reached, stop = false;
  while (r.reported < reached) {
    ++r.reported;
    stop |= shared_.host.progress(r.cookie, r.reported, LoadedProgram::mark_offset(*r.slot, r.reported)) != 0;
  }
  if (any || !r.asked_ns) {
    r.asked_ns = now;
  } else if (!over && now - r.asked_ns > kAskAgainNs) {
    uint64_t offset = r.reported ? LoadedProgram::mark_offset(*r.slot, r.reported) : 0;
    stop |= shared_.host.progress(r.cookie, r.reported, offset) != 0;
    r.asked_ns = now;
  }
  if (stop && !over) {
    r.cancelled = true;
    LoadedProgram::cancel(*r.slot);
  }
  return any;
}

// The ring entry is free before the core hears: complete() may free buffers and submit again.
void Queue::finish(Request& r) {
  Counters& c = shared_.counters;
  (r.failed ? c.ops_failed : c.ops_done).fetch_add(1, std::memory_order_relaxed);
  if (r.opcode == BATON_OP_LAUNCH) c.launches.fetch_add(1, std::memory_order_relaxed);
  if (r.opcode == BATON_OP_COPY && !r.src) c.bytes_in.fetch_add(r.bytes, std::memory_order_relaxed);
  if (r.opcode == BATON_OP_COPY && !r.dst) c.bytes_out.fetch_add(r.bytes, std::memory_order_relaxed);
  c.modelled_ns.fetch_add(r.cost_ns, std::memory_order_relaxed);
  void* cookie = r.cookie;
  uint64_t cost = r.cost_ns;
  if (!r.failed) {
    release(r);
    ++reaped_;
    return shared_.host.complete(cookie, cost, nullptr);
  }
  Error error = r.error;
  if (r.cancelled && error.code == BATON_FAILED) {
    error.code = BATON_CANCELLED;
    Error::put(error.next, "");
  }
  release(r);
  ++reaped_;
  shared_.host.complete(cookie, cost, &error);
}

void Queue::release(Request& r) {
  if (r.watched && --watched_ == 0) watch(false);
  bool unload = r.slot && r.program->end(*r.slot, freed_);
  for (Memory* m : {r.src, r.dst})
    if (m && m->release()) freed_.push_back(m);
  for (Memory* m : freed_) delete m;
  freed_.clear();
  if (unload) delete r.program;
  r.src = r.dst = nullptr;
  r.slot = nullptr;
  r.program = nullptr;
  r.watched = false;
}

}  // namespace baton::neuron
