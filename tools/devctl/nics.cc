#include "tools/devctl/nics.h"

#include "tools/devctl/files.h"
#include "tools/devctl/output.h"

#include <fmt/format.h>

namespace baton::devctl {
namespace {

// "4: ACTIVE" -> "ACTIVE"
std::string word_of(const std::string& s) {
  const size_t colon = s.find(": ");
  return colon == std::string::npos ? s : s.substr(colon + 2);
}

std::string kind_of(const std::string& driver, const std::string& node_type, const std::vector<NicPort>& ports) {
  if (driver == "efa") return "EFA";
  if (word_of(node_type) == "RNIC") return "iWARP";
  return !ports.empty() && ports[0].link_layer == "InfiniBand" ? "InfiniBand" : "RoCE";
}

NicPort read_port(const std::string& at, uint32_t number) {
  NicPort p;
  p.number = number;
  p.state = word_of(first_line(at + "/state"));
  p.physical = word_of(first_line(at + "/phys_state"));
  p.link_layer = first_line(at + "/link_layer");
  p.rate = first_line(at + "/rate");
  for (const std::string& gid : names_in(at + "/gid_attrs/ndevs"))
    if (p.netdev.empty()) p.netdev = first_line(at + "/gid_attrs/ndevs/" + gid);
  for (const char* folder : {"/counters", "/hw_counters"})
    for (const std::string& name : names_in(at + folder))
      if (name != "lifespan")
        if (auto n = number_in(at + folder + "/" + name)) p.counters[name] = name == "port_rcv_data" || name == "port_xmit_data" ? *n * 4 : *n;  // kept in words of 4 bytes
  return p;
}

}  // namespace

std::vector<Nic> read_nics(const std::string& root) {
  std::vector<Nic> all;
  const std::string folder = root + "/class/infiniband";
  for (const std::string& name : names_in(folder)) {
    const std::string at = folder + "/" + name, device = at + "/device";
    Nic n;
    n.name = name;
    n.driver = link_name(device + "/driver");
    n.firmware = first_line(at + "/fw_ver");
    n.board = first_line(at + "/board_id");
    n.guid = first_line(at + "/node_guid");
    n.location = link_name(device);
    if (n.location.find(':') == std::string::npos) n.location.clear();  // a virtual device
    if (const std::string node = first_line(device + "/numa_node"); !node.empty()) n.numa_node = atoi(node.c_str());
    for (const std::string& port : names_in(at + "/ports"))
      if (const int number = atoi(port.c_str()); number > 0) n.ports.push_back(read_port(at + "/ports/" + port, uint32_t(number)));
    for (const std::string& counter : names_in(at + "/hw_counters"))  // of the device: EFA has some
      if (auto v = number_in(at + "/hw_counters/" + counter); v && !n.ports.empty() && counter != "lifespan") n.ports[0].counters.emplace(counter, *v);
    n.kind = kind_of(n.driver, first_line(at + "/node_type"), n.ports);
    all.push_back(std::move(n));
  }
  return all;
}

nlohmann::ordered_json nic_json(const Nic& n) {
  json ports = json::array();
  for (auto& p : n.ports) {
    json counters = json::object();
    for (auto& [name, v] : p.counters) counters[name] = v;
    ports.push_back({{"port", p.number}, {"state", p.state}, {"physical", p.physical}, {"link_layer", p.link_layer}, {"rate", p.rate}, {"netdev", p.netdev}, {"counters", counters}});
  }
  return {{"name", n.name},         {"kind", n.kind},   {"driver", n.driver}, {"firmware", n.firmware},
          {"board", n.board},       {"guid", n.guid},   {"location", n.location}, {"numa_node", n.numa_node < 0 ? json(nullptr) : json(n.numa_node)},
          {"ports", ports}};
}

const std::vector<const char*>& nic_error_counters() {
  // port counters: ABI/stable/sysfs-class-infiniband; EFA's: efa_verbs.c; mlx5's and rxe's: their counters.c. Not those of ordinary congestion.
  static const std::vector<const char*> names = {"symbol_error", "link_error_recovery", "link_downed", "port_rcv_errors", "port_rcv_remote_physical_errors", "local_link_integrity_errors",
                                                 "excessive_buffer_overrun_errors", "VL15_dropped", "local_ack_timeout_err", "rnr_nak_retry_err", "packet_seq_err", "req_cqe_error",
                                                 "resp_cqe_error", "rx_drops", "rdma_read_wr_err", "rdma_write_wr_err", "retrans_timeout_events", "unresponsive_remote_events",
                                                 "impaired_remote_conn_events"};
  return names;
}

}  // namespace baton::devctl
