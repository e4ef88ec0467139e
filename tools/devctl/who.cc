// who: which process holds what: by libbaton's statistics pages, by the kernel's device nodes, by the cores of emulated Neuron machines.
#include "tools/devctl/files.h"
#include "tools/devctl/pages.h"
#include "tools/devctl/watch.h"

#include <fmt/format.h>

#include <unistd.h>

#include <algorithm>

namespace baton::devctl {
namespace {

std::string text_of(const json& j, const char* key) { return clean(j.at(key).get<std::string>()); }

void add_page(const Page& p, json& all) {
  for (const PageRow& d : p.rows) {
    if (d.n.kind != BATON_STATS_DEVICE) continue;
    uint64_t queues = 0, open = 0;
    for (const PageRow& q : p.rows) {
      if (q.n.kind != BATON_STATS_LANE || q.n.device != d.index + 1) continue;
      ++queues;
      open += q.n.submitted - q.n.done;
    }
    all.push_back({{"device", d.name}, {"pid", p.pid}, {"command", p.command}, {"alive", p.alive}, {"since", utc_text(d.n.opened_ns)}, {"via", "libbaton"},
                   {"memory_bytes", d.n.memory_bytes}, {"buffers", d.n.buffers}, {"queues", queues}, {"in_flight", open}, {"lost", d.n.lost != 0}});
  }
}

void add_holder(const Holder& h, const std::string& device, json& all) {
  all.push_back({{"device", device}, {"pid", h.pid}, {"command", h.command}, {"alive", true}, {"since", h.since}, {"via", h.via},
                 {"memory_bytes", nullptr}, {"buffers", nullptr}, {"queues", nullptr}, {"in_flight", nullptr}, {"lost", false}});
}

// Folders of emulated Neuron machines that this user may know of: named ones, and the one whose sysfs tree is looked at.
std::vector<std::string> neuron_machines(const Options& o) {
  std::vector<std::string> all;
  for (const std::string& base : {o.runtime.empty() ? "" : o.runtime + "/baton-neuron", fmt::format("/dev/shm/baton-neuron-{}", geteuid())})
    for (const std::string& name : names_in(base)) all.push_back(base + "/" + name);
  if (o.sysfs.ends_with("/sys") && o.sysfs != "/sys") all.push_back(o.sysfs.substr(0, o.sysfs.size() - 4));
  return all;
}

std::string who_text(const json& doc) {
  Table t({"DEVICE", "PID", "COMMAND", "MEMORY", "QUEUES", "IN FLIGHT", "SINCE", "VIA"});
  for (size_t column : {1, 3, 4, 5}) t.right(column);
  auto number = [](const json& v) { return v.is_null() ? std::string("-") : std::to_string(v.get<uint64_t>()); };
  for (auto& h : doc.at("holders"))
    t.row({text_of(h, "device"), std::to_string(h.at("pid").get<uint32_t>()), short_command(h.at("command"), 40), h.at("memory_bytes").is_null() ? "-" : bytes_text(h.at("memory_bytes")),
           number(h.at("queues")), number(h.at("in_flight")), h.at("since") == "" ? "-" : text_of(h, "since"),
           text_of(h, "via") + (h.at("alive") ? "" : ", was killed") + (h.at("lost") ? ", device lost" : "")});
  return t.empty() ? "nobody holds a device that this user may see\n" : t.text();
}

}  // namespace

Result<json> who_document(const Context& c) {
  json all = json::array();
  for (const Page& p : read_pages(page_folders(c.devices.instance().stats_folder()))) add_page(p, all);
  for (const Holder& h : kernel_holders())
    if (h.pid != uint32_t(getpid())) add_holder(h, "/dev/" + std::string(h.what.starts_with("uverbs") ? "infiniband/" : "") + h.what, all);
  for (const std::string& folder : neuron_machines(c.devices.options()))
    for (const Holder& h : core_holders(folder)) add_holder(h, fmt::format("{} of {}", h.what, folder), all);
  return json{{"holders", all}};
}

int who(const Context& c, const std::string& selector) {
  auto doc = reading(c, "who", who_document);
  if (doc && !selector.empty() && selector != "all") {
    // A name means its address: trn0 is neuron://0.
    auto list = reading(c, "list", list_document);
    if (!list) return c.out.fail(list.error());
    std::vector<std::string> uris;
    if (auto found = chosen(list->at("devices"), selector)) {
      for (auto& d : *found) uris.push_back(d.at("uri"));
    } else if (const std::string uri = c.devices.meant(selector); is_uri(uri)) {
      uris.push_back(uri);
    } else {
      return c.out.fail(found.error());
    }
    json kept = json::array();
    for (auto& h : doc->at("holders"))
      for (auto& u : uris) {
        unsigned chip = 0;
        const bool node = std::sscanf(u.c_str(), "neuron://%u", &chip) == 1 && h.at("device") == fmt::format("/dev/neuron{}", chip);
        if (node || h.at("device") == u.substr(0, u.find('?'))) kept.push_back(h);
      }
    (*doc)["holders"] = kept;
  }
  return c.out.show("who", doc, who_text);
}

}  // namespace baton::devctl
