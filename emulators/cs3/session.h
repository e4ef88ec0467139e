// session.h: one client on the wafer: its commands, buffers, programs and registered host memory. All go with it.
//
// Control commands are served as they arrive, between two steps of whatever runs; stream commands run in order, one step at a time:
// a step is one op of a program or at most 1 MiB of a copy.
//
// Owner    The daemon.   Threads  the event loop's.
// Cost     serve(): one cache line when nothing came. step(): microseconds to milliseconds, as the program's ops are.
// Errors   A command's error is its completion. over() once the client is gone or broke the protocol; why() says which.
//
//     if (s.serve()) busy = true;  if (s.runnable()) s.step();  if (s.over()) drop(s);
#pragma once

#include "drivers/cs3/link/fifo.h"
#include "emulators/cs3/loading.h"
#include "emulators/cs3/fault.h"
#include "emulators/cs3/port.h"
#include "emulators/cs3/symbols.h"
#include "emulators/cs3/wafer.h"

#include <signal.h>

#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>

namespace baton::cs3 {

struct Host { // what a session needs of its daemon
  Wafer& wafer;
  engine::Options engine;
  std::string firmware;
  std::function<void(uint64_t by_session)> reset;  // of the whole wafer: every session's reset_by_other()
  std::function<uint32_t()> sessions;
  FaultPlan faults{};
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
  bool runnable();        // a stream command can make a step now
  bool blocked();         // waits for the client to take completions
  bool delayed() const;   // by the fault plan: the command at the head waits for the clock
  void step();
  void reset_by_other(uint64_t by_session);

 private:
  struct Command {
    Submission s{};
    Payload payload;
    uint64_t done = 0;     // bytes
    uint64_t wall_ns = 0;
    bool met = false;      // the fault plan
    uint64_t delay_ns = 0; // by it
    std::optional<Fault> hang;
  };
  struct Launch {
    std::vector<uint32_t> buffers;
    Loading* program = nullptr;
    std::unique_ptr<engine::Run> run;
  };
  enum class Went : uint8_t { on, over };
  // SdkRuntime's: load once, run once, stop once.
  enum class Life : uint8_t { fresh, loaded, running, stopped };

  void control(const Submission&, const Payload&);
  Status serve_control(const Submission&, const Payload&, Completion&);
  Status control_memory(const Submission&, Completion&);
  Status control_load(const Submission&, const Payload&, Completion&);
  Status control_life(Op, const Submission&);
  Status control_region(const Submission&);
  // symbol_commands.cc
  Status control_symbol(const Submission&, const Payload&, Completion&);
  Status control_fault(const Submission&, const Payload&, Completion&);
  void answer_symbol(const Submission&, const SymbolReply&, Completion&);
  // What the plan has for a command: nothing, an error that ends it, or a delay or hang that is noted in `c`.
  Status meet_fault(Op, Command* c);
  Status add_region(uint32_t number);
  void send_info(const Submission&, Completion&);
  void cancel(uint64_t id);
  void finish(const Submission&, const Status&, Completion c);
  void finish_stream(const Status&, uint64_t cost_ns);
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
  Status begin_launch(Command&);
  void end_launch();
  void end_transfer(const Submission&, const Rectangle*);

  const uint64_t id_;
  Host& host_;
  std::unique_ptr<Port> port_;
  const uint16_t minor_;
  Life life_;
  bool stuck_ = false;     // behind the launch at the head, which never unblocks the stream
  uint64_t resume_ns_ = 0; // a delay's end
  Symbols symbols_;
  Fifo<Command> stream_;
  uint64_t queued_bytes_ = 0;  // inline payloads in it
  std::unordered_map<uint32_t, std::unique_ptr<Loading>> programs_;
  uint32_t next_program_ = 1;
  Fd regions_[kMaxRegions];
  Launch launch_;
  uint64_t cost_ns_ = 0;  // of the command at the head, once it is over
};

}  // namespace baton::cs3
