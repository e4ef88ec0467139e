// Compiling fixes everything but blocks and tokens: what is nested in what at the destination, strides in bytes, and which dimensions are
// adjacent on both sides. Instantiating walks the block tables, emits layer 0 in the order of destination addresses, and shifts it for the rest.
#include "transport/kv_convert.hpp"
#include "transport/kv_layout.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>

namespace baton::transport {
namespace {

std::string range_text(uint32_t begin, uint32_t count) { return fmt::format("[{},{})", begin, uint64_t(begin) + count); }

Error differ(const char* what, std::string_view src, std::string_view dst) {
  return Error(BATON_MISMATCH, fmt::format("KV layouts differ in {}: source {}, destination {}", what, src, dst),
               "load the same model on both sides; order, block size and shards may differ, the model may not");
}

Error refuse_part(const char* what, bool source, uint32_t begin, uint32_t count, uint32_t held, uint32_t n) {
  return Error(BATON_MISMATCH, fmt::format("a plan for {0} {1}: the {2} holds {3}", what, range_text(begin, count), source ? "source" : "destination", range_text(held, n)),
               fmt::format("narrow the {} to those that both sides hold", what));
}

bool within(uint32_t begin, uint32_t count, uint32_t held, uint32_t n) { return count && begin >= held && uint64_t(begin) + count <= uint64_t(held) + n; }

Status check_table(const char* side, std::span<const int32_t> table, const KvLayout& l, uint64_t end) {
  const uint64_t need = (end + l.block_tokens - 1) / l.block_tokens;
  if (table.size() < need)
    return Error(BATON_INVALID_ARGUMENT,
                 fmt::format("the {} block table has {} blocks of {} tokens; {} tokens need {}", side, table.size(), l.block_tokens, end, need),
                 "give every block of the request");
  uint32_t high = 0; // as unsigned, so that a negative one is the highest; without a branch an entry it takes a quarter of the time
  for (uint64_t i = 0; i < need; ++i) high = std::max(high, uint32_t(table[i]));
  if (high < l.blocks) return {};
  const auto bad = std::find_if(table.begin(), table.end(), [&](int32_t b) { return uint32_t(b) >= l.blocks; });
  return Error(BATON_INVALID_ARGUMENT, fmt::format("{} block table entry {} is {}; the buffer has blocks 0..{}", side, bad - table.begin(), *bad, l.blocks - 1),
               "pass the block table of this buffer");
}

program::KvView in_bytes(program::KvView v, uint32_t element) {
  for (uint64_t* s : {&v.layer_stride, &v.v_offset, &v.block_stride, &v.token_stride, &v.head_stride}) *s *= element;
  return v;
}

constexpr uint64_t kWholeRows = 2048; // a block of more rows is put together for each run: its segments are many, or its blocks are few

bool lands_before(const KvRun& a, const KvRun& b) { return a.dst != b.dst ? a.dst < b.dst : a.dst_token < b.dst_token; }

// Into the order of destination blocks, by counting; runs of one block stay as they are, which is in the order of tokens. `scratch` is kept for its
// memory.
void sort_by_block(std::vector<KvRun>& runs, uint32_t blocks, std::vector<uint32_t>& scratch) {
  scratch.assign(size_t(blocks) + 1 + runs.size(), 0);
  uint32_t *next = scratch.data(), *to = next + blocks + 1; // where the next run of a block goes; where run i goes
  for (const KvRun& r : runs) ++next[r.dst + 1];
  for (uint32_t b = 0; b < blocks; ++b) next[b + 1] += next[b];
  for (size_t i = 0; i < runs.size(); ++i) to[i] = next[runs[i].dst]++;
  for (uint32_t i = 0; i < runs.size(); ++i)
    while (to[i] != i) {
      const uint32_t t = to[i];
      std::swap(runs[i], runs[t]);
      std::swap(to[i], to[t]);
    }
}

// Which entry of a table each block is: a bit for each block, so that they can be had in their order without sorting.
class Marks {
 public:
  // Entries [first, last) of blocks below `blocks`. False: one is there twice.
  bool set(std::span<const int32_t> table, uint64_t first, uint64_t last, uint32_t blocks, std::vector<uint32_t>& scratch) {
    const size_t words = (size_t(blocks) + 31) / 32;
    if (scratch.size() < words + blocks) scratch.resize(words + blocks);
    bits_ = scratch.data(), entry_ = bits_ + words; // of blocks without a bit it is anything
    std::fill(bits_, bits_ + words, 0);
    uint32_t twice = 0;
    for (uint64_t i = first; i < last; ++i) {
      const uint32_t b = uint32_t(table[i]), bit = 1u << b % 32;
      twice |= bits_[b / 32] & bit;
      bits_[b / 32] |= bit;
      entry_[b] = uint32_t(i);
    }
    return !twice;
  }
  // f(block, entry) for those in [from, to).
  template <class F>
  void each(uint32_t from, uint32_t to, F f) const {
    for (uint32_t w = from / 32; uint64_t(w) * 32 < to; ++w) {
      uint32_t left = bits_[w];
      if (w == from / 32) left &= ~0u << from % 32;
      if (w == to / 32) left &= (1u << to % 32) - 1;
      for (; left; left &= left - 1) {
        const uint32_t b = w * 32 + uint32_t(std::countr_zero(left));
        f(b, entry_[b]);
      }
    }
  }

 private:
  uint32_t *bits_ = nullptr, *entry_ = nullptr;
};

// Token range [begin, end) in blocks of one size on both sides: entry i of the tables.
KvRun run_of(std::span<const int32_t> src, std::span<const int32_t> dst, uint64_t i, uint32_t block_tokens, uint64_t begin, uint64_t end) {
  const uint64_t from = i * block_tokens, skip = begin > from ? begin - from : 0, last = std::min<uint64_t>(from + block_tokens, end);
  return {src[i], dst[i], uint32_t(skip), uint32_t(skip), uint32_t(last - from - skip)};
}

}  // namespace

// Segments of layer 0 as they come, into a vector whose memory is kept: it is never shorter than what it was.
class KvPlan::Out {
 public:
  // Into `to` from entry `at` on; about as many as `expected` are to come.
  Out(std::vector<KvSegment>& to, size_t at, size_t expected) : to_(to) {
    if (to.size() < at + expected) to.resize(at + expected);
    begin_ = to.data(), at_ = begin_ + at, end_ = begin_ + to.size();
  }
  size_t size() const { return size_t(at_ - begin_); }
  std::span<KvSegment> all() { return {begin_, size()}; }
  bool sorted() const { return sorted_; }
  // Grows the last one where both sides continue it.
  void emit(uint64_t src, uint64_t dst, uint64_t bytes) {
    if (at_ != begin_) {
      KvSegment& last = at_[-1];
      if (last.src + last.bytes == src && last.dst + last.bytes == dst) {
        last.bytes += bytes;
        return;
      }
      sorted_ &= last.dst < dst;
    }
    append({src, dst, bytes});
  }
  void append(const KvSegment& s) {
    make_room(1);
    *at_++ = s;
  }
  // Whole blocks, each of which is `whole`, shifted: those that `next(f)` calls f(src, dst) for, at most `blocks`.
  template <class Next>
  void emit_whole(std::span<const KvSegment> whole, size_t blocks, uint64_t src_stride, uint64_t dst_stride, Next next) {
    make_room(blocks * whole.size());
    KvSegment* at = at_;
    bool sorted = true;
    uint64_t src_end = UINT64_MAX, dst_end = 0; // of the last one
    if (at != begin_) src_end = at[-1].src + at[-1].bytes, dst_end = at[-1].dst + at[-1].bytes;
    next([&](uint64_t src_block, uint64_t dst_block) {
      for (const KvSegment& w : whole) {
        const KvSegment s{w.src + src_block * src_stride, w.dst + dst_block * dst_stride, w.bytes};
        if (s.src == src_end && s.dst == dst_end) {
          at[-1].bytes += s.bytes;
        } else {
          sorted &= s.dst >= dst_end;
          *at++ = s;
        }
        src_end = s.src + s.bytes, dst_end = s.dst + s.bytes;
      }
    });
    at_ = at;
    sorted_ &= sorted;
  }
  void sort_and_merge() {
    const auto s = all();
    std::sort(s.begin(), s.end(), [](const KvSegment& a, const KvSegment& b) { return a.dst < b.dst; });
    size_t n = 0;
    for (size_t i = 1; i < s.size(); ++i) {
      if (s[n].src + s[n].bytes == s[i].src && s[n].dst + s[n].bytes == s[i].dst) s[n].bytes += s[i].bytes;
      else s[++n] = s[i];
    }
    at_ = begin_ + n + 1;
  }

 private:
  void make_room(size_t more) {
    if (size_t(end_ - at_) >= more) return;
    const size_t n = size();
    to_.resize(std::max<size_t>({64, n + more, 2 * n}));
    begin_ = to_.data(), at_ = begin_ + n, end_ = begin_ + to_.size();
  }

  std::vector<KvSegment>& to_;
  KvSegment *begin_, *at_, *end_; // the first; the next one's place; the end of the memory
  bool sorted_ = true;
};

Status same_kv_model(const KvLayout& s, const KvLayout& d) {
  auto num = [](uint32_t v) { return std::to_string(v); };
  if (s.layers != d.layers) return differ("layers", num(s.layers), num(d.layers));
  if (s.kv_heads != d.kv_heads) return differ("kv_heads", num(s.kv_heads), num(d.kv_heads));
  if (s.head_dim != d.head_dim) return differ("head_dim", num(s.head_dim), num(d.head_dim));
  if (s.dtype != d.dtype && !kv_convertible(s.dtype, d.dtype))
    return differ("dtype, and there is no conversion", program::dtype_name(s.dtype), program::dtype_name(d.dtype));
  if (s.halves() != d.halves()) return differ("pairing", pairing_name(s.pairing), pairing_name(d.pairing));
  if (s.rope_dim != d.rope_dim) return differ("rope_dim", num(s.rope_dim), num(d.rope_dim));
  return {};
}

KvPart common_part(const KvLayout& src, const KvLayout& dst) {
  KvPart p;
  auto overlap = [](uint32_t a, uint32_t an, uint32_t b, uint32_t bn, uint32_t& begin, uint32_t& count) {
    begin = std::max(a, b);
    const uint64_t end = std::min(uint64_t(a) + an, uint64_t(b) + bn);
    count = end > begin ? uint32_t(end - begin) : 0;
  };
  overlap(src.head_begin, src.head_count, dst.head_begin, dst.head_count, p.head_begin, p.head_count);
  overlap(src.layer_begin, src.layers_held(), dst.layer_begin, dst.layers_held(), p.layer_begin, p.layer_count);
  return p;
}

Result<KvPlan> KvPlan::compile(const KvLayout& src, const KvLayout& dst) {
  BATON_TRY(src.check());
  BATON_TRY(dst.check());
  BATON_TRY(same_kv_model(src, dst));
  const KvPart p = common_part(src, dst);
  if (!p.head_count) return differ("heads held: no head is on both sides", range_text(src.head_begin, src.head_count), range_text(dst.head_begin, dst.head_count));
  if (!p.layer_count)
    return differ("layers held: no layer is on both sides", range_text(src.layer_begin, src.layers_held()), range_text(dst.layer_begin, dst.layers_held()));
  return compile(src, dst, p);
}

Result<KvPlan> KvPlan::compile(const KvLayout& src, const KvLayout& dst, uint32_t head_begin, uint32_t head_count) {
  const KvPart both = common_part(src, dst);
  return compile(src, dst, {head_begin, head_count, both.layer_begin, both.layer_count});
}

Result<KvPlan> KvPlan::compile(const KvLayout& src, const KvLayout& dst, const KvPart& part) {
  BATON_TRY(src.check());
  BATON_TRY(dst.check());
  BATON_TRY(same_kv_model(src, dst));
  for (const KvLayout* l : {&src, &dst}) {
    if (!within(part.head_begin, part.head_count, l->head_begin, l->head_count))
      return refuse_part("heads", l == &src, part.head_begin, part.head_count, l->head_begin, l->head_count);
    if (!within(part.layer_begin, part.layer_count, l->layer_begin, l->layers_held()))
      return refuse_part("layers", l == &src, part.layer_begin, part.layer_count, l->layer_begin, l->layers_held());
  }
  KvPlan p;
  p.src_ = src;
  p.dst_ = dst;
  p.part_ = part;
  const bool scaled = src.scales != KvScales::none || dst.scales != KvScales::none;
  p.converts_ = src.dtype != dst.dtype || src.scales != dst.scales || (scaled && src.block_tokens != dst.block_tokens);
  p.nest();
  return p;
}

void KvPlan::nest() {
  const uint32_t element = program::dtype_bytes(src_.dtype);
  from_ = in_bytes(src_.strides(), element);
  to_ = in_bytes(dst_.strides(), element);
  row_bytes_ = uint64_t(src_.head_dim) * element;
  src_base_ = uint64_t(part_.head_begin - src_.head_begin) * from_.head_stride;
  dst_base_ = uint64_t(part_.head_begin - dst_.head_begin) * to_.head_stride;
  const uint64_t half = row_bytes_ * dst_.head_count * dst_.block_tokens; // K of a block
  scope_ = to_.v_offset >= dst_.blocks * half ? Scope::request : to_.v_offset >= half ? Scope::block : Scope::run;
  constexpr uint64_t kTokens = 0; // of the run
  dims_[n_dims_++] = {kTokens, from_.token_stride, to_.token_stride};
  if (part_.head_count > 1) dims_[n_dims_++] = {part_.head_count, from_.head_stride, to_.head_stride};
  if (scope_ == Scope::run && src_.halves() == 2) dims_[n_dims_++] = {2, from_.v_offset, to_.v_offset};
  std::sort(dims_, dims_ + n_dims_, [](const Dim& a, const Dim& b) { return a.dst > b.dst; });
  token_dim_ = uint32_t(std::find_if(dims_, dims_ + n_dims_, [](const Dim& d) { return d.count == kTokens; }) - dims_);
  if (src_.block_tokens != dst_.block_tokens || uint64_t(dst_.block_tokens) * part_.head_count > kWholeRows) return;
  for (uint32_t half = 0; half < (scope_ == Scope::run ? 1 : src_.halves()); ++half) {
    auto& whole = whole_[scope_ == Scope::request ? half : 0];
    Out out(whole, whole.size(), 0);
    put(out, {0, 0, 0, 0, dst_.block_tokens}, half);
    whole.resize(out.size());
  }
}

uint64_t KvPlan::hash() const {
  std::string s = fmt::format("{} -> {} heads {}", src_.describe(), dst_.describe(), range_text(part_.head_begin, part_.head_count));
  if (part_.layer_count != src_.layers) s += fmt::format(" layers {}", range_text(part_.layer_begin, part_.layer_count));
  return XXH3_64bits(s.data(), s.size());
}

// Emits one run of layer 0 in the order of destination addresses: K of it, V of it (half 1), or both where V is nested in the run.
void KvPlan::put(Out& to, const KvRun& r, uint64_t half) const {
  const uint64_t src = src_base_ + half * from_.v_offset + uint64_t(r.src) * from_.block_stride + r.src_token * from_.token_stride;
  const uint64_t dst = dst_base_ + half * to_.v_offset + uint64_t(r.dst) * to_.block_stride + r.dst_token * to_.token_stride;
  Dim d[3] = {{1, 0, 0}, {1, 0, 0}, {1, 0, 0}};
  uint32_t n = n_dims_;
  uint64_t bytes = row_bytes_;
  auto count = [&](uint32_t i) { return i == token_dim_ ? r.tokens : dims_[i].count; };
  for (; n && dims_[n - 1].src == bytes && dims_[n - 1].dst == bytes; --n) bytes *= count(n - 1); // adjacent on both sides
  for (uint32_t i = 0; i < n; ++i) d[i] = {count(i), dims_[i].src, dims_[i].dst};
  for (uint64_t a = 0; a < d[0].count; ++a)
    for (uint64_t b = 0; b < d[1].count; ++b)
      for (uint64_t c = 0; c < d[2].count; ++c)
        to.emit(src + a * d[0].src + b * d[1].src + c * d[2].src, dst + a * d[0].dst + b * d[1].dst + c * d[2].dst, bytes);
}

Result<KvMove> KvPlan::instantiate(std::span<const int32_t> src_blocks, std::span<const int32_t> dst_blocks, uint64_t begin, uint64_t end) const {
  KvMove m;
  BATON_TRY(instantiate(src_blocks, dst_blocks, begin, end, m));
  return m;
}

Status KvPlan::instantiate(std::span<const int32_t> src_blocks, std::span<const int32_t> dst_blocks, uint64_t begin, uint64_t end, KvMove& m) const {
  m.runs_.clear();
  m.ends_.clear();
  m.converts_ = converts_;
  m.layers_ = 0;
  m.each_ = m.layer_bytes_ = 0;
  if (begin > end) return Error(BATON_INVALID_ARGUMENT, fmt::format("tokens [{},{}) run backwards", begin, end));
  const bool scales = dst_.scales != KvScales::none;
  if (scales && begin % dst_.block_tokens)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("token {} lies within a destination block of {} tokens, which has one scale", begin, dst_.block_tokens),
                 fmt::format("begin at token {}", begin - begin % dst_.block_tokens));
  BATON_TRY(check_table("source", src_blocks, src_, end));
  BATON_TRY(check_table("destination", dst_blocks, dst_, end));
  const uint32_t block_tokens = dst_.block_tokens;
  const uint64_t first = begin / block_tokens, last = begin < end ? (end + block_tokens - 1) / block_tokens : first; // entries, where blocks are of one size
  const bool dense = dst_.blocks / 16 < last - first; // a walk over all blocks is worth it
  Marks marks;
  const bool marked = dense && src_.block_tokens == block_tokens && marks.set(dst_blocks, first, last, dst_.blocks, m.scratch_);
  uint64_t blocks = last - first; // of the destination
  if (marked && !converts_ && !scales && !whole_[0].empty()) {
    Out out(m.all_, 0, blocks * (whole_[0].size() + whole_[1].size()));
    KvRun cut[2]; // blocks of which a part moves
    size_t cuts = 0;
    if (begin % block_tokens) cut[cuts++] = run_of(src_blocks, dst_blocks, first, block_tokens, begin, end);
    if (end % block_tokens && (last - first > 1 || !cuts)) cut[cuts++] = run_of(src_blocks, dst_blocks, last - 1, block_tokens, begin, end);
    if (cuts == 2 && lands_before(cut[1], cut[0])) std::swap(cut[0], cut[1]);
    const uint64_t halves = scope_ == Scope::run ? 1 : src_.halves();
    for (uint64_t pass = 0; pass < (scope_ == Scope::request ? halves : 1); ++pass) {
      uint32_t from = 0;
      for (size_t i = 0; i <= cuts; ++i) {
        const uint32_t to = i < cuts ? uint32_t(cut[i].dst) : dst_.blocks;
        out.emit_whole(whole_[pass], last - first, from_.block_stride, to_.block_stride,
                       [&](auto emit) { marks.each(from, to, [&](uint32_t b, uint32_t entry) { emit(uint64_t(src_blocks[entry]), b); }); });
        from = to + 1;
        for (uint64_t half = pass; i < cuts && half < (scope_ == Scope::block ? halves : pass + 1); ++half) put(out, cut[i], half);
      }
    }
    if (!out.sorted()) out.sort_and_merge();
    BATON_TRY(layers_of(out, out.size(), m));
  } else {
    std::vector<KvRun>& runs = m.runs_;
    if (marked) {
      marks.each(0, dst_.blocks, [&](uint32_t, uint32_t entry) { runs.push_back(run_of(src_blocks, dst_blocks, entry, block_tokens, begin, end)); });
    } else {
      BATON_TRY(sorted_runs(src_blocks, dst_blocks, begin, end, dense, m));
      blocks = !runs.empty();
      for (size_t i = 1; i < runs.size(); ++i) blocks += runs[i].dst != runs[i - 1].dst;
    }
    if (converts_) {
      for (size_t i = 1; i < runs.size(); ++i)
        if (runs[i].dst != runs[i - 1].dst || runs[i].dst_token != runs[i - 1].dst_token + runs[i - 1].tokens) m.ends_.push_back(uint32_t(i));
      if (!runs.empty()) m.ends_.push_back(uint32_t(runs.size()));
    } else {
      BATON_TRY(segments(m));
    }
  }
  m.first_ = part_.layer_begin;
  m.layers_ = part_.layer_count;
  m.layer_bytes_ = uint64_t(src_.halves()) * part_.head_count * ((end - begin) * dst_.head_dim * program::dtype_bytes(dst_.dtype) + (scales ? 4 * blocks : 0));
  return {};
}

// Runs in the order of destination blocks, whatever the sizes of blocks.
Status KvPlan::sorted_runs(std::span<const int32_t> src_blocks, std::span<const int32_t> dst_blocks, uint64_t begin, uint64_t end, bool dense, KvMove& m) const {
  std::vector<KvRun>& runs = m.runs_;
  for (uint64_t t = begin; t < end;) {
    const uint32_t st = uint32_t(t % src_.block_tokens), dt = uint32_t(t % dst_.block_tokens);
    const uint32_t n = uint32_t(std::min<uint64_t>({src_.block_tokens - st, dst_.block_tokens - dt, end - t}));
    runs.push_back({src_blocks[t / src_.block_tokens], dst_blocks[t / dst_.block_tokens], st, dt, n});
    t += n;
  }
  const auto sorted = [&] { return std::is_sorted(runs.begin(), runs.end(), lands_before); };
  if (dense && !sorted()) sort_by_block(runs, dst_.blocks, m.scratch_);
  if (!sorted()) std::sort(runs.begin(), runs.end(), lands_before); // few of many blocks; or a block twice, its end before its beginning
  for (size_t i = 1; i < runs.size(); ++i)
    if (runs[i - 1].dst == runs[i].dst && runs[i - 1].dst_token + runs[i - 1].tokens > runs[i].dst_token)
      return Error(BATON_INVALID_ARGUMENT, fmt::format("destination block {} is in the table twice: tokens would overwrite each other", runs[i].dst),
                   "give each destination block once");
  return {};
}

// Scales that go over as they are: the blocks of both sides are the same tokens.
void KvPlan::put_scales(Out& to, const std::vector<KvRun>& runs) const {
  const uint32_t sh = part_.head_begin - src_.head_begin, dh = part_.head_begin - dst_.head_begin;
  const size_t numbers = to.size();
  for (uint32_t half = 0; half < src_.halves(); ++half)
    for (const KvRun& r : runs) {
      const KvSegment s{src_.scale_at(0, half, uint32_t(r.src), sh), dst_.scale_at(0, half, uint32_t(r.dst), dh), 4 * uint64_t(part_.head_count)};
      if (to.size() == numbers) to.append(s); // never one with the numbers: other layers are elsewhere
      else to.emit(s.src, s.dst, s.bytes);
    }
}

Status KvPlan::segments(KvMove& m) const {
  const std::vector<KvRun>& runs = m.runs_;
  const uint64_t halves = scope_ == Scope::run ? 1 : src_.halves();
  Out out(m.all_, 0, runs.size());
  for (size_t i = 0; i < runs.size();) {
    size_t j = scope_ == Scope::request ? runs.size() : i + 1;
    while (scope_ == Scope::block && j < runs.size() && runs[j].dst == runs[i].dst) ++j;
    for (uint64_t half = 0; half < halves; ++half)
      for (size_t k = i; k < j; ++k) put(out, runs[k], half);
    i = j;
  }
  if (!out.sorted()) out.sort_and_merge(); // within a block head_major lands head by head, so runs that share a destination block interleave
  const size_t numbers = out.size();
  if (dst_.scales != KvScales::none) put_scales(out, runs); // behind all numbers, and sorted as the runs are
  return layers_of(out, numbers, m);
}

// Every layer is layer 0, shifted: of `out`, whose first `numbers` are no scales.
Status KvPlan::layers_of(const Out& out, size_t numbers, KvMove& m) const {
  const size_t n = out.size();
  if (uint64_t(n) * part_.layer_count > UINT32_MAX)
    return Error(BATON_CAPACITY, fmt::format("{} segments for each of {} layers", n, part_.layer_count), "use a larger block or the same order on both sides");
  const uint64_t src_scales = 4 * uint64_t(src_.halves()) * src_.blocks * src_.head_count, dst_scales = 4 * uint64_t(dst_.halves()) * dst_.blocks * dst_.head_count;
  if (m.all_.size() < n * part_.layer_count) m.all_.resize(n * part_.layer_count);
  for (uint32_t l = part_.layer_count; l-- > 0;) { // the first layer last: the others are made of layer 0
    const uint64_t sl = uint64_t(part_.layer_begin - src_.layer_begin) + l, dl = uint64_t(part_.layer_begin - dst_.layer_begin) + l;
    KvSegment* to = m.all_.data() + l * n;
    auto shift = [&](size_t from, size_t end, uint64_t ds, uint64_t dd) {
      if (!l && !ds && !dd) return;
      for (size_t i = from; i < end; ++i) to[i] = {m.all_[i].src + ds, m.all_[i].dst + dd, m.all_[i].bytes};
    };
    shift(0, numbers, sl * from_.layer_stride, dl * to_.layer_stride);
    shift(numbers, n, sl * src_scales, dl * dst_scales);
  }
  m.each_ = n;
  return {};
}

}  // namespace baton::transport
