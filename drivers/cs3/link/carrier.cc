#include "drivers/cs3/link/carrier.h"

namespace baton::cs3 {

static constexpr uint16_t kNoSlot = UINT16_MAX;

// Free lists are stacks, so that the slots used last, still in the cache, are used next.
Carrier::Carrier(uint8_t* arena) : arena_(arena) {
  for (uint32_t i = 0; i < kSqEntries; ++i) {
    tickets_[i].index = uint16_t(i);
    free_[i] = uint16_t(kSqEntries - 1 - i);
  }
  for (uint32_t i = 0; i < kSmallSlots; ++i) small_[i] = uint16_t(kSmallSlots - 1 - i);
  for (uint32_t i = 0; i < kLargeSlots; ++i) large_[i] = uint16_t(kSmallSlots + kLargeSlots - 1 - i);
}

bool Carrier::take_slot(uint32_t bytes, Ticket& t) {
  t.slot = kNoSlot;
  t.payload = nullptr;
  t.payload_bytes = bytes;
  if (bytes == 0) return true;
  if (bytes <= kSmallBytes && small_count_) t.slot = small_[--small_count_];
  else if (large_count_) t.slot = large_[--large_count_];
  else return false;
  const uint64_t at = t.slot < kSmallSlots ? uint64_t(t.slot) * kSmallBytes
                                           : uint64_t(kSmallSlots) * kSmallBytes + uint64_t(t.slot - kSmallSlots) * kMaxPayload;
  t.payload = arena_ + at;
  return true;
}

Ticket* Carrier::begin(uint32_t bytes) {
  if (free_count_ == 0 || bytes > kMaxPayload) return nullptr;
  Ticket& t = tickets_[free_[free_count_ - 1]];
  if (!take_slot(bytes, t)) return nullptr;
  --free_count_;
  t.id = generation_++ << 16 | t.index;
  t.offset = 0;
  t.owner = 0;
  return &t;
}

void Carrier::end(Ticket& t) {
  if (t.slot != kNoSlot) {
    if (t.slot < kSmallSlots) small_[small_count_++] = t.slot;
    else large_[large_count_++] = t.slot;
  }
  t.id = 0;
  free_[free_count_++] = t.index;
}

void Carrier::push(Ticket& t, Submission& s) {
  s.id = t.id;
  if (s.where != uint8_t(Where::region)) {
    s.where = uint8_t(t.payload ? Where::arena : Where::none);
    s.payload_offset = t.payload ? uint64_t(t.payload - arena_) : 0;
    s.payload_bytes = t.payload_bytes;
  }
  t.s = s;
  send(t);
}

Ticket* Carrier::find(uint64_t id) {
  const uint64_t index = id & 0xffff;
  return index < kSqEntries && id != 0 && tickets_[index].id == id ? &tickets_[index] : nullptr;
}

void Carrier::fail(const Error& e) {
  if (!is_broken()) broken_ = e;
}

Pop Carrier::pop(Event& ev) {
  if (is_broken()) return Pop::broken;
  ev.text = {};
  const Pop p = receive(ev.c, ev.text);
  if (p != Pop::got) return p;
  ev.ticket = find(ev.c.id);
  ev.last = ev.c.kind == uint8_t(Kind::done);
  if (!ev.ticket && ev.c.kind != uint8_t(Kind::lost)) {
    fail(Error(BATON_CORRUPT, "the daemon answers a command that was not sent (id " + std::to_string(ev.c.id) + ")",
               "restart the daemon; if it recurs, its build is faulty"));
    return Pop::broken;
  }
  return Pop::got;
}

}  // namespace baton::cs3
