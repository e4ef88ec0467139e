// services.h: what the core offers to drivers and tables: complete, progress, lost.
//
// Owner    each device has a copy that names it.   Threads  meant for calls from inside submit and poll. From elsewhere (a user's
//          thread that cancels a session) complete and progress take the instance's lock, and a loss is noted for the next poll.
// Cost     two tests more than the work itself.   Errors  a stale cookie is ignored.
#pragma once

#include "hal/baton.h"

namespace baton::core {

baton_driver_host make_services();

}  // namespace baton::core
