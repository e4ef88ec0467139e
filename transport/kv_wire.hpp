// kv_wire.hpp (internal): the messages by which a transfer and a sink agree, and who sends which heads.
//
//   kv.open    transfer > sink   id, ticket, model, tokens, fabrics (wanted, best first), sources (layouts), checksum, rails (true: it has several NICs); bytes: each source's blocks
//   kv.accept  <                 id, generation, slot, fabric, layout, plan (hash), held (tokens that do not come),
//                                offer (the way to the memory); bytes: the sink's blocks
//   kv.again   >                 id, fabrics, rails: the one that was chosen did not connect; a kv.accept or kv.refuse follows, as at first
//   kv.refuse  <                 id, error
//   kv.cipher  >                 sink, fabric, header: of a sealed stream, once a connection; rail: its number, of several (rails.hpp)
//   kv.credit  <                 sink, fabric, pieces (bits): of a stream, those that may be written again; rail
//   kv.rail    both              sink, fabric; which rail is down or comes again, and notes: rails.hpp
//   kv.cancel  <                 id, error: the sink takes no more
//   kv.abort   >                 id, error: the transfer ends; nothing of it is in flight any more
//   kv.seal    >                 id, type, body (+ bytes): the caller's message; the transfer ends
//   kv.gone    <                 sink: it is closed; connections to it can go
// All fields are checked by type: the peer is authenticated, not trusted to be right.
//
// Owner    plain functions.   Threads  any.   Cost  per request, not per layer.   Errors  CORRUPT, MISMATCH.
#pragma once

#include "transport/endpoint.hpp"
#include "transport/kv_layout.hpp"

#include <span>

namespace baton::transport {

inline constexpr size_t kMaxSources = 64;

nlohmann::json to_json(const KvLayout&);
Result<KvLayout> layout_from(const nlohmann::json&);
nlohmann::json to_json(const Error&);
Error error_from(const nlohmann::json&);
// Typed access; nullopt if absent or of another type.
std::optional<uint64_t> u64_of(const nlohmann::json&, const char* key);
std::optional<std::string> text_of(const nlohmann::json&, const char* key);
std::optional<std::vector<std::string>> texts_of(const nlohmann::json&, const char* key);
// Block tables go as bytes: u32 count, u32 width, then as many ids of 2 bytes, where they fit, or 4: sealing and opening them is what agreeing takes
// longest for. take_blocks cuts one off the front; nullopt: cut short, another width, or a negative block.
void put_blocks(std::vector<uint8_t>& to, std::span<const int32_t> blocks);
std::optional<std::vector<int32_t>> take_blocks(std::span<const uint8_t>& from);

// Which heads of which layers each source sends: of those that several hold, the lowest source. Both sides compute it; every head of every
// layer of the sink must come.
struct Shares {
  std::vector<std::vector<KvPlan>> plans; // by source; empty: it sends nothing
  uint64_t hash = 0;                      // of all
  uint32_t active = 0;                    // sources that send
  bool converts = false;                  // some plan does: the fabric must be able to
};
Result<Shares> share_heads(std::span<const KvLayout> sources, const KvLayout& sink);

Status send_transport(Session::Impl&, const char* type, nlohmann::json body, std::vector<uint8_t> bytes = {});
// The transport's messages that no sink and no transfer took: an unknown or used ticket, a sink that closed.
void unclaimed(Session::Impl&, const Message&);
std::string sender_key(const std::string& fabric, const std::string& sink); // in Session::Impl::attached

}  // namespace baton::transport
