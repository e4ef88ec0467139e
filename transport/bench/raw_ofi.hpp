// raw_ofi.hpp (internal): what libfabric itself takes for the same segments: one fi_write for each block, a 64-byte message when all are complete.
// No layout, no session on the way, no checks: the peer that the fabrics shm and tcp are measured beside.
//
// Owner    each side of a bench owns one.   Threads  one; both sides poll.   Cost  as measured.   Errors  IO, DEADLINE.
//
//     target: BATON_ASSIGN(auto t, RawOfi::open("tcp;ofi_rxm", pool, bytes));  t->way() ->   t->heard();
//     source: t->connect(way);   t->move(segments);   // posts, waits for completions, sends the message
#pragma once

#include "transport/kv_layout.hpp"

#include <nlohmann/json.hpp>

#include <memory>
#include <span>

namespace baton::transport {

class RawOfi {
 public:
  static Result<std::unique_ptr<RawOfi>> open(const char* provider, void* pool, uint64_t bytes);
  virtual ~RawOfi() = default;
  virtual Result<nlohmann::json> way() = 0;
  virtual Status connect(const nlohmann::json& way) = 0;
  virtual Status move(std::span<const KvSegment>, uint64_t deadline_ns) = 0;
  virtual bool heard() = 0; // the message came; polls
};

}  // namespace baton::transport
