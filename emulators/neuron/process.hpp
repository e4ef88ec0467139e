// process.hpp: the emulated runtime's process-wide part: the current machine, and the last failure of each thread.
//
// The ABI has no handle for the runtime, so this state is global as the vendor's is.
//
// Owner    the library image; nrt_close or unloading ends the machine.   Threads  any.
// Errors   UNINITIALIZED before nrt_init, CLOSED after nrt_close (the SDK's header; its guide says FAILURE for both).
//
//     return entry([&](Machine& m) { return m.core(vnc) ? kSuccess : fail(kInvalid, "vnc ..."); });
#pragma once

#include "emulators/neuron/machine.hpp"
#include "emulators/neuron/status.hpp"

#include <exception>
#include <memory>
#include <new>
#include <string>

namespace baton::neuron_emu {

int32_t open_machine();  // nrt_init
void close_machine();    // nrt_close
std::shared_ptr<Machine> current_machine(int32_t& why_not);

// Records why this thread's call fails and returns `status`. nrt_get_status_as_str gives the text back.
int32_t fail(int32_t status, const std::string& text);
int32_t fail(int32_t status, const Error& error);
void clear_failure();  // a call begins: its cost is 0, too
// "NRT_INVALID", and ": text" if this thread's last failing call gave that status.
const char* status_text(int32_t status);

// Modelled device time of this thread's call, 0 at its start: see baton_emu_cost_ns in nrt_abi.hpp.
void add_cost(double ns);
double cost_ns();

// Why `ranks` ranks cannot meet in this process.
std::string alone_text(const Machine&, uint32_t ranks);

// An ABI call's frame: nothing is thrown across it.
template <class F>
int32_t guarded(F&& f) {
  clear_failure();
  try {
    return f();
  } catch (const std::bad_alloc&) {
    return fail(nrt::kFailHostMemAlloc, "out of host memory");
  } catch (const std::exception& e) {
    return fail(nrt::kFailure, e.what());
  }
}

// A call that needs a machine.
template <class F>
int32_t entry(F&& f) {
  return guarded([&]() -> int32_t {
    int32_t why = 0;
    std::shared_ptr<Machine> m = current_machine(why);
    if (!m) return fail(why, why == nrt::kClosed ? "nrt_close was called" : "nrt_init was not called");
    const int32_t status = f(*m);
    if (m->sysfs) m->sysfs->publish();
    return status;
  });
}

}  // namespace baton::neuron_emu
