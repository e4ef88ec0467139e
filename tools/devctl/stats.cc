// stats: what processes count: devices, queues and links, and the values that they name themselves.
#include "tools/devctl/chips.h"
#include "tools/devctl/nics.h"
#include "tools/devctl/pages.h"
#include "tools/devctl/wafers.h"
#include "tools/devctl/watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

namespace baton::devctl {
namespace {

constexpr uint32_t kAskMs = 400;  // a wafer daemon, for an answer

std::string text_of(const json& j, const char* key) { return clean(j.at(key).get<std::string>()); }

const char* kind_name(uint32_t kind) { return kind == BATON_STATS_LANE ? "lane" : kind == BATON_STATS_LINK ? "link" : "session"; }

json process_json(const Page& p) {
  json devices = json::array(), queues = json::array(), values = json::object();
  const uint64_t now = now_ns();
  for (const PageRow& r : p.rows) {
    if (r.n.kind == BATON_STATS_DEVICE)
      devices.push_back({{"device", r.name}, {"memory_bytes", r.n.memory_bytes}, {"buffers", r.n.buffers}, {"epoch", r.n.epoch}, {"lost", r.n.lost != 0}});
    else if (r.n.kind == BATON_STATS_VALUE)
      values[r.name] = r.n.value;
    else
      queues.push_back({{"queue", r.name}, {"kind", kind_name(r.n.kind)}, {"submitted", r.n.submitted}, {"done", r.n.done}, {"failed", r.n.failed}, {"bytes", r.n.bytes},
                        {"idle_ns", r.n.changed_ns && now > r.n.changed_ns ? now - r.n.changed_ns : 0}, {"modelled_ns", r.n.modelled_ns}});
  }
  return {{"pid", p.pid}, {"command", p.command}, {"alive", p.alive}, {"since", utc_text(p.opened_ns)}, {"devices", devices}, {"queues", queues}, {"values", values}};
}

std::string who_of(const json& p) {
  std::string s = text_of(p, "command").substr(0, 60);
  return fmt::format("{} {}{}", p.at("pid").get<uint32_t>(), s, p.at("alive") ? "" : "  (was killed; these are its last counts)");
}

std::string value_text(const std::string& name, uint64_t v) {
  if (name.find("_timestamp_seconds") != std::string::npos) return v ? utc_text(v) : "-";
  if (name.find("_seconds") != std::string::npos) return ns_text(double(v));
  if (name.find("_bytes") != std::string::npos) return bytes_text(v);
  return std::to_string(v);
}

std::string stats_text(const Output& out, const json& doc) {
  std::string text;
  const bool delta = doc.contains("seconds");
  for (auto& p : doc.at("processes")) {
    text += fmt::format("{}{}\n", text.empty() ? "" : "\n", out.bold(who_of(p)));
    Table t(delta ? std::vector<std::string>{"  QUEUE", "KIND", "OPS/s", "FAILED/s", "RATE", "OPEN", "MODELLED/s"} : std::vector<std::string>{"  QUEUE", "KIND", "DONE", "FAILED", "BYTES", "OPEN", "LAST CHANGE", "MODELLED"});
    for (size_t column = 2; column < 8; ++column) t.right(column);
    for (auto& q : p.at("queues")) {
      const uint64_t open = delta ? q.at("open").get<uint64_t>() : q.at("submitted").get<uint64_t>() - q.at("done").get<uint64_t>();
      if (delta)
        t.row({"  " + text_of(q, "queue"), text_of(q, "kind"), fmt::format("{:.1f}", q.at("ops_per_s").get<double>()), fmt::format("{:.1f}", q.at("failed_per_s").get<double>()),
               rate_text(q.at("bytes_per_s")), std::to_string(open), ns_text(q.at("modelled_ns_per_s"))});
      else
        t.row({"  " + text_of(q, "queue"), text_of(q, "kind"), std::to_string(q.at("done").get<uint64_t>()), std::to_string(q.at("failed").get<uint64_t>()), bytes_text(q.at("bytes")),
               std::to_string(open), q.at("submitted") == 0 ? "never" : ns_text(double(q.at("idle_ns").get<uint64_t>())) + " ago",
               q.at("modelled_ns") == 0 ? "-" : ns_text(double(q.at("modelled_ns").get<uint64_t>()))});
    }
    if (!t.empty()) text += t.text();
    Table values({"  VALUE", delta ? "NOW OR /s" : "NOW"});
    values.right(1);
    for (auto& [name, v] : p.at("values").items()) {
      if (v.is_number_unsigned()) values.row({"  " + clean(name), value_text(name, v)});
      else values.row({"  " + clean(name), fmt::format("{:.1f}/s", v.get<double>())});
    }
    if (!values.empty()) text += values.text();
    if (t.empty() && values.empty()) text += "  nothing yet\n";
  }
  if (text.empty()) text = "no process of this user has a statistics page\n";
  Table wafers({"  WAFER", "CLIENTS", "TRANSFERS", "WAITED", "CHANNELS"});
  for (size_t column : {1, 2, 3}) wafers.right(column);
  for (auto& w : doc.value("wafers", json::array())) {
    if (!w.at("error").is_null()) wafers.row({"  " + wafer_label(w), "-", "-", "-", clean(w["error"].at("what").get<std::string>())});
    else wafers.row({"  " + wafer_label(w), std::to_string(w.at("sessions").get<uint64_t>()), std::to_string(w.at("transfers").get<uint64_t>()), ns_text(double(w.at("waited_ns").get<uint64_t>())), channels_text(w)});
  }
  return wafers.empty() ? text : text + "\n" + out.bold("wafer daemons") + "\n" + wafers.text();
}

struct Series {
  std::map<std::string, std::vector<std::string>> lines;  // by metric
  std::map<std::string, std::string> type;
  void add(const std::string& metric, const char* kind, const std::string& labels, const std::string& value) {
    type.emplace(metric, kind);
    lines[metric].push_back(fmt::format("{}{{{}}} {}\n", metric, labels, value));
  }
};

std::string label_text(const std::string& s) {
  std::string out;
  for (char ch : clean(s)) out += ch == '"' || ch == '\\' ? std::string("\\") + ch : std::string(1, ch);
  return out;
}

}  // namespace

json stats_delta(const json& before, const json& after, double seconds) {
  json doc = {{"seconds", seconds}, {"processes", json::array()}};
  for (auto& p : after.at("processes")) {
    const json* was = nullptr;
    for (auto& o : before.at("processes"))
      if (o.at("pid") == p.at("pid") && o.at("since") == p.at("since") && o.at("command") == p.at("command")) was = &o;
    json now = {{"pid", p.at("pid")}, {"command", p.at("command")}, {"alive", p.at("alive")}, {"since", p.at("since")}, {"devices", p.at("devices")}, {"queues", json::array()}, {"values", json::object()}};
    // A queue that is new counts from 0; one that went takes its counts with it.
    std::set<size_t> used;
    for (auto& q : p.at("queues")) {
      json old;
      if (was)
        for (size_t i = 0; i < was->at("queues").size() && old.is_null(); ++i) {
          const json& o = was->at("queues")[i];
          if (o.at("queue") != q.at("queue") || o.at("submitted") > q.at("submitted") || !used.insert(i).second) continue;
          old = o;
        }
      auto rate = [&](const char* key) {
        const uint64_t a = old.is_null() ? 0 : old.at(key).get<uint64_t>(), b = q.at(key);
        return b > a ? double(b - a) / seconds : 0.0;
      };
      now["queues"].push_back({{"queue", q.at("queue")}, {"kind", q.at("kind")}, {"ops_per_s", rate("done")}, {"failed_per_s", rate("failed")}, {"bytes_per_s", rate("bytes")},
                               {"modelled_ns_per_s", rate("modelled_ns")}, {"open", q.at("submitted").get<uint64_t>() - q.at("done").get<uint64_t>()}, {"idle_ns", q.at("idle_ns")}});
    }
    for (auto& [name, v] : p.at("values").items()) {
      const bool counter = name.substr(0, name.find('{')).ends_with("_total");
      if (!counter) now["values"][name] = v;
      else now["values"][name] = (double(v.get<uint64_t>()) - (was && was->at("values").contains(name) ? double(was->at("values").at(name).get<uint64_t>()) : 0.0)) / seconds;
    }
    doc["processes"].push_back(now);
  }
  return doc;
}

std::string prometheus_text(const json& doc) {
  Series s;
  for (auto& p : doc.at("processes")) {
    const std::string who = fmt::format("pid=\"{}\",command=\"{}\"", p.at("pid").get<uint32_t>(), label_text(p.at("command").get<std::string>().substr(0, 60)));
    s.add("baton_process_alive", "gauge", who, p.at("alive") ? "1" : "0");
    size_t n = 0;
    for (auto& d : p.at("devices")) {
      const std::string labels = fmt::format("{},device=\"{}\",handle=\"{}\"", who, label_text(d.at("device")), n++);
      s.add("baton_device_memory_bytes", "gauge", labels, std::to_string(d.at("memory_bytes").get<uint64_t>()));
      s.add("baton_device_epoch", "gauge", labels, std::to_string(d.at("epoch").get<uint64_t>()));
      s.add("baton_device_lost", "gauge", labels, d.at("lost") ? "1" : "0");
    }
    n = 0;
    for (auto& q : p.at("queues")) {
      const std::string labels = fmt::format("{},queue=\"{}\",kind=\"{}\",handle=\"{}\"", who, label_text(q.at("queue")), text_of(q, "kind"), n++);
      s.add("baton_queue_ops_total", "counter", labels, std::to_string(q.at("done").get<uint64_t>()));
      s.add("baton_queue_failed_total", "counter", labels, std::to_string(q.at("failed").get<uint64_t>()));
      s.add("baton_queue_bytes_total", "counter", labels, std::to_string(q.at("bytes").get<uint64_t>()));
      s.add("baton_queue_in_flight", "gauge", labels, std::to_string(q.at("submitted").get<uint64_t>() - q.at("done").get<uint64_t>()));
      s.add("baton_queue_modelled_seconds", "gauge", labels, fmt::format("{:.9f}", double(q.at("modelled_ns").get<uint64_t>()) / 1e9));
    }
    for (auto& [name, v] : p.at("values").items()) {
      const size_t brace = name.find('{');
      const std::string metric = name.substr(0, brace), own = brace == std::string::npos ? "" : name.substr(brace + 1, name.rfind('}') - brace - 1);
      const bool seconds = metric.find("_seconds") != std::string::npos;
      s.add(metric, metric.ends_with("_total") ? "counter" : "gauge", who + (own.empty() ? "" : "," + own), seconds ? fmt::format("{:.9f}", double(v.get<uint64_t>()) / 1e9) : std::to_string(v.get<uint64_t>()));
    }
  }
  for (auto& n : doc.at("nics"))
    for (auto& p : n.at("ports")) {
      const std::string labels = fmt::format("nic=\"{}\",port=\"{}\"", label_text(n.at("name")), p.at("port").get<uint32_t>());
      s.add("baton_nic_up", "gauge", labels, p.at("state") == "ACTIVE" ? "1" : "0");
      for (auto& [name, v] : p.at("counters").items()) s.add("baton_nic_count_total", "counter", fmt::format("{},counter=\"{}\"", labels, label_text(name)), std::to_string(v.get<uint64_t>()));
    }
  for (auto& chip : doc.at("chips")) {
    const std::string labels = fmt::format("chip=\"neuron{}\"", chip.at("chip").get<uint32_t>());
    for (auto& [name, v] : chip.at("hardware").items()) s.add("baton_neuron_hardware_total", "counter", fmt::format("{},counter=\"{}\"", labels, label_text(name)), std::to_string(v.get<uint64_t>()));
    s.add("baton_neuron_memory_bytes", "gauge", labels, std::to_string(chip.at("memory_bytes_used").get<uint64_t>()));
    s.add("baton_neuron_executions_total", "counter", labels + ",outcome=\"success\"", std::to_string(chip.at("executed").get<uint64_t>()));
    for (auto& [name, v] : chip.at("failed").items()) s.add("baton_neuron_executions_total", "counter", fmt::format("{},outcome=\"{}\"", labels, label_text(name)), std::to_string(v.get<uint64_t>()));
  }
  for (auto& w : doc.value("wafers", json::array())) {
    const std::string wafer = fmt::format("daemon=\"{}\",wafer=\"{}\"", label_text(w.at("daemon")), w.at("wafer").get<uint32_t>());
    s.add("baton_wafer_up", "gauge", wafer, w.at("error").is_null() && !w.at("lost") ? "1" : "0");
    if (!w.at("error").is_null()) continue;
    s.add("baton_wafer_transfers_total", "counter", wafer, std::to_string(w.at("transfers").get<uint64_t>()));
    s.add("baton_wafer_waited_seconds_total", "counter", wafer, fmt::format("{:.9f}", double(w.at("waited_ns").get<uint64_t>()) / 1e9));
    for (auto& ch : w.at("channels")) {
      const std::string labels = fmt::format("{},channel=\"{}\"", wafer, ch.at("channel").get<uint32_t>());
      s.add("baton_wafer_channel_up", "gauge", labels, ch.at("dead") ? "0" : "1");
      s.add("baton_wafer_channel_bytes_total", "counter", labels, std::to_string(ch.at("bytes").get<uint64_t>()));
      if (!ch.at("rate").is_null()) s.add("baton_wafer_channel_rate_bytes", "gauge", labels, std::to_string(ch.at("rate").get<uint64_t>()));
    }
  }
  std::string text;
  for (auto& [metric, lines] : s.lines) {
    text += fmt::format("# TYPE {} {}\n", metric, s.type[metric]);
    for (auto& l : lines) text += l;
  }
  return text;
}

json chips_document(const Context& c) {
  json chips = json::array();
  for (auto& chip : read_chips(c.devices.options().sysfs)) chips.push_back(chip_json(chip));
  return chips;
}

json live_document(const Context& c) {
  json processes = json::array(), nics = json::array();
  const auto pages = read_pages(page_folders(c.devices.instance().stats_folder()));
  for (const Page& p : pages) processes.push_back(process_json(p));
  for (auto& n : read_nics(c.devices.options().sysfs)) nics.push_back(nic_json(n));
  return json{{"processes", processes}, {"nics", nics}, {"wafers", wafers_json(known_daemons(c, pages), kAskMs)}};
}

Result<json> stats_document(const Context& c) {
  json doc = live_document(c);
  doc["chips"] = chips_document(c);
  return doc;
}

int stats(const Context& c, const StatsCall& call) {
  if (call.delta && c.from) return c.out.fail(kUsage, "--delta needs two moments, and a snapshot is one", "devctl --from FILE stats");
  auto doc = reading(c, "stats", stats_document);
  if (!doc) return c.out.fail(doc.error());
  if (call.prometheus) {
    c.out.print(prometheus_text(*doc));
    return kOk;
  }
  if (!call.delta) return c.out.show("stats", doc, [&](const json& d) { return stats_text(c.out, d); });
  const uint64_t start = now_ns();
  for (const uint64_t until = start + uint64_t(call.interval_ms) * 1'000'000; now_ns() < until && !interrupted();) c.devices.instance().poll_wait(std::min(until, deadline_in_ms(50)));
  if (interrupted()) return kInterrupted;
  auto after = stats_document(c);
  if (!after) return c.out.fail(after.error());
  return c.out.show("stats.delta", stats_delta(*doc, *after, double(now_ns() - start) / 1e9), [&](const json& d) { return stats_text(c.out, d); });
}

}  // namespace baton::devctl
