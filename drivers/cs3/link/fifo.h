// fifo.h: a queue in one growing ring: allocates only when it is longer than ever before (std::deque allocates all the time).
//
// Owner    whoever holds it.   Threads  one.   Cost  an index and a move; take(i) moves what is before.   Errors  none.
//
//     Fifo<Command> q;  q.push(std::move(c));  use(q.front());  Command done = q.take(0);
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace baton::cs3 {

template <class T>
class Fifo {
 public:
  bool empty() const { return size_ == 0; }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return slots_[(head_ + i) & (slots_.size() - 1)]; }
  T& front() { return (*this)[0]; }
  void push(T v) {
    if (size_ == slots_.size()) grow();
    (*this)[size_++] = std::move(v);
  }
  // Takes out the i-th from the front.
  T take(size_t i = 0) {
    T v = std::move((*this)[i]);
    for (; i > 0; --i) (*this)[i] = std::move((*this)[i - 1]);
    head_ = (head_ + 1) & (slots_.size() - 1);
    --size_;
    return v;
  }
  void clear() {
    while (size_) take();
  }

 private:
  void grow() {
    std::vector<T> wider(slots_.empty() ? 16 : slots_.size() * 2);
    for (size_t i = 0; i < size_; ++i) wider[i] = std::move((*this)[i]);
    slots_ = std::move(wider);
    head_ = 0;
  }
  std::vector<T> slots_; // a power of two
  size_t head_ = 0, size_ = 0;
};

}  // namespace baton::cs3
