// collective.hpp: a rendezvous of rank threads in one process; sums are a balanced binary tree in rank order, ((r0+r1)+(r2+r3))...
//
// Owner    whoever joins the ranks; it outlives their calls.
// Threads  each rank calls from its own thread; abort and reset from any.
// Cost     three barriers (a condition variable); each rank sums its share of the elements. Allocates when a larger count comes.
// Errors   what abort() was given; DEADLINE naming the ranks that did not come; INVALID_ARGUMENT if ranks differ in count or call. Once
//          failed, all calls fail the same until reset().
//
//     TreeCollective group(4, 30'000'000'000);
//     // on the thread of rank r:
//     BATON_TRY(group.all_reduce(r, x, count));
#pragma once

#include "emulators/engine/engine.hpp"

#include <condition_variable>
#include <mutex>
#include <vector>

namespace baton::engine {

class TreeCollective : public Collective {
 public:
  // ranks: a power of two. timeout_ns: how long a rank waits for the others.
  TreeCollective(uint32_t ranks, uint64_t timeout_ns);
  Status all_reduce(uint32_t rank, float* x, uint64_t count) override;
  Status all_gather(uint32_t rank, const float* x, uint64_t rows, uint64_t width, float* out) override;
  Status reduce_scatter(uint32_t rank, const float* x, uint64_t rows, uint64_t width, float* out) override;
  // Fails the current call and all later ones on every rank; the first cause is kept.
  void abort(const Error&);
  // Makes a failed group usable again. No rank may be inside of a call.
  void reset();

 private:
  struct Call {
    const char* name;
    const float* x;
    uint64_t rows, width;
    uint64_t count() const { return rows * width; }
  };
  Status arrive(std::unique_lock<std::mutex>&, uint32_t rank, const Call&);
  Status sum(std::unique_lock<std::mutex>&, uint32_t rank, const Call&);
  Status barrier(std::unique_lock<std::mutex>&, uint32_t rank);
  void fail(const Error&); // with the lock held
  Status leave(std::unique_lock<std::mutex>&);
  void sum_share(uint32_t rank, uint64_t count);

  const uint32_t ranks_;
  const uint64_t timeout_ns_;
  std::mutex lock_;
  std::condition_variable changed_;
  uint32_t arrived_ = 0;
  uint32_t reading_ = 0; // ranks that read other ranks' parts without the lock
  uint64_t generation_ = 0;
  std::vector<Call> calls_;      // by rank, in progress
  std::vector<bool> here_;       // by rank: waits at the barrier
  std::vector<float> sum_;
  bool failed_ = false;
  Error error_;
};

}  // namespace baton::engine
