// session.h: one client on the wafer: its commands, buffers, programs and registered host memory. All go with it.
//
// Control commands are served as they arrive, between two steps of whatever runs; stream commands run in order, one step at a time:
// a step is one op of a program or at most 1 MiB of a copy. A launch in a slot (kInSlot) leaves the stream, and takes turns with it and
// with the other slots (stages.cc); it may be one stage of a pipeline whose other stages are sessions on other wafers.
//
// Owner    The daemon.   Threads  the event loop's.
// Cost     serve(): one cache line when nothing came. step(): microseconds to milliseconds, as the program's ops are.
// Errors   A command's error is its completion. over() once the client is gone or broke the protocol; why() says which.
//
//     if (s.serve()) busy = true;  if (s.runnable()) s.step();  if (s.over()) drop(s);
#pragma once

#include "drivers/cs3/link/fifo.h"
#include "emulators/cs3/fault.h"
#include "emulators/cs3/loading.h"
#include "emulators/cs3/peers.h"
#include "emulators/cs3/port.h"
#include "emulators/cs3/symbols.h"
#include "emulators/cs3/wafer.h"

#include <signal.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>

namespace baton::cs3 {

class Session;

struct Host { // what a session needs of its daemon
  Wafer& wafer;
  engine::Options engine;
  std::string firmware;
  std::function<void(uint64_t by_session)> reset;  // of the whole wafer: every session's reset_by_other()
  std::function<uint32_t()> sessions;
  std::function<Session*(const SessionKey&)> find{};      // of this daemon, on any of its wafers
  std::function<Result<std::unique_ptr<PeerOut>>(const HostPort&, const SessionKey&)> open_peer{};  // on another daemon; watched
  FaultPlan faults{};
  uint64_t plans = 0;              // how often it was replaced: what the one before holds up is let go
  std::optional<Error> lost{};  // the wafer, by the fault plan; a reset clears it
  std::function<void()> die = [] { ::raise(SIGKILL); };
};

class Session {
 public:
  // `minor` of the client's version: one of 1.0 sends no load before its run.
  Session(uint64_t id, Host& host, std::unique_ptr<Port> port, uint16_t minor = kVersionMinor);
  ~Session();
  uint64_t id() const { return id_; }
  Port& port() { return *port_; }
  bool over() const { return port_->broken(); }

  bool serve();           // takes what came; true: something did
  bool runnable();        // a stream command or a slot can make a step now
  bool blocked();         // waits for the client to take completions
  bool delayed() const;   // by the fault plan: the command at the head waits for the time
  void step();
  Session& furthest_behind();  // this runnable one, or that on another of the pipeline's wafers whose next step is earlier in modelled time
  void reset_by_other(uint64_t by_session);

  void on_wafer(size_t w) { wafer_ = w; }
  size_t wafer() const { return wafer_; }  // of the daemon's
  // Stages on other wafers.
  bool has_key(const SessionKey& k) const { return has_key_ && key_ == k; }
  bool deliver(StageMessage&&);  // false: more than is taken
  void lose_peer(const std::string& why);
  bool peer_event(uint64_t event_id, uint32_t events);  // false: not of this session's sockets
  bool opens_peer() const { return opening_ > 0; }      // the clock is looked at

 private:
  struct Command {
    Submission s{};
    Payload payload;
    uint64_t done = 0;     // bytes
    uint64_t wall_ns = 0;
    bool met = false;      // the fault plan
    uint64_t delay_ns = 0; // by it
    std::optional<Fault> hang;
    std::optional<uint64_t> held;  // it is over, at this cost, and a slow channel holds its end
  };
  struct Pins {  // what a launch keeps from being freed or unloaded
    std::vector<uint32_t> buffers;
    Loading* program = nullptr;
  };
  struct Launch {  // at the head of the stream
    Pins pins;
    std::unique_ptr<engine::Run> run;
  };
  struct LaunchTable {
    LaunchHead head{};
    std::vector<LaunchBinding> wire;
    std::vector<engine::Binding> bindings;  // as `wire`; empty data: the wafer's own
    std::vector<int64_t> args;
    Loading* program = nullptr;
  };
  struct Slot {
    uint16_t number = 0;
    Fifo<Command> waiting;         // the first one is that of `stage`
    std::unique_ptr<Stage> stage;  // on
    Pins pins;
    Inbox inbox;
    uint64_t ended = 0;            // number of the last launch that is over
    uint64_t end_ns = 0;           // modelled
    bool pipelined = false;
    bool hangs = false;            // the first one has run and does not end, by the fault plan
  };
  struct Peer {
    std::unique_ptr<PeerOut> out;         // of another daemon,
    std::optional<SessionKey> session{};  // or of this one
    std::optional<Submission> opening{};  // peer_open, answered once the connection is there or has failed
  };
  enum class Went : uint8_t { on, over };
  // SdkRuntime's: load once, run once, stop once.
  enum class Life : uint8_t { fresh, loaded, running, stopped };

  bool stream_ready();
  void control(const Submission&, const Payload&);
  Status serve_control(const Submission&, const Payload&, Completion&);
  Status control_memory(const Submission&, Completion&);
  Status control_load(const Submission&, const Payload&, Completion&);
  Status control_life(Op, const Submission&);
  Status control_region(const Submission&);
  // symbol_commands.cc
  Status control_symbol(const Submission&, const Payload&, Completion&);
  Status control_fault(const Submission&, const Payload&, Completion&);
  Status control_clock(const Submission&, Completion&);
  void answer_symbol(const Submission&, const SymbolReply&, Completion&);
  // What the plan has for a command: nothing, an error that ends it, or a delay or hang that is noted in `c`.
  Status meet_fault(Op, Command* c);
  Status add_region(uint32_t number);
  void send_info(const Submission&, Completion&);
  void cancel(uint64_t id);
  void finish(const Submission&, const Status&, Completion c);
  void finish_stream(const Status&, uint64_t cost_ns);
  void finish_command(const Command&, const Status&, uint64_t cost_ns, uint64_t busy_ns);
  Command take(size_t index);
  bool running() const { return life_ == Life::running; }
  // Says of a command that ends here that the stream was never unblocked, if so.
  Error because_of_hang(Error);
  void drop_everything(const Error& why);

  // commands.cc: a step of the command at the head of the stream
  Result<Went> advance(Command&);
  Result<Went> advance_memcpy(Command&);
  Result<Went> advance_symbol(Command&);
  // The next bytes of the host's memory, by descriptor.
  Status move_region(const Submission&, uint8_t* bytes, uint64_t count, uint64_t done, bool in);
  Result<Went> advance_region(Command&, uint8_t* sram, bool in);
  Result<Went> advance_copy(Command&);
  Result<Went> advance_fill(Command&);
  Result<Went> advance_launch(Command&);
  Result<LaunchTable> read_launch(Command&);
  Status pin(const LaunchTable&, Pins&);
  void release(Pins&);
  void post_mark(uint64_t id, uint64_t k, uint64_t offset_ns);
  Status begin_launch(Command&);
  void end_launch();
  void end_transfer(const Submission&, const Rectangle*);

  // stages.cc
  void enter_slot(Command);
  bool slot_ready(Slot&);
  Slot* ready_slot();
  static uint64_t ready_ns(Slot&);
  Session* next_stage();
  void step_slot(Slot&);
  Status begin_stage(Slot&, Command&);
  void end_stage(Slot&, const Status&);
  void close_stage(Slot&);
  void send_to_peer(Peer&, StageMessage&&);
  Status control_peer(const Submission&, const Payload&, Completion&);
  Status open_peer(const Submission&, const Payload&);
  void settle_peer(Peer&);
  void end_opening(Peer&, const Status&);

  const uint64_t id_;
  size_t wafer_ = 0;
  Host& host_;
  std::unique_ptr<Port> port_;
  const uint16_t minor_;
  Life life_;
  struct Hang {            // a launch that never unblocks the stream: at its head, or in a slot
    uint64_t launch;       // its id
    Fault by;
  };
  std::optional<Hang> hung_;
  uint64_t resume_ns_ = 0; // a delay's end
  Symbols symbols_;
  Fifo<Command> stream_;
  uint64_t queued_bytes_ = 0;  // inline payloads in it
  std::unordered_map<uint32_t, std::unique_ptr<Loading>> programs_;
  uint32_t next_program_ = 1;
  Fd regions_[kMaxRegions];
  Launch launch_;
  std::map<uint16_t, Slot> slots_;
  uint16_t last_slot_ = 0;
  bool slot_turn_ = false;
  Calendar calendar_;
  SessionKey key_{};
  bool has_key_ = false;
  uint32_t opening_ = 0;                  // of peers_
  bool answered_later_ = false;           // the control command that is being served
  Peer peers_[kMaxStages];                // where this session's stages send to
  std::string peer_lost_;                    // "": no
  uint64_t cost_ns_ = 0;  // of the command at the head, once it is over
  uint64_t held_ns_ = 0;  // of it, what a slow channel holds it up, in wall time too
  uint64_t held_by_ = 0;  // Host::plans then
};

}  // namespace baton::cs3
