#include "drivers/host/queue.h"

#include "drivers/host/memory.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace baton::host_driver {
namespace {

constexpr uint64_t kInlineBytes = 256 << 10;  // about 20 us of memcpy: submit stays short
constexpr uint64_t kChunkBytes = 1 << 20;     // between two looks at the clock
constexpr uint64_t kSliceNs = 1'000'000;

uint8_t* address(const baton_driver_side& side) {
  return side.mem ? static_cast<Memory*>(side.mem)->data() + side.offset : static_cast<uint8_t*>(side.ptr);
}

// [from, from + bytes) of a FILL; `from` is a multiple of the pattern.
void fill(uint8_t* to, uint64_t bytes, uint32_t pattern, uint32_t pattern_bytes) {
  if (pattern_bytes == 1) {
    std::memset(to, int(pattern & 0xff), bytes);
    return;
  }
  std::memcpy(to, &pattern, std::min<uint64_t>(pattern_bytes, bytes));  // little-endian, as the pattern is defined
  for (uint64_t done = pattern_bytes; done < bytes; done *= 2) std::memcpy(to + done, to, std::min(done, bytes - done));
}

bool is_short(const baton_driver_op& op) {
  switch (op.opcode) {
    case BATON_OP_NOP: return true;
    case BATON_OP_COPY: return op.u.copy.bytes <= kInlineBytes;
    case BATON_OP_FILL: return op.u.fill.bytes <= kInlineBytes;
    default: return false;
  }
}

}  // namespace

Result<Queue*> Queue::open(const baton_driver_host* core, Counters* counters) {
  std::unique_ptr<Queue> q(new Queue(core, counters));
  q->event_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (q->event_ < 0) return Error(BATON_IO, std::string("eventfd: ") + strerror(errno), "raise the limit of open files (ulimit -n)");
  return q.release();
}

Queue::~Queue() {
  if (event_ >= 0) close(event_);
}

void Queue::set_readable(bool on) {
  if (on == readable_) return;
  readable_ = on;
  uint64_t value = 1;
  ssize_t rc = on ? write(event_, &value, sizeof value) : read(event_, &value, sizeof value);
  (void)rc;  // an eventfd that is written at 0 and read at 1 cannot block
}

uint32_t Queue::submit(const baton_driver_op* ops, uint32_t count) {
  uint32_t i = 0;
  for (; i < count && !count_ && is_short(ops[i]); ++i) {
    if (ops[i].opcode == BATON_OP_NOP) {  // the empty op: nothing but its cookie is used
      ++counters_->ops_done;
      core_->complete(ops[i].cookie, 0, nullptr);
      continue;
    }
    baton_driver_op op = ops[i];
    while (!advance_bytes(op)) {
    }
    finish(op, nullptr);
  }
  for (; i < count && count_ < kDepth; ++i) ring_[(head_ + count_++) % kDepth] = ops[i];
  if (count_) set_readable(true);
  return i;
}

uint32_t Queue::poll(uint32_t budget) {
  if (!count_) return 0;
  const uint64_t begin = now_ns(), slice_end = begin + kSliceNs;
  uint32_t events = 0;
  do {
    ++events;  // an op that went on is an event too: whoever polls shall not go to sleep
    if (!advance(slice_end)) break;
    head_ = (head_ + 1) % kDepth;
    --count_;
  } while (count_ && events < budget && now_ns() < slice_end);
  if (!count_) set_readable(false);
  counters_->busy_ns += now_ns() - begin;
  return events;
}

bool Queue::advance(uint64_t slice_end_ns) {
  baton_driver_op& op = ring_[head_];
  switch (op.opcode) {
    case BATON_OP_NOP: break;
    case BATON_OP_COPY:
    case BATON_OP_FILL:
      while (!advance_bytes(op))
        if (now_ns() >= slice_end_ns) return false;
      break;
    case BATON_OP_LAUNCH: return advance_launch(op, slice_end_ns);
    default: {
      Error e(BATON_UNSUPPORTED, "opcode " + std::to_string(op.opcode) + " on a host device");
      finish(op, &e);
      return true;
    }
  }
  finish(op, nullptr);
  return true;
}

bool Queue::advance_bytes(baton_driver_op& op) {
  const bool copy = op.opcode == BATON_OP_COPY;
  const uint64_t total = copy ? op.u.copy.bytes : op.u.fill.bytes;
  // A copy within one buffer may overlap: as one memmove, chunks would read what they have overwritten.
  const bool whole = copy && op.u.copy.src.mem == op.u.copy.dst.mem;
  const uint64_t n = whole ? total : std::min(total - moved_, kChunkBytes);
  if (copy) {
    std::memmove(address(op.u.copy.dst) + moved_, address(op.u.copy.src) + moved_, n);
    if (op.u.copy.dst.mem) counters_->bytes_in += n;
    if (op.u.copy.src.mem) counters_->bytes_out += n;
  } else {
    fill(static_cast<Memory*>(op.u.fill.mem)->data() + op.u.fill.offset + moved_, n, op.u.fill.pattern, op.u.fill.pattern_bytes);
  }
  moved_ += n;
  return moved_ == total;
}

bool Queue::advance_launch(baton_driver_op& op, uint64_t slice_end_ns) {
  if (!launch_) {
    launch_ = std::make_unique<Launch>(op, core_);
    ++counters_->launches;
  }
  switch (launch_->run_until(slice_end_ns)) {
    case engine::Step::more: return false;
    case engine::Step::done: finish(op, nullptr); break;
    case engine::Step::failed: {
      const Error e = launch_->error();
      finish(op, &e);
      break;
    }
  }
  launch_.reset();
  return true;
}

void Queue::finish(const baton_driver_op& op, const baton_error* error) {
  moved_ = 0;
  ++(error ? counters_->ops_failed : counters_->ops_done);
  core_->complete(op.cookie, 0, error);
}

void Queue::drop() {
  count_ = 0;
  moved_ = 0;
  launch_.reset();
  set_readable(false);
}

}  // namespace baton::host_driver
