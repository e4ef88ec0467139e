// verbs_cm.hpp (internal): how the queue pairs of an endpoint's sessions find each other: librdmacm, and the endpoint's RDMA devices.
//
// A sink's side listens on the address that its session came in by; where, and a token that works once, are told over the authenticated session.
// The token begins the private data of the connection request: a request without one that is expected is rejected before anything is made for
// it. So the connection manager's own port, which anybody may reach, gives nothing away and holds nothing.
//
// Owner    the endpoint (an attachment, "verbs").   Threads  as the Instance: its event channel is one more descriptor of the endpoint.
// Cost     A connection: a millisecond or so, once for each (session, sink).
// Errors   UNSUPPORTED where no RDMA device has the address; IO.
//
//     BATON_ASSIGN(VerbsHub * hub, VerbsHub::of(endpoint));   BATON_ASSIGN(auto at, hub->listen("10.0.0.5"));
#pragma once

#include "transport/verbs_device.hpp"

#include <rdma/rdma_cma.h>

#include <set>

namespace baton::transport {

// An event of one connection; librdmacm's own is released before this is handed on, so that the connection may be destroyed meanwhile.
struct CmEvent {
  rdma_cm_event_type type;
  int status;
};
class CmClient {
 public:
  virtual ~CmClient() = default;
  virtual void on_event(const CmEvent&) = 0;
};
using CmId = std::unique_ptr<rdma_cm_id, VerbsFree<rdma_destroy_id>>;
class CmAcceptor {
 public:
  virtual ~CmAcceptor() = default;
  virtual void on_request(CmId, std::span<const uint8_t> said) = 0; // somebody has shown this acceptor's token, and said so much more
};

class VerbsHub final : public Attachment, public Watcher {
 public:
  static constexpr char kKey[] = "verbs";
  static Result<VerbsHub*> of(Endpoint::Impl&);
  static VerbsHub* existing(Endpoint::Impl&);
  ~VerbsHub() override;
  void ready(uint32_t) override;

  struct Listening {
    std::string host;
    uint16_t port;
    VerbsDevice* device;
  };
  Result<Listening> listen(const std::string& host); // numeric; once for each address
  bool has(const std::string& host);                 // some RDMA device has the address
  // The first step towards a peer; the client hears of RDMA_CM_EVENT_ADDR_RESOLVED.
  Result<CmId> resolve(const std::string& from, const std::string& to, uint16_t port, CmClient*);
  Result<VerbsDevice*> device(rdma_cm_id*); // that this connection goes by

  const std::optional<Error>& error() const { return error_; } // no connection is made any more
  std::string expect(CmAcceptor*); // a token
  void forget(CmAcceptor* a) {
    std::erase_if(tokens_, [&](const auto& t) { return t.second == a; });
  }
  void forget_source(const void* base) {
    for (auto& d : devices_) d->forget(base);
  }

 private:
  explicit VerbsHub(Endpoint::Impl& ep) : ep_(ep) {}
  Status start();
  Result<CmId> bound(const std::string& host);
  void request(CmId, const std::string& said);
  struct Listener {
    CmId id;
    Listening at;
  };
  struct ChannelFree {
    void operator()(rdma_event_channel* c) const { rdma_destroy_event_channel(c); }
  };

  Endpoint::Impl& ep_;
  uint64_t tag_ = 0;
  std::optional<Error> error_;
  std::vector<std::unique_ptr<VerbsDevice>> devices_;
  std::unique_ptr<rdma_event_channel, ChannelFree> channel_;
  std::map<std::string, Listener> listeners_; // by address; gone before the channel
  std::map<std::string, CmAcceptor*> tokens_;
  std::set<std::string> had_; // addresses
};

const char* cm_event_text(const CmEvent&);

}  // namespace baton::transport
