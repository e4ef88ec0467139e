// mapped.hpp: the fabric of one host: the sender maps the sink's memory and copies into it; no system call on the path.
//
// The memory's descriptor, and that of a small control page, go over a unix socket in the abstract namespace. Its random name and a token that
// works once are told over the authenticated session; the peer must also have the same user. The socket stays open: its end means that the
// sender's process is gone, and so can no longer write.
//
// Fencing. For each transfer the control page has a slot with two words: `valid` (the sink's: the generation that may write) and `writing`
// (the sender's: the generation that is writing, 0 if none). Before each chunk the sender stores `writing`, then loads `valid`; to cancel, the sink
// stores 0 to `valid`, then loads `writing` (all sequentially consistent). So either the sender sees that it was revoked, or the sink sees
// that it still writes and waits: until `writing` is 0 or the socket ends. A sender that is stopped in the middle of a chunk therefore
// keeps its blocks in quarantine for as long as it lives.
//
// The sink maps the sources' buffers too where they are memfds, and helps with what is large (mapped_wire.hpp).
//
// Owner    MappedHub: the endpoint. MappedLanding: the sink. MappedSender: the session.
// Threads  As the Instance. The control page is shared with another process and is never trusted: indices are checked.
// Cost     A chunk: a copy, two ordered stores. A note: one line in a ring, and one sendmsg if the sink may be asleep.
// Errors   UNSUPPORTED (memory that is not a memfd), PEER_LOST, CANCELLED.
#pragma once

#include "transport/fabric.hpp"

namespace baton::transport {

Result<std::unique_ptr<Landing>> make_mapped_landing(Session::Impl&, const LandingMemory&);
Result<std::unique_ptr<Sender>> make_mapped_sender(Session::Impl&, const nlohmann::json& offer);
void mapped_forget_source(Endpoint::Impl&, const void* base);

}  // namespace baton::transport
