#include "emulators/cs3/fault.h"

#include "hal/json_depth.hpp"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

namespace baton::cs3 {
namespace {

using Json = nlohmann::json;
using Action = Fault::Action;

constexpr char kSchema[] = "baton.cs3.faults/1";
constexpr size_t kPlanMost = kMaxPayload;  // what the command can carry
constexpr double kDelayMost = 3'600'000;   // ms
constexpr double kSlowMost = 1e6;
constexpr std::pair<const char*, Action> kActions[] = {{"fail", Action::fail}, {"delay", Action::delay}, {"kill", Action::kill}, {"hang", Action::hang},
                                                       {"drop_link", Action::drop_link}, {"lose_wafer", Action::lose_wafer}};
constexpr std::pair<const char*, int32_t> kCodes[] = {{"BUSY", BATON_BUSY}, {"CAPACITY", BATON_CAPACITY}, {"CORRUPT", BATON_CORRUPT}, {"FAILED", BATON_FAILED},
                                                      {"INTERNAL", BATON_INTERNAL}, {"IO", BATON_IO}, {"MISMATCH", BATON_MISMATCH}, {"UNSUPPORTED", BATON_UNSUPPORTED}};
constexpr char kActionList[] = "actions: fail delay kill hang drop_link lose_wafer";
constexpr char kKeyList[] = "keys of a rule: call nth every probability times action code delay_ms";
constexpr char kPlanList[] = "a plan has seed, dead_channels (0 to 15), slow_channels ({\"5\": 8}), bad_rows, slow_ingress (from 1) and rules: emulators/cs3/fault.h";

bool exempt(Op op) { return op == Op::info || op == Op::telemetry || op == Op::fault || op == Op::clock || op == Op::reset; }

std::optional<Op> op_of(const std::string& name) {
  for (uint16_t i = 1; i <= uint16_t(Op::receive); ++i)
    if (name == op_name(i)) return Op(i);
  return {};
}

std::string shown(const Json& v) { return v.dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 60); }

Status whole(const Json& v, uint64_t most, uint64_t& out) {
  if (!v.is_number_unsigned() || v.get<uint64_t>() > most)
    return Error(BATON_INVALID_ARGUMENT, shown(v) + " in the fault plan is not a whole number up to " + std::to_string(most), kPlanList);
  out = v.get<uint64_t>();
  return {};
}

}  // namespace

uint32_t Conditions::alive(uint32_t wanted) const {
  const uint32_t n = wanted ? wanted : kMaxChannels;
  return n - uint32_t(std::count(dead.begin(), dead.begin() + n, true));
}

std::array<bool, kMaxChannels> Conditions::used(uint32_t wanted) const {
  std::array<bool, kMaxChannels> which{};
  const uint32_t n = wanted && alive(wanted) ? wanted : kMaxChannels;
  for (uint32_t i = 0; i < n; ++i) which[i] = !dead[i];
  if (alive(wanted) == 0) std::fill(std::find(which.begin(), which.end(), true) + 1, which.end(), false);
  return which;
}

double Conditions::slowest(uint32_t wanted) const {
  const auto which = used(wanted);
  double most = 1;
  for (uint32_t i = 0; i < kMaxChannels; ++i)
    if (which[i]) most = std::max(most, slow[i]);
  return most;
}

uint32_t Conditions::dead_bits() const {
  uint32_t bits = 0;
  for (uint32_t i = 0; i < kMaxChannels; ++i) bits |= uint32_t(dead[i]) << i;
  return bits;
}

struct FaultPlan::Reader {
  uint32_t index;
  Rule rule{};

  Error wrong(const std::string& what, const char* next) const {
    return Error(BATON_INVALID_ARGUMENT, "rule " + std::to_string(index) + " of the fault plan: " + what, next);
  }
  Status count(const Json& v, const std::string& key, uint64_t least, uint64_t& out) const {
    if (!v.is_number_unsigned() || v.get<uint64_t>() < least) return wrong(key + " is not a whole number from " + std::to_string(least), kKeyList);
    out = v.get<uint64_t>();
    return {};
  }
  Status calls(const Json& v) {
    const Json list = v.is_array() ? v : Json::array({v});
    for (const Json& name : list) {
      if (name == "*") return rule.calls.clear(), Status();
      const auto op = name.is_string() ? op_of(name.get<std::string>()) : std::nullopt;
      if (!op || exempt(*op)) return wrong("there is no call " + shown(name), "calls: the wafer link's commands but info, telemetry, fault, clock and reset, or *");
      rule.calls.push_back(*op);
    }
    return rule.calls.empty() ? Status(wrong("call is empty", kKeyList)) : Status();
  }
  Status number(const Json& v, const std::string& key, double most, double& out) const {
    if (!v.is_number() || !(v.get<double>() >= 0 && v.get<double>() <= most)) return wrong(key + " is not a number from 0 to " + std::to_string(int64_t(most)), kKeyList);
    out = v.get<double>();
    return {};
  }
  Status field(const std::string& key, const Json& v) {
    if (key == "seen" || key == "fired") return {};  // of a report
    if (key == "call") return calls(v);
    if (key == "nth") return count(v, key, 1, rule.nth);
    if (key == "every") return count(v, key, 1, rule.every);
    if (key == "times") return count(v, key, 0, rule.times);
    if (key == "probability") return number(v, key, 1, rule.probability.emplace());
    if (key == "delay_ms") {
      double ms = 0;
      BATON_TRY(number(v, key, kDelayMost, ms));
      rule.fault.delay_ns = uint64_t(ms * 1e6);
      return {};
    }
    if (key == "action") {
      for (const auto& [name, action] : kActions)
        if (v == name) return rule.fault.action = action, Status();
      return wrong("unknown " + shown(v), kActionList);
    }
    if (key == "code") {
      for (const auto& [name, code] : kCodes)
        if (v == name) return rule.fault.code = code, Status();
      return wrong("unknown code " + shown(v), "codes: BUSY CAPACITY CORRUPT FAILED INTERNAL IO MISMATCH UNSUPPORTED");
    }
    return wrong("unknown key '" + key.substr(0, 40) + "'", kKeyList);
  }
  Status read(const Json& v) {
    if (!v.is_object()) return wrong("it is no object", kKeyList);
    for (const char* needed : {"call", "action"})
      if (!v.contains(needed)) return wrong(std::string("it has no ") + needed, kKeyList);
    for (auto it = v.begin(); it != v.end(); ++it) BATON_TRY(field(it.key(), it.value()));
    if (rule.fault.action == Action::hang && rule.calls != std::vector{Op::launch})
      return wrong("hang is for the call launch alone: a kernel that never unblocks the stream", kKeyList);
    if (rule.fault.action == Action::delay && std::any_of(rule.calls.begin(), rule.calls.end(), [](Op op) { return !is_stream(op); }))
      return wrong("delay is for stream commands: others are answered at once", "calls: memcpy_h2d memcpy_d2h copy fill launch send receive nop, or *");
    rule.fault.rule = index;
    rule.text = v.dump(-1, ' ', true, Json::error_handler_t::replace);
    return {};
  }
};

Status FaultPlan::condition(const std::string& key, const void* json) {
  const Json& v = *static_cast<const Json*>(json);
  if (key == "schema" && v == kSchema) return {};
  if (key == "seed") {
    BATON_TRY(whole(v, UINT64_MAX, seed_));
    random_ = seed_;
    return {};
  }
  if (key == "slow_ingress" && v.is_number() && v.get<double>() >= 1 && v.get<double>() <= kSlowMost) return conditions_.slow_ingress = v.get<double>(), Status();
  if (key == "dead_channels" && v.is_array()) {
    for (const Json& c : v) {
      uint64_t n = 0;
      BATON_TRY(whole(c, kMaxChannels - 1, n));
      conditions_.dead[n] = true;
    }
    if (conditions_.alive(0) == 0) return Error(BATON_INVALID_ARGUMENT, "the fault plan leaves no channel alive", "keep one, or lose_wafer");
    return {};
  }
  if (key == "slow_channels" && v.is_object()) {
    for (auto it = v.begin(); it != v.end(); ++it) {
      uint32_t n = kMaxChannels;
      const char *first = it.key().data(), *last = first + it.key().size();
      if (std::from_chars(first, last, n).ptr != last || n >= kMaxChannels || !it->is_number() || !(it->get<double>() >= 1 && it->get<double>() <= kSlowMost))
        return Error(BATON_INVALID_ARGUMENT, "slow_channels of the fault plan: " + shown(it.key()) + ": " + shown(*it) + " is no channel (0 to 15) and how many times as long (1 to 1000000)", kPlanList);
      conditions_.slow[n] = it->get<double>();
    }
    return {};
  }
  if (key == "bad_rows" && v.is_array() && v.size() <= kMaxBadRows) {
    for (const Json& r : v) {
      uint64_t n = 0;
      BATON_TRY(whole(r, UINT16_MAX, n));
      conditions_.bad_rows.push_back(uint16_t(n));
    }
    auto& rows = conditions_.bad_rows;
    std::sort(rows.begin(), rows.end());
    rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
    return {};
  }
  return Error(BATON_INVALID_ARGUMENT, "the fault plan has '" + key.substr(0, 40) + "', or what it is is wrong", kPlanList);
}

Result<FaultPlan> FaultPlan::parse(std::string_view text) {
  if (json_too_deep(text)) return Error(BATON_CORRUPT, "the fault plan's brackets go over " + std::to_string(kMaxJsonDepth) + " deep", kPlanList);
  const Json plan = Json::parse(text.begin(), text.end(), nullptr, false);
  if (!plan.is_object()) return Error(BATON_CORRUPT, "the fault plan is no JSON object", kPlanList);
  FaultPlan p;
  for (auto it = plan.begin(); it != plan.end(); ++it) {
    if (it.key() != "rules" || !it->is_array()) {
      BATON_TRY(p.condition(it.key(), &*it));
      continue;
    }
    for (const Json& v : *it) {
      Reader r{uint32_t(p.rules_.size())};
      BATON_TRY(r.read(v));
      p.rules_.push_back(std::move(r.rule));
    }
  }
  return p;
}

Result<FaultPlan> FaultPlan::read(const std::string& value) {
  const size_t begin = value.find_first_not_of(" \t\n");
  if (begin == std::string::npos) return FaultPlan();
  if (value[begin] == '{') return parse(value);
  std::ifstream file(value, std::ios::binary);
  std::string text(kPlanMost + 1, 0);
  if (file) file.read(text.data(), std::streamsize(text.size()));
  if (!file.is_open() || file.bad()) return Error(BATON_IO, "fault plan " + value + " cannot be read", "name a file, or write the plan itself: {\"rules\": [...]}");
  if (size_t(file.gcount()) > kPlanMost) return Error(BATON_INVALID_ARGUMENT, "fault plan " + value + " is over 1 MiB", "write fewer rules");
  text.resize(size_t(file.gcount()));
  return parse(text);
}

std::optional<Fault> FaultPlan::match(Op op) {
  if (rules_.empty() || exempt(op)) return {};
  std::optional<Fault> met;
  for (Rule& r : rules_) {
    if (!r.calls.empty() && std::find(r.calls.begin(), r.calls.end(), op) == r.calls.end()) continue;
    ++r.seen;
    bool fires = true;
    if (r.nth && r.seen != r.nth) fires = false;
    if (r.every && r.seen % r.every) fires = false;
    if (r.probability) {
      random_ = random_ * 6364136223846793005ull + 1442695040888963407ull;  // Knuth's MMIX
      if (double(random_ >> 11) * 0x1p-53 >= *r.probability) fires = false;
    }
    if (!fires || r.fired >= r.times || met) continue;  // one fault a command: the first rule's
    ++r.fired;
    met = r.fault;
  }
  return met;
}

std::string FaultPlan::report() const {
  Json plan = {{"schema", kSchema}, {"seed", seed_}, {"slow_ingress", conditions_.slow_ingress}, {"bad_rows", conditions_.bad_rows},
               {"dead_channels", Json::array()}, {"slow_channels", Json::object()}, {"rules", Json::array()}};
  for (uint32_t i = 0; i < kMaxChannels; ++i)
    if (conditions_.dead[i]) plan["dead_channels"].push_back(i);
  for (uint32_t i = 0; i < kMaxChannels; ++i)
    if (conditions_.slow[i] > 1) plan["slow_channels"][std::to_string(i)] = conditions_.slow[i];
  for (const Rule& r : rules_) {
    Json v = Json::parse(r.text, nullptr, false);
    v["seen"] = r.seen;
    v["fired"] = r.fired;
    plan["rules"].push_back(std::move(v));
  }
  return plan.dump();
}

}  // namespace baton::cs3
