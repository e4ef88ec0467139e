// device.h: one open cs3:// device: its wafers' links, the commands that are waited for, and the ops that are not.
//
// Owner    The core, through the driver table.   Threads  one at a time (the core serializes). It has none of its own.
// Cost     submit and poll: a few cache lines an op, no syscall while both sides are awake, nothing allocated once warm. A waited-for
//          command (alloc, info, load...): one round trip, about 2 us awake and 10 to 60 us asleep (README of emulators/cs3 has figures).
// Errors   DEVICE_LOST naming HOST:PORT once the daemon is gone, from every call; core->lost() is told from the next submit or poll.
//          DEADLINE if a waited-for command is not answered in 30 s.
//
// Order: a queue's ops run in submit order. Launches need not wait for the command stream: they go to the wafers' slots (one for each queue),
// so the next one is there before the last one ends, and several queues' launches share the wafers. A program over several wafers is a
// launch on each of them (launch.cc).
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
#include "drivers/cs3/stages.h"
#include "drivers/cs3/system.h"

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace baton::cs3 {

inline constexpr uint32_t kOps = 256;  // driver ops in flight
inline constexpr uint32_t kWaitedOwner = UINT32_MAX, kLoadOwner = UINT32_MAX - 1;

class Device {
 public:
  static Result<std::unique_ptr<Device>> open(const baton_driver_host*, std::string_view uri);
  ~Device();

  Status info(baton_device_info&);
  Status telemetry(baton_telemetry&);
  // Ends everything on the wafer; reconnects first if the link is lost.
  Status reset();
  Result<Memory*> alloc(uint32_t wafer, uint64_t bytes);
  void free(Memory*);
  Result<LoadedProgram*> load(uint32_t lane, std::span<const uint8_t> program, std::span<const baton_constant>, uint32_t rank, uint32_t ranks);
  void unload(LoadedProgram*);

  int fd() const { return epoll_.get(); }
  struct Queue;
  Queue* open_queue(uint32_t lane);
  void close_queue(Queue*);  // its ops are cancelled on the wafers, and their memory is not touched again
  uint32_t submit(Queue* queue, const baton_driver_op* ops, uint32_t count);
  uint32_t poll(uint32_t budget);
  const Options& options() const { return options_; }

 private:
  struct Mark {
    uint64_t k, offset_ns;
  };
  struct StreamOp {
    baton_driver_op op{};
    Queue* queue = nullptr;
    System* system = nullptr;  // COPY, FILL, NOP: whose stream it is in; nullptr: a launch, or a copy from wafer to wafer
    uint64_t next = 0;         // COPY: bytes pushed
    uint32_t outstanding = 0;  // commands without an answer
    uint32_t region = 0;
    uint64_t number = 0;       // LAUNCH: in its slot
    uint32_t stages_pushed = 0, stages_cancelled = 0;
    bool clocked = false;      // LAUNCH: in a slot; its costs count from op.start_ns
    uint64_t launch_ids[kMaxStages] = {};
    System* launch_on[kMaxStages] = {};  // the program may be gone before a cancelled launch is
    uint64_t marks_told = 0;
    std::vector<Mark> held{};            // marks that came before those of an earlier stage
    std::vector<uint8_t> between{};      // COPY from wafer to wafer: the bytes, on their way through this host
    bool fetched = false;                // and they are all there
    uint64_t cost_ns = 0;                // LAUNCH: from its start to its end
    bool used = false, pushed = false, counted = false, listed = false, decided = false, reading = false, orphan = false, cancel_wanted = false, cancelled = false;
    Error error;
  };
  struct Notice {  // for the core, at the next poll
    uint32_t op = 0;
    bool done = false;
    uint64_t k = 0, offset_ns = 0;
  };

  Device(const baton_driver_host* host, Options o) : host_(*host), options_(std::move(o)) {}
  Status connect_links();
  Status connect(System&);
  Status begin_stream(System&);
  Status open_stream(System&);
  bool any_broken() const;

  // device.cc: commands that are waited for
  Result<Completion> call(System&, Submission s, std::span<const uint8_t> payload = {}, void* answer = nullptr, uint32_t answer_bytes = 0);
  Ticket* begin_waiting(System&, uint32_t bytes, uint64_t deadline_ns);
  Status wait(uint64_t deadline_ns, const std::function<bool()>& done);
  Error lost_error();
  void tell_lost();
  Error error_of(const System&, const Completion&, std::string_view text) const;
  std::string name_of(const System&) const;  // of several wafers also which; else where

  // load.cc
  Result<uint32_t> load_on(System&, std::span<const uint8_t> program, std::span<const baton_constant>);
  Status push_load(System&, Submission s, std::span<const uint8_t> payload);
  Status stream(System&, Op, uint32_t program, std::span<const uint8_t> bytes);
  Status open_peer(System& from, const System& to);

  // stream.cc
  bool pump();                // one event from the link; false: none
  void absorb(System&, const Event&);  // everything but calls to the core
  void absorb_op(System&, uint32_t index, const Event&);
  void push_ops();
  System* stream_of(const StreamOp&) const;
  bool may_push(const StreamOp&) const;
  bool to_push() const;
  void reap_queues();
  void count(StreamOp&, int by);
  bool push_op(StreamOp&, uint32_t index);  // false: full
  bool push_copy(StreamOp&, uint32_t index);
  bool push_between(StreamOp&, uint32_t index);
  bool awaited(const void* ptr, uint64_t bytes) const;  // an op on its way will write this host memory
  bool push_simple(StreamOp&, uint32_t index, Submission&);
  void push_cancels();
  void fail_op(StreamOp&, const Error&);
  void finish_if_over(uint32_t index);
  bool deliver(const Notice&);
  void abandon_all();
  void wake();
  void settle(uint32_t handled);

  // launch.cc
  bool push_launch(StreamOp&, uint32_t index);
  bool push_stage(StreamOp&, uint32_t index, uint32_t stage);
  Status check_launch(const StreamOp&) const;
  void absorb_mark(uint32_t index, uint32_t stage, const Completion&);
  uint64_t begin_ns(const StreamOp&) const;

  baton_driver_host host_;
  Options options_;
  Fd epoll_;       // fd(): link_epoll_ and again_
  Fd link_epoll_;  // the carriers' descriptors
  Fd again_;       // eventfd, readable: poll again at once
  std::vector<std::unique_ptr<System>> systems_; // by wafer
  uint32_t connection_ = 0;
  std::optional<Error> loss_;  // the device is gone or was reset by others; the core hears of it from submit or poll
  bool lost_told_ = false;

  struct {
    uint64_t id = 0;
    System* system = nullptr;
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
  std::vector<std::unique_ptr<Queue>> queues_;
  uint64_t launches_ = 0; // ever
  size_t next_system_ = 0; // to be looked at for answers
  Fifo<Notice> notices_;
  uint32_t cancels_wanted_ = 0;
  uint32_t reads_out_ = 0;  // ops that copy to host memory, not over
  bool awake_ = false;
  uint64_t awake_until_ = 0, checked_ = 0;
};

struct Device::Queue {
  uint32_t lane = 0;
  uint16_t slot = 0;
  Fifo<uint32_t> to_push{};              // ops in submit order
  uint32_t launches_out = 0;             // not over
  uint32_t streams_out[kMaxStages] = {}; // other ops not over, by wafer
  uint32_t between_out = 0;              // copies from wafer to wafer not over
  uint64_t end_ns = 0;                   // modelled end of the last op that the core was told of, as the core reckons it
  bool closed = false;
};

}  // namespace baton::cs3
