#include "transport/kv_layout.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

namespace baton::transport {
namespace {

using u128 = unsigned __int128;

// The largest buffer that a layout may describe: offsets stay far from the edge of u64.
constexpr u128 kMaxBytes = u128(1) << 60;

u128 wide_bytes(const KvLayout& l) {
  return u128(l.layers) * 2 * l.blocks * l.block_tokens * l.head_count * l.head_dim * program::dtype_bytes(l.dtype);
}

bool known(program::DType t) { return t >= program::DType::f32 && t <= program::DType::i32; }

std::string shard_text(const KvLayout& l) { return fmt::format("[{},{})", l.head_begin, l.head_begin + l.head_count); }

Error differ(const char* what, std::string_view src, std::string_view dst) {
  return Error(BATON_MISMATCH, fmt::format("KV layouts differ in {}: source {}, destination {}", what, src, dst),
               "load the same model on both sides; order, block size and shards may differ, the model may not");
}

// What both must share because a move copies bytes and converts nothing.
Status same_model(const KvLayout& s, const KvLayout& d) {
  auto num = [](uint32_t v) { return std::to_string(v); };
  if (s.layers != d.layers) return differ("layers", num(s.layers), num(d.layers));
  if (s.kv_heads != d.kv_heads) return differ("kv_heads", num(s.kv_heads), num(d.kv_heads));
  if (s.head_dim != d.head_dim) return differ("head_dim", num(s.head_dim), num(d.head_dim));
  if (s.dtype != d.dtype) return differ("dtype", program::dtype_name(s.dtype), program::dtype_name(d.dtype));
  return {};
}

// Tokens [0, tokens) of the run that starts at `first` in block `src` and at `at` in block `dst`.
struct Run {
  int32_t src, dst;
  uint32_t src_token, dst_token, tokens;
};

// Appends, growing the last segment where both sides continue it.
class Emit {
 public:
  Emit(std::vector<KvSegment>& to) : to_(to) {}
  void operator()(uint64_t src, uint64_t dst, uint64_t bytes) {
    if (!to_.empty()) {
      KvSegment& last = to_.back();
      if (last.src + last.bytes == src && last.dst + last.bytes == dst) {
        last.bytes += bytes;
        return;
      }
    }
    to_.push_back({src, dst, bytes});
  }

 private:
  std::vector<KvSegment>& to_;
};

Status check_table(const char* side, std::span<const int32_t> table, const KvLayout& l, uint64_t end) {
  const uint64_t need = (end + l.block_tokens - 1) / l.block_tokens;
  if (table.size() < need)
    return Error(BATON_INVALID_ARGUMENT,
                 fmt::format("the {} block table has {} blocks of {} tokens; {} tokens need {}", side, table.size(), l.block_tokens, end, need),
                 "give every block of the request");
  for (uint64_t i = 0; i < need; ++i)
    if (table[i] < 0 || uint32_t(table[i]) >= l.blocks)
      return Error(BATON_INVALID_ARGUMENT, fmt::format("{} block table entry {} is {}; the buffer has blocks 0..{}", side, i, table[i], l.blocks - 1),
                   "pass the block table of this buffer");
  return {};
}

}  // namespace

const char* order_name(KvOrder o) {
  switch (o) {
    case KvOrder::token_major: return "token_major";
    case KvOrder::head_major: return "head_major";
    case KvOrder::block_major: return "block_major";
  }
  return "unknown";
}

Result<KvOrder> parse_order(std::string_view s) {
  for (auto o : {KvOrder::token_major, KvOrder::head_major, KvOrder::block_major})
    if (s == order_name(o)) return o;
  return Error(BATON_INVALID_ARGUMENT, fmt::format("unknown KV order '{}'", s), "one of token_major, head_major, block_major");
}

uint64_t KvLayout::bytes() const { return uint64_t(wide_bytes(*this)); }

program::KvView KvLayout::view() const {
  const uint64_t row = uint64_t(head_count) * head_dim, block = block_tokens * row;
  program::KvView v;
  v.block_tokens = block_tokens;
  switch (order) {
    case KvOrder::token_major:
    case KvOrder::head_major:
      v.block_stride = block;
      v.v_offset = blocks * block;
      v.layer_stride = 2 * v.v_offset;
      break;
    case KvOrder::block_major:
      v.v_offset = block;
      v.layer_stride = 2 * block;
      v.block_stride = layers * v.layer_stride;
      break;
  }
  const bool by_head = order == KvOrder::head_major;
  v.token_stride = by_head ? head_dim : row;
  v.head_stride = by_head ? uint64_t(block_tokens) * head_dim : head_dim;
  return v;
}

std::string KvLayout::describe() const {
  return fmt::format("kv/1 layers={} kv_heads={} head_dim={} dtype={} order={} block_tokens={} blocks={} heads={}", layers, kv_heads, head_dim,
                     program::dtype_name(dtype), order_name(order), block_tokens, blocks, shard_text(*this));
}

uint64_t KvLayout::hash() const {
  const std::string s = describe();
  return XXH3_64bits(s.data(), s.size());
}

Status KvLayout::check() const {
  auto bad = [&](const std::string& why) { return Error(BATON_INVALID_ARGUMENT, fmt::format("KV layout: {}", why), describe().substr(0, 190)); };
  if (!known(dtype)) return Error(BATON_INVALID_ARGUMENT, fmt::format("KV layout: unknown dtype {}", int(dtype)), "one of f32, bf16, f16, i32");
  if (std::string_view(order_name(order)) == "unknown") return bad(fmt::format("unknown order {}", int(order)));
  if (!layers || !kv_heads || !head_dim || !block_tokens || !blocks || !head_count) return bad("a size is zero");
  if (uint64_t(head_begin) + head_count > kv_heads) return bad(fmt::format("heads {} of a model with {}", shard_text(*this), kv_heads));
  // Each partial product is bounded before the next factor: six 32-bit factors could overflow 128 bits.
  u128 n = 2 * program::dtype_bytes(dtype);
  for (uint32_t f : {layers, blocks, block_tokens, head_count, head_dim})
    if ((n *= f) > kMaxBytes) return bad("the buffer would exceed 2^60 bytes");
  return {};
}

uint64_t KvMove::total_bytes() const {
  uint64_t n = 0;
  for (uint64_t b : layer_bytes_) n += b;
  return n;
}

Result<KvPlan> KvPlan::compile(const KvLayout& src, const KvLayout& dst) {
  BATON_TRY(src.check());
  BATON_TRY(dst.check());
  BATON_TRY(same_model(src, dst));
  const uint32_t begin = std::max(src.head_begin, dst.head_begin);
  const uint32_t end = std::min(src.head_begin + src.head_count, dst.head_begin + dst.head_count);
  if (begin >= end) return differ("heads held: no head is on both sides", shard_text(src), shard_text(dst));
  return compile(src, dst, begin, end - begin);
}

Result<KvPlan> KvPlan::compile(const KvLayout& src, const KvLayout& dst, uint32_t head_begin, uint32_t head_count) {
  BATON_TRY(src.check());
  BATON_TRY(dst.check());
  BATON_TRY(same_model(src, dst));
  for (const KvLayout* l : {&src, &dst})
    if (head_count == 0 || head_begin < l->head_begin || uint64_t(head_begin) + head_count > uint64_t(l->head_begin) + l->head_count)
      return Error(BATON_MISMATCH, fmt::format("a plan for heads [{},{}): the {} holds {}", head_begin, uint64_t(head_begin) + head_count,
                                               l == &src ? "source" : "destination", shard_text(*l)),
                   "narrow the heads to those that both sides hold");
  KvPlan p;
  p.src_ = src;
  p.dst_ = dst;
  p.head_begin_ = head_begin;
  p.head_count_ = head_count;
  return p;
}

uint64_t KvPlan::hash() const {
  const std::string s = fmt::format("{} -> {} heads [{},{})", src_.describe(), dst_.describe(), head_begin_, head_begin_ + head_count_);
  return XXH3_64bits(s.data(), s.size());
}

namespace {

// The runs of tokens that stay within one block on both sides, sorted by where they land.
std::vector<Run> runs_of(const KvLayout& s, const KvLayout& d, std::span<const int32_t> src, std::span<const int32_t> dst, uint64_t begin, uint64_t end) {
  std::vector<Run> runs;
  runs.reserve((end - begin) / std::min(s.block_tokens, d.block_tokens) + 2);
  for (uint64_t t = begin; t < end;) {
    const uint32_t st = uint32_t(t % s.block_tokens), dt = uint32_t(t % d.block_tokens);
    const uint32_t n = uint32_t(std::min<uint64_t>({s.block_tokens - st, d.block_tokens - dt, end - t}));
    runs.push_back({src[t / s.block_tokens], dst[t / d.block_tokens], st, dt, n});
    t += n;
  }
  auto lands_before = [](const Run& a, const Run& b) { return a.dst != b.dst ? a.dst < b.dst : a.dst_token < b.dst_token; };
  if (!std::is_sorted(runs.begin(), runs.end(), lands_before)) std::sort(runs.begin(), runs.end(), lands_before);
  return runs;
}

// Emits one run of k or v of layer 0 in the order of destination addresses. Bases and strides are in bytes.
struct RunEmitter {
  program::KvView sv, dv; // strides in BYTES here
  uint64_t row_bytes;     // of one head of one token
  uint32_t heads;

  void operator()(Emit& emit, uint64_t src, uint64_t dst, uint32_t tokens) const {
    const bool src_rows = sv.head_stride == row_bytes, dst_rows = dv.head_stride == row_bytes;
    const bool src_cols = sv.token_stride == row_bytes, dst_cols = dv.token_stride == row_bytes;
    const uint64_t heads_bytes = heads * row_bytes;
    if (src_rows && dst_rows) { // all heads of a token are adjacent on both sides; so are tokens if nothing is left out
      if (sv.token_stride == heads_bytes && dv.token_stride == heads_bytes) return emit(src, dst, tokens * heads_bytes);
      for (uint32_t t = 0; t < tokens; ++t) emit(src + t * sv.token_stride, dst + t * dv.token_stride, heads_bytes);
    } else if (src_cols && dst_cols) { // all tokens of a head are adjacent on both sides
      for (uint32_t h = 0; h < heads; ++h) emit(src + h * sv.head_stride, dst + h * dv.head_stride, tokens * row_bytes);
    } else if (dst_cols) {
      for (uint32_t h = 0; h < heads; ++h)
        for (uint32_t t = 0; t < tokens; ++t) emit(src + h * sv.head_stride + t * sv.token_stride, dst + h * dv.head_stride + t * dv.token_stride, row_bytes);
    } else {
      for (uint32_t t = 0; t < tokens; ++t)
        for (uint32_t h = 0; h < heads; ++h) emit(src + h * sv.head_stride + t * sv.token_stride, dst + h * dv.head_stride + t * dv.token_stride, row_bytes);
    }
  }
};

program::KvView in_bytes(program::KvView v, uint32_t element) {
  for (uint64_t* s : {&v.layer_stride, &v.v_offset, &v.block_stride, &v.token_stride, &v.head_stride}) *s *= element;
  return v;
}

}  // namespace

Result<KvMove> KvPlan::instantiate(std::span<const int32_t> src_blocks, std::span<const int32_t> dst_blocks, uint64_t begin, uint64_t end) const {
  if (begin > end) return Error(BATON_INVALID_ARGUMENT, fmt::format("tokens [{},{}) run backwards", begin, end));
  BATON_TRY(check_table("source", src_blocks, src_, end));
  BATON_TRY(check_table("destination", dst_blocks, dst_, end));
  const std::vector<Run> runs = runs_of(src_, dst_, src_blocks, dst_blocks, begin, end);
  for (size_t i = 1; i < runs.size(); ++i)
    if (runs[i - 1].dst == runs[i].dst && runs[i - 1].dst_token + runs[i - 1].tokens > runs[i].dst_token)
      return Error(BATON_INVALID_ARGUMENT, fmt::format("destination block {} is in the table twice: tokens would overwrite each other", runs[i].dst),
                   "give each destination block once");

  const uint32_t element = program::dtype_bytes(src_.dtype);
  const RunEmitter one{in_bytes(src_.view(), element), in_bytes(dst_.view(), element), uint64_t(src_.head_dim) * element, head_count_};
  const uint64_t src_base = uint64_t(head_begin_ - src_.head_begin) * one.sv.head_stride;
  const uint64_t dst_base = uint64_t(head_begin_ - dst_.head_begin) * one.dv.head_stride;

  KvMove m;
  Emit emit(m.all_);
  auto put = [&](const Run& r, uint64_t src_kv, uint64_t dst_kv) {
    one(emit, src_base + src_kv + uint64_t(r.src) * one.sv.block_stride + r.src_token * one.sv.token_stride,
        dst_base + dst_kv + uint64_t(r.dst) * one.dv.block_stride + r.dst_token * one.dv.token_stride, r.tokens);
  };
  // Within a block head_major lands head by head, so runs that share a destination block interleave; sorted below.
  if (dst_.order == KvOrder::block_major) {
    for (size_t i = 0; i < runs.size();) { // k and v of a block are neighbours: all of its runs first for k, then for v
      size_t j = i;
      while (j < runs.size() && runs[j].dst == runs[i].dst) ++j;
      for (size_t k = i; k < j; ++k) put(runs[k], 0, 0);
      for (size_t k = i; k < j; ++k) put(runs[k], one.sv.v_offset, one.dv.v_offset);
      i = j;
    }
  } else {
    for (const Run& r : runs) put(r, 0, 0);
    for (const Run& r : runs) put(r, one.sv.v_offset, one.dv.v_offset);
  }
  auto by_dst = [](const KvSegment& a, const KvSegment& b) { return a.dst < b.dst; };
  if (!std::is_sorted(m.all_.begin(), m.all_.end(), by_dst)) std::sort(m.all_.begin(), m.all_.end(), by_dst);

  // Every layer is layer 0, shifted.
  const size_t n = m.all_.size();
  if (uint64_t(n) * src_.layers > UINT32_MAX)
    return Error(BATON_CAPACITY, fmt::format("{} segments for each of {} layers", n, src_.layers), "use a larger block or the same order on both sides");
  m.all_.resize(n * src_.layers);
  m.first_.resize(src_.layers + 1);
  for (uint32_t l = 0; l < src_.layers; ++l) {
    m.first_[l] = uint32_t(l * n);
    const uint64_t ds = l * one.sv.layer_stride, dd = l * one.dv.layer_stride;
    KvSegment* to = m.all_.data() + l * n;
    if (l)
      for (size_t i = 0; i < n; ++i) to[i] = {m.all_[i].src + ds, m.all_[i].dst + dd, m.all_[i].bytes};
  }
  m.first_[src_.layers] = uint32_t(m.all_.size());
  m.layer_bytes_.assign(src_.layers, (end - begin) * 2 * head_count_ * one.row_bytes);
  return m;
}

}  // namespace baton::transport
