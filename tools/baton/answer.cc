#include "tools/baton/answer.hpp"

namespace baton::runtime {

using nlohmann::json;

json to_json(const Leg& l) {
  return {{"role", l.role}, {"where", l.where}, {"title", l.title}, {"timing", l.timing}, {"ranks", l.ranks}, {"spans", to_json(l.spans)}};
}

Leg leg_from_json(const json& j) {
  Leg l;
  if (!j.is_object()) return l;
  auto text = [&](const char* key) { return j.contains(key) && j[key].is_string() ? j[key].get<std::string>() : std::string(); };
  l.role = text("role");
  l.where = text("where");
  l.title = text("title");
  l.timing = text("timing");
  if (j.contains("ranks") && j["ranks"].is_number_unsigned()) l.ranks = j["ranks"].get<uint32_t>();
  if (j.contains("spans")) l.spans = spans_from_json(j["spans"]);
  return l;
}

}  // namespace baton::runtime
