// kv_link.hpp: KV-cache from a prefill side to a decode side, layer by layer, over a fabric.
//
// The decode side owns a KvSink: a landing buffer with a layout. For each request it expects so many tokens in these blocks and hands out a
// ticket. Whoever prefills opens a KvTransfer over its session with that ticket: the two sides agree on layouts, plan hash and fabric,
// and only then the sink's memory is disclosed. Each (source, layer) is one COPY op on the transfer's queue. The sink's
// `landed` timeline rises to l+1 once layers 0..l are complete from ALL sources (ranks) and, by the device's fence, visible to it.
//
// The two layouts may differ in all but the model: order, block size, shards, and the dtype (FP8 with or without scales): see kv_layout.hpp.
//
// Fabrics: "mapped" (same host: the sender maps the sink's memory; one copy, no syscall on the path), "shm" and "tcp" (libfabric: providers
// shm, tcp;ofi_rxm; one-sided writes, then a notification), "verbs" (InfiniBand, RoCE: rdma-core), "ofi-verbs" and "efa" (libfabric), "auto" (mapped on
// one host; between two verbs or efa where both sides have such a device, else tcp).
//
// Owner    The caller owns sink, incoming and transfer; destroy transfer and incoming before their session / sink. Registered memory is
//          released with the sink / the source; a region is registered once, not once a request.
// Threads  As the Instance.
// Errors   MISMATCH (layout or model, first difference named), PEER_LOST with the hop, PERMISSION (unknown or used ticket),
//          UNSUPPORTED (fabric, with the reason), CORRUPT (a checksum that differs, a block that changed hands). A transfer that fails poisons
//          `landed` on the other side too. A transfer has a generation: a late notification of an ended one is dropped, never counted. Blocks have
//          theirs at both ends (kv_tags.hpp): what was given to another request while it was being moved does not land.
//
//     decode side                                               prefill side
//     BATON_ASSIGN(auto in, sink.expect(blocks, tokens));       BATON_ASSIGN(auto t, KvTransfer::open(s, ticket, sources, opts, deadline));
//     ... in.ticket() ->                                        t.queue().submit(t.copy(rank, l).wait(made[rank], l + 1).signal(sent[rank], l + 1));
//     link.submit(copy(...).wait(in.landed(), l + 1));          t.seal({"first", {{"token", 42}}});
#pragma once

#include "transport/kv_layout.hpp"
#include "transport/kv_tags.hpp"
#include "transport/session.hpp"

#include <memory>
#include <string>
#include <vector>

namespace baton::transport {

// A NIC of those that a transfer goes by (EndpointOptions::rails).
struct RailUse {
  std::string nic, peer_nic;
  uint64_t bytes = 0;    // of the transfer, complete
  uint32_t failures = 0; // since the session's first transfer
  bool up = false;
  std::string address{}, peer_address{}; // numeric; "" where the NIC has none
  uint64_t down_ns = 0;   // for how long it has not worked: since it failed and until it has carried something again, or has never connected
  uint64_t silent_ns = 0; // for how long nothing of what is on its way by it was complete; 0: nothing is
};

// Modelled cost of a link, as data (transport/links.json): each constant has its source there.
struct LinkModel {
  std::string name;         // "efa-trn2"
  double base_ns = 0;       // one layer's push: post to visible
  double bytes_per_ns = 0;  // sustained by one prefill device
  double ops_per_ns = 0;    // posted writes (segments)
  double cost_ns(uint64_t bytes, uint64_t segments) const;
};
Result<LinkModel> link_model(const std::string& name); // "efa-trn2" is the default

class Incoming {
 public:
  ~Incoming();
  Incoming(Incoming&&) noexcept;
  const std::string& ticket() const;   // 32 hex digits, single use
  const Timeline& landed() const;      // 0 .. layers; poisoned by failure, cancel, lease
  std::optional<Message> sealed();     // what the prefill side passed to seal(), once; only after every layer has landed
  void cancel(const Error& cause);     // both sides are poisoned; later writes are fenced (see kv_sink.cc)
  // True once nobody can write into the blocks any more. After success at once; after a failure when the sender has stopped or its process is
  // gone. Poll until then before giving the blocks to another request; expect() refuses blocks that are not quiet.
  bool quiesced();
  // CORRUPT once any of the blocks belongs to another request (KvSink::tags()): ask before what has landed is decoded.
  Status intact();
  struct Stats {
    uint64_t bytes = 0, segments = 0;
    std::string fabric;
    std::vector<uint64_t> landed_wall_ns;     // by layer, CLOCK_MONOTONIC of this host
    std::vector<uint64_t> landed_modelled_ns; // by layer
  };
  const Stats& stats() const;
  struct Impl;

 private:
  friend class KvSink;
  explicit Incoming(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

// Memory that is no Buffer: where it lies in this process and, if another process may map it, the object that it lies in (fd -1: none).
// The caller keeps both until the sink or transfer is destroyed; the descriptor is not consumed.
struct HostMemory {
  void* base = nullptr;
  uint64_t bytes = 0;
  int fd = -1;
  uint64_t fd_offset = 0; // of `base`
  baton_buffer* buffer = nullptr; // whose memory it is, if it is a buffer's: what lands there is fenced before it is told (baton_fence)
};

class KvSink {
 public:
  // `memory` must be mappable and, for "mapped", exportable, and outlives the sink. Handles tickets on every session of `endpoint`.
  // `model` identifies the model (hash of config and weights): a transfer for another is refused.
  static Result<KvSink> create(const Instance&, Endpoint&, const Buffer& memory, const KvLayout&, std::string model);
  static Result<KvSink> create(const Instance&, Endpoint&, const HostMemory&, const KvLayout&, std::string model);
  KvSink(KvSink&&) noexcept;
  ~KvSink();
  // Tokens [held, tokens) of a request whose blocks these are: the first `held` are here already (a prefix hit, or an earlier chunk of the
  // prompt) and are not moved. Requests that share blocks must not share tokens.
  Result<Incoming> expect(std::vector<int32_t> blocks, uint64_t tokens, uint64_t held = 0);
  // Of the landing buffer's blocks. expect() renews those that hold none of its first `held` tokens; whoever uses blocks for something else does too.
  KvTags& tags();
  struct Impl;

 private:
  explicit KvSink(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

struct KvSource { // one rank
  const Buffer* memory;
  KvLayout layout;
  std::vector<int32_t> blocks; // of this request
  HostMemory host{};           // in place of `memory`, where that is nullptr
  KvTagged tagged = {};        // the blocks, as they were when they were this request's: if one changes hands before the end, the transfer fails
};

struct TransferOptions {
  std::string fabric = "auto";
  std::string model = {};          // as the sink's
  std::string link_model = "efa-trn2";
  // Layers of one source go out together, and are noted and complete together, once the last of them was submitted; so nothing that is to be
  // submitted may wait for one of them. model: if the link model says that all of it moves in less than the time from a push to its being seen, so
  // that pushing layer by layer could gain next to nothing. stats().bulk says what was chosen.
  enum class Bulk : uint8_t { never, model, always };
  Bulk bulk = Bulk::never;
  // Each layer goes with the checksum of what the source had as it was moved, and lands only if the sink's memory has the same: here a pass over
  // what is in the cache, at the sink one over memory. Else CORRUPT, on both. (Streams check each piece anyway.)
  bool checksum = false;
};

class KvTransfer {
 public:
  // Polls the instance until the sink has accepted, or why not. Ranks that hold the same head: the lowest sends it; a source that sends nothing still
  // has its ops (they complete at once).
  static Result<KvTransfer> open(const Instance&, Session&, const std::string& ticket, std::vector<KvSource> sources, uint64_t tokens,
                                 const TransferOptions&, uint64_t deadline_ns);
  // The same without waiting: opened() is asked after polls, not from within one, until it says how it went; nullopt: not yet. Before it is OK there
  // are no layers and no queue. Destroyed before, or aborted, the sink's side fails as it does later.
  static Result<KvTransfer> begin(const Instance&, Session&, const std::string& ticket, std::vector<KvSource> sources, uint64_t tokens,
                                  const TransferOptions&, uint64_t deadline_ns);
  std::optional<Status> opened();
  KvTransfer(KvTransfer&&) noexcept;
  ~KvTransfer();                   // neither sealed nor aborted: the sink's side is poisoned with CANCELLED
  const Queue& queue() const;
  uint32_t layers() const;         // that the sink holds
  Status alive() const;            // why it failed, if it did
  bool sent() const;               // every layer of every source is: seal() does not wait
  void abort(const Error& cause);  // ends the transfer: what is queued fails, and the sink's side is poisoned with this cause
  Op copy(uint32_t source, uint32_t layer) const; // layer 0 is the first one that the sink holds
  // After the last layer has been sent (waits for it by polling): delivers `message` to the sink's side.
  Status seal(const Message& message, uint64_t deadline_ns);
  struct Stats {
    uint64_t bytes = 0, segments = 0;
    std::string fabric;
    bool bulk = false;
    struct Span {
      uint64_t begin_ns, end_ns; // wall, of one (source, layer), from posting to visible at the sink
    };
    std::vector<RailUse> rails; // empty: the session's interface alone
    std::vector<Span> spans; // [source * layers + layer]; zero until sent
  };
  const Stats& stats() const;
  struct Impl;

 private:
  friend class KvHolder;
  static Result<KvTransfer> begin(const Instance&, Session::Impl&, const std::string& ticket, std::vector<KvSource> sources, uint64_t tokens,
                                  const TransferOptions&, uint64_t deadline_ns);
  explicit KvTransfer(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

// Registered regions that sources reuse across requests are cached by the endpoint; drop them before freeing the buffer.
void forget_memory(Endpoint&, const Buffer&);
void forget_memory(Endpoint&, const HostMemory&);

}  // namespace baton::transport
