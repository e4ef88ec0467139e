#include "tools/devctl/wafers.h"

#include "drivers/cs3/link/operate.hpp"
#include "tools/devctl/emu.h"

#include <fmt/format.h>

#include <algorithm>

namespace baton::devctl {
namespace {

constexpr double kSlow = 0.8;       // of the median: a channel below it is slow (a guess: an even spread has them equal)
constexpr size_t kFewest = 3;       // rates that make a median

json wafer_json(const WaferDaemon& d, uint32_t number, const cs3::WaferState& s) {
  json channels = json::array();
  for (const cs3::WaferChannel& c : s.channels)
    channels.push_back({{"channel", c.number}, {"dead", c.dead}, {"bytes", c.bytes}, {"busy_ns", c.busy_ns}, {"rate", c.rate ? json(c.rate) : json(nullptr)}});
  return {{"daemon", "cs3://" + d.address}, {"name", d.name}, {"wafer", number}, {"wafers", s.wafers}, {"error", nullptr}, {"pid", s.pid}, {"emulated", s.emulated}, {"modelled", s.modelled},
          {"lost", s.lost}, {"sessions", s.sessions ? s.sessions - 1 : 0}, {"epoch", s.epoch}, {"memory_bytes", s.sram_bytes}, {"memory_bytes_used", s.sram_used}, {"transfers", s.transactions},
          {"ops_failed", s.ops_failed}, {"waited_ns", s.waited_ns}, {"bad_rows", s.bad_rows}, {"channels", channels}};
}

json silent_json(const WaferDaemon& d, uint32_t number, const Error& why) {
  return {{"daemon", "cs3://" + d.address}, {"name", d.name}, {"wafer", number}, {"error", {{"code", baton_code_name(why.code)}, {"what", why.what}, {"next", why.next}}}};
}

double median_rate(const json& channels) {
  std::vector<double> rates;
  for (auto& c : channels)
    if (!c.at("dead") && !c.at("rate").is_null()) rates.push_back(c.at("rate").get<double>());
  if (rates.size() < kFewest) return 0;
  std::nth_element(rates.begin(), rates.begin() + long(rates.size() / 2), rates.end());
  return rates[rates.size() / 2];
}

// Of an emulator: its plan. Of any: fewer channels, as long as those before this one carry more than what it holds up.
std::string remedy(const json& w, uint32_t channel, double rate, double median) {
  const std::string daemon = clean(w.at("daemon").get<std::string>()), name = clean(w.at("name").get<std::string>());
  std::string next;
  if (w.at("emulated")) next = fmt::format("devctl emu fault {} --clear ends it, as its fault plan has it", name.empty() ? daemon : name);
  else next = "have the system's channel serviced; until then its job can leave it out";
  if (rate > 0 && channel > 0 && median * channel > rate * double(w.at("channels").size()))
    next += fmt::format("; or open {}?channels={}, which goes without it", daemon, channel);
  return next;
}

}  // namespace

std::vector<WaferDaemon> daemons_of(const std::string& uri) {
  constexpr std::string_view scheme = "cs3://";
  std::vector<WaferDaemon> all;
  if (!uri.starts_with(scheme)) return all;
  std::string_view left = std::string_view(uri).substr(scheme.size());
  left = left.substr(0, left.find('?'));
  while (!left.empty()) {
    const size_t comma = std::min(left.find(','), left.size());
    if (comma) all.push_back({std::string(left.substr(0, comma)), ""});
    left.remove_prefix(std::min(comma + 1, left.size()));
  }
  return all;
}

std::vector<WaferDaemon> known_daemons(const Context& c, const std::vector<Page>& pages) {
  std::vector<WaferDaemon> all;
  for (const json& s : emulated_systems(c))
    if (s.at("alive"))
      for (WaferDaemon& d : daemons_of(s.at("address"))) all.push_back({d.address, s.at("name")});
  for (const Page& p : pages)
    for (const PageRow& r : p.rows)
      if (p.alive && r.n.kind == BATON_STATS_DEVICE)
        for (WaferDaemon& d : daemons_of(r.name))
          if (std::none_of(all.begin(), all.end(), [&](auto& a) { return a.address == d.address; })) all.push_back(std::move(d));
  return all;
}

json wafers_json(const std::vector<WaferDaemon>& daemons, uint32_t patience_ms) {
  json all = json::array();
  const uint64_t end = deadline_in_ms(2 * patience_ms);
  for (const WaferDaemon& d : daemons)
    for (uint32_t number = 0, wafers = 1; number < wafers; ++number) {
      auto link = cs3::WaferOperator::connect(d.address, number, std::min(end, deadline_in_ms(patience_ms)));
      auto state = link ? link->state() : Result<cs3::WaferState>(link.error());
      if (!state) {
        all.push_back(silent_json(d, number, state.error()));
        break;
      }
      wafers = state->wafers;
      all.push_back(wafer_json(d, number, *state));
    }
  return all;
}

std::vector<ChannelFault> channel_faults(const json& w) {
  std::vector<ChannelFault> all;
  if (!w.at("error").is_null()) return all;
  const json& channels = w.at("channels");
  const double median = median_rate(channels);
  const char* by = w.at("modelled") ? " (modelled)" : "";
  for (auto& c : channels) {
    const uint32_t n = c.at("channel");
    const double rate = c.at("rate").is_null() ? 0 : c.at("rate").get<double>();
    if (c.at("dead"))
      all.push_back({n, true, fmt::format("channel {} of {} is dead: the others carry its share", n, channels.size()), remedy(w, n, 0, 0)});
    else if (median > 0 && rate > 0 && rate < kSlow * median)
      all.push_back({n, false,
                     fmt::format("channel {} of {} is slow: {}, the others {}{}; transfers end with it, and have waited {} so far", n, channels.size(), rate_text(rate),
                                 rate_text(median), by, ns_text(double(w.at("waited_ns").get<uint64_t>()))),
                     remedy(w, n, rate, median)});
  }
  return all;
}

std::string wafer_label(const json& w) {
  const std::string name = clean(w.at("name").get<std::string>()), daemon = clean(w.at("daemon").get<std::string>());
  return fmt::format("{}{} wafer {}", daemon, name.empty() ? "" : " (" + name + ")", w.at("wafer").get<uint32_t>());
}

std::string channels_text(const json& w) {
  const json& channels = w.at("channels");
  if (channels.empty()) return "not told by this daemon";
  const auto dead = std::count_if(channels.begin(), channels.end(), [](auto& c) { return c.at("dead").template get<bool>(); });
  const double median = median_rate(channels);
  std::string text = fmt::format("{} of {} work{}", channels.size() - size_t(dead), channels.size(), median > 0 ? fmt::format(", {} each{}", rate_text(median), w.at("modelled") ? " (modelled)" : "") : "");
  for (const ChannelFault& f : channel_faults(w)) {
    const json& rate = channels[f.channel].at("rate");
    text += f.dead ? fmt::format("; {} is dead", f.channel) : fmt::format("; {} is slow: {}", f.channel, rate_text(rate.get<double>()));
  }
  return text;
}

}  // namespace baton::devctl
