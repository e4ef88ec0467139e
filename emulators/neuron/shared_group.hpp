// shared_group.hpp: ranks of different processes that meet, through a file in the folder of their machine.
//
// Which ranks belong together: those with one NEURON_RT_ROOT_COMM_ID, signature and rank count. The file has a seat for each rank and, for
// each, two slots of data in turn: a rank fills its slot, arrives, and when all have arrived reads every slot, in rank order; so
// every rank computes the same sum, with the bits of one process (collective.hpp). A rank holds a lock on its seat's byte, which the kernel
// drops when its process dies: whoever waits for it sees that, within 10 ms, and fails instead of hanging. A last rank that leaves
// removes the file; files of the dead are removed by the next nrt_init on the machine.
//
// Owner    the model, or the Machine for the collectives of the host: one object a rank of this process.
// Threads  one executing thread.   Cost  a round: one copy in, ranks copies out, one futex wake.
// Errors   as collective.hpp; FAILED also names a rank whose process is gone.
//
//     BATON_ASSIGN(auto group, SharedGroup::join(site, "10.0.0.1:6000", signature, rank, ranks));
//     group->begin(rank, fingerprint, stop);  group->all_reduce(rank, x, n);  group->end(rank, failed);
#pragma once

#include "emulators/neuron/collective.hpp"
#include "emulators/neuron/site.hpp"

#include <functional>
#include <memory>
#include <string>

namespace baton::neuron_emu {

class SharedGroup final : public Meeting {
 public:
  static Result<std::shared_ptr<SharedGroup>> join(const Site&, const std::string& root, const std::string& signature, uint32_t rank, uint32_t ranks);
  // Removes files whose every rank is gone.
  static void sweep(const Site&);
  ~SharedGroup() override;

  void begin(uint32_t rank, uint64_t fingerprint, std::function<Status()> stop) override;
  Status all_reduce(uint32_t rank, float* x, uint64_t count) override;
  Status all_gather(uint32_t rank, const float* x, uint64_t rows, uint64_t width, float* out) override;
  Status reduce_scatter(uint32_t rank, const float* x, uint64_t rows, uint64_t width, float* out) override;
  Status gather_bytes(const void* in, void* out, uint64_t bytes);  // rank order; bytes 0: a barrier
  void end(uint32_t rank, bool failed) override;
  void leave(uint32_t) override {}  // with the object

 private:
  struct Seat;
  struct Page;
  class Lock;
  SharedGroup(Site site, std::string path, int fd, Page* page, uint64_t bytes, uint32_t rank);
  static Result<std::shared_ptr<SharedGroup>> sit(const Site&, const std::string& path, uint32_t rank, uint32_t ranks, bool& taken);
  const uint8_t* slot(uint64_t round, uint32_t rank) const;
  Status meet(const void* data, uint64_t bytes, uint64_t& round);
  Status arrive(const void* data, uint64_t bytes, uint64_t& round);
  Status wait(uint64_t round);
  template <class Take>
  Status sums(const float* x, uint64_t count, Take take);
  bool complete() const;
  void abort_all(const char* why);
  uint32_t dead_rank() const;  // ranks: none
  Site site_;
  std::string path_;
  int fd_;
  Page* page_;
  uint64_t bytes_;
  uint32_t rank_;
  std::function<Status()> stop_;
};

}  // namespace baton::neuron_emu
