#include "drivers/neuron/quirks.hpp"

#include "drivers/neuron/nrt_abi.hpp"

namespace baton::neuron {
namespace {

constexpr uint64_t kGiB = 1ull << 30;

constexpr Family kFamilies[] = {
    {nrt::kFamilyTrn1, "Trainium1", 2, 2, 16 * kGiB, 1},   {nrt::kFamilyTrn1n, "Trainium1", 2, 2, 16 * kGiB, 1},
    {nrt::kFamilyInf2, "Inferentia2", 2, 2, 16 * kGiB, 1}, {nrt::kFamilyTrn2, "Trainium2", 8, 4, 24 * kGiB, 2},
    {nrt::kFamilyTrn2n, "Trainium2", 8, 4, 24 * kGiB, 2},  {nrt::kFamilyTrn2p, "Trainium2", 8, 4, 24 * kGiB, 2},
    {nrt::kFamilyTrn2u, "Trainium2", 8, 4, 24 * kGiB, 2},  {nrt::kFamilyTrn2e, "Trainium2", 8, 4, 24 * kGiB, 2},
    {nrt::kFamilyTrn2eu, "Trainium2", 8, 4, 24 * kGiB, 2}, {nrt::kFamilyTrn2ac, "Trainium2", 8, 4, 24 * kGiB, 2},
    {nrt::kFamilyTrn2uac, "Trainium2", 8, 4, 24 * kGiB, 2}, {nrt::kFamilyTrn3, "Trainium3", 8, 4, 36 * kGiB, 2},
    {nrt::kFamilyTrn3pds98, "Trainium3", 8, 4, 36 * kGiB, 2},
};
constexpr Family kUnknownFamily = {0, "Neuron", 8, 4, 24 * kGiB, 2};

constexpr char kSeeLog[] = "set env.NEURON_RT_LOG_LEVEL=INFO in the URI and read what the runtime logs";
constexpr char kReset[] = "reset the device (devctl reset), then reload programs and buffers";

constexpr StatusInfo kStatuses[] = {
    {nrt::kSuccess, BATON_OK, "SUCCESS", false, ""},
    {nrt::kFailure, BATON_FAILED, "FAILURE", false, kSeeLog},
    {nrt::kInvalid, BATON_INVALID_ARGUMENT, "INVALID", false, ""},
    {nrt::kInvalidHandle, BATON_INVALID_ARGUMENT, "INVALID_HANDLE", false, ""},
    {nrt::kResource, BATON_CAPACITY, "RESOURCE", false, "free buffers or unload programs on this heap"},
    {nrt::kTimeout, BATON_DEADLINE, "TIMEOUT", false, "raise env.NEURON_RT_EXEC_TIMEOUT if the launch is long by design"},
    {nrt::kHwError, BATON_DEVICE_LOST, "HW_ERROR", true, kReset},
    {nrt::kQueueFull, BATON_BUSY, "QUEUE_FULL", false, ""},
    {nrt::kLoadNotEnoughNc, BATON_CAPACITY, "LOAD_NOT_ENOUGH_NC", false, "load onto fewer lanes"},
    {nrt::kUnsupportedNeffVersion, BATON_VERSION, "UNSUPPORTED_NEFF_VERSION", false, ""},
    {nrt::kFailHostMemAlloc, BATON_CAPACITY, "FAIL_HOST_MEM_ALLOC", false, "free host memory"},
    {nrt::kUninitialized, BATON_INTERNAL, "UNINITIALIZED", false, ""},
    {nrt::kClosed, BATON_DEVICE_LOST, "CLOSED", false, "somebody in this process called nrt_close"},
    {nrt::kQueueEmpty, BATON_INTERNAL, "QUEUE_EMPTY", false, ""},
    {nrt::kExecUnitUnrecoverable, BATON_DEVICE_LOST, "EXEC_UNIT_UNRECOVERABLE", true, kReset},
    {nrt::kExecBadInput, BATON_INVALID_ARGUMENT, "EXEC_BAD_INPUT", false, ""},
    {nrt::kExecCompletedWithNumErr, BATON_FAILED, "EXEC_COMPLETED_WITH_NUM_ERR", false, kSeeLog},
    {nrt::kExecCompletedWithErr, BATON_FAILED, "EXEC_COMPLETED_WITH_ERR", false, kSeeLog},
    {nrt::kExecNcBusy, BATON_BUSY, "EXEC_NC_BUSY", false, "another launch holds the core"},
    {nrt::kExecOob, BATON_FAILED, "EXEC_OOB", false, "the program read or wrote out of bounds: check block tables and sizes"},
    {nrt::kCollPending, BATON_BUSY, "COLL_PENDING", false, ""},
    {nrt::kExecHwErrCollectives, BATON_FAILED, "EXEC_HW_ERR_COLLECTIVES", false, "every rank must launch the same step; see the other lanes' errors"},
    {nrt::kExecHwErrHbmUe, BATON_DEVICE_LOST, "EXEC_HW_ERR_HBM_UE", true, kReset},
    {nrt::kExecHwErrNcUe, BATON_DEVICE_LOST, "EXEC_HW_ERR_NC_UE", true, kReset},
    {nrt::kExecHwErrDmaAbort, BATON_DEVICE_LOST, "EXEC_HW_ERR_DMA_ABORT", true, kReset},
    {nrt::kExecSwNqOverflow, BATON_FAILED, "EXEC_SW_NQ_OVERFLOW", false, kSeeLog},
    {nrt::kExecHwErrRepairableHbmUe, BATON_DEVICE_LOST, "EXEC_HW_ERR_REPAIRABLE_HBM_UE", true, kReset},
    {nrt::kNetworkProxyFailure, BATON_FAILED, "NETWORK_PROXY_FAILURE", false, kSeeLog},
};

}  // namespace

const Family& family(uint32_t id) {
  for (const Family& f : kFamilies)
    if (f.id == id) return f;
  return kUnknownFamily;
}

const Family& family_of(std::string_view model) {
  for (const Family& f : kFamilies)
    if (f.model == model) return f;
  return kUnknownFamily;
}

std::string pairing_problem(uint32_t driver, uint32_t runtime) {
  for (const Pairing& p : kPairings) {
    if (driver < p.driver_from || driver > p.driver_to || (runtime >= p.runtime_from && runtime <= p.runtime_to)) continue;
    const bool newer = p.runtime_from > 0;
    return "kernel driver 2." + std::to_string(driver) + " needs a Neuron runtime 2." + std::to_string(newer ? p.runtime_from : p.runtime_to) +
           (newer ? " or later" : " or earlier") + ", this one is 2." + std::to_string(runtime);
  }
  return "";
}

StatusInfo status_info(int32_t status) {
  for (const StatusInfo& s : kStatuses)
    if (s.status == status) return s;
  return {status, BATON_FAILED, "UNKNOWN", false, kSeeLog};
}

}  // namespace baton::neuron
