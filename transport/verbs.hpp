// verbs.hpp: the fabric "verbs": InfiniBand and RoCE by rdma-core directly; one reliable connected queue pair for each (session, sink).
//
// Large and small runs are written in place; what is converted, or all where a side seals, goes by a stream (stream.hpp), whose cipher comes with the
// connection request.
//
// The sink registers its memory for one landing, in a protection domain of its own, and tells address and key over the authenticated session. The
// sender connects (verbs_cm.hpp), then writes layers and posts a note behind each (verbs_write.hpp). The sink's processor is not
// involved until a note's completion wakes it.
//
// Fencing. The key opens the landing's memory to the landing's queue pair alone; destroying the queue pair (session lost, sink closed) is the
// proof that nobody writes any more. A single cancelled request waits for the sender's kv.abort, as on every fabric of writes.
// A sender that has lost its queue pair may connect again with the token of the next offer; that replaces the old one.
//
// Owner    VerbsLanding: the sink. VerbsSender: the session.   Threads  as the Instance.
// Cost     A layer: one chain of writes for each 2 MiB, one completion each, one note. Memory is registered once.
// Errors   UNSUPPORTED (no RDMA device, with the reason), CAPACITY (RLIMIT_MEMLOCK), PEER_LOST, IO (port down, key refused), DEVICE_LOST.
#pragma once

#include "transport/fabric.hpp"
#include "transport/fabrics.hpp"

namespace baton::transport {

FabricInfo verbs_probe();
// Why this endpoint cannot use it; nullopt: it can.
std::optional<std::string> verbs_unusable(const Endpoint::Impl&);
bool verbs_at(Session::Impl&); // an RDMA device has this side's address of the session
Result<std::unique_ptr<Landing>> make_verbs_landing(Session::Impl&, const LandingMemory&, const RailPlace& = {});
Result<std::unique_ptr<Sender>> make_verbs_sender(Session::Impl&, const nlohmann::json& offer, const RailPlace& = {});
void verbs_forget_source(Endpoint::Impl&, const void* base);
// What a sender of this fabric has posted and heard, for tests and benchmarks.
struct VerbsCounts {
  uint64_t operations = 0, completions = 0, notes = 0;
};
VerbsCounts verbs_counts(const Sender&);

}  // namespace baton::transport
