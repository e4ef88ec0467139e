#include "emulators/neuron/gate.hpp"

#include "emulators/neuron/process.hpp"

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <thread>

namespace baton::neuron_emu {
namespace {

using namespace std::chrono_literals;

int32_t lost_core(const Core& core) {
  return fail(nrt::kExecUnitUnrecoverable, "core " + std::to_string(core.vnc) + " is lost: nrt_close and nrt_init take it anew");
}

int32_t lost_chip(const Core& core, const char* how) {
  return fail(nrt::kHwError, "chip " + std::to_string(core.chip) + " " + how + ": nrt_close and nrt_init take it anew");
}

int32_t hang(Machine& m, const std::string& what, const std::function<bool()>& stop) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(m.options.exec_timeout_s);
  while (std::chrono::steady_clock::now() < end) {
    if (m.closing) return fail(nrt::kClosed, "nrt_close was called during the call");
    if (stop && stop()) break;
    std::this_thread::sleep_for(1ms);
  }
  return fail(nrt::kTimeout, what + " hung until it was stopped or NEURON_RT_EXEC_TIMEOUT had passed");
}

int32_t ecc(Core& core, Ecc row, const std::string& what) {
  core.chip_counters->ecc[size_t(row)].fetch_add(1, std::memory_order_relaxed);
  if (row == Ecc::sram_corrected || row == Ecc::mem_corrected) return nrt::kSuccess;
  core.counters->lost = 1;
  const int32_t status = row == Ecc::sram_uncorrected    ? nrt::kExecHwErrNcUe
                         : row == Ecc::mem_uncorrected ? nrt::kExecHwErrHbmUe
                                                       : nrt::kExecHwErrRepairableHbmUe;
  return fail(status, what + ": " + kEccNames[size_t(row)] + " on core " + std::to_string(core.vnc));
}

}  // namespace

int32_t gate(Machine& m, std::string_view call, Core* core, const std::function<bool()>& stop) {
  if (core) {
    if (core->chip_counters->lost) return lost_chip(*core, "is lost");
    if (core->chip_counters->reset_requests != core->resets) return lost_chip(*core, "was reset under this process");
    if (core->counters->lost) return lost_core(*core);
  }
  if (m.faults.empty()) return nrt::kSuccess;
  const std::optional<Fault> f = m.faults.match(call, core ? int64_t(core->vnc) : -1);
  if (!f) return nrt::kSuccess;
  const std::string what = "fault plan, rule " + std::to_string(f->rule) + ", " + std::string(call);
  using enum Fault::Action;
  switch (f->action) {
    case fail: return neuron_emu::fail(f->status, what);
    case delay:
      std::this_thread::sleep_for(std::chrono::nanoseconds(f->delay_ns));
      add_cost(double(f->delay_ns));
      return nrt::kSuccess;
    case kill:
      ::kill(getpid(), SIGKILL);
      for (;;) pause();
    case hang: return neuron_emu::hang(m, what, stop);
    case lose_core:
      if (!core) return nrt::kSuccess;
      core->counters->lost = 1;
      return lost_core(*core);
    case lose_device:
      if (!core) return nrt::kSuccess;
      core->chip_counters->lost = 1;
      return lost_chip(*core, "is lost");
    case Fault::Action::ecc: return core ? neuron_emu::ecc(*core, f->ecc, what) : nrt::kSuccess;
  }
  return nrt::kSuccess;
}

}  // namespace baton::neuron_emu
