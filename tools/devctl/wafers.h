// wafers.h: the wafer daemons that this machine knows of (emulated systems that are up, and those that its processes have open), and what each says
// of its channels. A daemon is asked by an operator's connection (drivers/cs3/link/operate.hpp): nothing is opened on the wafer.
//
// Owner    plain functions; a wafer's state is a JSON object (schemas/wafer.json).   Threads  one.
// Cost     some ms a wafer; a daemon that does not answer costs `patience_ms`, all of them at most twice that.   Errors  one that cannot be asked is in the list with why.
//
//     for (auto& w : wafers_json(known_daemons(c), 200)) for (auto& f : channel_faults(w)) puts(f.what.c_str());
#pragma once

#include "tools/devctl/pages.h"
#include "tools/devctl/verbs.h"

#include <string>
#include <string_view>
#include <vector>

namespace baton::devctl {

struct WaferDaemon {
  std::string address;  // "127.0.0.1:9000"
  std::string name;     // of the emulated system; "": it is none of devctl's
};

std::vector<WaferDaemon> known_daemons(const Context&, const std::vector<Page>&);
std::vector<WaferDaemon> daemons_of(const std::string& uri);  // cs3://HOST:PORT,HOST:PORT?...; none of another scheme
json wafers_json(const std::vector<WaferDaemon>&, uint32_t patience_ms);

// A channel that is dead or slow beside the others.
struct ChannelFault {
  uint32_t channel = 0;
  bool dead = false;
  std::string what, next;
};
std::vector<ChannelFault> channel_faults(const json& wafer);
std::string wafer_label(const json& wafer);  // "w, wafer 0 of cs3://127.0.0.1:9000"
std::string channels_text(const json& wafer);  // "15 of 16 work, 48 MB/s each; channel 5 ..."

}  // namespace baton::devctl
