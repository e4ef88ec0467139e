// device.h: one open cs3:// device: the link, the commands that are waited for, and the ops that are not.
//
// Owner    The core, through the driver table.   Threads  one at a time (the core serializes). It has none of its own.
// Cost     submit and poll: a few cache lines an op, no syscall while both sides are awake, nothing allocated once warm. A waited-for
//          command (alloc, info, load...): one round trip, about 2 us awake and 10 to 60 us asleep (README of emulators/cs3 has figures).
// Errors   DEVICE_LOST naming HOST:PORT once the daemon is gone, from every call; core->lost() is told from the next submit or poll.
//          DEADLINE if a waited-for command is not answered in 30 s.
//
// Sleeping: fd() stays readable for 50 us after a submit (so whoever sleeps on it comes straight back and polls), and only then is the
// daemon asked to ring. So a quick exchange costs no syscall on either side, and no wake-up is lost whatever the core's own spinning.
//
//     BATON_ASSIGN(auto d, Device::open(host, "cs3://127.0.0.1:9000"));
//     d->submit(queue, ops, n); while (d->poll(64)) ...
#pragma once

#include "drivers/cs3/link/connect.h"
#include "drivers/cs3/link/fifo.h"
#include "drivers/cs3/options.h"
#include "drivers/cs3/regions.h"

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace baton::cs3 {

inline constexpr uint32_t kOps = 256;  // driver ops in flight
inline constexpr uint32_t kWaitedOwner = UINT32_MAX, kLoadOwner = UINT32_MAX - 1;

struct Memory {  // a driver's memory handle
  uint32_t handle;
  uint32_t connection;  // which connection of this device made it
  uint64_t address, bytes;
};

struct LoadedProgram {
  uint32_t handle;
  uint32_t connection;
};

class Device {
 public:
  static Result<std::unique_ptr<Device>> open(const baton_driver_host*, std::string_view uri);
  ~Device();

  Status info(baton_device_info&);
  Status telemetry(baton_telemetry&);
  // Ends everything on the wafer; reconnects first if the link is lost.
  Status reset();
  Result<Memory*> alloc(uint64_t bytes);
  void free(Memory*);
  Result<LoadedProgram*> load(std::span<const uint8_t> program, std::span<const baton_constant>, uint32_t rank, uint32_t ranks);
  void unload(LoadedProgram*);

  int fd() const { return epoll_.get(); }
  uint32_t submit(void* queue, const baton_driver_op* ops, uint32_t count);
  uint32_t poll(uint32_t budget);
  // Lets go of the queue's ops: cancelled on the wafer, and their memory is not touched again.
  void drop_queue(void* queue);
  const Options& options() const { return options_; }

 private:
  struct StreamOp {
    baton_driver_op op{};
    void* queue = nullptr;
    uint64_t next = 0;         // COPY: bytes pushed
    uint32_t outstanding = 0;  // commands without an answer
    uint32_t region = 0;
    uint64_t launch_id = 0;
    uint64_t cost_ns = 0;
    bool used = false, pushed = false, listed = false, decided = false, reading = false, orphan = false, cancel_wanted = false, cancelled = false;
    Error error;
  };
  struct Notice {  // for the core, at the next poll
    uint32_t op = 0;
    bool done = false;
    uint64_t k = 0, offset_ns = 0;
  };

  Device(const baton_driver_host* host, Options o) : host_(*host), options_(std::move(o)) {}
  Status connect_link();
  Status open_stream();

  // device.cc: commands that are waited for
  Result<Completion> call(Submission s, std::span<const uint8_t> payload = {}, void* answer = nullptr, uint32_t answer_bytes = 0);
  Ticket* begin_waiting(uint32_t bytes, uint64_t deadline_ns);
  Status wait(uint64_t deadline_ns, const std::function<bool()>& done);
  Error lost_error();
  void tell_lost();
  Error error_of(const Completion&, std::string_view text) const;

  // load.cc
  Status push_load(Submission s, std::span<const uint8_t> payload);
  Status stream(Op, uint32_t program, std::span<const uint8_t> bytes);

  // stream.cc
  bool pump();                // one event from the link; false: none
  void absorb(const Event&);  // everything but calls to the core
  void absorb_op(uint32_t index, const Event&);
  void push_ops();
  bool push_op(StreamOp&, uint32_t index);  // false: full
  bool push_copy(StreamOp&, uint32_t index);
  bool awaited(const void* ptr, uint64_t bytes) const;  // an op on its way will write this host memory
  bool push_launch(StreamOp&, uint32_t index);
  bool push_simple(StreamOp&, uint32_t index, Submission&);
  void push_cancels();
  void fail_op(StreamOp&, const Error&);
  void finish_if_over(uint32_t index);
  bool deliver(const Notice&);
  void abandon_all();
  void wake();
  void settle(uint32_t handled);

  baton_driver_host host_;
  Options options_;
  DaemonInfo daemon_;
  Fd epoll_;       // fd(): link_epoll_ and again_
  Fd link_epoll_;  // the carrier's descriptors
  Fd again_;       // eventfd, readable: poll again at once
  std::unique_ptr<Carrier> carrier_;
  uint32_t connection_ = 0;
  Regions regions_;
  std::optional<Error> loss_;  // the device is gone or was reset by others; the core hears of it from submit or poll
  bool lost_told_ = false;
  bool reset_by_others_ = false;

  struct {
    uint64_t id = 0;
    bool done = false;
    Completion c{};
    Error error;
    void* answer = nullptr;
    uint32_t answer_bytes = 0;
  } waited_;
  uint32_t loads_out_ = 0;
  Error load_error_;

  std::vector<StreamOp> ops_{kOps};
  std::vector<uint32_t> free_ops_;
  Fifo<uint32_t> to_push_;  // in submit order
  Fifo<Notice> notices_;
  uint32_t cancels_wanted_ = 0;
  uint32_t reads_out_ = 0;  // ops that copy to host memory, not over
  bool awake_ = false;
  uint64_t awake_until_ = 0, checked_ = 0;
};

}  // namespace baton::cs3
