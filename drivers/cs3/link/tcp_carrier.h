// tcp_carrier.h: carrier (b): the same entries on a TCP connection, payloads inline behind them.
//
// Owner, threads, errors  as carrier.h.
// Cost     one sendmsg for what is held back, one recv for what came; payloads are sent from and received into their slots.
//
//     TcpCarrier c(std::move(socket), std::make_unique_for_overwrite<uint8_t[]>(kArenaBytes));
#pragma once

#include "drivers/cs3/link/carrier.h"
#include "drivers/cs3/link/socket.h"

#include <memory>

namespace baton::cs3 {

class TcpCarrier : public Carrier {
 public:
  TcpCarrier(Fd socket, std::unique_ptr<uint8_t[]> arena);
  void flush() override;
  Status watch(int epoll) override;
  bool arm() override;
  bool armed() override { return true; }  // the socket is level-triggered
  bool shares_cpu() override { return true; }  // the kernel carries and wakes: spinning gains nothing
  void check_alive() override;
  bool pass_fd(int, uint32_t) override { return false; }
  const char* name() const override { return "tcp"; }

 protected:
  void send(Ticket&) override;
  Pop receive(Completion&, std::string_view& text) override;

 private:
  enum class Part : uint8_t { entry, text, payload };
  Pop lost(const char* why);
  bool start(Part next);
  Pop pull();
  void want_writable(bool on);

  Fd socket_;
  std::unique_ptr<uint8_t[]> arena_;
  // Out: tickets waiting to be sent, and how far the first one got.
  std::array<uint16_t, kSqEntries> out_;
  uint32_t out_head_ = 0, out_count_ = 0;
  size_t sent_ = 0;
  int epoll_ = -1;
  bool writable_wanted_ = false;
  // In: the part that is being read, and how far.
  Part part_ = Part::entry;
  size_t got_ = 0, want_ = sizeof(Completion);
  uint8_t* into_;
  Completion c_{};
  char text_[kTextBytes];
};

}  // namespace baton::cs3
