// rails.hpp (internal): several NICs of one fabric as one: a landing and a sender for each rail, striping, failover with cooldown.
//
// A rail is a NIC here paired with one there, with a domain, an endpoint, registrations and a stage of its own. A layer is cut into stripes of
// 256 KiB to 1 MiB (of a stream: its pieces), which go to whichever rail has room, so that a slow one takes less. Every rail that is up
// carries the layer's note, and it goes out once all stripes are complete: written and visible, or, of pieces, used by the sink. Where that is
// known only behind the bytes (in_order()), the note says which rails it goes over, and the sink waits for each of them.
//
// Failover. A rail whose port fails, or that is silent while the peer is heard, is closed here at once: nothing is read from the sources any more. The
// sink is told (kv.rail, before anything else of that session that could end a request) and closes its end: nothing late is written. What
// was on its way goes by the others; until its request ends, the same bytes to the same place. After a cooldown that doubles the rail is offered
// anew. Notes are kept until their request ends, and told over the session when a rail fails, and before the seal: none is lost with a rail.
// All rails dead is PEER_LOST with the last one's cause. The session itself is one connection over one NIC: with that one it is lost.
//
//   kv.rail  transfer > sink   sink, fabric, and: down (a number), error; again (a number that is closed); bytes: notes
//            <                 sink, fabric, and: down, error; or of (a closed number) with rail (as in the offer's rails) or error
//   kv.accept's offer          sink, rails: [{rail (its number), nic, host, offer (of that one's landing; none: it is closed)}]
//
// Owner    as Landing and Sender.   Threads  as the Instance.   Errors  as the fabric's; what the peer sends is checked.
// Cost     A stripe: a Batch of its own, reused. With one NIC on either side none of this is in the way: rails are used where both sides wish for them.
//
//     EndpointOptions{.rails = "eth0,eth1"} on both sides
#pragma once

#include "transport/fabric.hpp"
#include "transport/nics.hpp"

namespace baton::transport {

inline constexpr size_t kMaxRails = 16;

// A plain one where this side names no rails.
Result<std::unique_ptr<Landing>> make_rail_landing(const std::string& fabric, Session::Impl&, const LandingMemory&);
Result<std::unique_ptr<Sender>> make_rail_sender(const std::string& fabric, Session::Impl&, const nlohmann::json& offer, const SourceMemory& near);
// The NICs that this endpoint's options name for the fabric, nearest to that memory first if they are all that there are; at most kMaxRails.
Result<std::vector<Nic>> rails_of(Endpoint::Impl&, const std::string& fabric, const void* memory, uint64_t bytes);

inline RailPlace place_on(const Nic& n, uint32_t number) { return {n.host, n.host.empty() ? n.device : std::string(), number, nullptr}; }
inline uint32_t rail_bit(uint32_t number) { return 1u << number % 32; } // of a note's `slot`: those that are up at a time differ

}  // namespace baton::transport
