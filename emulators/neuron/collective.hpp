// collective.hpp: the ranks of one tensor-parallel program, joined at each collective: threads of one process (shared_group.hpp: of several).
//
// The models that nrt_load_collectives made with equal rank count, program name and collectives form a group, each with its own
// rank. The sum is a balanced binary tree in rank order ((x0+x1)+(x2+x3)), so it has the bits of one unsharded reduction by segments.
// Ranks that disagree on what they run (arguments, token ids) fail together instead of mixing two requests; a rank that
// fails or is cancelled ends the others that are executing.
//
// Owner    models share their group; the Machine's list finds it by weak reference.
// Threads  one executing thread for each rank; a collective blocks until every rank has called.
// Errors   CANCELLED (this rank was asked to stop), FAILED (another rank left, ranks disagree), DEADLINE.
//
//     group->begin(rank, fingerprint, stop);
//     ... group->all_reduce(rank, x, n) from the engine ...
//     group->end(rank, failed);
#pragma once

#include "emulators/engine/engine.hpp"

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace baton::neuron_emu {

class Meeting : public engine::Collective {
 public:
  // `stop` is asked while waiting, at least every millisecond: ok to go on, or why not.
  virtual void begin(uint32_t rank, uint64_t fingerprint, std::function<Status()> stop) = 0;
  virtual void end(uint32_t rank, bool failed) = 0;
  virtual void leave(uint32_t rank) = 0;
};

// out[i]: the sum of parts[r][i] as a balanced binary tree in rank order. `out` may be one of the parts.
void tree_sum(std::span<const float* const> parts, uint64_t count, float* out);

class Group final : public Meeting {
 public:
  Group(uint32_t ranks, std::string signature);

  uint32_t ranks() const { return uint32_t(seats_.size()); }
  const std::string& signature() const { return signature_; }
  bool sit(uint32_t rank);  // false: taken
  void leave(uint32_t rank) override;

  void begin(uint32_t rank, uint64_t fingerprint, std::function<Status()> stop) override;
  Status all_reduce(uint32_t rank, float* x, uint64_t count) override;
  Status all_gather(uint32_t rank, const float* x, uint64_t rows, uint64_t width, float* out) override;
  Status reduce_scatter(uint32_t rank, const float* x, uint64_t rows, uint64_t width, float* out) override;
  void end(uint32_t rank, bool failed) override;

 private:
  enum class Kind : uint8_t { reduce, gather };
  struct Call {  // reduce_scatter is a reduce of which each rank takes a part
    Kind kind = Kind::reduce;
    const float* x = nullptr;
    uint64_t rows = 0, width = 0;
  };
  struct Seat {
    bool taken = false, executing = false, arrived = false;
    std::string aborted;  // why another rank ended this execution, "" if none did
    uint64_t fingerprint = 0;
    Call call;
    std::function<Status()> stop;
  };
  Status meet(uint32_t rank, const Call&);  // result_ is of this round until every rank has arrived again, so after every rank has copied it
  bool complete() const;                    // every rank has arrived, none of them on its way out
  bool agree() const;
  void work();
  std::string signature_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Seat> seats_;
  std::vector<float> result_;
  uint64_t round_ = 0;
};

// Finds or makes the group in which `rank` of `ranks` of this program has its seat.
class Groups {
 public:
  std::shared_ptr<Group> join(uint32_t rank, uint32_t ranks, const std::string& signature);

 private:
  std::mutex mutex_;
  std::vector<std::weak_ptr<Group>> groups_;
};

// Host collectives among threads of this process (nrt_barrier, nrt_all_gather): each call is one round of `ranks`.
class HostRounds {
 public:
  // Copies `bytes` from each rank's `in` to all ranks' `out`, in rank order. TIMEOUT, or INVALID if the ranks differ in what they ask.
  int32_t all_gather(uint32_t rank, uint32_t ranks, uint32_t bytes, const void* in, void* out, uint64_t timeout_s);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<uint8_t> gathering_, done_;
  uint32_t arrived_ = 0, ranks_ = 0, bytes_ = 0;  // of the round in progress
  uint64_t round_ = 0;
};

}  // namespace baton::neuron_emu
