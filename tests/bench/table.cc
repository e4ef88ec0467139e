#include "tests/bench/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

namespace baton::bench {
namespace {

std::string number(double v) {
  double a = v < 0 ? -v : v;
  return a >= 1000 ? fmt::format("{:.0f}", v) : a >= 100 ? fmt::format("{:.1f}", v) : a >= 10 ? fmt::format("{:.2f}", v) : fmt::format("{:.3f}", v);
}

std::string spread(const Sample& s) { return s.runs > 1 ? fmt::format("{}..{}", number(s.min), number(s.max)) : ""; }

std::string aim_text(const Row& r) {
  switch (r.aim_on) {
    case AimOn::none: return "-";
    case AimOn::value_below: return fmt::format("< {} {}", number(r.aim), r.unit);
    case AimOn::value_above: return fmt::format(">= {} {}", number(r.aim), r.unit);
    case AimOn::ratio_below: return fmt::format("ratio <= {:.2f}", r.aim);
    case AimOn::ratio_above: return fmt::format("ratio >= {:.2f}", r.aim);
  }
  return "";
}

const char* aim_kind(AimOn a) {
  constexpr const char* kNames[] = {"none", "value_below", "value_above", "ratio_below", "ratio_above"};
  return kNames[int(a)];
}

using Cells = std::vector<std::string>;

std::string aligned(const std::vector<Cells>& rows, const std::vector<bool>& right) {
  std::vector<size_t> width(right.size(), 0);
  for (auto& r : rows)
    for (size_t c = 0; c < r.size(); ++c) width[c] = std::max(width[c], r[c].size());
  std::string out;
  for (auto& r : rows) {
    std::string line;
    for (size_t c = 0; c < r.size(); ++c) line += right[c] ? fmt::format("{:>{}}  ", r[c], width[c]) : fmt::format("{:<{}}  ", r[c], width[c]);
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

nlohmann::json sample_json(const Sample& s) { return {{"median", s.median}, {"min", s.min}, {"max", s.max}, {"runs", s.runs}}; }

}  // namespace

bool Row::met() const {
  switch (aim_on) {
    case AimOn::none: return true;
    case AimOn::value_below: return value.median < aim;
    case AimOn::value_above: return value.median >= aim;
    case AimOn::ratio_below: return ratio <= aim;
    case AimOn::ratio_above: return ratio >= aim;
  }
  return false;
}

std::string Report::text() const {
  std::vector<Cells> cells = {{"GROUP", "FIGURE", "MEDIAN", "UNIT", "MIN..MAX", "YARDSTICK OF THE SAME RUN", "MEDIAN", "MIN..MAX", "RATIO", "AIM", "MET"}};
  std::vector<std::string> notes;
  for (auto& r : rows_) {
    std::string mark;
    if (!r.note.empty()) {
      auto it = std::find(notes.begin(), notes.end(), r.note);
      mark = fmt::format(" [{}]", it - notes.begin() + 1);
      if (it == notes.end()) notes.push_back(r.note);
    }
    bool has = !r.yardstick.empty();
    cells.push_back({r.group, r.figure + mark, number(r.value.median), r.unit, spread(r.value), has ? r.yardstick : "-",
                     has ? number(r.against.median) : "", has ? spread(r.against) : "", has ? number(r.ratio) : "", aim_text(r),
                     r.aim_on == AimOn::none ? "" : r.met() ? "yes" : "NO"});
  }
  std::string out = aligned(cells, {false, false, true, false, false, false, true, false, true, false, false});
  for (size_t i = 0; i < notes.size(); ++i) out += fmt::format("[{}] {}\n", i + 1, notes[i]);
  for (auto& f : failures_) out += fmt::format("{}: not measured: {}\n", f.group, f.error.text());
  return out;
}

nlohmann::json Report::json(const Machine& m, bool quick) const {
  nlohmann::json rows = nlohmann::json::array(), failures = nlohmann::json::array();
  for (auto& r : rows_) {
    nlohmann::json j = {{"group", r.group}, {"figure", r.figure}, {"unit", r.unit}, {"value", sample_json(r.value)}};
    j["yardstick"] = r.yardstick.empty() ? nlohmann::json() : nlohmann::json{{"name", r.yardstick}, {"value", sample_json(r.against)}};
    j["ratio"] = r.yardstick.empty() ? nlohmann::json() : nlohmann::json(r.ratio);
    j["aim"] = r.aim_on == AimOn::none ? nlohmann::json() : nlohmann::json{{"on", aim_kind(r.aim_on)}, {"bound", r.aim}, {"met", r.met()}};
    j["note"] = r.note;
    rows.push_back(j);
  }
  for (auto& f : failures_)
    failures.push_back({{"group", f.group}, {"code", baton_code_name(f.error.code)}, {"what", f.error.what}, {"next", f.error.next}});
  return {{"schema", "baton.bench/1"},
          {"version", baton_version()},
          {"quick", quick},
          {"machine", {{"cpu", m.cpu}, {"cores", m.cores}, {"memory_bytes", m.memory_bytes}, {"features", m.flags()}, {"read_path", ReadBandwidth::path()}, {"fma_path", FmaRate::path()}, {"amx_bf16", m.amx_bf16}}},
          {"rows", rows},
          {"failures", failures}};
}

std::string machine_line(const Machine& m) {
  return fmt::format("baton {} on {}, {} core{}, {:.1f} GiB; {}; loads by {}, arithmetic by {}\n", baton_version(), m.cpu, m.cores, m.cores == 1 ? "" : "s",
                     double(m.memory_bytes) / (1u << 30), m.flags(), ReadBandwidth::path(), m.amx_bf16 ? "AMX bf16" : FmaRate::path());
}

void progress(const std::string& text) { fmt::print(stderr, "bench: {}\n", text); }

}  // namespace baton::bench
