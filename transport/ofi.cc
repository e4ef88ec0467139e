#include "transport/ofi.hpp"

#include "transport/kv_wire.hpp"
#include "transport/ofi_port.hpp"
#include "transport/tcp_stream.hpp"

#include <fmt/format.h>

#include <poll.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace baton::transport {
namespace {

struct Provider {
  const char *fabric, *provider, *what;
  bool one_host;
  uint64_t small_segment; // below this average, segments are streamed; 0: never
  bool sockets = false;   // by TCP, where nothing stands against it (tcp_stream.hpp)
};
constexpr Provider kProviders[] = {
    {"shm", "shm", "same host; the kernel copies (process_vm_writev)", true, 32u << 10},
    {"tcp", "tcp;ofi_rxm", "any network; encrypted if a side wishes it (seal)", false, 128u << 10, true},
    {"ofi-verbs", "verbs;ofi_rxm", "InfiniBand and RoCE; tried on soft-RoCE, not on hardware yet", false, 4u << 10},
    {"efa", "efa", "EC2 Elastic Fabric Adapter; not tried on hardware yet", false, 16u << 10},
};

const Provider* provider_of(const std::string& fabric) {
  for (const auto& p : kProviders)
    if (fabric == p.fabric) return &p;
  return nullptr;
}

// Where an endpoint of this fabric is: of a provider of one host nowhere, of a rail its NIC, else the session's interface.
OfiPlace place_of(const Session::Impl& s, const Provider& p, const RailPlace& rail) {
  if (p.one_host) return {};
  return {rail.host.empty() && rail.device.empty() ? local_host(s.fd.get()) : rail.host, rail.device};
}

std::vector<uint8_t> unhex(const std::string& s) {
  std::vector<uint8_t> out(s.size() / 2);
  size_t n = 0;
  if (sodium_hex2bin(out.data(), out.size(), s.data(), s.size(), nullptr, &n, nullptr)) n = 0;
  out.resize(n);
  return out;
}

// Alive as long as the process is; not valid where processes cannot be told apart (another namespace).
Fd pidfd_of(const Session::Impl& s) {
  if (s.peer.pid <= 0 || s.peer.pid == getpid() || s.peer.pids != my_identity(s.ep->options).pids) return Fd();
  return Fd(int(syscall(SYS_pidfd_open, s.peer.pid, 0)));
}

std::string port_name(const Session::Impl& s, const char* what) {
  static uint64_t counter = 0; // two instances of one process may share a session's both ends
  return fmt::format("{}{}{}-{}-{}", shm_prefix(s), what, s.role == Role::client ? "c" : "s", getpid(), counter++);
}

class OfiLanding final : public Landing, public Watcher {
 public:
  OfiLanding(Session::Impl& s, const Provider& p, const LandingMemory& m, const RailPlace& rail)
      : ep_(*s.ep), provider_(p), memory_(m), rail_(rail), own_flows_(memory_), prefix_(shm_prefix(s)), pidfd_(p.one_host ? pidfd_of(s) : Fd()) {}
  ~OfiLanding() override { close(); }
  const char* fabric() const override { return provider_.fabric; }

  Status start(Session::Impl& s) {
    BATON_ASSIGN(domain_, OfiDomain::of(ep_, provider_.fabric, place_of(s, provider_, rail_)));
    const bool sealed = s.bulk_sealed() && !provider_.one_host;
    if (!sealed) { BATON_ASSIGN(mr_, domain_->target(memory_)); }
    BATON_ASSIGN(port_, OfiPort::open(*domain_, port_name(s, "l")));
    BATON_TRY(port_->post_receives());
    if (provider_.small_segment) stream_.emplace(rail_.flows ? *rail_.flows : own_flows_, s, sealed);
    if (provider_.sockets && !sealed && !rail_.flows) {
      tcp_.emplace(ep_, own_flows_);
      BATON_TRY(tcp_->listen(place_of(s, provider_, rail_).host));
    }
    if (port_->wait_fd() >= 0) tag_ = ep_.watch(port_->wait_fd(), EPOLLIN, this);
    return {};
  }

  Result<nlohmann::json> offer() override {
    if (!port_) return Error(BATON_PEER_LOST, "this landing is closed", "open a new session");
    BATON_ASSIGN(auto address, port_->address());
    const bool virt = domain_->info->domain_attr->mr_mode & FI_MR_VIRT_ADDR;
    nlohmann::json o{{"sink", memory_.id},
                     {"address", hex(address)},
                     {"key", mr_ ? fi_mr_key(mr_.get()) : 0}, // 0: sealed, the stage alone is disclosed
                     {"base", mr_ && virt ? reinterpret_cast<uint64_t>(memory_.base) : 0},
                     {"bytes", memory_.bytes}};
    if (stream_) {
      BATON_ASSIGN(const auto stage, stream_->stage());
      if (!stage_mr_) { BATON_ASSIGN(stage_mr_, domain_->target({"", stage.data(), stage.size()})); }
      o["stage"] = stream_->offer(virt ? reinterpret_cast<uint64_t>(stage.data()) : 0, fi_mr_key(stage_mr_.get()));
    }
    if (tcp_) o["tcp"] = tcp_->offer();
    return o;
  }
  bool wants_moves() const override { return stream_.has_value(); }

  void ready(uint32_t) override {} // poll() reads

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

  // tcp: bytes land only while this side reads them, so closing the endpoint ends it. Hardware refuses the closed region. shm: the peer's
  // process copies by itself, so only its end is the end.
  void session_lost() override {
    if (lost_) return;
    lost_ = true;
    close();
    if (provider_.one_host) sweep_session_shm(prefix_);
  }
  bool quiet(uint32_t slot) override {
    if (lost_ && process_gone()) slots_.stopped(slot);
    return slots_.free(slot);
  }

  bool poll(std::vector<Note>& notes, uint32_t& worked) override {
    if (!port_) return true;
    if (!stream_) return port_->progress(&notes, nullptr);
    const bool good = port_->progress(&received_, nullptr);
    if (tcp_ && !tcp_->poll(worked)) return false;
    return stream_->take(received_, notes, worked) && good;
  }
  Status heard(const Message& m, std::vector<Note>& notes) override {
    return stream_ && m.type == "kv.cipher" ? stream_->cipher(unhex(text_of(m.body, "header").value_or(""))) : Landing::heard(m, notes);
  }
  void tell(std::vector<Message>& all) override {
    if (const uint32_t pieces = stream_ ? stream_->give_back() : 0) all.push_back({"kv.credit", {{"pieces", pieces}}, {}});
  }
  const char* broken() const override { return stream_ && stream_->broken() ? stream_->broken() : tcp_ ? tcp_->broken() : nullptr; }
  std::optional<Error> cause() const override { return tcp_ ? tcp_->cause() : std::nullopt; }
  uint64_t tick_ns() const override { return !port_ ? 0 : port_->wait_fd() < 0 ? 50'000 : 1'000'000; }

 private:
  bool process_gone() const {
    if (!provider_.one_host || !pidfd_) return true;
    pollfd p{pidfd_.get(), POLLIN, 0};
    return ::poll(&p, 1, 0) == 1;
  }
  void close() {
    if (tag_) ep_.unwatch(std::exchange(tag_, 0), port_->wait_fd());
    stage_mr_.reset();
    tcp_.reset();
    stream_.reset();
    port_.reset();
    mr_.reset();
  }

  Endpoint::Impl& ep_;
  const Provider& provider_;
  LandingMemory memory_;
  RailPlace rail_;
  StreamFlows own_flows_;
  std::string prefix_;
  Fd pidfd_;
  OfiDomain* domain_ = nullptr;
  Fid<fid_mr> mr_;
  std::unique_ptr<OfiPort> port_;
  std::optional<StreamLanding> stream_;
  Fid<fid_mr> stage_mr_; // of the stream's stage
  std::optional<TcpStreamLanding> tcp_;
  std::vector<Note> received_;
  uint64_t tag_ = 0;
  bool lost_ = false;
  LandingSlots slots_;
};

class OfiSender final : public Sender, public StreamPort {
 public:
  // With a lost session go the peer's files: a killed sink removes none.
  ~OfiSender() override {
    stream_.reset();
    port_.reset();
    if (session_ && session_->cause) sweep_session_shm(shm_prefix(*session_));
  }
  Status start(Session::Impl& s, const Provider& p, const nlohmann::json& offer, const RailPlace& rail) {
    const auto address = unhex(text_of(offer, "address").value_or(""));
    key_ = u64_of(offer, "key").value_or(0);
    base_ = u64_of(offer, "base").value_or(0);
    bytes_ = u64_of(offer, "bytes").value_or(0);
    if (address.empty() || address.size() > 256 || !bytes_) return Error(BATON_CORRUPT, "the sink's offer makes no sense", "run the same Baton version on both sides");
    BATON_ASSIGN(domain_, OfiDomain::of(*s.ep, p.fabric, place_of(s, p, rail)));
    if (p.one_host) session_ = &s;
    BATON_ASSIGN(port_, OfiPort::open(*domain_, port_name(s, "s")));
    BATON_ASSIGN(to_, port_->insert(address));
    if (!p.small_segment || !offer.contains("stage")) {
      if (s.bulk_sealed() && !p.one_host) return Error(BATON_UNSUPPORTED, fmt::format("{} cannot seal what leaves this host", p.fabric), "use the fabric tcp, or do not ask for sealing");
      return {};
    }
    stream_.emplace(*this);
    if (offer.contains("tcp") && !rail.number) BATON_TRY(tcp_.emplace().start(offer["tcp"], p.small_segment));
    std::optional<ChunkHeader> cipher;
    BATON_TRY(stream_->start(offer["stage"], p.small_segment, s, s.bulk_sealed() && !p.one_host, cipher));
    if (!cipher) return {};
    nlohmann::json body{{"sink", text_of(offer, "sink").value_or("")}, {"fabric", p.fabric}, {"header", hex(*cipher)}};
    if (rail.number) body["rail"] = rail.number;
    return send_transport(s, "kv.cipher", std::move(body));
  }

  std::optional<Status> state() override {
    if (!port_) return Status(Error(BATON_CANCELLED, "this sender was abandoned", "open a new transfer"));
    if (port_->error()) return Status(*port_->error());
    return Status();
  }
  Result<void*> local(const SourceMemory& m) override {
    BATON_ASSIGN(fid_mr * mr, domain_->source(m));
    return mr ? fi_mr_desc(mr) : nullptr;
  }

  bool converts() const override { return stream_.has_value(); }
  bool streams(const Batch& b) const override { return stream_ && stream_->suits(b); }
  uint64_t step(Batch& b, uint64_t budget) override {
    if (port_ && tcp_ && tcp_->takes(b)) return tcp_->step(b, budget);
    if (port_ && stream_ && (b.pack || (!b.stripe && !b.offset && !b.next && stream_->suits(b)))) return stream_->step(b, budget);
    uint64_t done = 0;
    while (port_ && !b.error && done < budget && !b.posted() && port_->outstanding < port_->window()) {
      const uint64_t n = post(b, budget - done);
      if (!n) break;
      done += n;
    }
    if (!port_ && !b.error) b.error = state()->error();
    return done;
  }

  bool notify(const Note& note) override {
    if (!port_) return true;
    const ssize_t rc = fi_inject(port_->ep(), &note, sizeof note, to_);
    return rc != -FI_EAGAIN; // another failure shows as a lost session, or in the queue
  }
  Status open_stage(void* base, uint64_t bytes) override {
    BATON_ASSIGN(fid_mr * mr, domain_->source({static_cast<const uint8_t*>(base), bytes}));
    stage_desc_ = mr ? fi_mr_desc(mr) : nullptr;
    return {};
  }
  void close_stage(void* base) override { domain_->forget(base); }
  Result<bool> write(const void* from, uint64_t bytes, uint64_t remote, uint64_t key, StreamPosted* done) override {
    if (port_->outstanding >= port_->window()) return false;
    const ssize_t rc = port_->write(from, bytes, stage_desc_, to_, remote, key, done);
    if (rc == -FI_EAGAIN) return false;
    if (rc) {
      Error e = fi_error("fi_writemsg", rc);
      e.code = BATON_PEER_LOST;
      return e;
    }
    ++port_->outstanding;
    return true;
  }
  uint32_t progress() override {
    uint32_t events = 0;
    if (!port_) return 0;
    (void)port_->progress(nullptr, &events);
    if (stream_) stream_->flush();
    if (tcp_) tcp_->flush();
    return events;
  }
  int fd() const override { return port_ ? port_->wait_fd() : -1; }
  bool copies() const override { return false; }
  void heard(const Message& m) override {
    if (stream_ && m.type == "kv.credit") stream_->credit(uint32_t(u64_of(m.body, "pieces").value_or(0)));
  }
  void stop(Batch& b) override {
    if (port_ && stream_) stream_->stop(b);
    if (port_ && tcp_) tcp_->stop(b);
  }
  void abandon() override { // closing the endpoint drops what is posted
    tcp_.reset();
    stream_.reset();
    port_.reset();
  }

 private:
  // One write of up to four segments, or of a part of one. Returns its bytes; 0: try again, or the batch has failed.
  uint64_t post(Batch& b, uint64_t budget) {
    iovec iov[4];
    fi_rma_iov rma[4];
    void* desc[4];
    size_t k = 0, next = b.next;
    uint64_t offset = b.offset, total = 0;
    while (k < port_->segments_per_write() && next < b.segments.size() && total < budget) {
      const KvSegment& g = b.segments[next];
      const uint64_t n = std::min({g.bytes - offset, budget - total, uint64_t(domain_->info->ep_attr->max_msg_size) - total});
      if (!n) break;
      if (g.dst + offset + n > bytes_) {
        b.error = Error(BATON_INTERNAL, fmt::format("a write of {} bytes at {} leaves the sink's {} bytes", n, g.dst + offset, bytes_), "report this");
        return 0;
      }
      iov[k] = {const_cast<uint8_t*>(b.src + g.src + offset), n};
      rma[k] = {base_ + g.dst + offset, n, key_};
      desc[k++] = b.local;
      total += n;
      offset += n;
      if (offset == g.bytes) ++next, offset = 0;
    }
    fi_msg_rma m{};
    m.msg_iov = iov;
    m.desc = b.local ? desc : nullptr;
    m.iov_count = m.rma_iov_count = k;
    m.rma_iov = rma;
    m.addr = to_;
    m.context = &b;
    const ssize_t rc = fi_writemsg(port_->ep(), &m, FI_COMPLETION | FI_DELIVERY_COMPLETE);
    if (rc == -FI_EAGAIN) return 0;
    if (rc) {
      b.error = fi_error("fi_writemsg", rc);
      b.error->code = BATON_PEER_LOST;
      return 0;
    }
    b.next = next;
    b.offset = offset;
    ++b.outstanding;
    ++port_->outstanding;
    return total;
  }

  OfiDomain* domain_ = nullptr;
  std::unique_ptr<OfiPort> port_;
  std::optional<StreamSender> stream_;
  std::optional<TcpStreamSender> tcp_;
  Session::Impl* session_ = nullptr; // whose attachment this is; of a provider that leaves files in /dev/shm
  fi_addr_t to_ = FI_ADDR_UNSPEC;
  uint64_t key_ = 0, base_ = 0, bytes_ = 0;
  void* stage_desc_ = nullptr;
};

}  // namespace

const char* ofi_provider(const std::string& fabric) {
  const Provider* p = provider_of(fabric);
  return p ? p->provider : nullptr;
}

FabricInfo ofi_probe(const std::string& fabric) {
  const Provider* p = provider_of(fabric);
  FabricInfo f{fabric, std::string("libfabric ") + p->provider, false, ""};
  auto info = ofi_info(p->provider, {});
  f.available = info.ok();
  f.reason = info.ok() ? p->what : info.error().what;
  return f;
}

Result<std::unique_ptr<Landing>> make_ofi_landing(const std::string& fabric, Session::Impl& s, const LandingMemory& m, const RailPlace& rail) {
  auto l = std::make_unique<OfiLanding>(s, *provider_of(fabric), m, rail);
  BATON_TRY(l->start(s));
  return std::unique_ptr<Landing>(std::move(l));
}

Result<std::unique_ptr<Sender>> make_ofi_sender(const std::string& fabric, Session::Impl& s, const nlohmann::json& offer, const RailPlace& rail) {
  auto m = std::make_unique<OfiSender>();
  BATON_TRY(m->start(s, *provider_of(fabric), offer, rail));
  return std::unique_ptr<Sender>(std::move(m));
}

void ofi_forget_source(Endpoint::Impl& ep, const void* base) {
  for (auto& [key, a] : ep.attached)
    if (key.rfind("ofi:", 0) == 0 && a) static_cast<OfiDomain*>(a.get())->forget(base);
}

}  // namespace baton::transport
