// kv_spare.hpp (internal): the moves of requests that have ended, kept for their memory. That of 16384 blocks is a megabyte: fresh from the kernel, its
// page faults cost four times what filling it does.
//
// Owner    the endpoint.   Threads  as the Instance.   Cost  the memory of up to 16 moves, each as large as the largest that it was.   Errors  none.
//
//     moves[source].push_back(SpareMoves::of(ep).take());   plan.instantiate(from, to, 0, tokens, moves[source].back());   ...   SpareMoves::of(ep).keep(moves);
#pragma once

#include "transport/endpoint.hpp"
#include "transport/kv_layout.hpp"

namespace baton::transport {

class SpareMoves final : public Attachment {
 public:
  static SpareMoves& of(Endpoint::Impl& ep) {
    auto& slot = ep.attached["kv-moves"];
    if (!slot) slot = std::make_unique<SpareMoves>();
    return static_cast<SpareMoves&>(*slot);
  }
  KvMove take() {
    if (moves_.empty()) return {};
    KvMove m = std::move(moves_.back());
    moves_.pop_back();
    return m;
  }
  void keep(std::vector<std::vector<KvMove>>& by_source) {
    for (auto& parts : by_source)
      for (KvMove& m : parts)
        if (moves_.size() < kMost) moves_.push_back(std::move(m));
    by_source.clear();
  }

 private:
  static constexpr size_t kMost = 16;
  std::vector<KvMove> moves_;
};

}  // namespace baton::transport
