// top: devices, links, requests and their times, live on a terminal.
#include "tools/devctl/top.h"

#include "tools/devctl/pages.h"
#include "tools/devctl/rails.h"
#include "tools/devctl/screen.h"
#include "tools/devctl/wafers.h"
#include "tools/devctl/watch.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <sstream>

namespace baton::devctl {
namespace {

constexpr uint64_t kChipsNs = 10'000'000'000;  // thousands of files on a machine of 64

std::string text_of(const json& j, const char* key) { return clean(j.at(key).get<std::string>()); }

std::string clipped(const std::string& s, size_t most) { return s.size() <= most ? s : s.substr(0, most - 1) + "~"; }

// Of a process's values, "" if it has none of that name.
std::string value_of(const json& values, const std::string& name, bool time) {
  auto it = values.find(name);
  if (it == values.end()) return "-";
  const double v = it->get<double>();
  return time ? (v > 0 ? ns_text(v) : "-") : fmt::format("{:.0f}", v);
}

std::string program_of(const json& p) {
  std::string s = text_of(p, "command");
  const size_t space = std::min(s.find(' '), s.size()), slash = s.rfind('/', space);
  return slash < space ? s.substr(slash + 1) : s;
}

void add_table(std::vector<std::string>& lines, const Output& out, const Table& t) {
  std::istringstream text(t.text());
  bool first = true;
  for (std::string line; std::getline(text, line); first = false) lines.push_back(first ? out.bold(line) : line);
}

bool has_requests(const json& p) { return p.at("values").contains("baton_requests"); }

// `delta` has the same processes in the same order.
const json& rates(const json& delta, size_t i) { return delta.at("processes").at(i); }

void queue_rows(Table& t, const json& now, const json& delta, bool links, bool busy_only) {
  for (size_t i = 0; i < now.at("processes").size(); ++i) {
    const json& p = now["processes"][i];
    for (size_t k = 0; k < p.at("queues").size(); ++k) {
      const json& q = p["queues"][k];
      if ((q.at("kind") != "lane") != links) continue;
      const uint64_t open = q.at("submitted").get<uint64_t>() - q.at("done").get<uint64_t>();
      const json* r = delta.is_null() ? nullptr : &rates(delta, i).at("queues").at(k);
      if (busy_only && !open && (!r || r->at("ops_per_s") == 0.0)) continue;
      const double modelled = r ? r->at("modelled_ns_per_s").get<double>() : 0;
      t.row({clipped(text_of(q, "queue"), 34), fmt::format("{}{}", p.at("pid").get<uint32_t>(), p.at("alive") ? "" : "+"), r ? fmt::format("{:.0f}", r->at("ops_per_s").get<double>()) : "-",
             r ? rate_text(r->at("bytes_per_s")) : "-", std::to_string(open), open ? ns_text(double(q.at("idle_ns").get<uint64_t>())) : "-",
             std::to_string(q.at("failed").get<uint64_t>()), modelled > 0 ? fmt::format("{:.1f} %", modelled / 1e7) : "-"});
    }
  }
}

std::vector<std::string> help_lines() {
  return {"", "  q        quit", "  ?        this help, and back", "  p space  pause, go on", "  b        busy ones only, or all", "",
          "  OPS/s, RATE   what ended in the last second, wall time", "  OPEN          submitted and not ended; STUCK FOR: since something last ended",
          "  MODELLED      time of the timing model that passed in a second of wall time", "  TTFT, ITL     of the last requests, wall time; MODELLED beside them: ITL p50 by the model",
          "  PID+          that process was killed: these are its last counts", "", "  devctl health says what is wrong, devctl stats has every number"};
}

// By the names of EFA's counters, or of those that every RDMA port has.
uint64_t nic_bytes(const json& port, bool sent) {
  const json& counters = port.at("counters");
  return std::max(counters.value(sent ? "tx_bytes" : "rx_bytes", uint64_t(0)), counters.value(sent ? "port_xmit_data" : "port_rcv_data", uint64_t(0)));
}

std::string port_name(const json& nic, const json& port) { return fmt::format("{}/{}", text_of(nic, "name"), port.at("port").get<uint32_t>()); }

}  // namespace

json nic_rates(const json& before, const json& now, double seconds) {
  std::map<std::string, const json*> was;
  for (auto& n : before.at("nics"))
    for (auto& p : n.at("ports")) was[port_name(n, p)] = &p;
  json rates = json::object();
  for (auto& n : now.at("nics"))
    for (auto& p : n.at("ports")) {
      const auto old = was.find(port_name(n, p));
      if (old == was.end()) continue;
      auto rate = [&](bool sent) {
        const uint64_t a = nic_bytes(*old->second, sent), b = nic_bytes(p, sent);
        return b > a ? double(b - a) / seconds : 0.0;
      };
      rates[old->first] = {{"sent_per_s", rate(true)}, {"received_per_s", rate(false)}};
    }
  return rates;
}

std::string chips_line(const json& before, const json& now, double seconds) {
  if (now.empty()) return "";
  const auto sum = [](const json& chips, const char* key) {
    uint64_t n = 0;
    for (auto& chip : chips) n += chip.at(key).get<uint64_t>();
    return n;
  };
  size_t troubled = 0;
  for (auto& chip : now) {
    uint64_t bad = 0;
    for (auto& [name, v] : chip.at("hardware").items()) bad += name.ends_with("uncorrected") ? v.get<uint64_t>() : 0;
    troubled += bad > 0 || chip.at("state") != "ready";
  }
  std::string line = fmt::format("{} {} chip{}, {} of HBM used", now.size(), text_of(now[0], "instance"), now.size() == 1 ? "" : "s", bytes_text(sum(now, "memory_bytes_used")));
  const uint64_t done = sum(now, "executed"), had = before.is_null() ? 0 : sum(before, "executed");
  if (!before.is_null()) line += fmt::format(", {:.0f} executions/s", done > had ? double(done - had) / seconds : 0.0);
  if (troubled) line += fmt::format(", {} in trouble: devctl health", troubled);
  return line;
}

std::vector<std::string> top_lines(const Output& out, const json& now, const json& delta, const TopView& view) {
  std::vector<std::string> lines;
  uint64_t requests = 0, devices = 0;
  for (auto& p : now.at("processes")) {
    devices += p.at("devices").size();
    if (has_requests(p)) requests += p.at("values").at("baton_requests").get<uint64_t>();
  }
  lines.push_back(out.bold(fmt::format("devctl top  {}  {}  {} processes, {} devices open, {} requests{}", view.host, view.clock, now.at("processes").size(), devices, requests, view.paused ? "  PAUSED" : "")));
  if (view.help) {
    for (auto& l : help_lines()) lines.push_back(l);
    return lines;
  }
  Table serving({"WORKER", "PID", "REQS", "TOK/s", "TTFT p50", "ITL p50", "ITL p99", "MODELLED"});
  for (size_t column = 1; column < 8; ++column) serving.right(column);
  for (size_t i = 0; i < now.at("processes").size(); ++i) {
    const json& p = now["processes"][i];
    if (!has_requests(p)) continue;
    const json& v = p.at("values");
    auto q = [&](const char* metric, const char* quantile) { return value_of(v, fmt::format("{}{{quantile=\"{}\"}}", metric, quantile), true); };
    serving.row({clipped(program_of(p), 14), fmt::format("{}{}", p.at("pid").get<uint32_t>(), p.at("alive") ? "" : "+"), value_of(v, "baton_requests", false),
                 delta.is_null() ? "-" : value_of(rates(delta, i).at("values"), "baton_tokens_total", false), q("baton_ttft_wall_seconds", "0.5"),
                 q("baton_itl_wall_seconds", "0.5"), q("baton_itl_wall_seconds", "0.99"), q("baton_itl_modelled_seconds", "0.5")});
  }
  if (!serving.empty()) lines.push_back(""), add_table(lines, out, serving);
  Table rails({"RAIL", "PID", "BYTES", "FAILED", "STATE"});
  for (size_t column : {1, 2, 3}) rails.right(column);
  for (auto& p : now.at("processes"))
    for (const RailState& r : rails_of(p.at("values")))
      rails.row({clipped(r.name(), 34), fmt::format("{}{}", p.at("pid").get<uint32_t>(), p.at("alive") ? "" : "+"), bytes_text(r.bytes), std::to_string(r.failures), state_text(r)});
  if (!rails.empty()) lines.push_back(""), add_table(lines, out, rails);
  if (!view.chips.empty()) lines.push_back(""), lines.push_back(view.chips);
  Table nics({"NIC", "LINK", "STATE", "SENT", "RECEIVED"});
  for (size_t column : {3, 4}) nics.right(column);
  for (auto& n : now.value("nics", json::array()))
    for (auto& p : n.at("ports")) {
      const std::string name = port_name(n, p);
      const json* r = delta.is_null() || !delta.contains("nics") || !delta["nics"].contains(name) ? nullptr : &delta["nics"][name];
      if (view.busy_only && p.at("state") == "ACTIVE" && (!r || (r->at("sent_per_s") == 0.0 && r->at("received_per_s") == 0.0))) continue;
      nics.row({clipped(name, 24), clipped(text_of(p, "rate"), 24), text_of(p, "state"), r ? rate_text(r->at("sent_per_s")) : "-", r ? rate_text(r->at("received_per_s")) : "-"});
    }
  Table wafers({"WAFER", "CLIENTS", "WAITED", "CHANNELS"});
  for (size_t column : {1, 2}) wafers.right(column);
  for (auto& w : now.value("wafers", json::array())) {
    if (!w.at("error").is_null()) wafers.row({wafer_label(w), "-", "-", clean(w["error"].at("what").get<std::string>())});
    else wafers.row({wafer_label(w), std::to_string(w.at("sessions").get<uint64_t>()), ns_text(double(w.at("waited_ns").get<uint64_t>())), w.at("lost") ? "LOST" : channels_text(w)});
  }
  if (!wafers.empty()) lines.push_back(""), add_table(lines, out, wafers);
  Table held({"DEVICE", "PID", "COMMAND", "MEMORY", "BUFFERS", "STATE"});
  for (size_t column : {1, 3, 4}) held.right(column);
  for (auto& p : now.at("processes"))
    for (auto& d : p.at("devices"))
      held.row({clipped(text_of(d, "device"), 30), fmt::format("{}{}", p.at("pid").get<uint32_t>(), p.at("alive") ? "" : "+"), clipped(program_of(p), 20), bytes_text(d.at("memory_bytes")),
                std::to_string(d.at("buffers").get<uint64_t>()), d.at("lost") ? "LOST" : p.at("alive") ? "open" : "was killed"});
  lines.push_back("");
  if (held.empty()) lines.push_back("no process of this user has a device open");
  else add_table(lines, out, held);
  for (bool links : {false, true}) {
    Table queues({links ? "LINK" : "QUEUE", "PID", "OPS/s", "RATE", "OPEN", "STUCK FOR", "FAILED", "MODELLED"});
    for (size_t column = 1; column < 8; ++column) queues.right(column);
    queue_rows(queues, now, delta, links, view.busy_only);
    if (!queues.empty()) lines.push_back(""), add_table(lines, out, queues);
  }
  if (!nics.empty()) lines.push_back(""), add_table(lines, out, nics);
  const std::string foot = out.dim("q quit   ? help   p pause   b busy only");
  if (lines.size() >= view.height) {
    lines.resize(view.height - 1);
    lines.back() = out.dim("...more than fits: devctl stats has every row");
  }
  lines.resize(view.height - 1);
  lines.push_back(foot);
  return lines;
}

int top(const Context& c, const TopCall& call) {
  Screen screen;
  if (!screen.ok()) return c.out.fail(kUnsupported, "top draws on a terminal, and this is none", "devctl stats --delta prints once");
  TopView view;
  char host[256] = "?";
  gethostname(host, sizeof host - 1);
  view.host = clipped(host, 24);
  json before, now, delta, chips;
  uint64_t before_ns = 0, chips_ns = 0;
  for (uint32_t frame = 0; !interrupted() && (!call.frames || frame < call.frames); ++frame) {
    const uint64_t due = now_ns() + uint64_t(call.interval_ms) * 1'000'000;
    if (!view.paused) {
      now = live_document(c);
      const uint64_t taken = now_ns();
      if (!before.is_null()) {
        const double seconds = double(taken - before_ns) / 1e9;
        delta = stats_delta(before, now, seconds);
        delta["nics"] = nic_rates(before, now, seconds);
      }
      if (!chips_ns || taken - chips_ns >= kChipsNs) {
        json all = chips_document(c);
        view.chips = chips_line(chips, all, double(taken - chips_ns) / 1e9);
        chips = std::move(all);
        chips_ns = taken;
      }
      before = now;
      before_ns = taken;
      view.clock = fmt::format("{:%H:%M:%S}Z", fmt::gmtime(std::time(nullptr)));
    }
    for (bool waiting = true; waiting && !interrupted();) {
      screen.measure();
      view.width = screen.width(), view.height = std::max<size_t>(screen.height(), 3);
      screen.draw(top_lines(c.out, now, delta, view));
      const uint64_t at = now_ns();
      const int key = screen.key(due > at ? uint32_t((due - at) / 1'000'000) : 0);
      if (key == 'q' || key == 'Q') return kOk;
      if (key == '?' || key == 'h') view.help = !view.help;
      else if (key == 'p' || key == ' ') view.paused = !view.paused;
      else if (key == 'b') view.busy_only = !view.busy_only;
      waiting = key != 0 && now_ns() < due;
    }
  }
  return interrupted() ? kInterrupted : kOk;
}

}  // namespace baton::devctl
