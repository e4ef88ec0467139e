// verbs_qp.hpp (internal): a reliable connected queue pair with its completion queue and descriptor, and how it fails.
//
// States go by what the connection manager knows (rdma_init_qp_attr), since the queue pair is not of librdmacm's own context.
// drain() reads completions until there are none, and only then asks for the next to be announced: whoever sleeps on the descriptor misses
// nothing. The first error wins, and puts the queue pair into its error state: what is posted comes back flushed.
//
// Owner    a landing or a sender.   Threads  as the Instance.   Cost  drain(): ibv_poll_cq; a system call where the provider needs one to arm.
// Errors   error(): PEER_LOST (no answer), IO (refused, local), DEVICE_LOST.
//
//     qp->drain([&](const ibv_wc& wc) { ... });   if (qp->error()) ...
#pragma once

#include "transport/verbs_device.hpp"

#include <rdma/rdma_cma.h>

namespace baton::transport {

class VerbsQp final : public Watcher {
 public:
  struct Needs {
    uint32_t sends = 0, receives = 0; // work requests; at least 1 of each is made
    uint32_t gather = 1;              // pieces of a send, at most
    uint32_t inline_bytes = 0;        // wished for
  };
  static Result<std::unique_ptr<VerbsQp>> open(VerbsDevice&, ibv_pd*, const Needs&);
  ~VerbsQp() override;
  void ready(uint32_t) override { acknowledge(); } // the owner drains at its poll; no system call is made there

  // To a state, by what `id` has negotiated. `access`: what the peer may do. `lease_ns`: an unanswered write fails within about that.
  Status to(rdma_cm_id* id, ibv_qp_state, int access, uint64_t lease_ns);
  void fail(const Error&);
  void device_gone(const Error& e) {
    fail(e);
    gone_ = true;
  }

  template <class F>
  void drain(F take) {
    ibv_wc wc[32];
    for (int round = 0; round < 64; ++round) {
      const int n = ibv_poll_cq(cq_.get(), int(std::size(wc)), wc);
      if (n < 0) return fail(Error(BATON_IO, "verbs: ibv_poll_cq failed", "see the kernel's log"));
      for (int i = 0; i < n; ++i) take(wc[i]);
      if (n == int(std::size(wc))) continue;
      if (armed_) return;
      if (!arm()) return; // what came before is not announced: look once more
    }
    device_.ep.look_again(1'000); // a bounded poll; the rest at the next
  }

  const std::optional<Error>& error() const { return error_; }
  bool gone() const { return gone_; } // the device: nothing will be completed any more
  ibv_qp* qp() const { return qp_.get(); }
  ibv_cq* cq() const { return cq_.get(); }
  int fd() const { return channel_->fd; }
  uint8_t port() const { return port_; }
  uint32_t sends() const { return sends_; }
  uint32_t receives() const { return receives_; }
  uint32_t gather() const { return gather_; }
  uint32_t inline_bytes() const { return inline_; }
  uint32_t path_mtu() const { return mtu_; } // bytes, once connected
  VerbsDevice& device() const { return device_; }

 private:
  explicit VerbsQp(VerbsDevice& d) : device_(d) {}
  void acknowledge();
  bool arm();

  VerbsDevice& device_;
  VerbsChannel channel_;
  VerbsCq cq_; // destroyed after the queue pair, before the channel
  VerbsQpHandle qp_;
  std::optional<Error> error_;
  bool gone_ = false, armed_ = false;
  uint64_t tag_ = 0;
  uint8_t port_ = 0;
  uint32_t sends_ = 0, receives_ = 0, gather_ = 1, inline_ = 0, mtu_ = 0;
};

// What a completion with an error says.
Error completion_error(const VerbsQp&, const ibv_wc&);

}  // namespace baton::transport
