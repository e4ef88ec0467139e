#include "tools/baton/report.hpp"

#include "hal/layers/trace/chrome_trace.h"
#include "tools/baton/stats.hpp"
#include "tools/model/fail.hpp"

#include <algorithm>

namespace baton::runtime {

using nlohmann::json;

namespace {

std::string amount(uint64_t bytes) {
  if (bytes >= 10ull << 20) return fmt::format("{:.1f} MiB", double(bytes) / (1 << 20));
  if (bytes >= 10ull << 10) return fmt::format("{:.1f} KiB", double(bytes) / (1 << 10));
  return fmt::format("{} B", bytes);
}
std::string time_text(double v) { return v < 10 ? fmt::format("{:.3f} ms", v) : fmt::format("{:.1f} ms", v); }
std::string rate_text(double v) { return v > 0 ? fmt::format("{:.0f} tok/s", v) : "-"; }

std::string row(const char* name, const Stats& s, std::string (*show)(double), double ClockStats::*field, bool ClockStats::*known) {
  std::string modelled = s.modelled.*known ? show(s.modelled.*field) : "-";
  return fmt::format("  {:<26}{:>14}{:>14}\n", name, show(s.wall.*field), modelled);
}

std::string models_of(const Answer& a) {
  std::string all = a.prefill.timing;
  if (!a.decode.timing.empty() && a.decode.timing != all) all += (all.empty() ? "" : ", ") + a.decode.timing;
  if (!all.empty() && !a.transfer.fabric.empty()) all += ", link efa-trn2";
  return all.empty() ? "none: nothing below has a timing model" : all;
}

json clock_json(const ClockStats& c) {
  if (!c.prefill && !c.decode) return nullptr;
  auto known = [](bool k, double v) { return k ? json(v) : json(nullptr); };
  return {{"ttft_ms", known(c.prefill, c.ttft_ms)},
          {"prefill_ms", known(c.prefill, c.prefill_ms)},
          {"prefill_tokens_per_s", known(c.prefill, c.prefill_per_s)},
          {"transfer_ms", known(c.prefill, c.transfer_ms)},
          {"transfer_hidden", known(c.prefill, c.hidden)},
          {"itl_median_ms", known(c.decode, c.itl_median_ms)},
          {"itl_p99_ms", known(c.decode, c.itl_p99_ms)},
          {"decode_tokens_per_s", known(c.decode, c.decode_per_s)}};
}

json leg_json(const Leg& l) {
  return {{"where", l.where}, {"device", l.title}, {"ranks", l.ranks}, {"timing_model", l.timing.empty() ? json(nullptr) : json(l.timing)}};
}

// A lane or link is a lane of the trace, on the wall clock and by the model.
class TraceWriter {
 public:
  explicit TraceWriter(const Answer& a) : a_(a) {
    trace_.process(kWall, "wall");
    trace_.process(kModelled, "modelled (" + models_of(a) + ")");
  }
  void add(const Leg& leg) {
    for (const Span& s : leg.spans) add(leg.role, s);
  }
  void add(const std::string& group, const Span& s) {
    put(kWall, group, s, s.wall_begin, s.wall_end, a_.began.wall);
    if (s.modelled_end) put(kModelled, group, s, s.modelled_begin, s.modelled_end, a_.began.modelled);
  }
  std::string text() { return std::string(Trace::kHead) + trace_.take() + std::string(Trace::kTail); }

 private:
  using Trace = layers::ChromeTrace;
  static constexpr int kWall = 1, kModelled = 2;
  void put(int pid, const std::string& group, const Span& s, uint64_t begin, uint64_t end, uint64_t zero) {
    const double at = (double(begin) - double(zero)) / 1e3;  // microseconds
    const int lane = trace_.lane(pid, s.lane);
    if (s.what == "mark") return trace_.mark(pid, lane, "mark", at);
    trace_.span(pid, lane, group + " " + s.what, at, double(end - begin) / 1e3, fmt::format("\"bytes\":{},\"failed\":{}", s.bytes, s.failed));
  }
  const Answer& a_;
  Trace trace_;
};

}  // namespace

std::string Check::text() const {
  if (!same_tokens) return fmt::format("DIFFERENT tokens from one device ({})", device);
  if (!same_logits) return fmt::format("same tokens as one device ({}), but different logits", device);
  return fmt::format("same tokens as one device ({}), and the same logits bit for bit in all {} steps", device, steps);
}

std::string stats_text(const Answer& a) {
  Stats s = stats_of(a);
  std::string out = fmt::format("prefill   {}{}\n", a.prefill.title, a.prefill.ranks > 1 ? fmt::format(", {} ranks", a.prefill.ranks) : "");
  out += fmt::format("decode    {}\n", a.decode.title);
  if (!s.fabric.empty()) out += fmt::format("hand-over {} in {} segments by {}\n", amount(s.kv_bytes), s.kv_segments, s.fabric);
  for (const Transfer::Rail& r : a.transfer.rails)
    out += fmt::format("  rail    {} > {}: {}{}\n", r.nic, r.peer_nic, amount(r.bytes), r.failures ? fmt::format(", failed {} times", r.failures) : "");
  out += fmt::format("tokens    {} prompt, {} generated ({}{})\n", a.prompt_tokens, a.tokens.size(), a.finish, a.context_full ? ": the context is full" : "");
  out += fmt::format("  {:<26}{:>14}{:>14}\n", "", "wall", "modelled");
  out += row(a.first_by_decode ? "first token, by decode" : s.fabric.empty() ? "time to first token" : "first token, by prefill", s, time_text, &ClockStats::ttft_ms, &ClockStats::prefill);
  out += row("inter-token, median", s, time_text, &ClockStats::itl_median_ms, &ClockStats::decode);
  out += row("inter-token, p99", s, time_text, &ClockStats::itl_p99_ms, &ClockStats::decode);
  out += row("prefill", s, rate_text, &ClockStats::prefill_per_s, &ClockStats::prefill);
  out += row("decode", s, rate_text, &ClockStats::decode_per_s, &ClockStats::decode);
  if (!s.fabric.empty()) {
    out += row("KV transfer", s, time_text, &ClockStats::transfer_ms, &ClockStats::prefill);
    out += row("  hidden behind prefill", s, [](double v) { return fmt::format("{:.0f} %", v * 100); }, &ClockStats::hidden, &ClockStats::prefill);
  }
  out += fmt::format("  wall: this machine, emulating. modelled: {}\n", models_of(a));
  return out;
}

json answer_json(const Answer& a, const std::string& model, const std::string& text, const std::optional<Check>& check) {
  Stats s = stats_of(a);
  json ids = json::array();
  for (const Token& t : a.tokens) ids.push_back(t.id);
  json j = {{"schema", "baton.generate/1"}, {"model", model},       {"text", text},          {"tokens", ids},
            {"prompt_tokens", a.prompt_tokens}, {"finish", a.finish}, {"first_token", s.fabric.empty() ? json(nullptr) : json(a.first_by_decode ? "decode" : "prefill")}, {"context_full", a.context_full}, {"prefill", leg_json(a.prefill)},
            {"decode", leg_json(a.decode)},   {"wall", clock_json(s.wall)}, {"modelled", clock_json(s.modelled)}};
  j["kv"] = s.fabric.empty() ? json(nullptr) : json{{"fabric", s.fabric}, {"bytes", s.kv_bytes}, {"segments", s.kv_segments}};
  for (const Transfer::Rail& r : a.transfer.rails) j["kv"]["rails"].push_back({{"nic", r.nic}, {"peer_nic", r.peer_nic}, {"bytes", r.bytes}, {"failures", r.failures}});
  if (check)
    j["check"] = {{"device", check->device}, {"same_tokens", check->same_tokens}, {"same_logits", check->same_logits}, {"steps", check->steps}, {"ttft_ms", check->ttft_ms}};
  return j;
}

std::string chrome_trace(const Answer& a) {
  TraceWriter w(a);
  w.add(a.prefill);
  for (const Span& s : a.transfer.spans) w.add("KV", s);
  w.add(a.decode);
  return w.text();
}

}  // namespace baton::runtime
