#include "tools/devctl/telemetry.h"

#include <fmt/format.h>

namespace baton::devctl {
namespace {

const char* health_text(uint32_t health) {
  switch (health) {
    case BATON_HEALTH_OK: return "ok";
    case BATON_HEALTH_DEGRADED: return "degraded";
    default: return "unknown";
  }
}

}  // namespace

json telemetry_json(const Telemetry& t) {
  auto read = [&](uint32_t instrument, json value) { return t.instruments & instrument ? value : json(); };
  return {{"ops_done", t.ops_done}, {"ops_failed", t.ops_failed}, {"launches", t.launches}, {"bytes_in", t.bytes_in}, {"bytes_out", t.bytes_out},
          {"busy_ns", t.busy_ns}, {"modelled_ns", t.modelled_ns}, {"health", health_text(t.health)},
          {"ecc_corrected", read(BATON_INSTRUMENT_ECC, t.ecc_corrected)}, {"ecc_uncorrected", read(BATON_INSTRUMENT_ECC, t.ecc_uncorrected)},
          {"hw_errors", read(BATON_INSTRUMENT_HW_ERRORS, t.hw_errors)},
          {"power_percent", read(BATON_INSTRUMENT_POWER, double(t.power_percent_x100) / 100)}};
}

std::string condition(const json& t) {
  std::string s = t.at("health").get<std::string>();
  if (!t.at("ecc_corrected").is_null()) s += fmt::format(", ECC {} corrected, {} not", t.at("ecc_corrected").get<uint64_t>(), t.at("ecc_uncorrected").get<uint64_t>());
  if (!t.at("hw_errors").is_null()) s += fmt::format(", {} hardware errors", t.at("hw_errors").get<uint64_t>());
  if (!t.at("power_percent").is_null()) s += fmt::format(", power {:.2f} % of the most", t.at("power_percent").get<double>());
  return s;
}

}  // namespace baton::devctl
