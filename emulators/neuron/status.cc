#include "emulators/neuron/status.hpp"

#include <algorithm>

namespace baton::neuron_emu {
namespace {

// Which row counts which status: by their names; where no name fits, generic_error (guess).
struct Row {
  int32_t status;
  const char* name;
  CoreStatus counts;
};
using enum CoreStatus;
constexpr Row kRows[] = {
    {0, "NRT_SUCCESS", success},
    {1, "NRT_FAILURE", generic_error},
    {2, "NRT_INVALID", invalid_error},
    {3, "NRT_INVALID_HANDLE", invalid_error},
    {4, "NRT_RESOURCE", resource_error},
    {5, "NRT_TIMEOUT", timeout},
    {6, "NRT_HW_ERROR", hw_error},
    {7, "NRT_QUEUE_FULL", execute_failed_to_queue},
    {9, "NRT_LOAD_NOT_ENOUGH_NC", resource_nc_error},
    {10, "NRT_UNSUPPORTED_NEFF_VERSION", unsupported_neff_version},
    {11, "NRT_FAIL_HOST_MEM_ALLOC", resource_error},
    {13, "NRT_UNINITIALIZED", generic_error},
    {14, "NRT_CLOSED", generic_error},
    {15, "NRT_QUEUE_EMPTY", generic_error},
    {101, "NRT_EXEC_UNIT_UNRECOVERABLE", hw_error},
    {1002, "NRT_EXEC_BAD_INPUT", exec_bad_input},
    {1003, "NRT_EXEC_COMPLETED_WITH_NUM_ERR", execute_completed_with_num_error},
    {1004, "NRT_EXEC_COMPLETED_WITH_ERR", execute_completed_with_error},
    {1005, "NRT_EXEC_NC_BUSY", execute_failed_to_queue},
    {1006, "NRT_EXEC_OOB", oob_error},
    {1100, "NRT_COLL_PENDING", generic_error},
    {1200, "NRT_EXEC_HW_ERR_COLLECTIVES", hw_collectives_error},
    {1201, "NRT_EXEC_HW_ERR_HBM_UE", hw_hbm_ue_error},
    {1202, "NRT_EXEC_HW_ERR_NC_UE", hw_nc_ue_error},
    {1203, "NRT_EXEC_HW_ERR_DMA_ABORT", hw_dma_abort_error},
    {1204, "NRT_EXEC_SW_NQ_OVERFLOW", execute_sw_nq_overflow},
    {1205, "NRT_EXEC_HW_ERR_REPAIRABLE_HBM_UE", hw_repairable_hbm_ue_error},
    {1206, "NRT_NETWORK_PROXY_FAILURE", generic_error},
};

const Row* find(int32_t status) {
  auto it = std::find_if(std::begin(kRows), std::end(kRows), [&](const Row& r) { return r.status == status; });
  return it == std::end(kRows) ? nullptr : it;
}

}  // namespace

const char* status_name(int32_t status) {
  const Row* r = find(status);
  return r ? r->name : "NRT_UNKNOWN";
}

bool status_known(int32_t status) { return find(status) != nullptr; }

std::optional<int32_t> status_of(std::string_view name) {
  for (const Row& r : kRows)
    if (name == r.name) return r.status;
  return std::nullopt;
}

CoreStatus status_row(int32_t status) {
  const Row* r = find(status);
  return r ? r->counts : generic_error;
}

}  // namespace baton::neuron_emu
