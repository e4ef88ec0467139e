// fault_sender.hpp (internal): a sender whose fabric misbehaves by a seed, for tests and soaks: BATON_FABRIC_FAULTS.
//
//   seed=N, and how often in a million: corrupt=N  a layer's step sends neighbouring bytes instead, and counts them as sent
//                                       repeat=N   a note goes out twice
//                                       reorder=N  a note waits until a later one has gone
//                                       cut=N      a step fails as a lost rail
//                                       connect=N  the sender does not connect
//   mute=ADDRESS  the rail from there takes what it is given, and nothing of it is ever complete: a link that swallows what is sent
//
// Owner    wraps the fabric's own sender.   Threads  as it.   Cost  a random number a step.   Errors  INVALID_ARGUMENT for what it cannot read.
#pragma once

#include "transport/fabric.hpp"

namespace baton::transport {

// `sender`, or one that misbehaves around it; `fabric` and the rail's number go into the seed, so that several do not misbehave together.
Result<std::unique_ptr<Sender>> with_faults(std::unique_ptr<Sender> sender, const std::string& spec, const std::string& fabric, const RailPlace& at);

}  // namespace baton::transport
