// shm_carrier.h: carrier (a): rings and arena in shared memory, two eventfds as bells, a unix socket for descriptors and liveness.
//
// Owner, threads, errors  as carrier.h.
// Cost     an entry each way: a few cache lines; one eventfd write when the daemon sleeps (it spins for ~50 us first).
//
//     ShmCarrier c(std::move(socket), std::move(segment), std::move(to_daemon), std::move(to_client));
#pragma once

#include "drivers/cs3/link/carrier.h"
#include "drivers/cs3/link/segment.h"

namespace baton::cs3 {

class ShmCarrier : public Carrier {
 public:
  ShmCarrier(Fd socket, Segment segment, Fd to_daemon, Fd to_client);
  Status watch(int epoll) override;
  bool arm() override;
  void disarm() override { cq_.disarm(); }
  bool armed() override { return cq_.armed(); }
  bool shares_cpu() override { return same_cpu(segment_.layout().cpus.client, segment_.layout().cpus.daemon); }
  void check_alive() override;
  bool pass_fd(int fd, uint32_t region) override;
  const char* name() const override { return "shm"; }

 protected:
  void send(Ticket&) override;
  Pop receive(Completion&, std::string_view& text) override;

 private:
  Fd socket_, to_daemon_, to_client_;
  Segment segment_;
  Producer<Submission, kSqEntries> sq_;
  Consumer<Completion, kCqEntries> cq_;
  char text_[kTextBytes]; // a private copy of the last one
};

}  // namespace baton::cs3
