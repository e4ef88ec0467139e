// pool.hpp: a small fork-join pool. parallel_for splits [0, n) into one contiguous run for each thread; the caller is thread 0.
//
// Owner    whoever makes it; the destructor joins.   Threads  one caller at a time.
// Cost     a fork-join costs a few microseconds: workers spin for at most ~20 us, then sleep on a futex (a spinning
//          worker must never starve whoever holds the other core).
// Errors   none.   The only threads of the engine; size 1 makes none.
//
// The pool also keeps each thread's scratch memory, so that kernels allocate nothing once they have seen their largest shape.
// Workers run with denormals flushed (kernels.hpp, FlushDenormals); the caller sees to its own thread.
//
//     Pool pool(2);
//     pool.run(n, [&](uint64_t begin, uint64_t end, uint32_t thread) {
//       float* tmp = pool.scratch<float>(thread, 0, 1024);
//     });
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
  uint32_t size() const { return size_; }
  // fn(ctx, begin, end, thread): no exceptions. Runs inline when n is 1 or size() is 1.
  void parallel_for(uint64_t n, void (*fn)(void* ctx, uint64_t begin, uint64_t end, uint32_t thread), void* ctx);
  template <class F>
  void run(uint64_t n, F&& f) {
    parallel_for(
        n, [](void* c, uint64_t b, uint64_t e, uint32_t t) { (*static_cast<std::remove_reference_t<F>*>(c))(b, e, t); }, &f);
  }
  // As run(), but on the caller alone unless `worth` says that the work repays a fork.
  template <class F>
  void run_if(bool worth, uint64_t n, F&& f) {
    if (worth)
      run(n, f);
    else if (n > 0)
      f(uint64_t(0), n, 0u);
  }

  // Memory of `thread`, 64-byte aligned, kept until the pool dies; a larger request for the same slot replaces it (contents are lost).
  // Only `thread` may ask, or the caller while nothing runs.
  static constexpr uint32_t kSlots = 8;
  template <class T>
  T* scratch(uint32_t thread, uint32_t slot, uint64_t count) {
    return static_cast<T*>(scratch_bytes(thread, slot, count * sizeof(T)));
  }

 private:
  struct Impl;
  void* scratch_bytes(uint32_t thread, uint32_t slot, uint64_t bytes);
  std::unique_ptr<Impl> impl_;
  uint32_t size_;
};

}  // namespace baton::engine
