#include "emulators/neuron/fault.hpp"

#include "emulators/neuron/status.hpp"
#include "hal/json_depth.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

namespace baton::neuron_emu {
namespace {

using Json = nlohmann::json;
using Action = Fault::Action;

constexpr uint64_t kPlanMost = 1 << 20;
constexpr double kDelayMost = 3'600'000;  // ms
constexpr std::pair<const char*, Action> kActions[] = {{"fail", Action::fail}, {"delay", Action::delay}, {"kill", Action::kill}, {"hang", Action::hang},
                                                       {"lose_core", Action::lose_core}, {"lose_device", Action::lose_device}, {"ecc", Action::ecc}};
constexpr char kActionList[] = "actions: fail delay kill hang lose_core lose_device ecc";
constexpr char kKeyList[] = "keys of a rule: call core nth every probability times action status delay_ms ecc";

}  // namespace

struct FaultPlan::Reader {
  uint32_t index;
  Rule rule{};

  Error wrong(const std::string& what, const char* next) const {
    return Error(BATON_INVALID_ARGUMENT, "rule " + std::to_string(index) + " of the fault plan: " + what, next);
  }
  Status count(const Json& v, const char* key, uint64_t least, uint64_t& out) const {
    if (!v.is_number_unsigned() || v.get<uint64_t>() < least) return wrong(std::string(key) + " is not a whole number from " + std::to_string(least), kKeyList);
    out = v.get<uint64_t>();
    return {};
  }
  Status calls(const Json& v) {
    const Json list = v.is_array() ? v : Json::array({v});
    for (const Json& name : list) {
      if (!name.is_string() || name.get_ref<const std::string&>().empty()) return wrong("call is not a name or a list of names", kKeyList);
      if (name == "*") return rule.calls.clear(), Status();
      rule.calls.push_back(name.get<std::string>());
    }
    return {};
  }
  Status status(const Json& v) {
    std::optional<int32_t> s;
    if (v.is_string()) s = status_of(v.get<std::string>());
    if (v.is_number_integer() && v.get<int64_t>() > 0 && v.get<int64_t>() < 10000 && status_known(v.get<int32_t>())) s = v.get<int32_t>();
    if (!s || !*s) return wrong("no such failing status: " + v.dump(-1, ' ', true, Json::error_handler_t::replace), "write NRT_EXEC_HW_ERR_NC_UE, or its number");
    rule.fault.status = *s;
    return {};
  }
  // Offers `take` each index of a table; the one that it takes is the value's.
  template <class F>
  Status named(const Json& v, size_t rows, const char* list, F&& take) {
    for (size_t i = 0; i < rows; ++i)
      if (v.is_string() && take(i, v.get_ref<const std::string&>())) return {};
    return wrong("unknown " + v.dump(-1, ' ', true, Json::error_handler_t::replace), list);
  }
  Status field(const std::string& key, const Json& v) {
    if (key == "call") return calls(v);
    if (key == "status") return status(v);
    if (key == "nth") return count(v, "nth", 1, rule.nth);
    if (key == "every") return count(v, "every", 1, rule.every);
    if (key == "times") return count(v, "times", 0, rule.times);
    if (key == "core") {
      uint64_t core = 0;
      BATON_TRY(count(v, "core", 0, core));
      if (core > 65535) return wrong("core " + std::to_string(core), kKeyList);
      rule.core = int64_t(core);
      return {};
    }
    if (key == "probability" || key == "delay_ms") {
      const double most = key == "delay_ms" ? kDelayMost : 1;
      if (!v.is_number() || !(v.get<double>() >= 0 && v.get<double>() <= most)) return wrong(key + " is not a number from 0 to " + std::to_string(int64_t(most)), kKeyList);
      if (key == "probability") rule.probability = v.get<double>();
      else rule.fault.delay_ns = uint64_t(v.get<double>() * 1e6);
      return {};
    }
    if (key == "action")
      return named(v, std::size(kActions), kActionList, [&](size_t i, const std::string& s) {
        if (s != kActions[i].first) return false;
        rule.fault.action = kActions[i].second;
        return true;
      });
    if (key == "ecc")
      return named(v, std::size(kEccNames), "rows: as in stats/hardware of the sysfs tree", [&](size_t i, const std::string& s) {
        if (s != kEccNames[i]) return false;
        rule.fault.ecc = Ecc(i);
        return true;
      });
    return wrong("unknown key '" + key.substr(0, 40) + "'", kKeyList);
  }
  Status read(const Json& v) {
    if (!v.is_object()) return wrong("it is no object", kKeyList);
    for (const char* needed : {"call", "action"})
      if (!v.contains(needed)) return wrong(std::string("it has no ") + needed, kKeyList);
    for (auto it = v.begin(); it != v.end(); ++it) BATON_TRY(field(it.key(), it.value()));
    rule.fault.rule = index;
    return {};
  }
};

Result<FaultPlan> FaultPlan::parse(std::string_view text) {
  if (json_too_deep(text)) return Error(BATON_CORRUPT, "the fault plan's brackets go over " + std::to_string(kMaxJsonDepth) + " deep", "write {\"rules\": [...]}: emulators/neuron/fault.hpp");
  Json plan = Json::parse(text.begin(), text.end(), nullptr, false);
  if (!plan.is_object()) return Error(BATON_CORRUPT, "the fault plan is no JSON object", "write {\"rules\": [...]}: emulators/neuron/fault.hpp");
  FaultPlan p;
  for (auto it = plan.begin(); it != plan.end(); ++it) {
    if (it.key() == "seed" && it->is_number_unsigned()) {
      p.random_ = it->get<uint64_t>();
    } else if (it.key() == "rules" && it->is_array()) {
      for (const Json& v : *it) {
        Reader r{uint32_t(p.rules_.size())};
        BATON_TRY(r.read(v));
        p.rules_.push_back(std::move(r.rule));
      }
    } else {
      return Error(BATON_INVALID_ARGUMENT, "the fault plan has '" + it.key().substr(0, 40) + "', or what it is is wrong", "a plan has \"seed\" (a number) and \"rules\" (a list)");
    }
  }
  return p;
}

Result<FaultPlan> FaultPlan::read(const std::string& value) {
  if (value.empty()) return FaultPlan();
  if (value[value.find_first_not_of(" \t\n") == std::string::npos ? 0 : value.find_first_not_of(" \t\n")] == '{') return parse(value);
  std::ifstream file(value, std::ios::binary);
  std::string text(kPlanMost, 0);
  if (file) file.read(text.data(), std::streamsize(kPlanMost));
  if (!file.is_open() || file.bad()) return Error(BATON_IO, "fault plan " + value + " cannot be read", "name a file, or write the plan itself: {\"rules\": [...]}");
  text.resize(size_t(file.gcount()));
  return parse(text);
}

std::optional<Fault> FaultPlan::match(std::string_view call, int64_t vnc) {
  std::lock_guard lock(mutex_);
  std::optional<Fault> met;
  for (Rule& r : rules_) {
    if (!r.calls.empty() && std::find(r.calls.begin(), r.calls.end(), call) == r.calls.end()) continue;
    if (r.core && *r.core != vnc) continue;
    ++r.seen;
    bool fires = true;
    if (r.nth && r.seen != r.nth) fires = false;
    if (r.every && r.seen % r.every) fires = false;
    if (r.probability) {
      random_ = random_ * 6364136223846793005ull + 1442695040888963407ull;  // Knuth's MMIX
      if (double(random_ >> 11) * 0x1p-53 >= *r.probability) fires = false;
    }
    if (!fires || r.fired >= r.times || met) continue;  // one fault a call: the first rule's
    ++r.fired;
    met = r.fault;
  }
  return met;
}

}  // namespace baton::neuron_emu
