#include "transport/nics.hpp"

#include <fmt/format.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>

namespace baton::transport {
namespace {

constexpr char kRdma[] = "/sys/class/infiniband";

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> all;
  DIR* d = opendir(folder.c_str());
  if (!d) return all;
  while (dirent* e = readdir(d))
    if (e->d_name[0] != '.') all.push_back(e->d_name);
  closedir(d);
  std::sort(all.begin(), all.end());
  return all;
}

std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string s;
  std::getline(in, s);
  return s;
}

// The RDMA device whose port is that interface: it says so itself (RoCE), or both belong to one PCI function (InfiniBand).
std::string rdma_device(const std::string& interface) {
  for (const std::string& dev : names_in(kRdma))
    for (const std::string& port : names_in(fmt::format("{}/{}/ports", kRdma, dev))) {
      const std::string ndevs = fmt::format("{}/{}/ports/{}/gid_attrs/ndevs", kRdma, dev, port);
      for (const std::string& gid : names_in(ndevs))
        if (first_line(ndevs + "/" + gid) == interface) return dev;
    }
  const auto beside = names_in(fmt::format("/sys/class/net/{}/device/infiniband", interface));
  return beside.empty() ? "" : beside[0];
}

struct Bytes { // of an address, in the order of the network
  size_t size = 0;
  uint8_t at[16] = {};
};
Bytes bytes_of(const std::string& host) {
  Bytes b;
  if (inet_pton(AF_INET, host.c_str(), b.at) == 1) b.size = 4;
  else if (inet_pton(AF_INET6, host.substr(0, host.find('%')).c_str(), b.at) == 1) b.size = 16;
  return b;
}

uint32_t bits_of(const sockaddr* mask) {
  if (!mask) return 0;
  uint32_t n = 0;
  if (mask->sa_family == AF_INET) return uint32_t(std::popcount(reinterpret_cast<const sockaddr_in*>(mask)->sin_addr.s_addr));
  for (uint8_t b : reinterpret_cast<const sockaddr_in6*>(mask)->sin6_addr.s6_addr) n += uint32_t(std::popcount(b));
  return n;
}

std::vector<Nic> list_efa() {
  std::vector<Nic> all;
  for (const std::string& dev : names_in(kRdma)) {
    char driver[256];
    const ssize_t n = readlink(fmt::format("{}/{}/device/driver", kRdma, dev).c_str(), driver, sizeof driver - 1);
    const std::string_view path(driver, n > 0 ? size_t(n) : 0);
    if (path.ends_with("/efa")) all.push_back({dev, "", 0, dev, ""});
  }
  return all;
}

// The best of an interface's addresses comes first: IPv4, then one that is routed.
int rank(const sockaddr* a) {
  if (!a) return 3;
  if (a->sa_family == AF_INET) return 0;
  if (a->sa_family != AF_INET6) return 3;
  return IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6*>(a)->sin6_addr) ? 2 : 1;
}

} // namespace

bool has_rails(const std::string& fabric) { return fabric == "tcp" || fabric == "verbs" || fabric == "ofi-verbs" || fabric == "efa"; }

bool in_network(const Nic& nic, const std::string& host) {
  const Bytes a = bytes_of(nic.host), b = bytes_of(host);
  if (!a.size || a.size != b.size) return false;
  for (uint32_t bit = 0; bit < nic.prefix && bit < 8 * a.size; ++bit)
    if ((a.at[bit / 8] ^ b.at[bit / 8]) >> (7 - bit % 8) & 1) return false;
  return true;
}

std::vector<Nic> list_nics(const std::string& fabric) {
  if (fabric == "efa") return list_efa();
  std::vector<Nic> all;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list)) return all;
  std::vector<int> ranks;
  for (const ifaddrs* i = list; i; i = i->ifa_next) {
    auto it = std::find_if(all.begin(), all.end(), [&](const Nic& n) { return n.name == i->ifa_name; });
    if (it == all.end()) {
      it = all.insert(it, Nic{i->ifa_name, "", 0, "", ""});
      ranks.push_back(3);
      if (!(i->ifa_flags & IFF_UP)) it->why_not = "it is down";
      else if (!(i->ifa_flags & IFF_RUNNING)) it->why_not = "it has no carrier";
      else if (i->ifa_flags & IFF_LOOPBACK) it->why_not = "it is the loopback: name it to use it";
    }
    int& best = ranks[size_t(it - all.begin())];
    char host[NI_MAXHOST];
    if (rank(i->ifa_addr) >= std::min(best, 2) ||
        getnameinfo(i->ifa_addr, i->ifa_addr->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6), host, sizeof host, nullptr, 0, NI_NUMERICHOST))
      continue;
    best = rank(i->ifa_addr);
    it->host = host;
    it->prefix = bits_of(i->ifa_netmask);
  }
  freeifaddrs(list);
  for (Nic& n : all) {
    n.device = rdma_device(n.name);
    if (n.why_not.empty() && n.host.empty()) n.why_not = "it has no address but a link's own";
    if (n.why_not.empty() && n.device.empty() && fabric != "tcp") n.why_not = "no RDMA device has it";
  }
  return all;
}

Result<std::vector<Nic>> pick_nics(const std::string& fabric, const std::string& rails) {
  const std::vector<Nic> all = list_nics(fabric);
  std::vector<Nic> picked;
  std::string why;
  auto reject = [&](const Nic& n, const std::string& reason) { why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", n.name, reason); };
  for (size_t at = 0; at <= rails.size() && rails != "all";) {
    const size_t end = std::min(rails.find(',', at), rails.size());
    const std::string name = rails.substr(at, end - at);
    at = end + 1;
    const bool address = bytes_of(name).size != 0;
    const auto it = std::find_if(all.begin(), all.end(), [&](const Nic& n) { return address ? n.host == name || in_network(n, name) : n.name == name || (!n.device.empty() && n.device == name); });
    if (it == all.end())
      return Error(BATON_INVALID_ARGUMENT, fmt::format("rails: this host has no {} '{}'", address ? "interface in the network of" : "interface or RDMA device", name.substr(0, 64)),
                   fmt::format("'devctl fabric' lists what {} can use", fabric));
    Nic n = *it;
    if (address) n.host = name; // a NIC may have several
    const bool can = !n.host.empty() || fabric == "efa";
    if (can && (fabric == "tcp" || !n.device.empty())) picked.push_back(std::move(n)); // one that is down may come up
    else reject(n, n.why_not.empty() ? "no RDMA device has it" : n.why_not);
  }
  if (rails == "all")
    for (const Nic& n : all) {
      if (n.why_not.empty()) picked.push_back(n);
      else reject(n, n.why_not);
    }
  if (picked.empty()) return Error(BATON_UNSUPPORTED, fmt::format("rails: no NIC that {} can use: {}", fabric, why.empty() ? "this host has none" : why), "'devctl fabric' lists them");
  return picked;
}

}  // namespace baton::transport
