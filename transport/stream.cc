#include "transport/stream.hpp"

#include "transport/checksum.hpp"
#include "transport/crypto.hpp"
#include "transport/kv_wire.hpp"

#include <fmt/format.h>

#include <sys/mman.h>

#include <algorithm>
#include <bit>

namespace baton::transport {
namespace {

constexpr uint64_t kPollBytes = 1u << 20; // what a poll unpacks, about 0.2 ms
constexpr size_t kHeldLayers = 4096;

}  // namespace

Status Stage::make() {
  void* p = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (p == MAP_FAILED) return io_error(fmt::format("cannot map {} bytes to stage", kBytes), errno);
  p_ = p;
  (void)madvise(p, kBytes, MADV_DONTFORK); // a pinned page that is copied at a fork() is no more the one that is written to
  return {};
}

Stage::~Stage() {
  if (p_) munmap(p_, kBytes);
}

// ---- the sender ----

Status StreamSender::start(const nlohmann::json& stage, uint64_t small_segment, const Session::Impl& session, bool sealed, std::optional<ChunkHeader>& cipher) {
  const auto base = u64_of(stage, "base"), key = u64_of(stage, "key"), pieces = u64_of(stage, "pieces"), bytes = u64_of(stage, "piece_bytes"), number = u64_of(stage, "number");
  if (!base || !key || !number || pieces != kStreamPieces || bytes != kStreamPieceBytes) return Error(BATON_CORRUPT, "the sink's stage makes no sense", "run the same Baton version on both sides");
  base_ = *base, key_ = *key;
  small_ = small_segment;
  if (!sealed) return {};
  const bool aes = stage.contains("aes") && stage["aes"] == true && aead_here(Aead::aes256gcm);
  BATON_ASSIGN(ChunkSealer sealer, ChunkSealer::create(aes ? Aead::aes256gcm : Aead::chacha20poly1305, session.bulk_tx(), *number));
  cipher = sealer.header();
  sealer_.emplace(std::move(sealer));
  return {};
}

StreamSender::~StreamSender() {
  if (open_) port_.close_stage(stage_.at(0));
}

Status StreamSender::make_room() {
  if (open_) return {};
  if (!stage_) BATON_TRY(stage_.make());
  BATON_TRY(port_.open_stage(stage_.at(0), Stage::kBytes));
  open_ = true;
  return {};
}

uint64_t StreamSender::step(Batch& b, uint64_t budget) {
  uint64_t done = 0;
  if (Status s = make_room(); !s.ok()) {
    b.error = s.error();
    return 0;
  }
  for (uint32_t i = 0; i < kStreamPieces && done < budget && !b.posted() && !b.error; ++i) {
    Piece& p = pieces_[i];
    if (p.state != State::free) continue;
    if (!b.pack) b.pack.emplace(b.packer());
    const uint64_t n = b.pack->pack(stage_.piece(i, sealer_ ? kStreamPieceBytes - kTagBytes : kStreamPieceBytes));
    if (b.units && b.sum) b.sum->add(stage_.at(i), n);
    p.note = {};
    p.note.kind = Note::Kind::piece;
    p.note.generation = b.generation;
    p.note.source = b.source, p.note.part = b.part, p.note.layer = b.layer;
    p.note.offset = b.packed;
    p.note.bytes = n;
    p.note.slot = i;
    if (!sealer_) p.note.checksum = checksum(stage_.at(i), n);
    p.wire_bytes = n;
    p.sealed = false;
    p.batch = &b;
    p.state = State::packed;
    ++b.outstanding;
    b.packed += n;
    b.streamed += n;
    done += n;
    if (b.pack->done()) {
      b.pack.reset();
      b.packed = 0;
      b.next = b.pieces();
    }
    if (!post(p, i)) break; // the queue is full: flush() tries again
  }
  return done;
}

bool StreamSender::post(Piece& p, uint32_t index) {
  if (sealer_ && !p.sealed) {
    p.sealed = true;
    p.note.checksum = sealer_->chunks();
    p.wire_bytes = p.note.bytes + kTagBytes;
    const ChunkLabel label{p.note.generation, p.note.source, p.note.layer, p.note.part, uint32_t(p.note.bytes)};
    if (!sealer_->seal(stage_.piece(index, p.wire_bytes), stage_.piece(index, p.note.bytes), label)) {
      const Error e(BATON_CAPACITY, "the stream's key has sealed all that it may", "open a new session");
      p.state = State::posted;
      p.written(&e);
      return true;
    }
  }
  const auto posted = port_.write(stage_.at(index), p.wire_bytes, base_ + index * kStreamPieceBytes, key_, &p);
  if (posted.ok() && !*posted) return false;
  p.state = State::posted;
  if (!posted.ok()) p.written(&posted.error());
  return true;
}

void StreamSender::Piece::written(const Error* e) {
  if (e && !batch->error) batch->error = *e;
  if (!e && !batch->error && !batch->stopped) {
    state = State::written;
    return;
  }
  --std::exchange(batch, nullptr)->outstanding;
  state = State::free; // nobody was told of it
}

void StreamSender::flush() {
  for (uint32_t i = 0; i < kStreamPieces; ++i) {
    Piece& p = pieces_[i];
    if (p.state == State::packed && !post(p, i)) return;
    if (p.state != State::written) continue;
    if (!port_.notify(p.note)) return;
    p.state = State::lent;
    if (!p.batch->stripe) --std::exchange(p.batch, nullptr)->outstanding;
  }
}

void StreamSender::stop(Batch& b) {
  b.stopped = true;
  b.pack.reset();
  for (Piece& p : pieces_)
    if (p.batch == &b && p.state != State::posted) {
      if (p.state != State::lent) p.state = State::free;
      p.batch = nullptr;
      --b.outstanding;
    }
}

void StreamSender::credit(uint32_t pieces) {
  for (uint32_t i = 0; i < kStreamPieces; ++i)
    if (Piece& p = pieces_[i]; pieces >> i & 1 && p.state == State::lent) {
      p.state = State::free;
      if (p.batch) --std::exchange(p.batch, nullptr)->outstanding;
    }
}

// ---- what is unpacked ----

void StreamFlows::allow(uint64_t generation, uint32_t slot, const KvMoves* moves) {
  if (slot >= requests_.size()) requests_.resize(slot + 1);
  requests_[slot] = Request{generation, moves, {}, {}};
}

void StreamFlows::revoke(uint32_t slot) {
  if (slot < requests_.size()) requests_[slot] = Request();
}

StreamFlows::Request* StreamFlows::find(uint64_t generation) {
  const auto it = std::find_if(requests_.begin(), requests_.end(), [&](const Request& r) { return r.generation && r.generation == generation; });
  return it == requests_.end() ? nullptr : &*it;
}

bool StreamFlows::fits(const Note& n, uint64_t most) {
  if (!n.bytes || n.bytes > most) return false;
  const Request* r = find(n.generation);
  if (!r) return true; // late: dropped
  if (n.source >= r->moves->parts.size() || n.part >= r->moves->parts[n.source].size() || n.layer < r->moves->first_layer) return false;
  const uint64_t all = r->moves->parts[n.source][n.part].bytes(n.layer);
  return n.offset < all && n.bytes <= all - n.offset;
}

StreamFlows::Flow& StreamFlows::flow(Request& r, const Note& n) {
  const auto f = std::find_if(r.flows.begin(), r.flows.end(), [&](const Flow& x) { return x.source == n.source && x.part == n.part && x.layer == n.layer; });
  if (f != r.flows.end()) return *f;
  const KvMove& m = r.moves->parts[n.source][n.part];
  const auto segments = m.layer(n.layer);
  const LayerUnits units = r.moves->units(n.source, n.part, n.layer);
  return r.flows.emplace_back(Flow{n.source, n.part, n.layer, 0,
                                   units ? Unpacker(memory_.base, units) : Unpacker(memory_.base, segments, pick_copy(m.bytes(n.layer), segments.size())), 0, 0});
}

// Never: nobody waits for it any more, or it has come before.
StreamFlows::Turn StreamFlows::turn(const Note& n) {
  Request* r = find(n.generation);
  if (!r) return Turn::never;
  const uint64_t at = flow(*r, n).at;
  return at == n.offset ? Turn::now : at > n.offset ? Turn::never : Turn::later;
}

void StreamFlows::unpack(const Note& n, std::span<const uint8_t> bytes) {
  Request& r = *find(n.generation);
  Flow& f = flow(r, n);
  f.to.unpack(bytes);
  copy_fence();
  f.at += n.bytes;
  r.unpacked[{n.source, n.layer - r.moves->first_layer}] += n.bytes;
}

size_t StreamFlows::place(const Note& n, std::span<iovec> out) {
  Request& r = *find(n.generation);
  const Flow& f = flow(r, n);
  const auto segments = r.moves->parts[n.source][n.part].layer(n.layer);
  size_t k = 0;
  uint64_t offset = f.offset, left = n.bytes;
  for (size_t i = f.next; i < segments.size() && left && k < out.size(); ++i, offset = 0) {
    const uint64_t here = std::min(segments[i].bytes - offset, left);
    out[k++] = {memory_.base + segments[i].dst + offset, here};
    left -= here;
  }
  return k;
}

void StreamFlows::placed(const Note& n, uint64_t bytes) {
  Request& r = *find(n.generation);
  Flow& f = flow(r, n);
  const auto segments = r.moves->parts[n.source][n.part].layer(n.layer);
  f.at += bytes;
  r.unpacked[{n.source, n.layer - r.moves->first_layer}] += bytes;
  for (f.offset += bytes; f.next < segments.size() && f.offset >= segments[f.next].bytes; ++f.next) f.offset -= segments[f.next].bytes;
}

bool StreamFlows::complete(const Note& n) {
  Request* r = n.offset ? find(n.generation) : nullptr;
  if (!r) return true;
  uint64_t unpacked = 0;
  for (auto it = r->unpacked.lower_bound({n.source, n.layer}); it != r->unpacked.end() && it->first.first == n.source && it->first.second - n.layer <= n.part; ++it) unpacked += it->second;
  return unpacked >= n.offset;
}

// ---- the landing ----

Result<std::span<uint8_t>> StreamLanding::stage() {
  if (!stage_) BATON_TRY(stage_.make());
  return std::span<uint8_t>(stage_.at(0), Stage::kBytes);
}

nlohmann::json StreamLanding::offer(uint64_t base, uint64_t key) {
  if (!number_) number_ = random_u64();
  return nlohmann::json{{"base", base}, {"key", key}, {"pieces", kStreamPieces}, {"piece_bytes", kStreamPieceBytes}, {"number", number_}, {"aes", aead_here(Aead::aes256gcm)}};
}

Status StreamLanding::cipher(std::span<const uint8_t> header) {
  if (!sealed_ || opener_ || header.size() != std::tuple_size_v<ChunkHeader>) return Error(BATON_CORRUPT, "the cipher of a stream makes no sense", "run the same Baton version on both sides");
  BATON_ASSIGN(ChunkOpener o, ChunkOpener::create(session_.bulk_rx(), number_, header.first<std::tuple_size_v<ChunkHeader>>()));
  opener_.emplace(std::move(o));
  return {};
}

void StreamLanding::restart() {
  opener_.reset();
  shut_.clear();
  pieces_.clear();
  credits_ = 0;
}

// Opened where it lies. False: it is not what was sealed, or was opened before.
bool StreamLanding::open_sealed(const Note& n) {
  const ChunkLabel label{n.generation, n.source, n.layer, n.part, uint32_t(n.bytes)};
  return opener_->open_at(n.checksum, stage_.piece(n.slot, n.bytes), stage_.piece(n.slot, n.bytes + kTagBytes), label);
}

// `done`: the piece is used, or not wanted any more. False: it is not what was sent.
bool StreamLanding::unpack(const Note& n, bool& done) {
  const auto turn = flows_.turn(n);
  done = turn != StreamFlows::Turn::later;
  if (turn != StreamFlows::Turn::now) return true;
  if (!sealed_ && checksum(stage_.at(n.slot), n.bytes) != n.checksum) return false;
  flows_.unpack(n, {stage_.at(n.slot), n.bytes});
  return true;
}

uint32_t StreamLanding::give_back() {
  if (busy_ && !pieces_.empty() && std::popcount(credits_) < kStreamBunch) return 0;
  return std::exchange(credits_, 0);
}

bool StreamLanding::take(std::vector<Note>& in, std::vector<Note>& out, uint32_t& worked) {
  for (const Note& n : in) {
    if (n.kind == Note::Kind::layer) {
      if (layers_.size() >= kHeldLayers) return broken_ = "more layers than can be held", false;
      layers_.push_back(n);
    } else if (n.kind == Note::Kind::piece) {
      auto same = [&](const Note& h) { return h.slot == n.slot; };
      const bool twice = std::any_of(pieces_.begin(), pieces_.end(), same) || std::any_of(shut_.begin(), shut_.end(), same);
      if (twice || n.slot >= kStreamPieces || !flows_.fits(n, kStreamPieceBytes - (sealed_ ? kTagBytes : 0))) return broken_ = "a piece that the plan does not have", false;
      (sealed_ ? shut_ : pieces_).push_back(n);
    }
  }
  in.clear();
  if (opener_) // what came before the cipher waits for it
    for (; !shut_.empty(); shut_.pop_back()) {
      if (!open_sealed(shut_.back())) return broken_ = "a piece that is not what was sealed", false;
      pieces_.push_back(shut_.back());
    }
  uint64_t bytes = 0;
  for (size_t i = 0; i < pieces_.size() && bytes < kPollBytes;) {
    const Note n = pieces_[i];
    bool done = false;
    if (!unpack(n, done)) return broken_ = "a piece that is not what was sent", false;
    if (!done) {
      ++i;
      continue;
    }
    credits_ |= 1u << n.slot;
    pieces_.erase(pieces_.begin() + ptrdiff_t(i));
    bytes += n.bytes;
    ++worked;
    i = 0; // the next one may have been waiting
  }
  busy_ = bytes != 0;
  std::erase_if(layers_, [&](const Note& n) {
    if (!flows_.complete(n)) return false;
    out.push_back(n);
    return true;
  });
  return true;
}

}  // namespace baton::transport
