#include "emulators/neuron/process.hpp"

#include "emulators/neuron/gate.hpp"

#include <pthread.h>

#include <cstdio>
#include <cstring>

namespace baton::neuron_emu {
namespace {

struct State {
  std::mutex mutex;
  std::shared_ptr<Machine> machine;
  bool was_open = false;
  std::atomic<bool> log{false};
};
State g_state;

struct Failure {
  int32_t status;
  char text[480];
  char shown[544];
};
thread_local Failure t_failure;
thread_local double t_cost_ns;

}  // namespace

namespace {

// The device is not a forked child's: its memory is not mapped there, its cores are its parent's. The child begins uninitialized; what
// it has inherited is left as it is, for to end it would end the parent's.
void forked() {
  if (!g_state.machine) return;
  for (const auto& core : g_state.machine->cores) core->held.forget();
  new std::shared_ptr<Machine>(std::move(g_state.machine));
  g_state.machine = nullptr;
}

}  // namespace

int32_t open_machine() {
  std::lock_guard lock(g_state.mutex);
  [[maybe_unused]] static const int once = pthread_atfork([] { g_state.mutex.lock(); }, [] { g_state.mutex.unlock(); }, [] {
    forked();
    g_state.mutex.unlock();
  });
  if (g_state.machine) return fail(nrt::kFailure, "nrt_init was called before");  // guess: the SDK does not say
  Result<Options> options = read_options();
  if (!options.ok()) return fail(nrt::kInvalid, options.error());
  g_state.log = options->log;
  auto machine = Machine::create(std::move(*options));
  if (!machine.ok()) {
    const int32_t code = machine.error().code;
    return fail(code == BATON_BUSY ? nrt::kResource : code == BATON_INVALID_ARGUMENT || code == BATON_CORRUPT ? nrt::kInvalid : nrt::kFailure, machine.error());
  }
  if (int32_t s = gate(**machine, "nrt_init", nullptr)) return s;
  g_state.machine = std::move(*machine);
  return nrt::kSuccess;
}

void close_machine() {
  std::shared_ptr<Machine> ended;
  std::lock_guard lock(g_state.mutex);
  if (!g_state.machine) return;
  g_state.machine->closing = true;
  g_state.was_open = true;
  ended = std::move(g_state.machine);
}

std::shared_ptr<Machine> current_machine(int32_t& why_not) {
  std::lock_guard lock(g_state.mutex);
  why_not = g_state.was_open ? nrt::kClosed : nrt::kUninitialized;
  return g_state.machine;
}

int32_t fail(int32_t status, const std::string& text) {
  t_failure.status = status;
  std::snprintf(t_failure.text, sizeof t_failure.text, "%s", text.c_str());
  if (g_state.log) std::fprintf(stderr, "ERROR NRT(emulator): %s: %s\n", status_name(status), t_failure.text);
  return status;
}

int32_t fail(int32_t status, const Error& error) { return fail(status, std::string(error.what)); }

void clear_failure() {
  t_failure.status = nrt::kSuccess;
  t_cost_ns = 0;
}

std::string alone_text(const Machine& m, uint32_t ranks) {
  return std::to_string(ranks) + " ranks are more than the " + std::to_string(m.cores.size()) +
         " cores of this process; for ranks in several processes set BATON_EMU_NEURON_FOLDER and NEURON_RT_ROOT_COMM_ID in each";
}

void add_cost(double ns) { t_cost_ns += ns; }

double cost_ns() { return t_cost_ns; }

const char* status_text(int32_t status) {
  if (status == nrt::kSuccess || t_failure.status != status) return status_name(status);
  std::snprintf(t_failure.shown, sizeof t_failure.shown, "%s: %s", status_name(status), t_failure.text);
  return t_failure.shown;
}

}  // namespace baton::neuron_emu
