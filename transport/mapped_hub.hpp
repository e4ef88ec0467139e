// mapped_hub.hpp (internal): hands the descriptors of shared memory to whoever brings a token over a unix socket in the abstract namespace.
//
// The socket's random name and a token that works once are told over the authenticated session; the peer must also have the same user.
//
// Owner    the endpoint.   Threads  as the Instance.   Cost  once a mapping.   Errors  IO.
//
//     BATON_ASSIGN(MappedHub* hub, MappedHub::of(ep));   hub->expect(token = random_hex(32), this);   // welcome(fd) follows
#pragma once

#include "transport/endpoint.hpp"

#include <map>

namespace baton::transport {

class MappedHost {
 public:
  virtual ~MappedHost() = default;
  virtual void welcome(Fd peer) = 0; // brought the token; call MappedHub::forget, a token works once
};

class MappedHub final : public Attachment, public Watcher {
 public:
  explicit MappedHub(Endpoint::Impl& ep) : ep_(ep) {}
  ~MappedHub() override {
    guests_.clear();
    if (listener_) ep_.unwatch(tag_, listener_.get());
  }
  static Result<MappedHub*> of(Endpoint::Impl& ep);
  const std::string& name() const { return name_; }
  void expect(const std::string& token, MappedHost* l) { tokens_[token] = l; }
  void forget(MappedHost* l) {
    std::erase_if(tokens_, [&](const auto& t) { return t.second == l; });
  }

  void ready(uint32_t) override;

 private:
  Status start();
  struct Guest final : Watcher { // connected, has shown no token yet
    ~Guest() override {
      if (fd) hub->ep_.unwatch(tag, fd.get());
    }
    void ready(uint32_t) override { hub->token_from(this); }
    MappedHub* hub = nullptr;
    Fd fd;
    uint64_t tag = 0;
  };
  void token_from(Guest*);

  Endpoint::Impl& ep_;
  Fd listener_;
  uint64_t tag_ = 0;
  std::string name_;
  std::map<std::string, MappedHost*> tokens_;
  std::vector<std::unique_ptr<Guest>> guests_;
};

}  // namespace baton::transport
