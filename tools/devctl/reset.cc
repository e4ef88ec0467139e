// reset: a device as after power-on, unless somebody holds it. record: a command whose calls are recorded, for replay.
#include "tools/devctl/care.h"
#include "tools/devctl/options.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <unistd.h>

namespace baton::devctl {

int reset(const Context& c, const ResetCall& call) {
  std::vector<DeviceInfo> found;
  if (is_uri(call.device)) {
    found.resize(1);
    call.device.copy(found[0].uri, sizeof found[0].uri - 1);
  } else {
    auto chosen = c.devices.select(call.device);
    if (!chosen) return c.out.fail(chosen.error());
    found = *chosen;
  }
  auto who = who_document(c);
  if (!who) return c.out.fail(who.error());
  for (auto& d : found) {
    const std::string uri = d.uri, plain = uri.substr(0, uri.find('?'));
    unsigned chip = 0;
    const bool neuron = std::sscanf(d.uri, "neuron://%u", &chip) == 1;
    for (auto& h : who->at("holders")) {
      const std::string device = h.at("device");
      if (!h.at("alive") || (device != plain && !(neuron && device == fmt::format("/dev/neuron{}", chip)))) continue;
      return c.out.fail(kBusy, fmt::format("{} is held by process {} ({}){}", label(d), h.at("pid").get<uint32_t>(), clean(h.at("command").get<std::string>()).substr(0, 80),
                                           h.at("since") == "" ? "" : " since " + h.at("since").get<std::string>()),
                        fmt::format("end it first: kill {}; devctl who {} shows what it does", h.at("pid").get<uint32_t>(), label(d)));
    }
  }
  json rows = json::array();
  for (auto& d : found) {
    json row = {{"device", label(d)}, {"uri", d.uri}, {"reset", false}, {"epoch", nullptr}};
    if (!call.dry_run) {
      auto device = c.devices.instance().open(d.uri);
      if (!device) return c.out.fail(device.error());
      if (Status s = device->reset_device(); !s.ok()) return c.out.fail(s.error());
      auto info = device->info();
      row["reset"] = true;
      if (info) row["epoch"] = info->epoch;
    }
    rows.push_back(row);
  }
  return c.out.show("reset", json{{"dry_run", call.dry_run}, {"devices", rows}}, [&](const json& doc) {
    std::string text;
    for (auto& r : doc.at("devices"))
      text += r.at("reset") ? fmt::format("{} was reset, epoch {}\n", r.at("device").get<std::string>(), r.at("epoch").dump()) : fmt::format("{} would be reset: nobody holds it\n", r.at("device").get<std::string>());
    return text;
  });
}

int record(const Context& c, const std::string& file, const std::vector<std::string>& command) {
  const auto layers = variable("BATON_LAYERS");
  set_variable("BATON_LAYERS", fmt::format("{}{}record={}", layers.value_or(""), layers && !layers->empty() ? "," : "", file));
  std::vector<std::string> words = command;
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  return c.out.fail(errno == ENOENT ? kNoDevice : kPermission, fmt::format("cannot run {}: {}", clean(command[0]), std::strerror(errno)), "name a program, as in devctl record calls.jsonl -- PROGRAM");
}

}  // namespace baton::devctl
