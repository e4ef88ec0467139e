// site.hpp: who holds which core of a machine. A shared machine is a folder; a private one has no folder, and every core is free.
//
//   FOLDER/coreN      locked by the process that holds logical core N; says "PID COMMAND since TIME" to whoever is refused
//   FOLDER/taking     locked while a process takes its cores, so that two that want "any 2" do not both get 1
//   FOLDER/counters   machine_page.hpp
//   FOLDER/meet-*     ranks that meet across processes (shared_group.hpp); gone with the last of them
// The kernel drops a killed process's locks, so its cores are free at once. The files stay; they are the machine.
//
// Owner    the Machine.   Threads  one, at nrt_init; destruction frees the cores.   Cost  two system calls a core.
// Errors   BUSY: a core is held, with its holder; IO.
//
//     BATON_ASSIGN(Site site, Site::open("/run/user/1000/baton-neuron/a", ""));
//     BATON_ASSIGN(auto held, site.take({0, 1}));          // these
//     BATON_ASSIGN(auto held, site.take_free(2, 16));      // any 2 of 16
#pragma once

#include "hal/baton.hpp"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace baton::neuron_emu {

// A core of this process for as long as it lives.
class HeldCore {
 public:
  HeldCore(uint32_t logical, int fd) : logical_(logical), fd_(fd) {}
  HeldCore(HeldCore&& o) noexcept : logical_(o.logical_), fd_(std::exchange(o.fd_, -1)) {}
  HeldCore& operator=(HeldCore&&) = delete;
  ~HeldCore();
  uint32_t logical() const { return logical_; }
  void forget();  // in a forked child: the core stays its parent's

 private:
  uint32_t logical_;
  int fd_;  // -1: of a private machine
};

class Site {
 public:
  // "": private. A name without '/' is a folder of this user's: under RUNTIME/baton-neuron (XDG_RUNTIME_DIR), else /dev/shm/baton-neuron-UID. The
  // last folder of the path is made if it is missing.
  static Result<Site> open(const std::string& machine, const std::string& runtime);
  const std::string& folder() const { return folder_; }  // "": private
  Result<HeldCore> taking() const;  // FOLDER/taking, until it is destroyed; waits
  Result<std::vector<HeldCore>> take(const std::vector<uint32_t>& logical) const;
  Result<std::vector<HeldCore>> take_free(uint32_t count, uint32_t of) const;

 private:
  explicit Site(std::string folder) : folder_(std::move(folder)) {}
  Result<HeldCore> hold(uint32_t core) const;
  std::string folder_;
};

}  // namespace baton::neuron_emu
