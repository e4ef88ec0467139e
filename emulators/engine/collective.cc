#include "emulators/engine/collective.hpp"
#include "emulators/engine/columns.hpp"
#include "emulators/engine/kernels.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstring>

namespace baton::engine {

static constexpr uint32_t kLevels = 7; // of the tree: 64 ranks

TreeCollective::TreeCollective(uint32_t ranks, uint64_t timeout_ns)
    : ranks_(ranks), timeout_ns_(timeout_ns), calls_(ranks), here_(ranks) {}

void TreeCollective::fail(const Error& e) {
  if (failed_) return;
  failed_ = true;
  error_ = e;
  changed_.notify_all();
}

void TreeCollective::abort(const Error& e) {
  std::lock_guard lock(lock_);
  fail(e);
}

void TreeCollective::reset() {
  std::lock_guard lock(lock_);
  failed_ = false;
  arrived_ = 0;
  ++generation_;
  std::fill(here_.begin(), here_.end(), false);
}

// A failed rank goes back to its caller, who may free its part: not while another rank still reads it.
Status TreeCollective::leave(std::unique_lock<std::mutex>& lock) {
  changed_.wait(lock, [this] { return reading_ == 0; });
  return error_;
}

// All ranks pass together. The last to come moves the generation on.
Status TreeCollective::barrier(std::unique_lock<std::mutex>& lock, uint32_t rank) {
  if (failed_) return leave(lock);
  const uint64_t mine = generation_;
  here_[rank] = true;
  if (++arrived_ == ranks_) {
    arrived_ = 0;
    ++generation_;
    std::fill(here_.begin(), here_.end(), false);
    changed_.notify_all();
    return {};
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::nanoseconds(timeout_ns_);
  while (generation_ == mine && !failed_) {
    if (changed_.wait_until(lock, deadline) != std::cv_status::timeout || generation_ != mine || failed_) continue;
    std::string missing;
    for (uint32_t r = 0; r < ranks_; ++r)
      if (!here_[r]) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", r);
    fail(Error(BATON_DEADLINE, fmt::format("collective: rank {} of {} did not come within {} ms", missing, ranks_, timeout_ns_ / 1000000),
               "launch the program on every lane of the group, and look for the lane that failed first"));
  }
  if (generation_ != mine) return {};
  return leave(lock);
}

// Elements are independent: rank r sums the r-th share of them, each as the tree over ranks.
void TreeCollective::sum_share(uint32_t rank, uint64_t count) {
  FlushDenormals flush;
  constexpr uint64_t kChunk = 256; // partial sums stay in L1
  const uint64_t share = (count + ranks_ - 1) / ranks_;
  const uint64_t begin = std::min(count, share * rank), end = std::min(count, begin + share);
  std::array<std::array<float, kChunk>, kLevels> waiting; // [l]: the sum of 2^l ranks that waits for its right half
  std::array<float, kChunk> sum;
  for (uint64_t at = begin; at < end; at += kChunk) {
    const uint64_t n = std::min(kChunk, end - at);
    for (uint32_t r = 0; r < ranks_; ++r) {
      std::copy_n(calls_[r].x + at, n, sum.data());
      uint32_t l = 0;
      for (; (r >> l) & 1; ++l)
        for (uint64_t i = 0; i < n; ++i) sum[i] = waiting[l][i] + sum[i];
      std::copy_n(sum.data(), n, waiting[l].data());
    }
    std::copy_n(sum.data(), n, sum_.data() + at);
  }
}

// All ranks are here, and call the same.
Status TreeCollective::arrive(std::unique_lock<std::mutex>& lock, uint32_t rank, const Call& call) {
  if (rank >= ranks_ || !std::has_single_bit(ranks_) || ranks_ >= 1u << kLevels)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("{}: rank {} of a group of {}", call.name, rank, ranks_), "a group has a power of two of ranks, up to 64");
  if (failed_) return leave(lock);
  calls_[rank] = call;
  BATON_TRY(barrier(lock, rank));
  for (uint32_t r = 0; r < ranks_; ++r) {
    const Call& other = calls_[r];
    if (other.rows == call.rows && other.width == call.width && !std::strcmp(other.name, call.name)) continue;
    fail(Error(BATON_INVALID_ARGUMENT, fmt::format("rank {} brings [{}, {}] to {}, rank {} brings [{}, {}] to {}", rank, call.rows, call.width, call.name, r,
                                                   other.rows, other.width, other.name),
               "launch the same program with the same arguments on every lane"));
    return leave(lock);
  }
  return failed_ ? leave(lock) : Status();
}

// sum_ is the sum of all parts, until this rank passes a barrier.
Status TreeCollective::sum(std::unique_lock<std::mutex>& lock, uint32_t rank, const Call& call) {
  BATON_TRY(arrive(lock, rank, call));
  if (sum_.size() < call.count()) sum_.resize(call.count());
  ++reading_;
  lock.unlock();
  sum_share(rank, call.count());
  lock.lock();
  if (--reading_ == 0 && failed_) changed_.notify_all();
  return barrier(lock, rank);
}

Status TreeCollective::all_reduce(uint32_t rank, float* x, uint64_t count) {
  std::unique_lock lock(lock_);
  BATON_TRY(sum(lock, rank, {"all_reduce", x, 1, count}));
  lock.unlock();
  std::copy_n(sum_.data(), count, x);
  lock.lock();
  return barrier(lock, rank); // nobody overwrites it before all have it
}

Status TreeCollective::reduce_scatter(uint32_t rank, const float* x, uint64_t rows, uint64_t width, float* out) {
  std::unique_lock lock(lock_);
  BATON_TRY(sum(lock, rank, {"reduce_scatter", x, rows, width}));
  lock.unlock();
  take_columns({sum_.data(), 0, rows * width}, width / ranks_, ranks_, rank, out);
  lock.lock();
  return barrier(lock, rank);
}

Status TreeCollective::all_gather(uint32_t rank, const float* x, uint64_t rows, uint64_t width, float* out) {
  std::unique_lock lock(lock_);
  BATON_TRY(arrive(lock, rank, {"all_gather", x, rows, width}));
  ++reading_;
  lock.unlock();
  for (uint32_t r = 0; r < ranks_; ++r) put_columns({calls_[r].x, 0, rows * width}, width, ranks_, r, out);
  lock.lock();
  if (--reading_ == 0 && failed_) changed_.notify_all();
  return barrier(lock, rank); // nobody's part goes away before all have it
}

}  // namespace baton::engine
