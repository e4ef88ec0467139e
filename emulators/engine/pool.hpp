// pool.hpp: a small fork-join pool. parallel_for splits [0, n) into one contiguous run for each thread; the caller is thread 0.
//
// Owner    whoever makes it; the destructor joins.   Threads  one caller at a time.
// Cost     a fork-join costs a few microseconds: workers spin for at most ~20 us, then sleep on a futex (a spinning
//          worker must never starve whoever holds the other core).
// Errors   none.   The only threads of the engine; size 1 makes none.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace baton::engine {

class Pool {
 public:
  explicit Pool(uint32_t threads);
  ~Pool();
  Pool(const Pool&) = delete;
  uint32_t size() const;
  // fn(ctx, begin, end, thread): no exceptions. Runs inline when n is 1 or size() is 1.
  void parallel_for(uint64_t n, void (*fn)(void* ctx, uint64_t begin, uint64_t end, uint32_t thread), void* ctx);
  template <class F>
  void run(uint64_t n, F&& f) {
    parallel_for(
        n, [](void* c, uint64_t b, uint64_t e, uint32_t t) { (*static_cast<std::remove_reference_t<F>*>(c))(b, e, t); }, &f);
  }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  uint32_t size_;
};

}  // namespace baton::engine
