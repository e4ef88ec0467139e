// timeline_board.hpp (internal): the quick road of remote timelines on one host: a memory object with a line for each, one writer, one reader.
//
// The writer makes a sealed memfd and tells its descriptor's number over the session; the reader opens it through /proc/PID/fd, which the kernel
// allows within one user and process namespace, and checks seals, size and the session's id before it maps it. Nothing else is handed over, and
// where this does not work values go by the session's stream.
//
// A value: the line (a sequence lock, since value and modelled time belong together), then its bit in one line of bits, all of which a poll of
// the reader looks at. A reader that polls at leisure sets `parked` before it may sleep; the writer that sees it clears it, and wakes the reader by
// a frame. One that spins does not, which saves both sides the frame; a timer sees to it that it polls again (TimelineHub::rest).
//
// Owner    TimelineHub, for the session.   Threads  as the endpoint; the other process is never trusted: indices are ours.
// Cost     a value: about 50 ns; the frame if the reader is parked. A poll of the reader: a cache line.   Errors  UNSUPPORTED, IO.
#pragma once

#include "transport/remote_timeline.hpp"
#include "transport/socket.hpp"

#include <atomic>
#include <bit>
#include <span>
#include <vector>

namespace baton::transport {

class TimelineBoard {
 public:
  static constexpr uint32_t kSlots = kMaxImports;
  using SessionId = std::array<uint8_t, 16>;
  static Result<std::unique_ptr<TimelineBoard>> make(const SessionId&);
  static Result<std::unique_ptr<TimelineBoard>> open(int32_t pid, uint64_t fd, const SessionId&);
  ~TimelineBoard();
  TimelineBoard(const TimelineBoard&) = delete;

  // The writer's.
  int fd() const { return fd_.get(); }
  std::optional<uint32_t> take();
  void give(uint32_t slot) { used_[slot] = false; }
  bool publish(uint32_t slot, uint64_t value, uint64_t modelled_ns); // true: the reader may sleep, wake it

  // The reader's: f(slot, value, modelled_ns) for each that changed. Returns how many.
  template <class F>
  uint32_t read(F f) {
    return sweep(f);
  }
  // From here on the writer sends a frame with the next value. The same; what came before the writer could see it is read.
  template <class F>
  uint32_t park(F f) {
    page_->parked.store(1, std::memory_order_seq_cst);
    return sweep(f);
  }
  bool parked() const { return page_->parked.load(std::memory_order_relaxed); } // a frame takes it away

 private:
  struct Line {
    alignas(64) std::atomic<uint64_t> sequence, value, modelled_ns;
  };
  struct Page {
    SessionId session;
    alignas(64) std::atomic<uint64_t> changed[kSlots / 64];
    alignas(64) std::atomic<uint32_t> parked;
    Line lines[kSlots];
  };
  static_assert(kSlots % 64 == 0 && std::atomic<uint64_t>::is_always_lock_free);
  TimelineBoard() = default;
  Status map();
  bool get(uint32_t slot, uint64_t& value, uint64_t& modelled_ns) const;

  template <class F>
  uint32_t sweep(F& f) {
    uint32_t n = 0;
    for (uint32_t w = 0; w < kSlots / 64; ++w) {
      if (!page_->changed[w].load(std::memory_order_seq_cst)) continue;
      for (uint64_t bits = page_->changed[w].exchange(0, std::memory_order_seq_cst); bits; bits &= bits - 1) {
        const uint32_t slot = w * 64 + uint32_t(std::countr_zero(bits));
        uint64_t value, modelled;
        ++n;
        if (get(slot, value, modelled)) f(slot, value, modelled);
      }
    }
    return n;
  }

  Fd fd_;
  Page* page_ = nullptr;
  std::vector<bool> used_ = std::vector<bool>(kSlots);
};

}  // namespace baton::transport
