#include "transport/bench/raw_ofi.hpp"

#include "transport/crypto.hpp"
#include "transport/kv_wire.hpp"
#include "transport/ofi_port.hpp"

#include <fmt/format.h>
#include <rdma/fi_rma.h>

#include <unistd.h>

#include <algorithm>

namespace baton::transport {
namespace {

constexpr size_t kWindow = 128;

class Raw final : public RawOfi {
 public:
  Status start(const char* provider, void* pool, uint64_t bytes) {
    pool_ = static_cast<uint8_t*>(pool);
    BATON_ASSIGN(info_, ofi_info(provider, {std::string_view(provider).find("rxm") != std::string_view::npos ? "127.0.0.1" : "", ""}));
    info_->tx_attr->op_flags = 0;
    fid_fabric* fabric = nullptr;
    fid_domain* domain = nullptr;
    fid_cq* cq = nullptr;
    fid_av* av = nullptr;
    fid_ep* ep = nullptr;
    fid_mr* mr = nullptr;
    BATON_ASSIGN(const OfiLibrary* ofi, ofi_library());
    if (int rc = ofi->fabric(info_->fabric_attr, &fabric, nullptr)) return fi_error("fi_fabric", rc);
    fabric_.reset(fabric);
    if (int rc = fi_domain(fabric, info_.get(), &domain, nullptr)) return fi_error("fi_domain", rc);
    domain_.reset(domain);
    fi_cq_attr ca{};
    ca.format = FI_CQ_FORMAT_CONTEXT;
    ca.size = 2048;
    ca.wait_obj = FI_WAIT_NONE;
    if (int rc = fi_cq_open(domain, &ca, &cq, nullptr)) return fi_error("fi_cq_open", rc);
    cq_.reset(cq);
    fi_av_attr aa{};
    aa.type = FI_AV_UNSPEC;
    if (int rc = fi_av_open(domain, &aa, &av, nullptr)) return fi_error("fi_av_open", rc);
    av_.reset(av);
    if (int rc = fi_endpoint(domain, info_.get(), &ep, nullptr)) return fi_error("fi_endpoint", rc);
    ep_.reset(ep);
    if (info_->addr_format == FI_ADDR_STR) {
      std::string name = fmt::format("baton-raw-{}-{}", getpid(), random_hex(4));
      if (int rc = fi_setname(&ep->fid, name.data(), name.size() + 1)) return fi_error("fi_setname", rc);
    }
    int rc = fi_ep_bind(ep, &av->fid, 0);
    if (!rc) rc = fi_ep_bind(ep, &cq->fid, FI_TRANSMIT | FI_RECV);
    if (!rc) rc = fi_enable(ep);
    if (rc) return fi_error("fi_enable", rc);
    const uint64_t key = info_->domain_attr->mr_mode & FI_MR_PROV_KEY ? 0 : random_u64();
    if ((rc = fi_mr_reg(domain, pool, bytes, FI_REMOTE_WRITE | FI_WRITE, 0, key, 0, &mr, nullptr))) return fi_error("fi_mr_reg", rc);
    mr_.reset(mr);
    return receive();
  }

  Result<nlohmann::json> way() override {
    uint8_t a[256];
    size_t n = sizeof a;
    if (int rc = fi_getname(&ep_->fid, a, &n)) return fi_error("fi_getname", rc);
    const bool virt = info_->domain_attr->mr_mode & FI_MR_VIRT_ADDR;
    return nlohmann::json{{"address", std::vector<uint8_t>(a, a + n)}, {"key", fi_mr_key(mr_.get())}, {"base", virt ? reinterpret_cast<uint64_t>(pool_) : 0}};
  }
  Status connect(const nlohmann::json& way) override {
    auto address = way["address"].get<std::vector<uint8_t>>();
    address.push_back(0);
    key_ = way["key"], base_ = way["base"];
    const int n = fi_av_insert(av_.get(), address.data(), 1, &to_, 0, nullptr);
    return n == 1 ? Status() : Status(fi_error("fi_av_insert", n));
  }
  Status move(std::span<const KvSegment> segments, uint64_t deadline_ns) override {
    void* desc = info_->domain_attr->mr_mode & FI_MR_LOCAL ? fi_mr_desc(mr_.get()) : nullptr;
    size_t posted = 0;
    done_ = 0;
    while (done_ < segments.size()) {
      while (posted < segments.size() && posted - done_ < kWindow) {
        const KvSegment& s = segments[posted];
        const ssize_t rc = fi_write(ep_.get(), pool_ + s.src, s.bytes, desc, to_, base_ + s.dst, key_, nullptr);
        if (rc == -FI_EAGAIN) break;
        if (rc) return fi_error("fi_write", rc);
        ++posted;
      }
      BATON_TRY(progress());
      if (now_ns() > deadline_ns) return Error(BATON_DEADLINE, "raw libfabric did not finish", "run it on a quieter machine");
    }
    while (fi_inject(ep_.get(), message_, sizeof message_, to_) == -FI_EAGAIN) BATON_TRY(progress());
    return {};
  }
  bool heard() override {
    (void)progress();
    return std::exchange(heard_, false);
  }

 private:
  Status receive() {
    const ssize_t rc = fi_recv(ep_.get(), in_, sizeof in_, nullptr, FI_ADDR_UNSPEC, in_);
    return rc ? Status(fi_error("fi_recv", rc)) : Status();
  }
  Status progress() {
    fi_cq_entry e[32];
    const ssize_t n = fi_cq_read(cq_.get(), e, std::size(e));
    for (ssize_t i = 0; i < n; ++i) {
      if (e[i].op_context != in_) {
        ++done_;
        continue;
      }
      heard_ = true;
      BATON_TRY(receive());
    }
    if (n < 0 && n != -FI_EAGAIN) return fi_error("fi_cq_read", n);
    return {};
  }

  Info info_;
  Fid<fid_fabric> fabric_;
  Fid<fid_domain> domain_;
  Fid<fid_cq> cq_;
  Fid<fid_av> av_;
  Fid<fid_mr> mr_;
  Fid<fid_ep> ep_;
  uint8_t* pool_ = nullptr;
  uint8_t in_[64], message_[64] = {};
  fi_addr_t to_ = FI_ADDR_UNSPEC;
  uint64_t key_ = 0, base_ = 0;
  size_t done_ = 0;
  bool heard_ = false;
};

}  // namespace

Result<std::unique_ptr<RawOfi>> RawOfi::open(const char* provider, void* pool, uint64_t bytes) {
  auto r = std::make_unique<Raw>();
  BATON_TRY(r->start(provider, pool, bytes));
  return std::unique_ptr<RawOfi>(std::move(r));
}

}  // namespace baton::transport
