// cookies.h: a layer's records of the ops that are below it, each with a cookie that what is below hands back.
//
// A cookie is the record's address with a generation in the upper 16 bits, so that one which comes back twice, or after the op was given
// up, finds nothing. Records stay allocated until the layer's device is detached, when nothing below can call any more.
//
// Owner    a layer's device.   Threads  as the device's slots.
// Cost     take, find and give are O(1); memory grows by 64 records at a time and stays.   Errors  none.
//
//     struct Sent : Cookied<Sent> { Queue* queue; void* up; };
//     Sent* s = sent.take();   op.cookie = s->cookie();   ...   if (Sent* s = Cookies<Sent>::find(cookie)) { ...; sent.give(s); }
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace baton::layers {

template <class Record>
struct Cookied {
  uint16_t generation = 1;
  bool below = false;  // taken, not yet given back
  Record* next_free = nullptr;
  void* cookie() {
    return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(static_cast<Record*>(this)) | uintptr_t(generation) << 48);
  }
};

template <class Record>
class Cookies {
 public:
  Record* take() {
    if (!free_) grow();
    Record* r = free_;
    free_ = r->next_free;
    r->below = true;
    ++below_;
    return r;
  }
  void give(Record* r) {
    if (!r->below) return;
    r->below = false;
    if (++r->generation == 0) r->generation = 1;
    r->next_free = free_;
    free_ = r;
    --below_;
  }
  static Record* find(void* cookie) {  // NULL: stale
    const auto bits = reinterpret_cast<uintptr_t>(cookie);
    auto* r = reinterpret_cast<Record*>(bits & ((uintptr_t(1) << 48) - 1));
    return r && r->below && r->generation == uint16_t(bits >> 48) ? r : nullptr;
  }
  size_t below() const { return below_; }
  // Gives up those for which `which` is true: what is below will not be heard about them.
  template <class Which>
  void give_up(Which which) {
    for (auto& chunk : chunks_)
      for (size_t i = 0; i < kChunk; ++i)
        if (chunk[i].below && which(chunk[i])) give(&chunk[i]);
  }

 private:
  static constexpr size_t kChunk = 64;
  void grow() {
    auto chunk = std::make_unique<Record[]>(kChunk);
    for (size_t i = kChunk; i--;) {
      chunk[i].next_free = free_;
      free_ = &chunk[i];
    }
    chunks_.push_back(std::move(chunk));
  }
  Record* free_ = nullptr;
  size_t below_ = 0;
  std::vector<std::unique_ptr<Record[]>> chunks_;
};

}  // namespace baton::layers
