#include "transport/verbs_device.hpp"

#include "transport/verbs_qp.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#include <cerrno>

namespace baton::transport {
namespace {

constexpr char kSysfs[] = "/sys/class/infiniband";

Status nonblocking(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC)) return io_error("fcntl", errno);
  return {};
}

} // namespace

std::optional<std::string> verbs_missing() {
  int n = 0;
  ibv_device** list = ibv_get_device_list(&n);
  const int err = errno;
  if (list) ibv_free_device_list(list);
  if (list && n > 0) return std::nullopt;
  if (!list) return fmt::format("libibverbs finds no RDMA device: {}", strerror(err));
  if (access(kSysfs, F_OK)) return fmt::format("no RDMA device: there is no {}", kSysfs);
  return fmt::format("no RDMA device: {} is empty, or libibverbs has no provider for what is in it", kSysfs);
}

Error registration_error(uint64_t bytes, const char* what_for, int err) {
  rlimit lim{};
  getrlimit(RLIMIT_MEMLOCK, &lim);
  const bool pinning = err == ENOMEM || err == EAGAIN || err == EPERM;
  if (!pinning || lim.rlim_cur == RLIM_INFINITY) return io_error(fmt::format("verbs: cannot register {} bytes {}", bytes, what_for), err);
  return Error(BATON_CAPACITY, fmt::format("verbs: cannot pin {} bytes {}: {}; RLIMIT_MEMLOCK is {} bytes for all that this user pins", bytes, what_for, strerror(err), uint64_t(lim.rlim_cur)),
               "raise it ('ulimit -l unlimited', LimitMEMLOCK= of a service) or give CAP_IPC_LOCK");
}

Result<std::unique_ptr<VerbsDevice>> VerbsDevice::open(Endpoint::Impl& ep, ibv_device* wanted) {
  std::unique_ptr<VerbsDevice> d(new VerbsDevice(ep));
  d->context.reset(ibv_open_device(wanted));
  if (!d->context) return io_error(fmt::format("verbs: cannot open {}", ibv_get_device_name(wanted)), errno);
  BATON_TRY(nonblocking(d->context->async_fd));
  if (const int rc = ibv_query_device(d->context.get(), &d->limits)) return io_error("ibv_query_device", rc);
  BATON_ASSIGN(d->shared_domain, d->domain());
  d->tag_ = ep.watch(d->context->async_fd, EPOLLIN, d.get());
  return d;
}

VerbsDevice::~VerbsDevice() {
  if (tag_) ep.unwatch(tag_, context->async_fd);
}

Result<VerbsPd> VerbsDevice::domain() {
  VerbsPd pd(ibv_alloc_pd(context.get()));
  if (!pd) return io_error("ibv_alloc_pd", errno);
  return pd;
}

Result<VerbsMr> VerbsDevice::reg(ibv_pd* pd, const void* base, uint64_t bytes, [[maybe_unused]] int fd, [[maybe_unused]] uint64_t fd_offset, int access, const char* what_for) {
#ifdef BATON_VERBS_DMABUF
  if (is_dmabuf(fd)) {
    VerbsMr mr(ibv_reg_dmabuf_mr(pd, fd_offset, bytes, reinterpret_cast<uint64_t>(base), fd, access));
    if (mr) return mr;
    if (errno != EOPNOTSUPP && errno != ENOSYS) return registration_error(bytes, what_for, errno);
  } // this RDMA device takes none (soft-RoCE, old kernels): the mapping may do
#endif
  VerbsMr mr(ibv_reg_mr(pd, const_cast<void*>(base), bytes, access));
  if (!mr) return registration_error(bytes, what_for, errno);
  return mr;
}

Result<ibv_mr*> VerbsDevice::source(const SourceMemory& m) {
  const SourceKey key = key_of(m);
  const auto [first, last] = sources_.equal_range(m.base);
  for (auto it = first; it != last;) {
    if (it->second.key == key && it->second.bytes >= m.bytes) return it->second.mr.get();
    it = it->second.key == key ? std::next(it) : sources_.erase(it); // of memory that was freed
  }
  BATON_ASSIGN(VerbsMr mr, reg(shared_domain.get(), m.base, m.bytes, m.fd, m.fd_offset, 0, "to send from")); // read by this device alone
  return sources_.emplace(m.base, Source{key, m.bytes, std::move(mr)})->second.mr.get();
}

Result<VerbsMr> VerbsDevice::target(ibv_pd* pd, const LandingMemory& m) {
  return reg(pd, m.base, m.bytes, m.fd, m.fd_offset, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE, "to land in");
}

Result<VerbsMr> VerbsDevice::own(ibv_pd* pd, void* base, uint64_t bytes, int access) {
  return reg(pd, base, bytes, -1, 0, access, "of notes");
}

void VerbsDevice::ready(uint32_t) {
  ibv_async_event e{};
  while (ibv_get_async_event(context.get(), &e) == 0) {
    const ibv_async_event copy = e;
    ibv_ack_async_event(&e); // before anything is destroyed: that waits for it
    take(copy);
  }
}

void VerbsDevice::take(const ibv_async_event& e) {
  auto hit = [&](auto mine, const Error& why) {
    for (VerbsQp* q : queue_pairs_)
      if (mine(q)) q->fail(why);
  };
  auto text = [&](const char* what) { return fmt::format("verbs: {}: {}", name(), what); };
  const char* next = "see the kernel's log and 'rdma link'";
  switch (e.event_type) {
    case IBV_EVENT_PORT_ERR:
      hit([&](VerbsQp* q) { return q->port() == e.element.port_num; }, Error(BATON_IO, fmt::format("verbs: {}: port {} went down", name(), e.element.port_num), next));
      break;
    case IBV_EVENT_DEVICE_FATAL:
      for (VerbsQp* q : queue_pairs_) q->device_gone(Error(BATON_DEVICE_LOST, text("the RDMA device failed or was removed"), next));
      break;
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
    case IBV_EVENT_QP_ACCESS_ERR:
    case IBV_EVENT_PATH_MIG_ERR:
      hit([&](VerbsQp* q) { return q->qp() == e.element.qp; }, Error(BATON_IO, text(ibv_event_type_str(e.event_type)), next));
      break;
    case IBV_EVENT_CQ_ERR:
      hit([&](VerbsQp* q) { return q->cq() == e.element.cq; }, Error(BATON_IO, text("a completion queue overran or failed"), "report this"));
      break;
    default: break; // established, addresses, port up again: nothing to do
  }
}

}  // namespace baton::transport
