// reset: a device, or a part of it, as after power-on, unless somebody holds it.
#include "drivers/cs3/link/operate.hpp"
#include "tools/devctl/care.h"
#include "tools/devctl/emu.h"
#include "tools/devctl/wafers.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

namespace baton::devctl {
namespace {

constexpr uint32_t kPatienceMs = 5'000;
constexpr uint32_t kGoneMs = 1'000;  // in which a daemon has seen that a client is gone

struct Target {
  std::string label, uri;
  std::string system;  // the emulated system's name, "" if it is none of devctl's
  std::string scheme() const { return uri.substr(0, uri.find(':')); }
};

Result<std::vector<Target>> targets(const Context& c, const std::string& what) {
  std::vector<Target> all;
  for (const json& s : emulated_systems(c))
    if (s.at("alive") && (s.at("name") == what || s.at("address") == what)) return all.push_back({s.at("name"), s.at("address"), s.at("name")}), all;
  if (is_uri(what)) return all.push_back({what, what, ""}), all;
  BATON_ASSIGN(auto found, c.devices.select(what));
  for (auto& d : found) all.push_back({label(d), d.uri, ""});
  return all;
}

// What a level is for; a device of another kind has none such.
Status has_level(const Target& t, const std::string& level) {
  const bool cs3 = t.scheme() == "cs3", neuron = t.scheme() == "neuron" || t.scheme() == "emu+neuron";
  if (level == "device" || (level == "wafer" && cs3) || (level == "core" && neuron)) return {};
  if (level == "daemon" && cs3) {
    if (!t.system.empty()) return {};
    return Error(BATON_UNSUPPORTED, fmt::format("{} was not started by devctl emu up: its process is not devctl's to end", clean(t.label)), "restart it where it was started, or devctl reset --level wafer");
  }
  return Error(BATON_UNSUPPORTED, fmt::format("{} has no level '{}'", clean(t.label), level), neuron ? "levels of it: core, device" : cs3 ? "levels of it: wafer, device, daemon (of an emulated one)" : "levels of it: device");
}

Status held(const json& who, const Target& t) {
  const std::string plain = t.uri.substr(0, t.uri.find('?'));
  unsigned chip = 0;
  const bool neuron = std::sscanf(t.uri.c_str(), "neuron://%u", &chip) == 1;
  for (auto& h : who.at("holders")) {
    const std::string device = h.at("device");
    if (!h.at("alive") || (device != plain && !(neuron && device == fmt::format("/dev/neuron{}", chip)))) continue;
    return Error(BATON_BUSY, fmt::format("{} is held by process {} ({}){}", clean(t.label), h.at("pid").get<uint32_t>(), clean(h.at("command").get<std::string>()).substr(0, 80),
                                         h.at("since") == "" ? "" : " since " + h.at("since").get<std::string>()),
                 fmt::format("end it first (kill -TERM {}); devctl who {} shows what it does", h.at("pid").get<uint32_t>(), t.system.empty() ? t.label : plain));
  }
  return {};
}

// Each wafer of a CS-3 that the call means; BUSY if somebody has it whom this host's statistics pages do not show.
Result<json> wafers_of(const Target& t, const ResetCall& call) {
  json all = wafers_json(daemons_of(t.uri), kPatienceMs), kept = json::array();
  const auto held = [&] { return std::any_of(all.begin(), all.end(), [](auto& w) { return w.at("error").is_null() && w.at("sessions") != 0; }); };
  for (const uint64_t end = deadline_in_ms(kGoneMs); held() && now_ns() < end && !interrupted();) {
    usleep(20'000);
    all = wafers_json(daemons_of(t.uri), kPatienceMs);
  }
  for (auto& w : all) {
    if (const json& e = w.at("error"); !e.is_null()) return Error(e.at("code") == "BUSY" ? BATON_BUSY : BATON_NOT_FOUND, wafer_label(w) + ": " + e.at("what").get<std::string>(), e.at("next").get<std::string>());
    if (call.wafer >= 0 && w.at("wafer") != call.wafer) continue;
    if (const uint64_t n = w.at("sessions")) return Error(BATON_BUSY, fmt::format("{} has {} client{} on other hosts, or of other users", wafer_label(w), n, n == 1 ? "" : "s"), "end them first: devctl who there");
    kept.push_back(w);
  }
  if (kept.empty()) return Error(BATON_NOT_FOUND, fmt::format("{} has no wafer {}", t.label, call.wafer), "they count from 0: devctl info " + t.uri);
  return kept;
}

std::string what_ends(const Target& t, const std::string& level, const json& wafers) {
  if (level == "core") return "programs and memory of its cores; the chip stays";
  if (level == "daemon") return "the daemon's process, its fault plan and its clock; it starts again at the same address";
  if (!wafers.empty()) {
    std::string text;
    for (auto& w : wafers)
      text += fmt::format("{}memory ({} in use) and programs of wafer {}, epoch {}", text.empty() ? "" : "; ", bytes_text(w.at("memory_bytes_used")), w.at("wafer").get<uint32_t>(), w.at("epoch").get<uint64_t>());
    return text;
  }
  return t.scheme() == "host" ? "memory and programs of this process alone" : "memory and programs on the chip, and the chip, where this user may reset it";
}

Result<json> device_epoch(const Context& c, const Target& t, bool reset) {
  BATON_ASSIGN(Device device, c.devices.instance().open(t.uri));
  if (reset) BATON_TRY(device.reset_device());  // a core's reset is nrt_init's, at the open
  const auto info = device.info();
  return info ? json(info->epoch) : json(nullptr);
}

Result<json> reset_one(const Context& c, const Target& t, const ResetCall& call, const json& wafers) {
  if (call.level == "core" || (call.level == "device" && t.scheme() != "cs3")) return device_epoch(c, t, call.level == "device");
  if (call.level == "daemon") {
    BATON_TRY(emu_restart(c, t.system));
    return json(nullptr);
  }
  uint64_t epoch = 0;
  for (auto& w : wafers) {
    BATON_ASSIGN(auto link, cs3::WaferOperator::connect(w.at("daemon").get<std::string>(), w.at("wafer").get<uint32_t>(), deadline_in_ms(kPatienceMs)));
    BATON_TRY(link.reset());
    BATON_ASSIGN(const cs3::WaferState now, link.state());
    epoch = std::max(epoch, now.epoch);
  }
  return json(epoch);
}

}  // namespace

int reset(const Context& c, const ResetCall& call) {
  auto all = targets(c, call.device);
  if (!all) return c.out.fail(all.error());
  auto who = who_document(c);
  if (!who) return c.out.fail(who.error());
  std::vector<json> wafers;
  for (const Target& t : *all) {  // each is looked at before one is touched
    Status s = has_level(t, call.level);
    if (s.ok() && call.wafer >= 0 && call.level != "wafer") s = Error(BATON_INVALID_ARGUMENT, "--wafer goes with --level wafer", "devctl reset --help");
    if (s.ok()) s = held(*who, t);
    Result<json> of = json::array();
    if (s.ok() && t.scheme() == "cs3") of = wafers_of(t, call);
    if (!s.ok() || !of) return c.out.fail(s.ok() ? of.error() : s.error());
    wafers.push_back(*of);
  }
  json rows = json::array();
  for (size_t i = 0; i < all->size(); ++i) {
    const Target& t = (*all)[i];
    json row = {{"device", t.label}, {"uri", t.uri}, {"ends", what_ends(t, call.level, wafers[i])}, {"reset", false}, {"epoch", nullptr}};
    if (!call.dry_run) {
      auto epoch = reset_one(c, t, call, wafers[i]);
      if (!epoch) return c.out.fail(epoch.error());
      row["reset"] = true;
      row["epoch"] = *epoch;
    }
    rows.push_back(row);
  }
  return c.out.show("reset", json{{"dry_run", call.dry_run}, {"level", call.level}, {"devices", rows}}, [&](const json& doc) {
    std::string text;
    for (auto& r : doc.at("devices")) {
      const std::string name = clean(r.at("device").get<std::string>()), ends = clean(r.at("ends").get<std::string>());
      if (!r.at("reset")) text += fmt::format("{} would be reset ({}): nobody holds it; what would end: {}\n", name, call.level, ends);
      else text += fmt::format("{} was reset ({}){}\n", name, call.level, r.at("epoch").is_null() ? "" : ", epoch " + r.at("epoch").dump());
    }
    return text;
  });
}

}  // namespace baton::devctl
