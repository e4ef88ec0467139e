#include "tools/devctl/rails.h"

#include "tools/devctl/pages.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

namespace baton::devctl {
namespace {

constexpr uint64_t kConnectNs = 1'000'000'000;  // a rail may take so long to connect first
constexpr uint64_t kSilentNs = 1'000'000'000;   // and a stripe (at most 1 MiB) to be complete

uint64_t realtime_ns() { return uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count()); }

// The value of a label of NAME{label="value",...}
std::string label_in(const std::string& name, const std::string& label) {
  const std::string head = label + "=\"";
  const size_t at = name.find(head);
  if (at == std::string::npos) return "";
  const size_t from = at + head.size();
  return clean(name.substr(from, std::min(name.find('"', from), name.size()) - from));
}

}  // namespace

std::string RailState::local() const { return nic.substr(nic.rfind(' ') + 1); }
bool RailState::dead() const { return down_since_ns && (failures || realtime_ns() > down_since_ns + kConnectNs); }
bool RailState::silent() const { return !dead() && silent_ns >= kSilentNs; }

std::vector<RailState> rails_of(const json& values) {
  std::vector<RailState> all;
  for (auto& [name, v] : values.items()) {
    if (!name.starts_with("baton_rail_up{")) continue;
    const std::string labels = name.substr(name.find('{'));
    auto value = [&](const char* metric) {
      auto it = values.find(metric + labels);
      return it == values.end() ? 0 : it->get<uint64_t>();
    };
    all.push_back({label_in(name, "nic"), label_in(name, "peer"), v != 0, value("baton_rail_bytes_total"), value("baton_rail_failures_total"), value("baton_rail_down_timestamp_seconds"), value("baton_rail_silent_seconds")});
  }
  return all;
}

std::string state_text(const RailState& r) {
  if (r.dead()) return "dead since " + utc_text(r.down_since_ns);
  if (r.silent()) return "silent for " + ns_text(double(r.silent_ns));
  return r.up ? "up" : "connecting";
}

}  // namespace baton::devctl
