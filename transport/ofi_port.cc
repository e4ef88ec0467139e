#include "transport/ofi_port.hpp"

#include "transport/ofi.hpp"
#include "transport/options.hpp"

#include <fmt/format.h>

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

namespace baton::transport {
namespace {

constexpr char kShm[] = "/dev/shm/";
constexpr char kPrefix[] = "baton-";
// A file younger than this may belong to somebody who has not locked it yet.
constexpr time_t kYoungSeconds = 2;

// Set in the context of a write that is an StreamPosted's, not a batch's.
constexpr uintptr_t kPosted = 1;
StreamPosted* posted_of(void* context) {
  const uintptr_t p = reinterpret_cast<uintptr_t>(context);
  return p & kPosted ? reinterpret_cast<StreamPosted*>(p & ~kPosted) : nullptr;
}

template <class F>
void each_shm_name(F f) {
  DIR* d = opendir(kShm);
  if (!d) return;
  std::vector<std::string> names;
  while (dirent* e = readdir(d))
    if (!std::strncmp(e->d_name, kPrefix, sizeof kPrefix - 1)) names.push_back(e->d_name);
  closedir(d);
  for (const auto& n : names) f(n);
}

const char* error_text(ssize_t rc) {
  auto ofi = ofi_library();
  return ofi ? (*ofi)->strerror(int(-rc)) : "not loaded";
}

}  // namespace

Error fi_error(std::string_view what, ssize_t rc) {
  return Error(BATON_IO, fmt::format("libfabric: {}: {} ({})", what, error_text(rc), rc), "'devctl topo' lists the fabrics; FI_LOG_LEVEL=warn says more");
}

void sweep_stale_shm() {
  const time_t now = time(nullptr);
  each_shm_name([&](const std::string& name) {
    const std::string path = kShm + name;
    Fd fd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    struct stat st {};
    if (!fd || fstat(fd.get(), &st) || st.st_uid != geteuid() || now - st.st_ctime < kYoungSeconds) return;
    if (flock(fd.get(), LOCK_EX | LOCK_NB) == 0) unlink(path.c_str()); // nobody alive holds it
  });
}

void sweep_session_shm(const std::string& prefix) {
  each_shm_name([&](const std::string& name) {
    if (name.compare(0, prefix.size(), prefix) == 0) unlink((kShm + name).c_str());
  });
}

std::string shm_prefix(const Session::Impl& s) { return kPrefix + hex(s.id).substr(0, 16) + "-"; }

namespace {

// Of the providers' answers the one on that device: the first, where none is named.
fi_info* on_device(fi_info* list, const std::string& device) {
  for (fi_info* i = list; i; i = i->next) {
    const char* nic = i->nic && i->nic->device_attr ? i->nic->device_attr->name : nullptr;
    const std::string_view domain = i->domain_attr->name ? i->domain_attr->name : ""; // "rdmap0s31-rdm"
    if (device.empty() || (nic && device == nic) || domain.substr(0, domain.rfind('-')) == device) return i;
  }
  return nullptr;
}

} // namespace

Result<Info> ofi_info(const char* provider, const OfiPlace& place) {
  prepare_libfabric_environment();
  BATON_ASSIGN(const OfiLibrary* ofi, ofi_library());
  Info hints(ofi->dupinfo(nullptr));
  if (!hints) return fi_error("fi_dupinfo", -FI_ENOMEM);
  hints->caps = FI_MSG | FI_RMA | FI_WRITE | FI_REMOTE_WRITE;
  hints->mode = 0;
  hints->ep_attr->type = FI_EP_RDM;
  hints->tx_attr->op_flags = FI_DELIVERY_COMPLETE;
  hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
  hints->domain_attr->threading = FI_THREAD_SAFE;
  hints->fabric_attr->prov_name = strdup(provider);
  fi_info* list = nullptr;
  const bool node = !place.host.empty() && std::string_view(provider).find("rxm") != std::string_view::npos;
  auto ask = [&] { return ofi->getinfo(FI_VERSION(1, 17), node ? place.host.c_str() : nullptr, nullptr, node ? FI_SOURCE : 0, hints.get(), &list); };
  int rc = -FI_ENODATA;
  if (device_memory_wished()) {
    hints->caps |= FI_HMEM;
    hints->domain_attr->mr_mode |= FI_MR_HMEM;
    rc = ask();
    hints->caps &= ~uint64_t(FI_HMEM);
    hints->domain_attr->mr_mode &= ~FI_MR_HMEM;
  }
  if (rc) rc = ask(); // a provider without it can still move what is mapped
  if (rc) {
    Error e = fi_error(fmt::format("provider {}", provider), rc);
    if (rc == -FI_ENODATA)
      e = Error(BATON_UNSUPPORTED, fmt::format("libfabric offers no {} endpoint with one-sided writes here: no such device, or not built in", provider),
                "choose another fabric; 'devctl topo' lists them");
    return e;
  }
  Info all(list);
  fi_info* const one = on_device(list, place.device);
  if (!one) return Error(BATON_UNSUPPORTED, fmt::format("provider {} has no device '{}'", provider, place.device.substr(0, 64)), "'devctl fabric' lists what can be a rail");
  return Info(ofi->dupinfo(one));
}

// ---- domain ----

Result<OfiDomain*> OfiDomain::of(Endpoint::Impl& ep, const std::string& fabric, const OfiPlace& place) {
  auto& slot = ep.attached["ofi:" + fabric + ":" + place.host + ":" + place.device];
  if (slot) return static_cast<OfiDomain*>(slot.get());
  const char* provider = ofi_provider(fabric);
  auto d = std::make_unique<OfiDomain>();
  BATON_ASSIGN(d->info, ofi_info(provider, place));
  d->device_memory = d->info->caps & FI_HMEM;
  fid_fabric* f = nullptr;
  BATON_ASSIGN(const OfiLibrary* ofi, ofi_library());
  if (int rc = ofi->fabric(d->info->fabric_attr, &f, nullptr)) return fi_error("fi_fabric", rc);
  d->fabric.reset(f);
  fid_domain* dom = nullptr;
  if (int rc = fi_domain(f, d->info.get(), &dom, nullptr)) return fi_error("fi_domain", rc);
  d->domain.reset(dom);
  if (fabric == "shm") sweep_stale_shm();
  slot = std::move(d);
  return static_cast<OfiDomain*>(slot.get());
}

// Memory of a device is registered by its dma-buf where this libfabric knows how (1.20), else by its address as Neuron's; what can do neither may
// still take the mapping.
Result<Fid<fid_mr>> OfiDomain::reg(const Memory& m, uint64_t access, const char* what_for) {
  fid_mr* mr = nullptr;
  // A random key where we may choose it: knowing the address alone is of no use.
  const uint64_t key = info->domain_attr->mr_mode & FI_MR_PROV_KEY ? 0 : random_u64();
  const bool device = is_dmabuf(m.fd);
  if (device && device_memory) {
    const iovec iov{const_cast<void*>(m.base), m.bytes};
    fi_mr_attr a{};
    a.iov_count = 1;
    a.access = access;
    a.requested_key = key;
    a.iface = FI_HMEM_NEURON;
#ifdef FI_MR_DMABUF
    const fi_mr_dmabuf buf{m.fd, m.fd_offset, m.bytes, const_cast<void*>(m.base)};
    a.dmabuf = &buf;
    if (fi_mr_regattr(domain.get(), &a, FI_MR_DMABUF, &mr) == 0) return Fid<fid_mr>(mr);
#endif
    a.mr_iov = &iov;
    if (fi_mr_regattr(domain.get(), &a, 0, &mr) == 0) return Fid<fid_mr>(mr);
  }
  const int rc = fi_mr_reg(domain.get(), m.base, m.bytes, access, 0, key, 0, &mr, nullptr);
  if (!rc) return Fid<fid_mr>(mr);
  Error e = fi_error(fmt::format("cannot register {} bytes {}", m.bytes, what_for), rc);
  if (device) return Error(BATON_UNSUPPORTED, fmt::format("{}: it is a device's memory", e.what), "set FI_HMEM=neuron, with a libfabric and a provider that have it, or stage in host memory");
  if (rc == -FI_ENOMEM) Error::put(e.next, "raise 'ulimit -l': this provider pins memory");
  return e;
}

Result<fid_mr*> OfiDomain::source(const SourceMemory& m) {
  if (!(info->domain_attr->mr_mode & FI_MR_LOCAL) && !(device_memory && is_dmabuf(m.fd))) return static_cast<fid_mr*>(nullptr);
  const SourceKey id = key_of(m);
  const auto [first, last] = sources_.equal_range(m.base);
  for (auto it = first; it != last;) {
    if (it->second.key == id && it->second.bytes >= m.bytes) return it->second.mr.get();
    it = it->second.key == id ? std::next(it) : sources_.erase(it); // of memory that was freed; one that is too short may be in use
  }
  BATON_ASSIGN(Fid<fid_mr> mr, reg({m.base, m.bytes, m.fd, m.fd_offset}, FI_WRITE, "to send from"));
  return sources_.emplace(m.base, Source{id, m.bytes, std::move(mr)})->second.mr.get();
}

Result<Fid<fid_mr>> OfiDomain::target(const LandingMemory& m) { return reg({m.base, m.bytes, m.fd, m.fd_offset}, FI_REMOTE_WRITE, "to land in"); }

// ---- port ----

Result<std::unique_ptr<OfiPort>> OfiPort::open(OfiDomain& d, const std::string& name) {
  std::unique_ptr<OfiPort> p(new OfiPort(d));
  const fi_info* info = d.info.get();
  fi_cq_attr ca{};
  ca.format = FI_CQ_FORMAT_MSG;
  ca.size = 2048;
  ca.wait_obj = FI_WAIT_FD;
  fid_cq* cq = nullptr;
  int rc = fi_cq_open(d.domain.get(), &ca, &cq, nullptr);
  if (rc) { // shm has no descriptor to wait on
    ca.wait_obj = FI_WAIT_NONE;
    if ((rc = fi_cq_open(d.domain.get(), &ca, &cq, nullptr))) return fi_error("fi_cq_open", rc);
  }
  p->cq_.reset(cq);
  if (ca.wait_obj == FI_WAIT_FD && fi_control(&cq->fid, FI_GETWAIT, &p->wait_fd_)) p->wait_fd_ = -1;
  fi_av_attr aa{};
  aa.type = FI_AV_UNSPEC;
  fid_av* av = nullptr;
  if ((rc = fi_av_open(d.domain.get(), &aa, &av, nullptr))) return fi_error("fi_av_open", rc);
  p->av_.reset(av);
  fid_ep* ep = nullptr;
  if ((rc = fi_endpoint(d.domain.get(), d.info.get(), &ep, nullptr))) return fi_error("fi_endpoint", rc);
  p->ep_.reset(ep);
  const bool named = info->addr_format == FI_ADDR_STR;
  if (named) {
    std::string n = name;
    if ((rc = fi_setname(&ep->fid, n.data(), n.size() + 1))) return fi_error("fi_setname", rc);
  }
  if ((rc = fi_ep_bind(ep, &av->fid, 0)) || (rc = fi_ep_bind(ep, &cq->fid, FI_TRANSMIT | FI_RECV))) return fi_error("fi_ep_bind", rc);
  if ((rc = fi_enable(ep))) return fi_error("fi_enable", rc);
  p->enabled_ = true;
  if (named) {
    p->file_ = kShm + name;
    p->lock_ = Fd(::open(p->file_.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    if (p->lock_) flock(p->lock_.get(), LOCK_SH);
  }
  // Not all of the queue: the provider's own messages need room too; EFA keeps about 240 in flight.
  p->window_ = std::clamp<size_t>(info->tx_attr->size / 2, 8, 192);
  p->per_write_ = std::clamp<size_t>(std::min(info->tx_attr->iov_limit, info->tx_attr->rma_iov_limit), 1, 4);
  return p;
}

OfiPort::~OfiPort() {
  // libfabric 1.17's ofi_rxm leaks the socket of a connection that has arrived and that it has not looked at yet: let it look. Reading no
  // entries makes progress and leaves alone what has completed: its batches may be gone.
  for (int i = 0; wait_fd_ >= 0 && enabled_ && i < 3; ++i) { // not enabled: ofi_rxm has no queue yet to look into, and crashes
    if (i) std::this_thread::sleep_for(std::chrono::microseconds(kRxmConnectUs + 50));
    (void)fi_cq_read(cq_.get(), nullptr, 0);
  }
  ep_.reset(); // before what is bound to it
  if (!file_.empty()) unlink(file_.c_str());
}

Result<std::vector<uint8_t>> OfiPort::address() {
  std::vector<uint8_t> a(256);
  size_t n = a.size();
  if (int rc = fi_getname(&ep_->fid, a.data(), &n)) return fi_error("fi_getname", rc);
  a.resize(n);
  return a;
}

Result<fi_addr_t> OfiPort::insert(std::span<const uint8_t> address) {
  std::vector<uint8_t> copy(address.begin(), address.end());
  copy.push_back(0); // shm takes a string
  fi_addr_t to = FI_ADDR_UNSPEC;
  const int n = fi_av_insert(av_.get(), copy.data(), 1, &to, 0, nullptr);
  if (n != 1) return fi_error("the sink's address is not accepted", n < 0 ? n : -FI_EINVAL);
  return to;
}

Status OfiPort::repost(size_t i) {
  const ssize_t rc = fi_recv(ep_.get(), &receives_[i], sizeof(Note), nullptr, FI_ADDR_UNSPEC, &receives_[i]);
  if (rc) return fi_error("fi_recv", rc);
  return {};
}

ssize_t OfiPort::write(const void* from, uint64_t bytes, void* desc, fi_addr_t to, uint64_t remote, uint64_t key, StreamPosted* done) {
  const iovec iov{const_cast<void*>(from), bytes};
  const fi_rma_iov rma{remote, bytes, key};
  fi_msg_rma m{};
  m.msg_iov = &iov;
  m.desc = desc ? &desc : nullptr;
  m.iov_count = m.rma_iov_count = 1;
  m.rma_iov = &rma;
  m.addr = to;
  m.context = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(done) | kPosted);
  return fi_writemsg(ep_.get(), &m, FI_COMPLETION | FI_DELIVERY_COMPLETE);
}

Status OfiPort::post_receives() {
  receives_.resize(kReceives);
  for (size_t i = 0; i < kReceives; ++i) BATON_TRY(repost(i));
  return {};
}

void OfiPort::take(const fi_cq_msg_entry& c, std::vector<Note>* notes) {
  auto* note = static_cast<Note*>(c.op_context);
  if (!receives_.empty() && note >= receives_.data() && note < receives_.data() + receives_.size()) {
    if (notes && c.len == sizeof(Note)) notes->push_back(*note);
    if (Status s = repost(size_t(note - receives_.data())); !s.ok()) error_ = s.error();
  } else if (c.op_context) {
    --outstanding;
    if (StreamPosted* p = posted_of(c.op_context)) p->written(nullptr);
    else --static_cast<Batch*>(c.op_context)->outstanding;
  }
}

void OfiPort::take_error() {
  fi_cq_err_entry e{};
  if (fi_cq_readerr(cq_.get(), &e, 0) != 1) return;
  auto* note = static_cast<Note*>(e.op_context);
  const bool receive = !receives_.empty() && note >= receives_.data() && note < receives_.data() + receives_.size();
  Error why = fi_error(receive ? "receiving from the peer" : "writing to the peer", -e.err);
  if (!receive) why.code = BATON_PEER_LOST;
  if (StreamPosted* p = receive ? nullptr : posted_of(e.op_context)) {
    --outstanding;
    p->written(&why);
  } else if (!receive && e.op_context) {
    auto* b = static_cast<Batch*>(e.op_context);
    --b->outstanding;
    --outstanding;
    if (!b->error) b->error = why;
  }
  if (!error_) error_ = why;
}

bool OfiPort::progress(std::vector<Note>* notes, uint32_t* events) {
  fi_cq_msg_entry entries[32];
  for (int round = 0; round < 8; ++round) {
    const ssize_t n = fi_cq_read(cq_.get(), entries, std::size(entries));
    if (n > 0) {
      for (ssize_t i = 0; i < n; ++i) take(entries[i], notes);
      if (events) *events += uint32_t(n);
      continue;
    }
    if (n == -FI_EAVAIL) {
      take_error();
      continue;
    }
    if (n != -FI_EAGAIN) {
      if (!error_) error_ = fi_error("fi_cq_read", n);
      break;
    }
    // Before somebody sleeps on the descriptor: it must not stay readable, nor hide an event.
    fid* f = &cq_->fid;
    if (wait_fd_ < 0 || fi_trywait(domain_.fabric.get(), &f, 1) != -FI_EAGAIN) break;
  }
  return !error_;
}

}  // namespace baton::transport
