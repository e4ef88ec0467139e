#include "hal/layers/fault/plan.h"

#include "hal/json_depth.hpp"
#include "hal/layers/argument.h"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace baton::layers {
namespace {

using nlohmann::json;

constexpr size_t kMaxBytes = 1 << 20;
constexpr size_t kMaxRules = 1000;
constexpr uint32_t kMaxBits = 64;

constexpr const char* kPoints[] = {"open", "telemetry", "reset", "alloc", "map", "export", "import",
                                   "load", "queue_open", "NOP", "COPY", "LAUNCH", "FILL", "fence"};
constexpr struct {
  const char* name;
  uint32_t points;  // where it makes sense
} kActions[] = {{"fail", ~0u},        {"delay", ~0u},          {"drop", kOps | kFence}, {"duplicate", kOps}, {"corrupt", kCopy | kFill},
                {"lose", ~0u & ~(kOpen | kReset | kFence)}, {"kill", ~0u}};
constexpr const char* kKeys[] = {"name", "op", "device", "tag", "lane", "nth", "every", "probability", "times", "sticky", "action", "code", "text", "delay", "bits"};

template <class Names>
std::string list_of(const Names& names) {
  std::string s;
  for (const auto& n : names) s += std::string(s.empty() ? "" : ", ") + n;
  return s;
}

std::string points_text(uint32_t points) {
  std::string s;
  for (size_t i = 0; i < std::size(kPoints); ++i)
    if (points >> i & 1) s += std::string(s.empty() ? "" : ", ") + kPoints[i];
  return s;
}

std::string actions_text() {
  std::string s;
  for (auto& a : kActions) s += std::string(s.empty() ? "" : ", ") + a.name;
  return s;
}

std::string shown(const json& j) {
  std::string s = j.dump(-1, ' ', true, json::error_handler_t::replace);
  return s.size() > 60 ? s.substr(0, 57) + "..." : s;
}

// One rule's fields, each refused with the rule's number and name.
class RuleReader {
 public:
  RuleReader(const json& j, size_t number) : j_(j), number_(number) {}

  Result<Rule> read() {
    if (!j_.is_object()) return refuse("is " + shown(j_), "write an object with " + list_of(kKeys));
    for (auto& [key, value] : j_.items())
      if (std::find(std::begin(kKeys), std::end(kKeys), std::string_view(key)) == std::end(kKeys))
        return refuse("does not know '" + key.substr(0, 40) + "'", "allowed: " + list_of(kKeys));
    BATON_TRY(text("name", r_.name));
    BATON_TRY(text("device", r_.device));
    BATON_TRY(text("text", r_.text));
    BATON_TRY(read_points());
    BATON_TRY(read_which());
    BATON_TRY(read_action());
    return r_;
  }

 private:
  Error refuse(const std::string& what, const std::string& next) const {
    std::string name = j_.is_object() && j_.contains("name") ? " " + shown(j_["name"]) : "";
    return Error(BATON_INVALID_ARGUMENT, "fault plan rule " + std::to_string(number_) + name + " " + what, next);
  }
  Status text(const char* key, std::string& to) {
    auto it = j_.find(key);
    if (it == j_.end()) return {};
    if (!it->is_string()) return refuse(std::string(key) + " is " + shown(*it), "write a text");
    to = it->get<std::string>();
    return {};
  }
  // Absent: false, `to` untouched.
  Result<bool> number(const char* key, uint64_t low, uint64_t high, uint64_t& to) {
    auto it = j_.find(key);
    if (it == j_.end()) return false;
    if (!it->is_number_unsigned() || it->get<uint64_t>() < low || it->get<uint64_t>() > high)
      return refuse(std::string(key) + " is " + shown(*it), "write a whole number, " + std::to_string(low) + " to " + std::to_string(high));
    to = it->get<uint64_t>();
    return true;
  }
  Status read_points() {
    auto it = j_.find("op");
    if (it == j_.end()) return refuse("has no op", "one or a list of " + list_of(kPoints) + ", or \"*\" for any op");
    const json list = it->is_array() ? *it : json::array({*it});
    for (const json& p : list) {
      auto at = std::find_if(std::begin(kPoints), std::end(kPoints), [&](const char* k) { return p == k; });
      if (p == "*") r_.points |= kOps;
      else if (at != std::end(kPoints)) r_.points |= 1u << (at - std::begin(kPoints));
      else return refuse("op is " + shown(p), "one or a list of " + list_of(kPoints) + ", or \"*\" for any op");
    }
    if (!r_.points) return refuse("op is an empty list", "one or a list of " + list_of(kPoints));
    return {};
  }
  Status read_which() {
    for (auto [key, to] : {std::pair{"tag", &r_.tag}, {"lane", &r_.lane}}) {
      uint64_t n = 0;
      BATON_ASSIGN(bool given, number(key, 0, UINT32_MAX, n));
      if (given) *to = uint32_t(n);
      if (given && (r_.points & ~kOps)) return refuse("has a " + std::string(key) + " but matches calls, which have none", "leave it out, or match " + points_text(kOps));
    }
    BATON_ASSIGN(bool nth, number("nth", 1, UINT64_MAX, r_.nth));
    BATON_ASSIGN(bool every, number("every", 1, UINT64_MAX, r_.every));
    BATON_ASSIGN(bool times, number("times", 1, UINT64_MAX, r_.times));
    (void)times;
    if (auto it = j_.find("probability"); it != j_.end()) {
      if (!it->is_number() || it->get<double>() < 0 || it->get<double>() > 1) return refuse("probability is " + shown(*it), "write 0 to 1");
      r_.probability = it->get<double>();
    }
    if (nth + every + r_.probability.has_value() > 1) return refuse("has more than one of nth, every and probability", "keep one");
    if (auto it = j_.find("sticky"); it != j_.end()) {
      if (!it->is_boolean()) return refuse("sticky is " + shown(*it), "write true or false");
      r_.sticky = it->get<bool>();
    }
    if (r_.sticky && r_.times != UINT64_MAX) return refuse("has both sticky and times", "keep one");
    return {};
  }
  Status read_action() {
    auto it = j_.find("action");
    if (it == j_.end()) return refuse("has no action", "one of " + actions_text());
    size_t i = 0;
    while (i < std::size(kActions) && *it != kActions[i].name) ++i;
    if (i == std::size(kActions)) return refuse("action is " + shown(*it), "one of " + actions_text());
    r_.action = Action(i);
    const std::string action = kActions[i].name;
    if (uint32_t wrong = r_.points & ~kActions[i].points & ((1u << std::size(kPoints)) - 1))
      return refuse("cannot " + action + " " + points_text(wrong), action + " is for " + points_text(kActions[i].points));
    for (auto [key, of] : {std::pair{"code", Action::fail}, {"text", Action::fail}, {"delay", Action::delay}, {"bits", Action::corrupt}})
      if (j_.contains(key) && r_.action != of)
        return refuse("has " + std::string(key) + " with action " + action, std::string(key) + " is for " + kActions[size_t(of)].name);
    return read_how();
  }
  Status read_how() {
    if (auto it = j_.find("code"); it != j_.end()) {
      std::vector<std::string> names;
      r_.code = BATON_OK;
      for (int32_t c = BATON_OK + 1; c <= BATON_INTERNAL; ++c) {
        names.push_back(baton_code_name(c));
        if (*it == baton_code_name(c)) r_.code = c;
      }
      if (r_.code == BATON_OK) return refuse("code is " + shown(*it), "one of " + list_of(names));
    }
    if (r_.action == Action::delay) {
      auto it = j_.find("delay");
      auto ns = parse_duration(it != j_.end() && it->is_string() ? it->get<std::string>() : "");
      if (!ns) return refuse(it == j_.end() ? "has no delay" : "delay is " + shown(*it), ns.error().next);
      r_.delay_ns = *ns;
    }
    uint64_t bits = r_.bits;
    BATON_ASSIGN(bool given, number("bits", 1, kMaxBits, bits));
    (void)given;
    r_.bits = uint32_t(bits);
    return {};
  }

  const json& j_;
  size_t number_;
  Rule r_;
};

Result<json> parse_json(std::string_view bytes) {
  if (json_too_deep(bytes))
    return Error(BATON_CORRUPT, "a fault plan with brackets over " + std::to_string(kMaxJsonDepth) + " deep",
                 "write {\"rules\": [{\"op\": \"COPY\", \"action\": \"fail\"}]}");
  try {
    return json::parse(bytes.begin(), bytes.end());
  } catch (const json::exception& e) {
    // The library counts bytes; a person counts lines.
    auto* at = dynamic_cast<const json::parse_error*>(&e);
    const size_t end = std::min(bytes.size(), at && at->byte ? at->byte - 1 : 0);
    const std::string_view before = bytes.substr(0, end);
    const size_t line = 1 + size_t(std::count(before.begin(), before.end(), '\n')), newline = before.rfind('\n');
    const size_t column = newline == std::string_view::npos ? end + 1 : end - newline;
    return Error(BATON_CORRUPT, "fault plan line " + std::to_string(line) + ", column " + std::to_string(column) + ": not JSON",
                 "write {\"rules\": [{\"op\": \"COPY\", \"action\": \"fail\"}]}");
  }
}

}  // namespace

const char* point_name(uint32_t point) {
  for (size_t i = 0; i < std::size(kPoints); ++i)
    if (point == 1u << i) return kPoints[i];
  return "?";
}

Result<Plan> parse_plan(std::string_view bytes) {
  if (bytes.size() > kMaxBytes)
    return Error(BATON_CORRUPT, "a fault plan of " + std::to_string(bytes.size()) + " bytes", "at most " + std::to_string(kMaxBytes));
  BATON_ASSIGN(json j, parse_json(bytes));
  const std::string allowed = "write {\"seed\": NUMBER, \"rules\": [...]}";
  if (!j.is_object()) return Error(BATON_INVALID_ARGUMENT, "a fault plan that is " + shown(j), allowed);
  for (auto& [key, value] : j.items())
    if (key != "seed" && key != "rules") return Error(BATON_INVALID_ARGUMENT, "fault plan: unknown key '" + key.substr(0, 40) + "'", allowed);
  Plan plan;
  if (auto it = j.find("seed"); it != j.end()) {
    if (!it->is_number_unsigned()) return Error(BATON_INVALID_ARGUMENT, "fault plan: seed is " + shown(*it), "write a whole number");
    plan.seed = it->get<uint64_t>();
  }
  auto rules = j.find("rules");
  if (rules == j.end() || !rules->is_array() || rules->size() > kMaxRules)
    return Error(BATON_INVALID_ARGUMENT, rules == j.end() ? "fault plan: no rules" : "fault plan: rules is " + shown(*rules),
                 allowed + ", at most " + std::to_string(kMaxRules) + " rules");
  for (const json& r : *rules) {
    BATON_ASSIGN(Rule rule, RuleReader(r, plan.rules.size() + 1).read());
    plan.rules.push_back(std::move(rule));
  }
  return plan;
}

}  // namespace baton::layers
