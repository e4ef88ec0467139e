#include "emulators/neuron/process.hpp"

#include <cstdio>
#include <cstring>
#include <utility>

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

constexpr std::pair<int32_t, const char*> kNames[] = {
    {0, "NRT_SUCCESS"}, {1, "NRT_FAILURE"}, {2, "NRT_INVALID"}, {3, "NRT_INVALID_HANDLE"}, {4, "NRT_RESOURCE"}, {5, "NRT_TIMEOUT"},
    {6, "NRT_HW_ERROR"}, {7, "NRT_QUEUE_FULL"}, {9, "NRT_LOAD_NOT_ENOUGH_NC"}, {10, "NRT_UNSUPPORTED_NEFF_VERSION"},
    {11, "NRT_FAIL_HOST_MEM_ALLOC"}, {13, "NRT_UNINITIALIZED"}, {14, "NRT_CLOSED"}, {15, "NRT_QUEUE_EMPTY"},
    {101, "NRT_EXEC_UNIT_UNRECOVERABLE"}, {1002, "NRT_EXEC_BAD_INPUT"}, {1003, "NRT_EXEC_COMPLETED_WITH_NUM_ERR"},
    {1004, "NRT_EXEC_COMPLETED_WITH_ERR"}, {1005, "NRT_EXEC_NC_BUSY"}, {1006, "NRT_EXEC_OOB"}, {1100, "NRT_COLL_PENDING"},
    {1200, "NRT_EXEC_HW_ERR_COLLECTIVES"}, {1201, "NRT_EXEC_HW_ERR_HBM_UE"}, {1202, "NRT_EXEC_HW_ERR_NC_UE"},
    {1203, "NRT_EXEC_HW_ERR_DMA_ABORT"}, {1204, "NRT_EXEC_SW_NQ_OVERFLOW"}, {1205, "NRT_EXEC_HW_ERR_REPAIRABLE_HBM_UE"},
    {1206, "NRT_NETWORK_PROXY_FAILURE"},
};

}  // namespace

int32_t open_machine() {
  std::lock_guard lock(g_state.mutex);
  if (g_state.machine) return fail(nrt::kFailure, "nrt_init was called before");  // guess: the SDK does not say
  Result<Options> options = read_options();
  if (!options.ok()) return fail(nrt::kInvalid, options.error());
  g_state.log = options->log;
  auto machine = Machine::create(std::move(*options));
  if (!machine.ok()) return fail(machine.error().code == BATON_BUSY ? nrt::kResource : nrt::kFailure, machine.error());
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

const char* status_name(int32_t status) {
  for (const auto& [number, name] : kNames)
    if (number == status) return name;
  return "NRT_UNKNOWN";
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

void add_cost(double ns) { t_cost_ns += ns; }

double cost_ns() { return t_cost_ns; }

const char* status_text(int32_t status) {
  if (status == nrt::kSuccess || t_failure.status != status) return status_name(status);
  std::snprintf(t_failure.shown, sizeof t_failure.shown, "%s: %s", status_name(status), t_failure.text);
  return t_failure.shown;
}

}  // namespace baton::neuron_emu
