// ring.h: one ring of fixed-size entries in shared memory: one producer, one consumer, usually in two processes.
//
// Owner    The segment owns the memory; a Producer and a Consumer each keep a private copy of their own index, so that the other
//          side can corrupt what is said, never where this side reads or writes.
// Threads  One thread each. The producer's release of `tail` pairs with the consumer's acquire: an entry seen is whole.
// Cost     push and pop touch one or two cache lines and make no syscall. `tail` is stored and `asleep` read in sequentially
//          consistent order (and the reverse by the consumer), so one of both sides always sees the other: no lost wake-up.
// Errors   broken: the other side's index is impossible; the connection must end.
//
//     if (tx.push(entry)) ...; if (tx.bell()) ring(eventfd);          // bell() once after a batch
//     while (rx.pop(entry) == Pop::got) ...;  if (rx.arm()) sleep();  // arm() false: something came meanwhile
#pragma once

#include <atomic>
#include <cstdint>

namespace baton::cs3 {

struct RingControl {
  alignas(64) std::atomic<uint32_t> tail;   // the producer's: entries published
  alignas(64) std::atomic<uint32_t> head;   // the consumer's: entries taken
  alignas(64) std::atomic<uint32_t> asleep; // 1: the consumer wants its bell rung
};
static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(RingControl) == 192);

enum class Pop : uint8_t { none, got, broken };

template <class Entry, uint32_t Entries>
class Producer {
  static_assert((Entries & (Entries - 1)) == 0);

 public:
  Producer(RingControl* control, Entry* slots) : c_(control), slots_(slots) {}
  // Entries that can be pushed now. An impossible head counts as no room, so that nothing unread is overwritten.
  uint32_t room() {
    const uint32_t used = tail_ - c_->head.load(std::memory_order_acquire);
    return used > Entries ? 0 : Entries - used;
  }
  uint32_t slot() const { return tail_ & (Entries - 1); } // where the next push goes
  bool push(const Entry& e) {
    if (tail_ - head_seen_ >= Entries) {
      head_seen_ = c_->head.load(std::memory_order_acquire);
      if (tail_ - head_seen_ >= Entries) return false;
    }
    slots_[tail_ & (Entries - 1)] = e;
    c_->tail.store(++tail_, std::memory_order_seq_cst);
    return true;
  }
  // The consumer sleeps: ring its bell. At most once for each time it armed.
  bool bell() {
    return c_->asleep.load(std::memory_order_seq_cst) != 0 && c_->asleep.exchange(0, std::memory_order_seq_cst) == 1;
  }

 private:
  RingControl* c_;
  Entry* slots_;
  uint32_t tail_ = 0, head_seen_ = 0;
};

template <class Entry, uint32_t Entries>
class Consumer {
  static_assert((Entries & (Entries - 1)) == 0);

 public:
  Consumer(RingControl* control, const Entry* slots) : c_(control), slots_(slots) {}
  bool ready() const { return c_->tail.load(std::memory_order_acquire) != head_; }
  uint32_t slot() const { return head_ & (Entries - 1); } // of the entry that peek() copies
  // Copies the next entry; it stays in the ring until take().
  Pop peek(Entry& e) {
    const uint32_t ahead = c_->tail.load(std::memory_order_acquire) - head_;
    if (ahead == 0) return Pop::none;
    if (ahead > Entries) return Pop::broken;
    e = slots_[head_ & (Entries - 1)];
    return Pop::got;
  }
  void take() { c_->head.store(++head_, std::memory_order_release); }
  Pop pop(Entry& e) {
    const Pop p = peek(e);
    if (p == Pop::got) take();
    return p;
  }
  // Before sleeping, after draining the bell's descriptor. False: there is something to pop, and the bell stays off. A bell may
  // still ring once after disarm(): spurious wake-ups are normal.
  bool arm() {
    c_->asleep.store(1, std::memory_order_seq_cst);
    if (c_->tail.load(std::memory_order_seq_cst) == head_) return true;
    disarm();
    return false;
  }
  bool armed() const { return c_->asleep.load(std::memory_order_relaxed) == 1 && !ready(); }
  void disarm() { c_->asleep.store(0, std::memory_order_relaxed); }

 private:
  RingControl* c_;
  const Entry* slots_;
  uint32_t head_ = 0;
};

}  // namespace baton::cs3
