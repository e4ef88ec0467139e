#include "transport/verbs_qp.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>

namespace baton::transport {
namespace {

// A receiver without a free receive asks for a pause. The connection manager leaves 0 here, which means 655 ms (enum ib_rnr_timeout in Linux's
// rdma/ib_verbs.h): 6 is 80 us.
constexpr uint8_t kRnrTimer = 6;
constexpr uint8_t kRetries = 7; // the most that there is; for a pause it means "without end": the session's lease ends it

// An answer is waited for 4.096 us * 2^n (rdma_set_option(3), RDMA_OPTION_ID_ACK_TIMEOUT), kRetries + 1 times; devices may take a few times as long.
uint8_t ack_timeout(uint64_t lease_ns) {
  uint8_t n = 14; // 67 ms: below that, a loaded software device times out without need
  while (n < 18 && (uint64_t(4096) << (n + 1)) * (kRetries + 1) <= lease_ns) ++n;
  return n;
}

} // namespace

Error completion_error(const VerbsQp& q, const ibv_wc& wc) {
  ibv_port_attr port{};
  const bool down = ibv_query_port(q.device().context.get(), q.port(), &port) == 0 && port.state != IBV_PORT_ACTIVE; // its event may come later
  const std::string what = fmt::format("verbs: {}: {}{} (vendor {:#x})", q.device().name(), down ? fmt::format("port {} went down: ", q.port()) : "", ibv_wc_status_str(wc.status), wc.vendor_err);
  switch (wc.status) {
    case IBV_WC_RETRY_EXC_ERR:
    case IBV_WC_RNR_RETRY_EXC_ERR:
    case IBV_WC_RESP_TIMEOUT_ERR: return Error(BATON_PEER_LOST, what, "the peer's port does not answer: see 'rdma link' on both sides");
    case IBV_WC_WR_FLUSH_ERR: return Error(BATON_PEER_LOST, what, "the connection was closed: see the peer's side");
    case IBV_WC_REM_ACCESS_ERR:
    case IBV_WC_REM_INV_REQ_ERR:
    case IBV_WC_REM_OP_ERR:
    case IBV_WC_REM_ABORT_ERR: return Error(BATON_IO, what, "the sink's device refused: the memory is no longer open to this side");
    case IBV_WC_FATAL_ERR: return Error(BATON_DEVICE_LOST, what, "see the kernel's log");
    default: return Error(BATON_IO, what, "see the kernel's log");
  }
}

Result<std::unique_ptr<VerbsQp>> VerbsQp::open(VerbsDevice& d, ibv_pd* pd, const Needs& n) {
  std::unique_ptr<VerbsQp> q(new VerbsQp(d));
  const uint32_t most = uint32_t(std::max(d.limits.max_qp_wr, 1));
  q->sends_ = std::clamp(n.sends, 1u, most);
  q->receives_ = std::clamp(n.receives, 1u, most);
  q->gather_ = std::clamp(n.gather, 1u, uint32_t(std::max(d.limits.max_sge, 1)));
  const uint32_t entries = q->sends_ + q->receives_; // every one may be flushed
  if (entries > uint32_t(d.limits.max_cqe)) return Error(BATON_UNSUPPORTED, fmt::format("verbs: {} has completion queues of {}, {} are needed", d.name(), d.limits.max_cqe, entries), "choose another fabric");
  q->channel_.reset(ibv_create_comp_channel(d.context.get()));
  if (!q->channel_) return io_error("ibv_create_comp_channel", errno);
  const int fd = q->channel_->fd;
  if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC)) return io_error("fcntl", errno);
  q->cq_.reset(ibv_create_cq(d.context.get(), int(entries), q.get(), q->channel_.get(), 0));
  if (!q->cq_) return io_error(fmt::format("ibv_create_cq of {}", entries), errno);
  ibv_qp_init_attr a{};
  a.qp_context = q.get();
  a.send_cq = a.recv_cq = q->cq_.get();
  a.qp_type = IBV_QPT_RC;
  a.cap.max_send_wr = q->sends_;
  a.cap.max_recv_wr = q->receives_;
  a.cap.max_send_sge = q->gather_;
  a.cap.max_inline_data = n.inline_bytes;
  // How much a device takes inline is told by no query: ask for less until it agrees. The gather list shares the room on some.
  for (;;) {
    ibv_qp_init_attr t = a;
    q->qp_.reset(ibv_create_qp(pd, &t));
    if (q->qp_) {
      q->inline_ = t.cap.max_inline_data;
      break;
    }
    if (a.cap.max_inline_data) a.cap.max_inline_data = a.cap.max_inline_data > 64 ? 64 : 0;
    else if (a.cap.max_send_sge > 1) a.cap.max_send_sge = q->gather_ = a.cap.max_send_sge / 2;
    else return io_error(fmt::format("verbs: {}: ibv_create_qp with {} sends, {} receives", d.name(), q->sends_, q->receives_), errno);
  }
  q->tag_ = d.ep.watch(fd, EPOLLIN, q.get());
  d.add(q.get());
  return q;
}

VerbsQp::~VerbsQp() {
  if (!tag_) return;
  device_.remove(this);
  device_.ep.unwatch(tag_, fd());
  acknowledge(); // ibv_destroy_cq waits for events that were read
}

Status VerbsQp::to(rdma_cm_id* id, ibv_qp_state state, int access, uint64_t lease_ns) {
  ibv_qp_attr a{};
  a.qp_state = state;
  int mask = 0;
  if (rdma_init_qp_attr(id, &a, &mask)) return io_error("rdma_init_qp_attr", errno);
  if (mask & IBV_QP_ACCESS_FLAGS) a.qp_access_flags = unsigned(access);
  if (mask & IBV_QP_PORT) port_ = a.port_num;
  if (mask & IBV_QP_MIN_RNR_TIMER) a.min_rnr_timer = kRnrTimer;
  if (mask & IBV_QP_TIMEOUT) a.timeout = ack_timeout(lease_ns);
  if (mask & IBV_QP_RETRY_CNT) a.retry_cnt = kRetries;
  if (mask & IBV_QP_RNR_RETRY) a.rnr_retry = kRetries;
  if (mask & IBV_QP_PATH_MTU) mtu_ = 128u << a.path_mtu; // what both ports and the way between carry: the connection manager's sum
  if (const int rc = ibv_modify_qp(qp_.get(), &a, mask)) return io_error(fmt::format("verbs: {}: ibv_modify_qp to state {}", device_.name(), int(state)), rc);
  return {};
}

void VerbsQp::fail(const Error& why) {
  if (error_) return;
  error_ = why;
  ibv_qp_attr a{};
  a.qp_state = IBV_QPS_ERR;
  (void)ibv_modify_qp(qp_.get(), &a, IBV_QP_STATE); // refused: it is there already, or the device is gone
  device_.ep.look_again(1'000); // whoever sleeps hears of it
}

void VerbsQp::acknowledge() {
  ibv_cq* cq = nullptr;
  void* context = nullptr;
  while (ibv_get_cq_event(channel_.get(), &cq, &context) == 0) {
    ibv_ack_cq_events(cq, 1);
    armed_ = false;
  }
}

bool VerbsQp::arm() {
  if (const int rc = ibv_req_notify_cq(cq_.get(), 0)) {
    fail(io_error("ibv_req_notify_cq", rc));
    return false;
  }
  armed_ = true;
  return true;
}

}  // namespace baton::transport
