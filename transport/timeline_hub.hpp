// timeline_hub.hpp (internal): the remote timelines of one endpoint: who exports what, and which end a message is for.
//
//   tl.import  importer > owner  from (its end), name, signal (asks for the right)
//   tl.accept  <                 to, from (the owner's end), value, modelled; on one host: board (its descriptor's number), slot
//   tl.board   >                 to: the importer reads the board; without this the values come as frames
//   tl.refuse  <                 to, error
//   tl.poison  both ways         to, error: the sender's timeline has failed, or its export was closed
//   tl.close   importer > owner  from: the mirror is gone
//   and the frame Signal, both ways: a value; to end 0: look at the board
//
// An end is one side of one (timeline, session). The owner has one for each importer. Ends are named by a number of their own side; a message
// counts only on the session that the end belongs to.
//
// Owner    the endpoint, as an attachment; made at the first export or import.   Threads  as the endpoint.
// Cost     a message: a hash look-up.   Errors  refusals go to the peer; malformed messages are dropped.
#pragma once

#include "transport/doze.hpp"
#include "transport/remote_timeline.hpp"
#include "transport/timeline_board.hpp"
#include "transport/timeline_watch.hpp"

#include <unordered_map>

namespace baton::transport {

class TimelineHub;

struct TimelineEnd {
  uint64_t id = 0, peer = 0;                // peer: its end; 0: not known yet
  Session::Impl* session = nullptr;         // nullptr: it is over
  bool owner = false;                       // of an exported timeline
  bool sends = false, takes = false;        // values and poison
  uint64_t known = 0;                       // the peer has at least this value
  TimelineBoard* board = nullptr;           // the owner's: where it has a slot
  uint32_t slot = 0;
  bool on_board = false;                    // the importer reads it
};

// What an exported timeline and a mirror have in common.
class TimelineSide : public TimelineWatch::Listener {
 public:
  virtual ~TimelineSide() = default;
  virtual void on_signal(TimelineEnd&, const Signal&) = 0;
  virtual void on_message(TimelineEnd&, Message&) = 0;
  virtual void on_lost(TimelineEnd&, const Error&) = 0; // the end is over
  void endpoint_closed();
  void tell_values();
  void tell_value(TimelineEnd&);
  void rose(uint64_t value, uint64_t modelled_ns) override;
  void failed(const Error&) override;

  std::vector<std::unique_ptr<TimelineEnd>> ends;

 protected:
  void tell_poison(TimelineEnd&, const Error&); // and it is over
  TimelineHub* hub_ = nullptr;        // nullptr: the endpoint is closed
  uint64_t value_ = 0, modelled_ = 0; // as last told by the watch
  std::optional<TimelineWatch> watch_;
};

class TimelineHub final : public Attachment, public Service {
 public:
  static TimelineHub& of(Endpoint::Impl&);
  explicit TimelineHub(Endpoint::Impl& ep) : ep_(ep) { ep_.add(this); }
  ~TimelineHub() override;

  void join(TimelineSide& s) { sides_.push_back(&s); }
  void leave(TimelineSide&);
  TimelineEnd& add_end(TimelineSide&, Session::Impl&);
  Status publish(ExportedTimeline::Impl&);
  void offer_board(TimelineEnd&, nlohmann::json& accept);
  void take_board(TimelineEnd&, const nlohmann::json& accept);
  void fall_behind() { behind_ = true; } // an end could not be told its value: try again at the next poll

  bool on_message(Session::Impl&, Message&) override;
  bool on_signal(Session::Impl&, const Signal&) override;
  void on_lost(Session::Impl&, const Error&) override;
  uint32_t on_poll(uint64_t now) override;

 private:
  struct Entry {
    TimelineSide* side;
    TimelineEnd* end;
  };
  void import(Session::Impl&, const Message&);
  Result<ExportedTimeline::Impl*> admit(Session::Impl&, const std::string& name, bool signal) const;
  void sweep();
  void drop(TimelineEnd&);
  uint32_t read_boards();
  uint32_t rest(bool found);

  struct Reader {
    std::unique_ptr<TimelineBoard> board;
    std::vector<uint64_t> ends = std::vector<uint64_t>(TimelineBoard::kSlots); // by slot
  };
  auto taker(Session::Impl& s, const Reader& r) {
    return [this, &s, &r](uint32_t slot, uint64_t value, uint64_t modelled) { on_signal(s, {r.ends[slot], value, modelled}); };
  }

  Endpoint::Impl& ep_;
  bool behind_ = false, ended_ = false; // ended_: some end is over
  uint64_t next_id_ = 1;
  Doze doze_;
  std::vector<TimelineSide*> sides_;
  std::map<std::string, ExportedTimeline::Impl*> exports_;
  std::unordered_map<uint64_t, Entry> ends_;
  std::map<Session::Impl*, std::unique_ptr<TimelineBoard>> written_;
  std::map<Session::Impl*, Reader> read_;
};

}  // namespace baton::transport
