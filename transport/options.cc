#include "transport/options.hpp"

#include <cstdlib>
#include <string_view>

namespace baton::transport {

void prepare_libfabric_environment() {
  static const bool once = [] {
    setenv("FI_HMEM", "system", 0);
    setenv("FI_OFI_RXM_CM_PROGRESS_INTERVAL", std::to_string(kRxmConnectUs).c_str(), 0);
    setenv("FI_OFI_RXM_BUFFER_SIZE", std::to_string(kRxmBufferBytes).c_str(), 0);
    setenv("FI_UNIVERSE_SIZE", std::to_string(kUniverse).c_str(), 0);
    return true;
  }();
  (void)once;
}

bool device_memory_wished() {
  prepare_libfabric_environment();
  const char* v = getenv("FI_HMEM");
  return v && *v && std::string_view(v) != "system";
}

std::string forced_copy() {
  const char* v = getenv("BATON_COPY");
  return v ? v : "";
}
std::string fabric_faults() {
  const char* v = getenv("BATON_FABRIC_FAULTS");
  return v ? v : "";
}

}  // namespace baton::transport
