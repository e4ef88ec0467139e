// remote_timeline.hpp: a timeline of one process, waited on in another.
//
// The owner exports a timeline of its own under a name; a peer imports it over its session and gets an ordinary Timeline, the mirror: ops,
// waits and further exports work on it as on any other. The mirror follows the watermark, each value that is sent with its modelled time, and
// the poison (the first cause, with this hop added). Values are coalesced: if many come at once only the latest is sent.
//
// The mirror is poisoned with PEER_LOST, the peer and the hop named, once the session is lost: at once if the owner's process ends, within the
// lease if it hangs or the network is cut, also when nothing is in flight. It is poisoned with CANCELLED if the owner closes the export or destroys the
// timeline. A mirror stays poisoned; after a reconnect, import anew.
//
// A peer may only look, unless the export grants it to signal and the import asks for it. Then the two are one timeline: either side raises
// or poisons it. Losing a peer that may signal poisons the owner's timeline too, since nobody else would raise it; that peer
// destroying its RemoteTimeline does not.
//
// Roads: between two processes of one host and user a shared page, and a frame if the reader may sleep; else the session's control stream; what a peer
// with the right to signal says goes by the stream.
//
// Owner    The caller owns both; destroy them in any order with the timeline, the session and the endpoint. Names live on the endpoint.
// Threads  As the Endpoint: one at a time, the polling thread's calls included. Exported timelines and mirrors: any, as every timeline.
// Cost     Exporting or importing: a round trip. A value: one op of the core on the owner's side, then a line of the shared page or
//          a frame of 50 bytes to each importer; nothing is allocated once warm. A poll: one look at each export.
// Errors   NOT_FOUND (with the names there are), PERMISSION (may not signal), BUSY (name in use), CAPACITY (kMaxImports), DEADLINE, PEER_LOST.
//
//     owner:  BATON_ASSIGN(auto x, ExportedTimeline::open(in, endpoint, made, "made"));
//     peer:   BATON_ASSIGN(auto far, RemoteTimeline::import(in, *session, "made", deadline_in_ms(2000)));
//             decode.submit(launch(...).wait(far.timeline(), l + 1).signal(ready, l + 1));
#pragma once

#include "transport/session.hpp"

#include <memory>
#include <string>

namespace baton::transport {

inline constexpr size_t kMaxImports = 512;       // by one peer over one session
inline constexpr size_t kMaxTimelineName = 128;  // bytes

struct ExportOptions {
  bool peer_may_signal = false;
  const Session* only = nullptr; // the one session that may see it; nullptr: every peer that holds the key
};

class ExportedTimeline {
 public:
  static Result<ExportedTimeline> open(const Instance&, Endpoint&, const Timeline&, std::string name, ExportOptions = {});
  ExportedTimeline(ExportedTimeline&&) noexcept;
  ~ExportedTimeline(); // the mirrors are poisoned with CANCELLED; the timeline goes on
  size_t importers() const;
  struct Impl;

 private:
  explicit ExportedTimeline(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

struct ImportOptions {
  bool signal = false; // ask for the right to signal
};

class RemoteTimeline {
 public:
  // Polls the instance until the owner has answered. The mirror then has the owner's watermark.
  static Result<RemoteTimeline> import(const Instance&, Session&, const std::string& name, uint64_t deadline_ns, ImportOptions = {});
  RemoteTimeline(RemoteTimeline&&) noexcept;
  ~RemoteTimeline(); // with the mirror: ops that still wait on it fail
  const Timeline& timeline() const;
  struct Impl;

 private:
  explicit RemoteTimeline(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::transport
