#include "transport/verbs_write.hpp"

#include <fmt/format.h>

#include <arpa/inet.h>

#include <algorithm>

namespace baton::transport {
namespace {

constexpr uint32_t kSends = 512;
constexpr uint32_t kChain = 64;              // work requests of one doorbell
constexpr uint32_t kGather = 32;             // 32 runs of 8 KiB make an operation of 256 KiB
constexpr uint32_t kInline = 256;
constexpr uint32_t kForNotes = 16;           // requests that data leaves free
constexpr uint64_t kPiece = 256u << 10;      // no run is cut to end a step with less
constexpr uint64_t kInFlight = 8u << 20;     // eight times what 400 Gbit/s carry in 20 us; a cancelled transfer waits for it
constexpr uint64_t kMostBytes = 1u << 30;    // of one request; devices say 2^31 (port_attr.max_msg_sz)

} // namespace

VerbsQp::Needs VerbsWriter::needs(const VerbsDevice&) { return {kSends, 1, kGather, kInline}; }

Result<std::unique_ptr<VerbsWriter>> VerbsWriter::open(VerbsQp& q, const VerbsTarget& to) {
  std::unique_ptr<VerbsWriter> w(new VerbsWriter(q));
  w->to_ = to;
  w->requests_.resize(kChain);
  w->pieces_.resize(size_t(kChain) * q.gather());
  w->records_.resize(q.sends() + 1);
  if (q.inline_bytes() < sizeof(Note)) { // a slot is used again only after more notes than the queue holds
    w->staged_.resize(q.sends() + 1);
    BATON_ASSIGN(w->staged_mr_, q.device().own(q.device().shared_domain.get(), w->staged_.data(), w->staged_.size() * sizeof(Note), 0));
  }
  return w;
}

// Work requests for the next `budget` bytes of the batch; returns their bytes.
uint64_t VerbsWriter::fill(Batch& b, uint64_t budget, uint32_t room, uint32_t& made) {
  const uint32_t key = b.local ? static_cast<ibv_mr*>(b.local)->lkey : 0;
  const uint32_t gather = qp_.gather();
  uint64_t total = 0;
  for (made = 0; made < room && !b.posted();) {
    ibv_sge* const pieces = &pieces_[size_t(made) * gather];
    const uint64_t at = b.segments[b.next].dst + b.offset; // where this request begins at the sink
    uint64_t bytes = 0;
    int n = 0;
    while (n < int(gather) && !b.posted() && b.segments[b.next].dst + b.offset == at + bytes) {
      const KvSegment& g = b.segments[b.next];
      const uint64_t left = g.bytes - b.offset, may = std::min(budget - total, kMostBytes - bytes), take = std::min(left, may);
      if (!take || (take < left && take < kPiece)) break; // the rest of a budget, too small for a part of this run
      if (g.dst + b.offset + take > to_.bytes) {
        b.error = Error(BATON_INTERNAL, fmt::format("a write of {} bytes at {} leaves the sink's {} bytes", take, g.dst + b.offset, to_.bytes), "report this");
        return total;
      }
      pieces[n++] = {reinterpret_cast<uint64_t>(b.src + g.src + b.offset), uint32_t(take), key};
      bytes += take;
      total += take;
      b.offset += take;
      if (b.offset == g.bytes) ++b.next, b.offset = 0;
    }
    if (!n) break;
    ibv_send_wr& w = requests_[made++];
    w = {};
    w.sg_list = pieces;
    w.num_sge = n;
    w.opcode = IBV_WR_RDMA_WRITE;
    w.send_flags = bytes <= qp_.inline_bytes() ? unsigned(IBV_SEND_INLINE) : 0u;
    w.wr.rdma.remote_addr = to_.base + at;
    w.wr.rdma.rkey = to_.key;
  }
  return total;
}

uint64_t VerbsWriter::step(Batch& b, uint64_t budget) {
  if (qp_.error() && !b.error) b.error = *qp_.error();
  if (b.error || b.posted() || in_flight_ >= kInFlight || free_requests() <= kForNotes) return 0;
  const size_t next = b.next;
  const uint64_t offset = b.offset;
  uint32_t made = 0;
  const uint64_t bytes = fill(b, std::min(budget, kInFlight - in_flight_), std::min(kChain, free_requests() - kForNotes), made);
  if (b.error) { // nothing of this step goes out
    b.next = next;
    b.offset = offset;
    return 0;
  }
  if (!made) return 0;
  requests_[made - 1].send_flags |= IBV_SEND_SIGNALED;
  if (!post(made, &b, bytes) && !b.error) b.error = *qp_.error();
  return bytes;
}

// True: all are posted. False: the queue pair has failed; what was posted comes back.
bool VerbsWriter::post(uint32_t n, Batch* batch, uint64_t bytes, StreamPosted* piece) {
  for (uint32_t i = 0; i < n; ++i) {
    requests_[i].wr_id = next_request_ + i;
    requests_[i].next = i + 1 < n ? &requests_[i + 1] : nullptr;
  }
  ibv_send_wr* bad = nullptr;
  const int rc = ibv_post_send(qp_.qp(), requests_.data(), &bad);
  const uint32_t posted = rc ? uint32_t((bad ? bad : requests_.data()) - requests_.data()) : n;
  if (posted) {
    records_[(first_ + count_++) % records_.size()] = {next_request_ + posted - 1, batch, piece, posted, bytes};
    used_ += posted;
    in_flight_ += bytes;
    if (batch) ++batch->outstanding;
    if (batch || piece) operations_ += posted;
  }
  next_request_ += n;
  if (rc) qp_.fail(io_error("verbs: ibv_post_send", rc));
  return !rc;
}

Result<bool> VerbsWriter::write(const void* from, uint64_t bytes, uint32_t local_key, uint64_t remote, uint32_t key, StreamPosted* done) {
  if (qp_.error()) return *qp_.error();
  if (in_flight_ >= kInFlight || free_requests() <= kForNotes) return false;
  pieces_[0] = {reinterpret_cast<uint64_t>(from), uint32_t(bytes), local_key};
  ibv_send_wr& w = requests_[0];
  w = {};
  w.sg_list = &pieces_[0];
  w.num_sge = 1;
  w.opcode = IBV_WR_RDMA_WRITE;
  w.send_flags = IBV_SEND_SIGNALED;
  w.wr.rdma.remote_addr = remote;
  w.wr.rdma.rkey = key;
  if (!post(1, nullptr, bytes, done)) return *qp_.error();
  return true;
}

bool VerbsWriter::notify(const Note& note) {
  if (qp_.error()) return true; // the batches tell
  if (!free_requests()) return false;
  ibv_sge& piece = pieces_[0];
  ibv_send_wr& w = requests_[0];
  const uint32_t slot = uint32_t(notes_ % kVerbsNotes);
  w = {};
  if (staged_.empty()) {
    piece = {reinterpret_cast<uint64_t>(&note), sizeof note, 0};
    w.send_flags = IBV_SEND_INLINE;
  } else {
    Note& s = staged_[notes_ % staged_.size()];
    s = note;
    piece = {reinterpret_cast<uint64_t>(&s), sizeof s, staged_mr_->lkey};
  }
  w.sg_list = &piece;
  w.num_sge = 1;
  w.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
  w.imm_data = htonl(slot);
  w.wr.rdma.remote_addr = to_.ring + slot * sizeof(Note);
  w.wr.rdma.rkey = to_.ring_key;
  // Its own completion only where no data came between: else the next data's completion ends it too.
  const bool after_note = !count_ || records_[(first_ + count_ - 1) % records_.size()].note();
  if (after_note) w.send_flags |= IBV_SEND_SIGNALED;
  if (post(1, nullptr, 0)) ++notes_;
  return true;
}

void VerbsWriter::end(const Record& r, bool failed) {
  used_ -= r.requests;
  in_flight_ -= r.bytes;
  if (r.piece) return r.piece->written(failed ? &*qp_.error() : nullptr);
  if (!r.batch) return;
  --r.batch->outstanding;
  if (failed && !r.batch->error) r.batch->error = *qp_.error();
}

// Requests are completed in order: what was posted before one that is complete is complete.
void VerbsWriter::end_before(uint64_t request) {
  while (count_ && records_[first_].last < request) {
    const Record r = records_[first_];
    first_ = (first_ + 1) % records_.size();
    --count_;
    end(r, false);
  }
}

void VerbsWriter::take(const ibv_wc& wc) {
  const bool failed = wc.status != IBV_WC_SUCCESS;
  ++completions_;
  if (failed) qp_.fail(completion_error(qp_, wc));
  end_before(wc.wr_id);
  if (!count_) return;
  Record& r = records_[first_];
  if (failed && r.batch && !r.batch->error) r.batch->error = *qp_.error();
  if (r.last != wc.wr_id) return; // one in the middle of a chain has failed; the others come flushed
  const Record done = r;
  first_ = (first_ + 1) % records_.size();
  --count_;
  end(done, failed);
}

void VerbsWriter::settle_lost() {
  while (count_) {
    const Record r = records_[first_];
    first_ = (first_ + 1) % records_.size();
    --count_;
    end(r, true);
  }
}

}  // namespace baton::transport
