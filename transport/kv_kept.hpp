// kv_kept.hpp (internal): what requests that have ended leave to the next ones of their endpoint: the memory of their moves, and the plans.
//
// A move of 16384 blocks is a megabyte: fresh from the kernel, its page faults cost four times what filling it does. Requests between the same layouts have
// the same plans: the latest are kept.
//
// Owner    the endpoint.   Threads  as the Instance.   Cost  up to 64 MiB of moves, each as large as the largest that it was.   Errors  as share_heads.
//
//     BATON_ASSIGN(Shares shares, KvKept::of(ep).shares(sources, sink));
//     moves[source].push_back(KvKept::of(ep).move());   plan.instantiate(from, to, 0, tokens, moves[source].back());   ...   KvKept::of(ep).keep(moves);
#pragma once

#include "transport/endpoint.hpp"
#include "transport/kv_layout.hpp"
#include "transport/kv_wire.hpp"

namespace baton::transport {

class KvKept final : public Attachment {
 public:
  static KvKept& of(Endpoint::Impl& ep) {
    auto& slot = ep.attached["kv-kept"];
    if (!slot) slot = std::make_unique<KvKept>();
    return static_cast<KvKept&>(*slot);
  }
  KvMove move() {
    if (moves_.empty()) return {};
    KvMove m = std::move(moves_.back());
    moves_.pop_back();
    bytes_ -= m.memory();
    return m;
  }
  void keep(std::vector<std::vector<KvMove>>& by_source) {
    for (auto& parts : by_source)
      for (KvMove& m : parts)
        if (const uint64_t more = m.memory(); more && bytes_ + more <= kMostBytes) {
          bytes_ += more;
          moves_.push_back(std::move(m));
        }
    by_source.clear();
  }
  Result<Shares> shares(const std::vector<KvLayout>& sources, const KvLayout& sink) {
    if (sources != sources_ || sink != sink_) {
      BATON_ASSIGN(shares_, share_heads(sources, sink));
      sources_ = sources, sink_ = sink;
    }
    return shares_;
  }

 private:
  static constexpr uint64_t kMostBytes = 64u << 20;
  std::vector<KvMove> moves_;
  uint64_t bytes_ = 0; // of moves_
  std::vector<KvLayout> sources_; // of shares_; none: nothing is kept
  KvLayout sink_;
  Shares shares_;
};

}  // namespace baton::transport
