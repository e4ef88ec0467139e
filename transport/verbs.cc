#include "transport/verbs.hpp"

#include "transport/kv_wire.hpp"
#include "transport/verbs_cm.hpp"
#include "transport/verbs_write.hpp"

#include <fmt/format.h>

#include <arpa/inet.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

namespace baton::transport {
namespace {

rdma_conn_param connection(const ibv_qp* qp) {
  rdma_conn_param p{};
  p.qp_num = qp->qp_num;
  p.retry_count = p.rnr_retry_count = 7; // the queue pairs' own: verbs_qp.cc
  p.flow_control = 1;
  return p;
}

struct Unmap {
  void operator()(Note* p) const { munmap(p, kVerbsNotes * sizeof(Note)); }
};
using Ring = std::unique_ptr<Note, Unmap>;

// Shared pages: pinned private ones are copied at fork() by kernels before 5.12, and then one of the two processes hears nothing.
Result<Ring> make_ring() {
  void* p = mmap(nullptr, kVerbsNotes * sizeof(Note), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return io_error("mmap", errno);
  return Ring(static_cast<Note*>(p));
}

class VerbsLanding final : public Landing, public CmAcceptor, public CmClient {
 public:
  VerbsLanding(Session::Impl& s, const LandingMemory& m, const RailPlace& rail)
      : memory_(m), rail_(rail), own_flows_(memory_), lease_ns_(std::max(s.peer.lease_ns, s.ep->options.lease_ns)), sealed_(s.bulk_sealed()),
        stream_(std::in_place, rail.flows ? *rail.flows : own_flows_, s, sealed_) {}
  ~VerbsLanding() override { close(); }
  const char* fabric() const override { return "verbs"; }

  Status start(Session::Impl& s) {
    heard_.reserve(kVerbsNotes);
    BATON_ASSIGN(hub_, VerbsHub::of(*s.ep));
    BATON_ASSIGN(at_, hub_->listen(rail_.host.empty() ? local_host(s.fd.get()) : rail_.host));
    BATON_ASSIGN(domain_, at_.device->domain());
    if (!sealed_) { BATON_ASSIGN(memory_mr_, at_.device->target(domain_.get(), memory_)); }
    BATON_ASSIGN(const auto stage, stream_->stage());
    BATON_ASSIGN(stage_mr_, at_.device->own(domain_.get(), stage.data(), stage.size(), IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE));
    BATON_ASSIGN(ring_, make_ring());
    BATON_ASSIGN(ring_mr_, at_.device->own(domain_.get(), ring_.get(), kVerbsNotes * sizeof(Note), IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE));
    return {};
  }

  Result<nlohmann::json> offer() override {
    if (!ring_mr_) return Error(BATON_PEER_LOST, "this landing is closed", "open a new session");
    if (hub_->error()) return *hub_->error();
    if (qp_ && qp_->error()) { // of requests that have ended: not the next one's
      collect();
      disconnect();
    }
    if (token_.empty()) token_ = hub_->expect(this);
    return nlohmann::json{{"sink", memory_.id},
                          {"host", at_.host},
                          {"port", at_.port},
                          {"token", token_},
                          {"base", sealed_ ? 0 : reinterpret_cast<uint64_t>(memory_.base)}, // sealed: the stage alone is disclosed
                          {"bytes", memory_.bytes},
                          {"key", sealed_ ? 0 : memory_mr_->rkey},
                          {"stage", stream_->offer(reinterpret_cast<uint64_t>(stage_mr_->addr), stage_mr_->rkey)},
                          {"ring", reinterpret_cast<uint64_t>(ring_.get())},
                          {"ring_key", ring_mr_->rkey}};
  }

  void on_request(CmId id, std::span<const uint8_t> said) override {
    token_.clear();
    collect();
    disconnect(); // a sender that comes anew has lost its connection
    std::erase_if(heard_, [](const Note& n) { return n.kind == Note::Kind::piece; });
    stream_->restart();
    Status s = !sealed_ ? Status() : stream_->cipher(said.first(std::min(said.size(), sizeof(ChunkHeader))));
    if (s.ok()) s = accept(id.get());
    if (!s.ok()) {
      rdma_reject(id.get(), nullptr, 0); // the sender hears "rejected"; its session says no more than that
      qp_.reset();
      return;
    }
    id->context = static_cast<CmClient*>(this);
    id_ = std::move(id);
  }

  void on_event(const CmEvent& e) override {
    if (e.type == RDMA_CM_EVENT_ESTABLISHED || !qp_) return;
    if (e.type == RDMA_CM_EVENT_DEVICE_REMOVAL) qp_->device_gone(Error(BATON_DEVICE_LOST, "verbs: the RDMA device was removed", "see the kernel's log"));
    // The sender has closed, or its process has died. Why, the session tells: here it is only that nobody writes any more.
    collect();
    disconnect();
  }

  bool wants_moves() const override { return sealed_; }
  Result<uint32_t> allow(uint64_t generation, const KvMoves* moves) override {
    const uint32_t i = slots_.open();
    if (!rail_.flows) own_flows_.allow(generation, i, moves);
    return i;
  }
  void revoke(uint32_t slot) override {
    if (!rail_.flows) own_flows_.revoke(slot);
    slots_.revoke(slot);
  }
  void stopped(uint32_t slot) override { slots_.stopped(slot); }
  void session_lost() override {
    if (std::exchange(lost_, true)) return;
    collect();
    close();
  }
  bool quiet(uint32_t slot) override {
    if (lost_) slots_.stopped(slot);
    return slots_.free(slot);
  }

  bool poll(std::vector<Note>& notes, uint32_t& worked) override {
    collect();
    if (!stream_) return true; // closed: what it had heard has no session any more
    uint32_t pieces = 0;
    if (!stream_->take(heard_, notes, pieces)) return false;
    if (pieces) at_.device->ep.look_again(1'000); // there may be more of them, and no descriptor says so
    worked += pieces;
    if (!qp_ || !qp_->error()) return true;
    cause_ = *qp_->error();
    disconnect();
    return false;
  }
  void tell(std::vector<Message>& all) override {
    if (const uint32_t pieces = stream_ ? stream_->give_back() : 0) all.push_back({"kv.credit", {{"pieces", pieces}}, {}});
  }
  const char* broken() const override { return stream_ ? stream_->broken() : nullptr; }
  std::optional<Error> cause() const override { return cause_; }

 private:
  Status accept(rdma_cm_id* id) {
    BATON_ASSIGN(VerbsDevice * d, hub_->device(id));
    if (d != at_.device) return Error(BATON_UNSUPPORTED, "verbs: the connection came in by another device", "use one RDMA device for one address");
    BATON_ASSIGN(qp_, VerbsQp::open(*d, domain_.get(), {1, kVerbsNotes, 1, 0}));
    if (qp_->receives() < kVerbsNotes) return Error(BATON_UNSUPPORTED, fmt::format("verbs: {} has queues of {}, {} are needed", d->name(), qp_->receives(), kVerbsNotes), "choose another fabric");
    next_slot_ = 0;
    for (ibv_recv_wr& r : receives_) r = {}; // no buffer: the bytes go where the write says
    BATON_TRY(qp_->to(id, IBV_QPS_INIT, IBV_ACCESS_REMOTE_WRITE, lease_ns_));
    BATON_TRY(repost(kVerbsNotes));
    BATON_TRY(qp_->to(id, IBV_QPS_RTR, IBV_ACCESS_REMOTE_WRITE, lease_ns_));
    BATON_TRY(qp_->to(id, IBV_QPS_RTS, IBV_ACCESS_REMOTE_WRITE, lease_ns_));
    rdma_conn_param p = connection(qp_->qp());
    if (rdma_accept(id, &p)) return io_error("rdma_accept", errno);
    return {};
  }

  Status repost(uint32_t n) {
    for (uint32_t i = 0; i < n; ++i) receives_[i].next = i + 1 < n ? &receives_[i + 1] : nullptr;
    ibv_recv_wr* bad = nullptr;
    if (const int rc = n ? ibv_post_recv(qp_->qp(), receives_.data(), &bad) : 0) return io_error("verbs: ibv_post_recv", rc);
    return {};
  }

  // Notes that have come are copied out of the ring before their receives are given back.
  void collect() {
    if (!qp_) return;
    uint32_t read = 0;
    qp_->drain([&](const ibv_wc& wc) {
      if (qp_->error()) return; // flushed
      if (wc.status != IBV_WC_SUCCESS) return qp_->fail(completion_error(*qp_, wc));
      if (wc.opcode != IBV_WC_RECV_RDMA_WITH_IMM || ntohl(wc.imm_data) != next_slot_ || wc.byte_len != sizeof(Note))
        return qp_->fail(Error(BATON_CORRUPT, "verbs: the peer's note is not the one that is due", "run the same Baton version on both sides"));
      heard_.push_back(ring_.get()[next_slot_]);
      next_slot_ = (next_slot_ + 1) % kVerbsNotes;
      if (++read < kVerbsNotes) return;
      give_back(read);
    });
    give_back(read);
  }
  void give_back(uint32_t& n) {
    if (n && !qp_->error())
      if (Status s = repost(n); !s.ok()) qp_->fail(s.error());
    n = 0;
  }

  void disconnect() {
    if (id_) rdma_disconnect(id_.get()); // the sender hears of it at once
    qp_.reset();                         // from here on nobody can write
    id_.reset();
  }
  void close() {
    if (hub_) hub_->forget(this);
    token_.clear();
    disconnect();
    ring_mr_.reset();
    stage_mr_.reset();
    stream_.reset();
    memory_mr_.reset();
  }

  VerbsHub* hub_ = nullptr;
  LandingMemory memory_;
  RailPlace rail_;
  StreamFlows own_flows_;
  uint64_t lease_ns_;
  const bool sealed_;
  std::optional<StreamLanding> stream_; // of what is converted or sealed; until close()
  VerbsHub::Listening at_{};
  VerbsPd domain_;
  Ring ring_;
  VerbsMr memory_mr_, ring_mr_, stage_mr_;
  std::unique_ptr<VerbsQp> qp_;
  CmId id_;
  std::string token_; // not used yet
  std::array<ibv_recv_wr, kVerbsNotes> receives_{};
  uint32_t next_slot_ = 0;
  std::vector<Note> heard_; // not handed on yet
  LandingSlots slots_;
  std::optional<Error> cause_;
  bool lost_ = false;
};

class VerbsSender final : public Sender, public CmClient, public StreamPort {
 public:
  ~VerbsSender() override { close(); }

  Status start(Session::Impl& s, const nlohmann::json& o, const RailPlace& rail) {
    const std::string host = text_of(o, "host").value_or("");
    const uint64_t port = u64_of(o, "port").value_or(0), key = u64_of(o, "key").value_or(0), ring_key = u64_of(o, "ring_key").value_or(0);
    token_ = text_of(o, "token").value_or("");
    to_ = {u64_of(o, "base").value_or(0), u64_of(o, "bytes").value_or(0), u64_of(o, "ring").value_or(0), uint32_t(key), uint32_t(ring_key)};
    if (host.empty() || !port || port > UINT16_MAX || key > UINT32_MAX || ring_key > UINT32_MAX || !to_.bytes || token_.size() != 32)
      return Error(BATON_CORRUPT, "verbs: the sink's offer makes no sense", "run the same Baton version on both sides");
    lease_ns_ = std::max(s.peer.lease_ns, s.ep->options.lease_ns);
    std::optional<ChunkHeader> cipher;
    BATON_TRY(stream_.start(o.value("stage", nlohmann::json::object()), 0, s, s.bulk_sealed(), cipher)); // small runs are gathered by the device
    if (cipher) token_.append(cipher->begin(), cipher->end());
    BATON_ASSIGN(hub_, VerbsHub::of(*s.ep));
    BATON_ASSIGN(id_, hub_->resolve(rail.host.empty() ? local_host(s.fd.get()) : rail.host, host, uint16_t(port), this));
    return {};
  }

  std::optional<Status> state() override {
    if (failure_) return Status(*failure_);
    if (qp_ && qp_->error()) return Status(*qp_->error());
    if (!ready_ && hub_->error()) return Status(*hub_->error());
    if (!ready_) return std::nullopt;
    return Status();
  }
  Result<void*> local(const SourceMemory& m) override {
    BATON_ASSIGN(ibv_mr * mr, qp_->device().source(m));
    return static_cast<void*>(mr);
  }
  uint64_t step(Batch& b, uint64_t budget) override {
    if (writer_ && !failure_) return b.pack || (!b.stripe && !b.offset && !b.next && stream_.suits(b)) ? stream_.step(b, budget) : writer_->step(b, budget);
    if (!b.error) b.error = failure_ ? *failure_ : Error(BATON_PEER_LOST, "verbs: not connected", "open a new transfer");
    return 0;
  }
  bool notify(const Note& n) override { return !writer_ || writer_->notify(n); }
  uint32_t progress() override {
    if (!writer_) return 0;
    uint32_t n = 0;
    qp_->drain([&](const ibv_wc& wc) {
      writer_->take(wc);
      ++n;
    });
    if (qp_->gone()) writer_->settle_lost();
    stream_.flush();
    return n;
  }
  bool converts() const override { return true; }
  bool streams(const Batch& b) const override { return stream_.suits(b); }
  void heard(const Message& m) override {
    if (m.type == "kv.credit") stream_.credit(uint32_t(u64_of(m.body, "pieces").value_or(0)));
  }
  void stop(Batch& b) override { stream_.stop(b); }
  Status open_stage(void* base, uint64_t bytes) override {
    device_ = &qp_->device();
    BATON_ASSIGN(stage_mr_, device_->source({static_cast<const uint8_t*>(base), bytes}));
    return {};
  }
  void close_stage(void* base) override { device_->forget(base); }
  Result<bool> write(const void* from, uint64_t bytes, uint64_t remote, uint64_t key, StreamPosted* done) override {
    if (!writer_) return Error(BATON_PEER_LOST, "verbs: not connected", "open a new transfer");
    return writer_->write(from, bytes, stage_mr_->lkey, remote, uint32_t(key), done);
  }
  VerbsCounts counts() const { return writer_ ? VerbsCounts{writer_->operations(), writer_->completions(), writer_->notes()} : VerbsCounts(); }
  int fd() const override { return qp_ ? qp_->fd() : -1; }
  bool copies() const override { return false; }
  bool in_order() const override { return true; }
  // Destroying the queue pair is what ends the device's reading of the sources.
  void abandon() override {
    if (!failure_) failure_ = Error(BATON_CANCELLED, "this sender was abandoned", "open a new transfer");
    close();
  }

  void on_event(const CmEvent& e) override {
    if (failure_) return;
    if (Status s = step_connection(e); !s.ok()) {
      if (qp_) qp_->fail(s.error()); // what is posted comes back, by progress()
      else failure_ = s.error();
    }
  }

 private:
  Status step_connection(const CmEvent& e) {
    switch (e.type) {
      case RDMA_CM_EVENT_ADDR_RESOLVED:
        if (rdma_resolve_route(id_.get(), 2000)) return io_error("rdma_resolve_route", errno);
        return {};
      case RDMA_CM_EVENT_ROUTE_RESOLVED: return connect();
      case RDMA_CM_EVENT_CONNECT_RESPONSE:
        BATON_TRY(qp_->to(id_.get(), IBV_QPS_RTR, 0, lease_ns_));
        BATON_TRY(qp_->to(id_.get(), IBV_QPS_RTS, 0, lease_ns_));
        if (rdma_establish(id_.get())) return io_error("rdma_establish", errno);
        ready_ = true;
        return {};
      case RDMA_CM_EVENT_ESTABLISHED: return {};
      case RDMA_CM_EVENT_ADDR_ERROR:
      case RDMA_CM_EVENT_ROUTE_ERROR:
      case RDMA_CM_EVENT_UNREACHABLE:
        return Error(BATON_UNSUPPORTED, fmt::format("verbs: no way to the sink: {} ({})", cm_event_text(e), e.status), "see 'rdma link' and 'ip route' on both sides, or use the fabric tcp");
      case RDMA_CM_EVENT_REJECTED:
      case RDMA_CM_EVENT_CONNECT_ERROR: return Error(BATON_PEER_LOST, fmt::format("verbs: the sink did not take the connection: {} ({})", cm_event_text(e), e.status), "see the decode side's log");
      case RDMA_CM_EVENT_DEVICE_REMOVAL:
        if (qp_) qp_->device_gone(Error(BATON_DEVICE_LOST, "verbs: the RDMA device was removed", "see the kernel's log"));
        return Error(BATON_DEVICE_LOST, "verbs: the RDMA device was removed", "see the kernel's log");
      case RDMA_CM_EVENT_DISCONNECTED: return Error(BATON_PEER_LOST, "verbs: the sink has closed the connection", "open a new transfer");
      default: return {};
    }
  }

  Status connect() {
    BATON_ASSIGN(VerbsDevice * d, hub_->device(id_.get()));
    BATON_ASSIGN(qp_, VerbsQp::open(*d, d->shared_domain.get(), VerbsWriter::needs(*d)));
    BATON_ASSIGN(writer_, VerbsWriter::open(*qp_, to_));
    BATON_TRY(qp_->to(id_.get(), IBV_QPS_INIT, 0, lease_ns_));
    rdma_conn_param p = connection(qp_->qp());
    p.private_data = token_.data();
    p.private_data_len = uint8_t(token_.size());
    if (rdma_connect(id_.get(), &p)) return io_error("rdma_connect", errno);
    return {};
  }

  void close() {
    if (id_ && ready_) rdma_disconnect(id_.get());
    writer_.reset();
    qp_.reset();
    id_.reset();
  }

  VerbsHub* hub_ = nullptr;
  VerbsDevice* device_ = nullptr; // the stage's
  ibv_mr* stage_mr_ = nullptr;
  StreamSender stream_{*this};
  VerbsTarget to_;
  std::string token_;
  uint64_t lease_ns_ = 0;
  CmId id_;
  std::unique_ptr<VerbsQp> qp_;
  std::unique_ptr<VerbsWriter> writer_;
  std::optional<Error> failure_;
  bool ready_ = false;
};

}  // namespace

FabricInfo verbs_probe() {
  FabricInfo f{"verbs", "rdma-core", false, ""};
  if (auto why = verbs_missing()) {
    f.reason = *why;
    return f;
  }
  int n = 0;
  ibv_device** list = ibv_get_device_list(&n);
  for (int i = 0; i < n; ++i) f.reason += (i ? ", " : "") + std::string(ibv_get_device_name(list[i]));
  if (list) ibv_free_device_list(list);
  f.available = access("/dev/infiniband/rdma_cm", R_OK | W_OK) == 0;
  f.reason = f.available ? fmt::format("InfiniBand and RoCE, by {}; not encrypted", f.reason)
                         : fmt::format("{} without a connection manager: /dev/infiniband/rdma_cm: {} (load rdma_ucm)", f.reason, strerror(errno));
  return f;
}

std::optional<std::string> verbs_unusable(const Endpoint::Impl& ep) {
  return ep.attached.count(VerbsHub::kKey) ? std::nullopt : verbs_missing();
}

bool verbs_at(Session::Impl& s) {
  if (verbs_unusable(*s.ep)) return false;
  auto hub = VerbsHub::of(*s.ep);
  return hub.ok() && (*hub)->has(local_host(s.fd.get()));
}

Result<std::unique_ptr<Landing>> make_verbs_landing(Session::Impl& s, const LandingMemory& m, const RailPlace& rail) {
  auto l = std::make_unique<VerbsLanding>(s, m, rail);
  BATON_TRY(l->start(s));
  return std::unique_ptr<Landing>(std::move(l));
}

Result<std::unique_ptr<Sender>> make_verbs_sender(Session::Impl& s, const nlohmann::json& offer, const RailPlace& rail) {
  auto m = std::make_unique<VerbsSender>();
  BATON_TRY(m->start(s, offer, rail));
  return std::unique_ptr<Sender>(std::move(m));
}

VerbsCounts verbs_counts(const Sender& s) {
  const auto* v = dynamic_cast<const VerbsSender*>(&s);
  return v ? v->counts() : VerbsCounts();
}

void verbs_forget_source(Endpoint::Impl& ep, const void* base) {
  if (VerbsHub* hub = VerbsHub::existing(ep)) hub->forget_source(base);
}

}  // namespace baton::transport
