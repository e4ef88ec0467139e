// list.h: an intrusive doubly-linked list (members prev, next), for handles that must be found only to be closed.
//
// Owner    the list owns nothing.   Threads  the holder's lock.   Cost  O(1).   Errors  none.
#pragma once

#include <cstdint>

namespace baton::core {

template <class T>
class List {
 public:
  void insert(T* item) {
    item->prev = nullptr;
    item->next = head_;
    if (head_) head_->prev = item;
    head_ = item;
    ++size_;
  }
  void erase(T* item) {
    (item->prev ? item->prev->next : head_) = item->next;
    if (item->next) item->next->prev = item->prev;
    item->prev = item->next = nullptr;
    --size_;
  }
  T* head() const { return head_; }
  uint32_t size() const { return size_; }

 private:
  T* head_ = nullptr;
  uint32_t size_ = 0;
};

}  // namespace baton::core
