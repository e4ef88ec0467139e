// status.hpp: the names of the runtime's status codes, and the sysfs row that counts each.
//
// Owner    static data.   Threads  any.   Cost  a scan of a few rows.   Errors  none.
//
//     status_name(1202);   // "NRT_EXEC_HW_ERR_NC_UE"
#pragma once

#include "emulators/neuron/counters.hpp"

#include <cstdint>
#include <optional>
#include <string_view>

namespace baton::neuron_emu {

const char* status_name(int32_t status);  // "NRT_UNKNOWN" for what the table has not
bool status_known(int32_t status);
std::optional<int32_t> status_of(std::string_view name);
CoreStatus status_row(int32_t status);  // neuron_core<k>/stats/status/<row>

}  // namespace baton::neuron_emu
