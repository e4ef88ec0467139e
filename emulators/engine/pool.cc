#include "emulators/engine/pool.hpp"

#include "emulators/engine/kernels.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <new>
#include <thread>
#include <vector>

namespace baton::engine {
namespace {

constexpr size_t kAlign = 64;
constexpr auto kSpin = std::chrono::microseconds(20);

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

// Until `a` is no longer `old`: spins for kSpin, then sleeps. Returns the new value.
uint32_t await_change(const std::atomic<uint32_t>& a, uint32_t old) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (uint32_t now = a.load(std::memory_order_acquire); now != old) return now;
      relax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  a.wait(old, std::memory_order_acquire);
  return a.load(std::memory_order_acquire);
}

struct Buffer {
  void* data = nullptr;
  uint64_t bytes = 0;
  void reserve(uint64_t want) {
    if (want <= bytes) return;
    if (want < 2 * bytes) want = 2 * bytes;  // a context that grows by a token must not allocate at each
    release();
    data = ::operator new(want, std::align_val_t(kAlign));
    bytes = want;
  }
  void release() {
    if (data) ::operator delete(data, std::align_val_t(kAlign));
    data = nullptr;
  }
};

struct alignas(kAlign) ThreadScratch {
  Buffer slots[Pool::kSlots];
  ~ThreadScratch() {
    for (Buffer& b : slots) b.release();
  }
};

}  // namespace

struct Pool::Impl {
  explicit Impl(uint32_t threads) : scratch(threads) {}

  // The job: written by the caller before `epoch` rises, read by workers after they saw it rise.
  void (*fn)(void*, uint64_t, uint64_t, uint32_t) = nullptr;
  void* ctx = nullptr;
  uint64_t n = 0;
  bool stop = false;
  alignas(kAlign) std::atomic<uint32_t> epoch{0};
  alignas(kAlign) std::atomic<uint32_t> running{0};  // workers that have not finished this epoch
  std::vector<ThreadScratch> scratch;
  std::vector<std::thread> workers;

  void run_share(uint32_t thread, uint32_t size) {
    const uint64_t begin = n * thread / size, end = n * (thread + 1) / size;
    if (begin < end) fn(ctx, begin, end, thread);
  }

  void work(uint32_t thread, uint32_t size) {
    FlushDenormals flush;
    for (uint32_t seen = 0;;) {
      seen = await_change(epoch, seen);
      if (stop) return;
      run_share(thread, size);
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) running.notify_one();
    }
  }
};

Pool::Pool(uint32_t threads) : impl_(std::make_unique<Impl>(std::max(threads, 1u))), size_(std::max(threads, 1u)) {
  for (uint32_t t = 1; t < size_; ++t) impl_->workers.emplace_back([this, t] { impl_->work(t, size_); });
}

Pool::~Pool() {
  impl_->stop = true;
  impl_->epoch.fetch_add(1, std::memory_order_release);
  impl_->epoch.notify_all();
  for (std::thread& t : impl_->workers) t.join();
}

void Pool::parallel_for(uint64_t n, void (*fn)(void* ctx, uint64_t begin, uint64_t end, uint32_t thread), void* ctx) {
  if (n == 0) return;
  if (n == 1 || size_ == 1) return fn(ctx, 0, n, 0);
  Impl& p = *impl_;
  p.fn = fn;
  p.ctx = ctx;
  p.n = n;
  p.running.store(size_ - 1, std::memory_order_relaxed);
  p.epoch.fetch_add(1, std::memory_order_release);
  p.epoch.notify_all();
  p.run_share(0, size_);
  for (uint32_t left = p.running.load(std::memory_order_acquire); left != 0;) left = await_change(p.running, left);
}

void* Pool::scratch_bytes(uint32_t thread, uint32_t slot, uint64_t bytes) {
  Buffer& b = impl_->scratch[thread].slots[slot];
  b.reserve(bytes);
  return b.data;
}

}  // namespace baton::engine
