// emu.h: emulated systems that outlive a command: a wafer's daemon, a Neuron machine that processes share.
//
// Each is a file NAME.json in the run folder's emu/, beside the statistics pages: its address, its process or its folder.
//
// Owner    the user: emu up makes one, emu down ends it.   Threads  one.   Cost  up: the emulator's start.
// Errors   BUSY: the name is taken, the port is in use, somebody holds a core. NOT_FOUND: no emulator, no system of that name.
//
//     return emu_up(c, {.address = "emu+cs3://0", .name = "a"});
#pragma once

#include "tools/devctl/verbs.h"

namespace baton::devctl {

struct EmuCall {
  std::string address;                   // emu+cs3://0?threads=2, emu+neuron://0?machine=trn2.48xlarge
  std::string name;                      // "": the scheme and a number
  std::string listen = "127.0.0.1:0";    // of a daemon
};

struct FaultCall {
  std::string system;  // a name, or cs3://HOST:PORT
  std::string plan;    // JSON, the path of a file, or none; "": show it
  bool clear = false;
  int wafer = -1;      // -1: each
};

int emu_up(const Context&, const EmuCall&);
int emu_ls(const Context&);
int emu_down(const Context&, const std::string& name);  // or "all"
int emu_fault(const Context&, const FaultCall&);
// Ends the process of a daemon and starts it again, at the same address with the same options.
Status emu_restart(const Context&, const std::string& name);
int emu_clock(const Context&, const std::string& system, double hz);  // 0: show it

// What emu ls shows, and whether each is alive. Nothing is asked, nothing is made.
std::vector<json> emulated_systems(const Context&);

}  // namespace baton::devctl
