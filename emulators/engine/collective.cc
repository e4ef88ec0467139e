#include "emulators/engine/collective.hpp"
#include "emulators/engine/kernels.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>

namespace baton::engine {

static constexpr uint32_t kLevels = 7; // of the tree: 64 ranks

TreeCollective::TreeCollective(uint32_t ranks, uint64_t timeout_ns)
    : ranks_(ranks), timeout_ns_(timeout_ns), parts_(ranks), counts_(ranks), here_(ranks) {}

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
    fail(Error(BATON_DEADLINE, fmt::format("all_reduce: rank {} of {} did not come within {} ms", missing, ranks_, timeout_ns_ / 1000000),
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
      std::copy_n(parts_[r] + at, n, sum.data());
      uint32_t l = 0;
      for (; (r >> l) & 1; ++l)
        for (uint64_t i = 0; i < n; ++i) sum[i] = waiting[l][i] + sum[i];
      std::copy_n(sum.data(), n, waiting[l].data());
    }
    std::copy_n(sum.data(), n, sum_.data() + at);
  }
}

Status TreeCollective::all_reduce(uint32_t rank, float* x, uint64_t count) {
  if (rank >= ranks_ || !std::has_single_bit(ranks_) || ranks_ >= 1u << kLevels)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("all_reduce: rank {} of a group of {}", rank, ranks_),
                 "a group has a power of two of ranks, up to 64");
  std::unique_lock lock(lock_);
  if (failed_) return leave(lock);
  parts_[rank] = x;
  counts_[rank] = count;
  BATON_TRY(barrier(lock, rank)); // every part is there
  for (uint32_t r = 0; r < ranks_; ++r)
    if (counts_[r] != count) {
      fail(Error(BATON_INVALID_ARGUMENT, fmt::format("all_reduce: rank {} brings {} values, rank {} brings {}", rank, count, r, counts_[r]),
                 "launch the same program with the same arguments on every lane"));
      return leave(lock);
    }
  if (failed_) return leave(lock);
  if (sum_.size() < count) sum_.resize(count);
  ++reading_;
  lock.unlock();
  sum_share(rank, count);
  lock.lock();
  if (--reading_ == 0 && failed_) changed_.notify_all();
  BATON_TRY(barrier(lock, rank)); // the sum is whole
  lock.unlock();
  std::copy_n(sum_.data(), count, x);
  lock.lock();
  return barrier(lock, rank); // nobody overwrites it before all have it
}

}  // namespace baton::engine
