// tcp_port.h: the daemon's end of carrier (b): entries and inline payloads on a TCP connection.
//
// Owner, threads, errors  as port.h.
// Cost     a recv for what came, a send for each batch of answers; payloads are copied once into the command or the out buffer.
//
//     auto port = std::make_unique<TcpPort>(std::move(socket));
#pragma once

#include "emulators/cs3/port.h"

namespace baton::cs3 {

class TcpPort : public Port {
 public:
  explicit TcpPort(Fd socket) : socket_(std::move(socket)) {}
  Pop next(Submission&, Payload&) override;
  uint32_t room() override;
  uint8_t* answer(const Submission& s) override;
  void post(const Completion& c, std::string_view text) override;
  Fd take_fd(uint32_t) override { return Fd(); }
  Status watch(int epoll, uint64_t id) override;
  void on_event(uint32_t epoll_events) override;
  bool arm() override;
  bool shares_cpu() override { return now_ns() - last_ns_ < 1'000'000; }  // in use: the kernel wakes, spinning gains nothing
  const char* name() const override { return "tcp"; }
  void flush();

 private:
  bool read(void* to, size_t bytes);
  void want(uint32_t events);

  Fd socket_;
  int epoll_ = -1;
  uint64_t id_ = 0;
  uint32_t wanted_ = 0;
  bool readable_ = true;
  Submission s_{};
  std::vector<uint8_t> in_;  // payload of s_
  size_t got_ = 0;           // of the part being read
  bool in_payload_ = false;
  std::vector<uint8_t> out_, answer_;
  size_t sent_ = 0;
  uint64_t last_ns_ = 0;  // when a command came
};

}  // namespace baton::cs3
