// shm_port.h: the daemon's end of carrier (a).
//
// Owner, threads, errors  as port.h.   Cost  a few cache lines a command; one eventfd write when the client sleeps.
//
//     BATON_ASSIGN(auto port, ShmPort::create(std::move(socket)));   // port->descriptors() go out with the Welcome
#pragma once

#include "drivers/cs3/link/segment.h"
#include "emulators/cs3/port.h"

#include <array>
#include <memory>

namespace baton::cs3 {

class ShmPort : public Port {
 public:
  static Result<std::unique_ptr<ShmPort>> create(Fd socket);
  std::array<int, kMaxFds> descriptors() const { return {segment_.fd(), to_daemon_.get(), to_client_.get()}; }
  int socket() const { return socket_.get(); }

  Pop next(Submission&, Payload&) override;
  uint32_t room() override { return cq_.room(); }
  uint8_t* answer(const Submission& s) override { return segment_.layout().arena + s.payload_offset; }
  void post(const Completion& c, std::string_view text) override;
  Fd take_fd(uint32_t region) override;
  Status watch(int epoll, uint64_t id) override;
  void on_event(uint32_t epoll_events) override;
  bool arm() override;
  void disarm() override { sq_.disarm(); }
  bool shares_cpu() override { return same_cpu(segment_.layout().cpus.daemon, segment_.layout().cpus.client); }
  const char* name() const override { return "shm"; }

 private:
  ShmPort(Fd socket, Segment segment, Fd to_daemon, Fd to_client);
  void read_socket();

  Fd socket_, to_daemon_, to_client_;
  Segment segment_;
  Consumer<Submission, kSqEntries> sq_;
  Producer<Completion, kCqEntries> cq_;
  struct Passed {
    uint32_t region;
    Fd fd;
  };
  std::vector<Passed> passed_;  // not asked for yet; at most kMaxRegions
};

}  // namespace baton::cs3
