// health: what is wrong on this machine as far as it can be seen without touching anything, and what to do about each.
#include "tools/devctl/care.h"
#include "tools/devctl/chips.h"
#include "tools/devctl/files.h"
#include "tools/devctl/machine.h"
#include "tools/devctl/nics.h"
#include "tools/devctl/pages.h"
#include "tools/devctl/rails.h"
#include "tools/devctl/wafers.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

namespace baton::devctl {
namespace {

constexpr uint64_t kStuckNs = 2'000'000'000;         // an op that takes so long without another ending is worth a look
constexpr uint64_t kLockedBytes = 64ull << 20;       // what a landing over RDMA pins, with room (transport/verbs.cc: 8 MiB a request)
constexpr uint64_t kSharedBytes = 64ull << 20;
constexpr double kPowerPercent = 98;
constexpr uint32_t kAskMs = 400;                     // a wafer daemon, for an answer

// Findings as they come; what was looked at is counted, so that "nothing is wrong" says how much that is.
class Findings {
 public:
  // `bad`: a finding, else a check that is well.
  void check(bool bad, const char* severity, const std::string& subject, const char* what_kind, const std::function<std::string()>& what, const std::string& next) {
    ++checks_;
    if (bad) all_.push_back({{"severity", severity}, {"subject", subject}, {"check", what_kind}, {"what", what()}, {"next", next}});
  }
  json document() {
    // Errors first, and of those causes before what comes of them.
    auto rank = [](const json& f) { return 2 * (f.at("severity") != "error") + (f.at("check") == "stuck" || f.at("check") == "failed"); };
    std::stable_sort(all_.begin(), all_.end(), [&](auto& a, auto& b) { return rank(a) < rank(b); });
    const bool caused = !all_.empty() && rank(all_[0]) == 0;
    for (json& f : all_)
      if (caused && f.at("check") == "stuck") f["next"] = "what holds it up may be above; " + f.at("next").get<std::string>();
    return {{"healthy", all_.empty()}, {"checks", checks_}, {"findings", all_}};
  }

 private:
  uint64_t checks_ = 0;
  std::vector<json> all_;
};

void look_at_chip(const Chip& c, Findings& f) {
  const std::string name = fmt::format("trn{}", c.index);
  f.check(c.state == 2, "error", name, "state", [] { return "the kernel driver calls the chip invalid: a reset has failed"; }, "reboot the instance; if it stays so, replace it");
  for (auto& entry : c.hardware) {
    const std::string& counter = entry.first;
    const uint64_t n = entry.second;
    const bool uncorrected = counter.find("uncorrected") != std::string::npos, repairable = counter.find("repairable") != std::string::npos;
    if (uncorrected)
      f.check(n > 0, repairable ? "warning" : "error", name, "ecc", [&] { return fmt::format("{} {}: {}", n, counter, repairable ? "a reset repairs the rows" : "what was in that memory is lost"); },
              repairable ? fmt::format("when its work is done: devctl reset {}", name) : fmt::format("stop work on it, then devctl reset {}; if it comes again, replace the instance", name));
  }
  for (auto& entry : c.status) {
    const std::string& outcome = entry.first;
    const uint64_t n = entry.second;
    if (outcome.starts_with("hw_") || outcome == "timeout")
      f.check(n > 0, outcome.starts_with("hw_") ? "error" : "warning", name, "executions", [&] { return fmt::format("executions that ended with {}: {}", outcome, n); },
              outcome.starts_with("hw_") ? fmt::format("see dmesg; devctl reset {}, then devctl diag -l 2 --device {}", name, name) : "a program hangs or needs longer than NEURON_RT_EXEC_TIMEOUT");
  }
  f.check(c.resets_failed > 0, "warning", name, "resets", [&] { return fmt::format("{} of {} resets failed", c.resets_failed, c.resets); }, "somebody had it open: devctl who " + name);
  f.check(c.power_percent >= kPowerPercent, "warning", name, "power", [&] { return fmt::format("draws {:.1f} % of its most, on average of a minute: it is slowed down", c.power_percent); }, "look at the cooling, or spread the work");
}

void look_at_nics(const std::vector<Nic>& nics, Findings& f) {
  std::map<std::string, std::set<std::string>> rates;  // of a kind
  for (auto& n : nics)
    for (auto& p : n.ports)
      if (p.state == "ACTIVE") rates[n.kind].insert(p.rate);
  for (auto& n : nics) {
    f.check(n.ports.empty(), "error", n.name, "ports", [] { return "it shows no port"; }, "see dmesg for its driver");
    for (auto& p : n.ports) {
      const std::string name = n.ports.size() > 1 ? fmt::format("{}:{}", n.name, p.number) : n.name;
      f.check(p.state != "ACTIVE", "error", name, "link", [&] { return fmt::format("port {} is {}, physically {}: this rail is dead", p.number, p.state.empty() ? "silent" : p.state, p.physical.empty() ? "unknown" : p.physical); },
              p.netdev.empty() ? "look at the cable and at the switch's port" : fmt::format("look at the cable and at the switch's port; ip link show {}", p.netdev));
      for (const char* counter : nic_error_counters()) {
        auto it = p.counters.find(counter);
        if (it == p.counters.end()) continue;
        f.check(it->second > 0, "warning", name, "errors", [&] { return fmt::format("{} {}", it->second, counter); },
                std::string_view(counter) == "rx_drops" || std::string_view(counter).find("remote") != std::string_view::npos ? "compare with the peer's counters; a peer that is gone counts here" : "a cable or a transceiver that is going bad: change it before it dies");
      }
      if (rates[n.kind].size() > 1)
        f.check(p.state == "ACTIVE" && p.rate != *std::max_element(rates[n.kind].begin(), rates[n.kind].end(), [](auto& a, auto& b) { return atof(a.c_str()) < atof(b.c_str()); }), "warning", name, "rate",
                [&] { return fmt::format("runs at {}, others of its kind faster", p.rate); }, "look at the cable and the switch's port: striping waits for the slowest rail");
    }
  }
}

// "1 request of pid 7 (baton worker) waits, the oldest for 12 s", "" if none is in flight.
std::string requests_text(const Page& p, const json& values) {
  const uint64_t n = values.value("baton_requests", uint64_t(0)), oldest = values.value("baton_request_oldest_seconds", uint64_t(0));
  if (!n) return "";
  return fmt::format("; {} request{} of pid {} in flight{}", n, n == 1 ? "" : "s", p.pid, oldest ? fmt::format(", the oldest for {}", ns_text(double(oldest))) : "");
}

// Its environment, as far as this user may read it, has faults of fabrics in it.
bool has_planned_faults(uint32_t pid) {
  const std::string zero(1, '\0');
  return (zero + whole_file(fmt::format("/proc/{}/environ", pid))).find(zero + "BATON_FABRIC_FAULTS=") != std::string::npos;
}

void look_at_rails(const Page& p, Findings& f) {
  json values = json::object();
  for (const PageRow& r : p.rows)
    if (r.n.kind == BATON_STATS_VALUE) values[r.name] = r.n.value;
  const auto rails = rails_of(values);
  std::string others;  // that work
  for (const RailState& r : rails)
    if (!r.dead() && !r.silent()) others += (others.empty() ? "" : ",") + r.local();
  for (const RailState& r : rails) {
    const std::string what = r.dead() ? fmt::format("is dead since {}{}", utc_text(r.down_since_ns), r.failures ? fmt::format(", failed {} time{}", r.failures, r.failures == 1 ? "" : "s") : ", never connected")
                                      : fmt::format("is silent: nothing of what is on its way by it was complete for {}", ns_text(double(r.silent_ns)));
    std::string next = fmt::format("look at both ends: ip link show {}; devctl info {}", r.nic.substr(0, r.nic.find(' ')), r.peer.substr(0, r.peer.find(' ')));
    if (has_planned_faults(p.pid)) next = fmt::format("BATON_FABRIC_FAULTS of pid {} plans that: start it without", p.pid);
    next += others.empty() ? "; no other rail works" : fmt::format("; or go without it: start both workers with --rails {}", others);
    f.check(p.alive && (r.dead() || r.silent()), "error", "rail " + r.name(), "rail", [&] { return what + requests_text(p, values); }, next);
  }
}

// Who has work for that daemon that does not end.
std::string waiting_text(const std::vector<Page>& pages, const std::string& address) {
  std::string text;
  for (const Page& p : pages) {
    uint64_t open = 0, idle = 0;
    for (const PageRow& r : p.rows) {
      if (!p.alive || (r.n.kind != BATON_STATS_LANE && r.n.kind != BATON_STATS_LINK) || r.name.find(address) == std::string::npos || r.n.submitted == r.n.done) continue;
      open += r.n.submitted - r.n.done;
      idle = std::max(idle, now_ns() - std::min(now_ns(), r.n.changed_ns));
    }
    if (open) text += fmt::format("{}pid {} ({}), {} op{} for {}", text.empty() ? "; waiting: " : "; ", p.pid, short_command(p.command, 30), open, open == 1 ? "" : "s", ns_text(double(idle)));
  }
  return text;
}

void look_at_wafer(const json& w, const std::vector<Page>& pages, Findings& f) {
  const std::string name = wafer_label(w), daemon = w.at("daemon");
  if (const json& e = w.at("error"); !e.is_null()) {
    // A bridge has one client, who is at work.
    f.check(e.at("code") != "BUSY", "warning", name, "daemon", [&] { return "could not be asked: " + e.at("what").get<std::string>(); }, e.at("next"));
    return;
  }
  f.check(w.at("lost"), "error", name, "lost", [&] { return "the wafer is lost: nothing runs on it" + waiting_text(pages, daemon); }, fmt::format("devctl reset {}", daemon));
  const auto faults = channel_faults(w);
  f.check(false, "", name, "channels", nullptr, "");
  for (const ChannelFault& c : faults)
    f.check(true, c.dead ? "warning" : "error", name, "channel", [&] { return c.what + (c.dead ? "" : waiting_text(pages, daemon)); }, c.next);
}

void look_at_process(const Page& p, Findings& f) {
  const std::string name = fmt::format("pid {}", p.pid);
  const uint64_t now = now_ns();
  uint64_t left = 0;
  for (const PageRow& r : p.rows) {
    if (r.n.kind == BATON_STATS_DEVICE) {
      f.check(p.alive && r.n.lost, "error", r.name, "lost", [&] { return fmt::format("was lost, and {} ({}) has not reset it", name, short_command(p.command, 30)); }, "reset it there (baton_reset), or end that process: devctl explain DEVICE_LOST");
      continue;
    }
    if (r.n.kind == BATON_STATS_VALUE) continue;
    const uint64_t open = r.n.submitted - r.n.done;
    left += open;
    if (!p.alive) continue;
    f.check(open && now > r.n.changed_ns + kStuckNs, "error", r.name, "stuck",
            [&] { return fmt::format("{} op{} of {} ({}) open, and nothing has ended for {}", open, open == 1 ? "" : "s", name, short_command(p.command, 30), ns_text(double(now - r.n.changed_ns))); },
            "devctl stats --delta shows what still moves; a deadline or closing the queue ends the wait");
    f.check(r.n.failed > 0, "warning", r.name, "failed", [&] { return fmt::format("{} of {} ops of {} failed", r.n.failed, r.n.done, name); }, "its error text says why; devctl explain CODE");
  }
  if (!p.alive) f.check(left > 0, "warning", name, "killed", [&] { return fmt::format("{} ended without closing, ops open: {}", short_command(p.command, 30), left); }, "its peers free their blocks within the lease; start it again");
}

void look_at_host(const Context& c, const std::vector<Nic>& nics, Findings& f) {
  rlimit locked{};
  getrlimit(RLIMIT_MEMLOCK, &locked);
  f.check(!nics.empty() && locked.rlim_cur < kLockedBytes, "warning", "host", "memlock", [&] { return fmt::format("only {} may be locked: a landing over RDMA pins more", bytes_text(locked.rlim_cur)); },
          "ulimit -l unlimited, or LimitMEMLOCK=infinity in its unit");
  struct statvfs shm {};
  const bool known = !statvfs("/dev/shm", &shm);
  f.check(known && uint64_t(shm.f_bavail) * shm.f_frsize < kSharedBytes, "warning", "host", "shared memory", [&] { return fmt::format("/dev/shm has {} left", bytes_text(uint64_t(shm.f_bavail) * shm.f_frsize)); },
          "remove what the dead have left: ls -l /dev/shm");
  f.check(c.devices.options().drivers.empty(), "error", "host", "drivers", [] { return "no driver is installed"; }, "install libbaton0, or set BATON_DRIVER_PATH");
}

void look_at_neuron(const Context& c, const std::vector<Chip>& chips, Findings& f) {
  auto machine = probe_machine();
  if (!machine) return;
  const auto on_pci = std::count_if(machine->pci.begin(), machine->pci.end(), [](auto& p) { return p.what.starts_with("Trainium") || p.what.starts_with("Inferentia"); });
  f.check(on_pci > 0 && chips.empty(), "error", "host", "kernel driver", [&] { return fmt::format("{} Neuron chips on PCI, and no kernel driver shows them", on_pci); }, "modprobe neuron, or install aws-neuronx-dkms");
  f.check(on_pci > 0 && !chips.empty() && size_t(on_pci) != chips.size(), "error", "host", "kernel driver", [&] { return fmt::format("{} Neuron chips on PCI, {} in sysfs", on_pci, chips.size()); }, "see dmesg for the chips that the driver refused");
  const auto& drivers = c.devices.options().drivers;
  f.check(!chips.empty() && std::find(drivers.begin(), drivers.end(), "neuron") == drivers.end(), "error", "host", "drivers", [] { return "there are Neuron chips, and libbaton-driver-neuron.so is not installed"; }, "install libbaton0");
}

std::string health_text(const Output& out, const json& doc) {
  const json& all = doc.at("findings");
  const uint64_t checks = doc.at("checks");
  if (all.empty()) return fmt::format("{} checks, nothing wrong\n", checks);
  std::string text;
  for (auto& f : all)
    text += fmt::format("{}  {}: {}\n  next: {}\n", out.bold(f.at("severity").get<std::string>()), clean(f.at("subject").get<std::string>()), clean(f.at("what").get<std::string>()), clean(f.at("next").get<std::string>()));
  return text + fmt::format("{} of {} checks found something\n", all.size(), checks);
}

}  // namespace

Result<json> health_document(const Context& c) {
  Findings f;
  const std::string& sysfs = c.devices.options().sysfs;
  const auto nics = read_nics(sysfs);
  const auto chips = read_chips(sysfs);
  look_at_host(c, nics, f);
  look_at_neuron(c, chips, f);
  for (auto& chip : chips) look_at_chip(chip, f);
  look_at_nics(nics, f);
  const auto pages = read_pages(page_folders(c.devices.instance().stats_folder()));
  for (auto& p : pages) look_at_process(p, f), look_at_rails(p, f);
  for (auto& w : wafers_json(known_daemons(c, pages), kAskMs)) look_at_wafer(w, pages, f);
  return f.document();
}

int health(const Context& c) {
  auto doc = reading(c, "health", health_document);
  const int code = c.out.show("health", doc, [&](const json& d) { return health_text(c.out, d); });
  return code == kOk && !doc->at("healthy") ? int(kFinding) : code;
}

}  // namespace baton::devctl
