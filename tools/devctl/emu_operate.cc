// emu fault, emu clock: what goes wrong on an emulated system, and how fast its clock is, while it runs.
#include "drivers/cs3/link/operate.hpp"
#include "tools/devctl/emu.h"
#include "tools/devctl/files.h"
#include "tools/devctl/wafers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

namespace baton::devctl {
namespace {

constexpr uint32_t kPatienceMs = 5'000;
constexpr size_t kPlanMost = 1 << 20;  // what the wafer link can carry

struct System {
  std::string name, address;
  std::vector<WaferDaemon> daemons;
};

// A name that emu ls shows, or the address of a daemon.
Result<System> system_of(const Context& c, const std::string& what) {
  System s;
  if (is_uri(what)) {
    s = {"", what, daemons_of(what)};
    if (s.daemons.empty())
      return Error(BATON_UNSUPPORTED, fmt::format("{} is no running daemon", clean(what).substr(0, 100)), "name one that is up (devctl emu ls), or cs3://HOST:PORT");
    return s;
  }
  std::string up;
  for (const json& j : emulated_systems(c)) {
    if (!j.at("alive")) continue;
    up += (up.empty() ? "" : ", ") + j.at("name").get<std::string>();
    if (j.at("name") == what) s = {what, j.at("address"), daemons_of(j.at("address"))};
  }
  if (s.name.empty()) return Error(BATON_NOT_FOUND, fmt::format("no emulated system is called '{}'; up: {}", clean(what).substr(0, 60), up.empty() ? "none" : up), "devctl emu ls; devctl emu up emu+cs3://0 starts one");
  if (s.daemons.empty())
    return Error(BATON_UNSUPPORTED, fmt::format("{} is a machine that each process emulates for itself: there is no daemon to tell", what), "give each process its own: emu+neuron://0?faults=PLAN (emulators/neuron/fault.hpp)");
  return s;
}

Result<std::string> plan_text(const FaultCall& call) {
  if (call.clear || call.plan == "none") return std::string();
  const size_t begin = call.plan.find_first_not_of(" \t\n");
  if (begin != std::string::npos && call.plan[begin] == '{') return call.plan;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(call.plan, ignored))
    return Error(BATON_INVALID_ARGUMENT, fmt::format("'{}' is neither a plan nor the path of one", clean(call.plan).substr(0, 60)), R"(write it, as in '{"slow_channels": {"5": 8}}', or name a file, or none)");
  std::string text = whole_file(call.plan, kPlanMost + 1);
  if (text.empty() || text.size() > kPlanMost) return Error(BATON_INVALID_ARGUMENT, fmt::format("{}: empty, unreadable or over 1 MiB", call.plan), "none ends all faults");
  return text;
}

Result<json> planned(const System& s, const FaultCall& call) {
  const bool write = call.clear || !call.plan.empty();
  BATON_ASSIGN(const std::string text, write ? plan_text(call) : Result<std::string>(std::string()));
  json rows = json::array();
  for (const WaferDaemon& d : s.daemons)
    for (uint32_t number = 0, wafers = 1; number < wafers; ++number) {
      BATON_ASSIGN(auto link, cs3::WaferOperator::connect(d.address, number, deadline_in_ms(kPatienceMs)));
      BATON_ASSIGN(const cs3::WaferState state, link.state());
      wafers = state.wafers;
      if (call.wafer >= 0 && uint32_t(call.wafer) != number) continue;
      if (write) BATON_TRY(link.set_faults(text));
      BATON_ASSIGN(const std::string now, link.faults());
      json plan = json::parse(now, nullptr, false);
      if (!plan.is_object()) return Error(BATON_CORRUPT, fmt::format("{} says a fault plan that is no JSON", d.address), "devctl version: is it of this release?");
      rows.push_back({{"daemon", "cs3://" + d.address}, {"wafer", number}, {"plan", plan}});
    }
  if (rows.empty()) return Error(BATON_NOT_FOUND, fmt::format("{} has no wafer {}", s.address, call.wafer), "they count from 0: devctl info " + s.address);
  return json{{"name", s.name}, {"address", s.address}, {"written", write}, {"wafers", rows}};
}

bool says_nothing(const std::string& key, const json& value) {
  return key == "schema" || key == "seed" || key == "rules" || value.empty() || (key == "slow_ingress" && value == 1);
}

std::string plans_text(const json& doc) {
  std::string text;
  for (auto& w : doc.at("wafers")) {
    const std::string label = fmt::format("{} wafer {}", clean(w.at("daemon").get<std::string>()), w.at("wafer").get<uint32_t>());
    const size_t before = text.size();
    for (auto& [key, value] : w.at("plan").items())
      if (!says_nothing(key, value)) text += fmt::format("{}  {} {}\n", label, clean(key), clean(value.dump()));
    uint32_t n = 0;
    for (auto rule : w.at("plan").value("rules", json::array())) {
      const uint64_t seen = rule.value("seen", 0), fired = rule.value("fired", 0);
      rule.erase("seen"), rule.erase("fired");
      text += fmt::format("{}  rule {} {}  met {}, went wrong {}\n", label, n++, clean(rule.dump()), seen, fired);
    }
    if (text.size() == before) text += fmt::format("{}  nothing is planned to go wrong\n", label);
  }
  return text;
}

}  // namespace

int emu_fault(const Context& c, const FaultCall& call) {
  auto s = system_of(c, call.system);
  if (!s) return c.out.fail(s.error());
  return c.out.show("emu.fault", planned(*s, call), plans_text);
}

int emu_clock(const Context& c, const std::string& system, double hz) {
  auto s = system_of(c, system);
  if (!s) return c.out.fail(s.error());
  json rows = json::array();
  for (const WaferDaemon& d : s->daemons) {
    auto link = cs3::WaferOperator::connect(d.address, 0, deadline_in_ms(kPatienceMs));
    if (!link) return c.out.fail(link.error());
    if (hz > 0)
      if (Status set = link->set_clock_hz(uint64_t(std::llround(hz))); !set.ok()) return c.out.fail(set.error());
    auto now = link->clock_hz();
    if (!now) return c.out.fail(now.error());
    rows.push_back({{"daemon", "cs3://" + d.address}, {"hz", *now}});
  }
  return c.out.show("emu.clock", json{{"name", s->name}, {"address", s->address}, {"written", hz > 0}, {"clocks", rows}}, [](const json& doc) {
    std::string text;
    for (auto& r : doc.at("clocks")) text += fmt::format("{}  {:g} GHz, of the timing model\n", clean(r.at("daemon").get<std::string>()), r.at("hz").get<double>() / 1e9);
    return text;
  });
}

}  // namespace baton::devctl
