// ofi.hpp: the fabric "libfabric": reliable datagram endpoints and one-sided writes; providers shm, tcp;ofi_rxm, verbs;ofi_rxm (the fabric
// "ofi-verbs"; "verbs" is rdma-core without libfabric, verbs.hpp), efa.
//
// Each landing and each sender has an endpoint of its own with a completion queue; they share one domain for each (provider, local address)
// of the Baton endpoint. Writes ask for FI_DELIVERY_COMPLETE, so a completion means that the bytes are at the far side; only when all
// writes of a batch have completed a 64-byte message (fi_inject) tells the landing. So no order between operations is assumed.
// FI_EAGAIN ends a step; the next poll goes on.
//
// The provider shm keeps one file for each endpoint in /dev/shm. It is named baton-SESSION-..., locked (flock) while its owner lives,
// and removed by the owner; after a crash by the peer when it loses the session, or by the next process that opens the provider.
// Known limit: shm guards its queues by a spin lock in that file; a peer killed within its few hundred ns stalls the other side.
//
// Owner    OfiDomain: the Baton endpoint. OfiLanding: the sink. OfiSender: the session.
// Threads  As the Instance.
// Cost     A write of up to four segments: one post. Memory is registered once for each landing, or once for each source buffer.
// Errors   UNSUPPORTED with the provider's reason, PEER_LOST, IO with libfabric's text.
#pragma once

#include "transport/fabric.hpp"
#include "transport/fabrics.hpp"

namespace baton::transport {

// "shm" -> the libfabric provider's name; nullptr if `fabric` is not one of libfabric's.
const char* ofi_provider(const std::string& fabric);
FabricInfo ofi_probe(const std::string& fabric);
Result<std::unique_ptr<Landing>> make_ofi_landing(const std::string& fabric, Session::Impl&, const LandingMemory&, const RailPlace& = {});
Result<std::unique_ptr<Sender>> make_ofi_sender(const std::string& fabric, Session::Impl&, const nlohmann::json& offer, const RailPlace& = {});
void ofi_forget_source(Endpoint::Impl&, const void* base);

}  // namespace baton::transport
