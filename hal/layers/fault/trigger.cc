#include "hal/layers/fault/trigger.h"

#include "hal/layers/argument.h"

namespace baton::layers {
namespace {

uint64_t draw(uint64_t& state) {  // splitmix64 (Steele, Lea, Flood 2014)
  uint64_t z = state += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

bool on_device(const Rule& r, const std::string& uri) { return matches(r.device, uri) || matches(r.device, uri.substr(0, uri.find('?'))); }

bool fires(const Rule& r, Trigger::State& s, uint64_t& random) {
  random = draw(s.random);
  if (s.fired >= r.times) return false;
  if (r.sticky && s.fired) return true;
  if (r.nth) return s.matches == r.nth;
  if (r.every) return s.matches % r.every == 0;
  if (r.probability) return double(random >> 11) * 0x1p-53 < *r.probability;
  return true;
}

}  // namespace

std::vector<Trigger::State>& Trigger::states(const std::string& uri) {
  auto [it, fresh] = states_.try_emplace(uri);
  for (size_t i = 0; fresh && i < plan_.rules.size(); ++i) {
    uint64_t seed = plan_.seed ^ (i + 1) * 0xd1342543de82ef95ull;  // each rule draws on its own
    it->second.push_back({0, 0, draw(seed)});
  }
  return it->second;
}

Trigger::Decision Trigger::decide(const std::string& uri, uint32_t point, uint32_t tag, uint32_t lane) {
  std::lock_guard lock(mu_);
  std::vector<State>& all = states(uri);
  Decision d;
  d.point = point;
  for (size_t i = 0; i < plan_.rules.size(); ++i) {
    const Rule& r = plan_.rules[i];
    if (!(r.points & point) || (r.tag && *r.tag != tag) || (r.lane && *r.lane != lane) || !on_device(r, uri)) continue;
    d.before.push_back({&all[i], all[i]});
    ++all[i].matches;
    uint64_t random = 0;
    if (d.rule || !fires(r, all[i], random)) continue;
    ++all[i].fired;
    d.rule = &r;
    d.number = i + 1;
    d.match = all[i].matches;
    d.random = random;
  }
  return d;
}

void Trigger::undo(const Decision& d) {
  std::lock_guard lock(mu_);
  for (auto& [state, before] : d.before) *state = before;
}

uint32_t Trigger::points(const std::string& uri) const {
  uint32_t all = 0;
  for (const Rule& r : plan_.rules)
    if (on_device(r, uri)) all |= r.points;
  return all;
}

Error Trigger::error(const Decision& d) {
  const Rule& r = *d.rule;
  const int32_t code = r.action == Action::lose ? int32_t(BATON_DEVICE_LOST) : r.code;
  std::string what = "fault plan rule " + std::to_string(d.number) + (r.name.empty() ? "" : " \"" + r.name + "\"") + ": " +
                     point_name(d.point) + ", match " + std::to_string(d.match);
  if (!r.text.empty()) what += ": " + r.text;
  return Error(code, what, "nothing is broken: a fault plan is named in BATON_LAYERS");
}

}  // namespace baton::layers
