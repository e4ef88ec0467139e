#include "tools/baton/span_log.hpp"

#include <algorithm>

namespace baton::runtime {

using nlohmann::json;

SpanLog::SpanLog(const Instance& in) : instance_(in) { baton_set_span_callback(in.get(), take, this); }
SpanLog::~SpanLog() { baton_set_span_callback(instance_.get(), nullptr, nullptr); }

void SpanLog::take(void* self, const baton_span* s) {
  auto& log = *static_cast<SpanLog*>(self);
  log.clock_ns_ = std::max(log.clock_ns_, s->modelled_end_ns);
  auto it = log.by_tag_.find(s->tag);
  if (it == log.by_tag_.end()) return;
  it->second.push_back({s->lane, s->what, s->wall_start_ns, s->wall_end_ns, s->modelled_start_ns, s->modelled_end_ns, s->bytes, s->failed != 0});
}

uint32_t SpanLog::open() {
  uint32_t tag = next_++;
  by_tag_[tag];
  return tag;
}

const std::vector<Span>& SpanLog::spans(uint32_t tag) const {
  static const std::vector<Span> none;
  auto it = by_tag_.find(tag);
  return it == by_tag_.end() ? none : it->second;
}

std::vector<Span> SpanLog::close(uint32_t tag) {
  auto it = by_tag_.find(tag);
  if (it == by_tag_.end()) return {};
  std::vector<Span> all = std::move(it->second);
  by_tag_.erase(it);
  return all;
}

json to_json(const std::vector<Span>& spans) {
  json all = json::array();
  for (const Span& s : spans) all.push_back({s.lane, s.what, s.wall_begin, s.wall_end, s.modelled_begin, s.modelled_end, s.bytes, s.failed});
  return all;
}

std::vector<Span> spans_from_json(const json& all) {
  std::vector<Span> spans;
  if (!all.is_array()) return spans;
  for (const json& s : all) {
    bool ok = s.is_array() && s.size() == 8 && s[0].is_string() && s[1].is_string() && s[7].is_boolean();
    for (size_t i = 2; ok && i < 7; ++i) ok = s[i].is_number_integer();
    if (!ok) continue;
    spans.push_back({s[0].get<std::string>(), s[1].get<std::string>(), s[2].get<uint64_t>(), s[3].get<uint64_t>(), s[4].get<uint64_t>(),
                     s[5].get<uint64_t>(), s[6].get<uint64_t>(), s[7].get<bool>()});
  }
  return spans;
}

}  // namespace baton::runtime
