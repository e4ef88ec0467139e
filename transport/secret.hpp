// secret.hpp (internal): memory for keys: behind guard pages, locked where the limits allow it, left out of core dumps, wiped when it is freed.
//
// Owner    Secret owns its T; it moves, and never copies.   Threads  as T.
// Cost     three to five pages and a few system calls each: for what lives long, not for a frame.   Errors  no memory ends the process, as `new` does.
//
//     Secret<Key> k;   randombytes_buf(k->data(), k->size());
#pragma once

#include <cstddef>
#include <new>
#include <utility>

namespace baton::transport {

void* secret_alloc(size_t bytes); // aligned to 64
void secret_free(void*);          // wipes

template <class T>
class Secret {
 public:
  template <class... A>
  explicit Secret(A&&... a) : p_(new (secret_alloc(sizeof(T))) T(std::forward<A>(a)...)) {}
  Secret(Secret&& o) noexcept : p_(std::exchange(o.p_, nullptr)) {}
  Secret& operator=(Secret&& o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  ~Secret() {
    if (!p_) return;
    p_->~T();
    secret_free(p_);
  }
  T* operator->() const { return p_; }
  T& operator*() const { return *p_; }

 private:
  T* p_;
};

}  // namespace baton::transport
