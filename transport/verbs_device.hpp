// verbs_device.hpp (internal): one RDMA device as one Baton endpoint uses it: a context of its own, registrations, asynchronous events.
//
// The context is opened beside the one that librdmacm shares among everybody in the process: asynchronous events are read from a context, and
// whoever reads takes them from the others. Each landing has a protection domain of its own, so its key opens its memory to its own queue pair
// and to no other. Memory to send from is registered once, until forget(). Memory that has a dma-buf (a device's) is registered by it, so that
// the NIC reads and writes the device itself.
//
// Owner    VerbsHub (verbs_cm.hpp), one for each device.   Threads  as the Instance.
// Cost     Opening: a millisecond (guess). Registering pins every page, and counts against RLIMIT_MEMLOCK.
// Errors   IO with errno; CAPACITY naming RLIMIT_MEMLOCK. A port that goes down fails its queue pairs with IO, a dead device with DEVICE_LOST.
//
//     BATON_ASSIGN(ibv_mr * mr, device.source(memory));
#pragma once

#include "transport/fabric.hpp"

#include <infiniband/verbs.h>

namespace baton::transport {

template <auto F>
struct VerbsFree {
  template <class T>
  void operator()(T* p) const {
    (void)F(p);
  }
};
using VerbsContext = std::unique_ptr<ibv_context, VerbsFree<ibv_close_device>>;
using VerbsPd = std::unique_ptr<ibv_pd, VerbsFree<ibv_dealloc_pd>>;
using VerbsMr = std::unique_ptr<ibv_mr, VerbsFree<ibv_dereg_mr>>;
using VerbsChannel = std::unique_ptr<ibv_comp_channel, VerbsFree<ibv_destroy_comp_channel>>;
using VerbsCq = std::unique_ptr<ibv_cq, VerbsFree<ibv_destroy_cq>>;
using VerbsQpHandle = std::unique_ptr<ibv_qp, VerbsFree<ibv_destroy_qp>>;

class VerbsQp;

class VerbsDevice final : public Watcher {
 public:
  static Result<std::unique_ptr<VerbsDevice>> open(Endpoint::Impl&, ibv_device*);
  ~VerbsDevice() override;
  void ready(uint32_t) override; // asynchronous events

  Result<VerbsPd> domain();
  // To send from: `shared_domain`'s.
  Result<ibv_mr*> source(const SourceMemory&);
  void forget(const void* base) { sources_.erase(base); }
  // For the peer to write into.
  Result<VerbsMr> target(ibv_pd*, const LandingMemory&);
  Result<VerbsMr> own(ibv_pd*, void* base, uint64_t bytes, int access); // the library's own few pages

  void add(VerbsQp* q) { queue_pairs_.push_back(q); }
  void remove(VerbsQp* q) { std::erase(queue_pairs_, q); }
  std::string name() const { return ibv_get_device_name(context->device); }

  Endpoint::Impl& ep;
  VerbsContext context;
  VerbsPd shared_domain;
  ibv_device_attr limits{};

 private:
  explicit VerbsDevice(Endpoint::Impl& e) : ep(e) {}
  void take(const ibv_async_event&);
  Result<VerbsMr> reg(ibv_pd*, const void* base, uint64_t bytes, int fd, uint64_t fd_offset, int access, const char* what_for);
  struct Source {
    SourceKey key;
    uint64_t bytes = 0;
    VerbsMr mr;
  };
  uint64_t tag_ = 0;
  std::multimap<const void*, Source> sources_; // one that is too short for a later request stays: writes may be in flight from it
  std::vector<VerbsQp*> queue_pairs_;
};

// Why there is no RDMA device here; nullopt: there is one.
std::optional<std::string> verbs_missing();
// What a failed registration of `bytes` bytes means.
Error registration_error(uint64_t bytes, const char* what_for, int err);

}  // namespace baton::transport
