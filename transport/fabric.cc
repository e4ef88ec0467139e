#include "transport/fabric.hpp"

#include "transport/fault_sender.hpp"
#include "transport/mapped.hpp"
#include "transport/ofi.hpp"
#include "transport/options.hpp"
#include "transport/rails.hpp"
#include "transport/verbs.hpp"

#include <fmt/format.h>

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#ifndef DMA_BUF_MAGIC
#define DMA_BUF_MAGIC 0x444d4142 // linux/magic.h: "DMAB"
#endif

namespace baton::transport {

bool is_dmabuf(int fd) {
  struct statfs s {};
  return fd >= 0 && fstatfs(fd, &s) == 0 && uint32_t(s.f_type) == DMA_BUF_MAGIC;
}

SourceKey key_of(const SourceMemory& m) {
  if (m.key) return *m.key;
  struct stat st {};
  if (m.fd < 0 || fstat(m.fd, &st)) return {};
  return {uint64_t(st.st_dev), uint64_t(st.st_ino), m.fd_offset};
}

std::optional<std::string> fabric_unusable(const std::string& fabric, const Session::Impl& s) {
  const bool one_host = fabric == "mapped" || fabric == "shm";
  if (fabric == "verbs") return verbs_unusable(*s.ep);
  if (fabric != "mapped" && !ofi_provider(fabric)) return fmt::format("no fabric '{}'; there are auto, mapped, shm, tcp, verbs, ofi-verbs, efa", fabric);
  if (one_host && !s.same_host) return fmt::format("{} needs both processes on one host, under one user and network namespace", fabric);
  if (fabric == "shm" && s.peer.pids != my_identity(s.ep->options).pids) return "shm needs both processes in one process namespace";
  return std::nullopt;
}

static std::string no(const std::string& fabric) { return "unconnected:" + fabric; }

std::vector<std::string> auto_fabrics(Session::Impl& s) {
  static const bool efa = ofi_probe("efa").available;
  std::vector<std::string> all;
  if (s.same_host) all.push_back("mapped");
  else if (verbs_at(s)) all.push_back("verbs");
  if (!s.same_host && efa) all.push_back("efa");
  all.push_back("tcp");
  std::erase_if(all, [&](const std::string& f) { return s.attached.contains(no(f)); });
  return all;
}
void not_again(Session::Impl& s, const std::string& fabric) {
  if (fabric != "tcp") s.attached[no(fabric)] = std::make_unique<Attachment>();
}

Result<std::unique_ptr<Landing>> make_landing(const std::string& fabric, Session::Impl& s, const LandingMemory& m, const RailPlace& at) {
  if (fabric == "verbs") return make_verbs_landing(s, m, at);
  return fabric == "mapped" ? make_mapped_landing(s, m) : make_ofi_landing(fabric, s, m, at);
}

Result<std::unique_ptr<Sender>> make_sender(const std::string& fabric, Session::Impl& s, const nlohmann::json& offer, const RailPlace& at, const SourceMemory& near) {
  if (offer.contains("rails") && !at.number) return make_rail_sender(fabric, s, offer, near);
  BATON_ASSIGN(auto sender, fabric == "mapped" ? make_mapped_sender(s, offer) : fabric == "verbs" ? make_verbs_sender(s, offer, at) : make_ofi_sender(fabric, s, offer, at));
  return with_faults(std::move(sender), fabric_faults(), fabric, at);
}

void forget_source(Endpoint::Impl& ep, const void* base) {
  ofi_forget_source(ep, base);
  mapped_forget_source(ep, base);
  verbs_forget_source(ep, base);
}

}  // namespace baton::transport
