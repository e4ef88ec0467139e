// kernels_attention.h: causal attention with grouped query heads over a paged KV-cache, around the multipliers of matmul.
//
// Keys and values of one kv head are gathered into packed blocks once by each thread that needs them: keys as weights [keys, head_dim], values as weights
// [head_dim, keys]. A unit of work is one kv head and a few query rows with all heads of its group: scores = panel(q) * keys, softmax,
// out = panel(p) * values. Runs of 32 keys start at absolute position 0, so chunking, block size and view leave the bits alone.
#pragma once

#include "emulators/engine/kernels_matmul.h"

namespace baton::engine {
namespace {

constexpr uint32_t kUnitRows = 48;               // query rows x heads of the group in a unit ...
constexpr uint64_t kUnitScores = 64 * 1024;      // ... and at most so many scores (256 KiB), to stay in L2

struct AttentionShape {
  const AttentionArgs& a;
  uint32_t group() const { return a.heads / a.kv_heads; }
  uint32_t dim_blocks() const { return (a.head_dim + kBlock - 1) / kBlock; }
  uint32_t end_key(uint32_t row) const { return a.position + row + 1; }  // row sees keys [first_key, end_key)
  uint32_t first_key(uint32_t row) const { return a.window && end_key(row) > a.window ? end_key(row) - a.window : 0; }
};

// ---- gathering ----

template <class S, class W>
class KvGather {
 public:
  using T = typename W::T;
  KvGather(const AttentionShape& s, T* keys, T* values, uint32_t capacity)
      : s_(s), keys_(keys), values_(values), capacity_(capacity) {}

  uint32_t base() const { return base_; }  // the run of 32 keys that comes first
  bool finite() const { return finite_; }
  const T* key_blocks(uint32_t run) const { return keys_ + uint64_t(run - base_) * s_.dim_blocks() * kBlockElements; }
  const T* value_blocks(uint32_t dim_block, uint32_t run) const {
    return values_ + (uint64_t(dim_block) * capacity_ + run - base_) * kBlockElements;
  }

  // Keys [from, to) of kv_head; extends what is there where it can. Missing places of the runs at both ends are +0.
  void cover(uint32_t kv_head, uint32_t from, uint32_t to, bool exactly) {
    const uint32_t run_end = (to + kBlock - 1) / kBlock;
    uint32_t run = from / kBlock;
    if (kv_head == head_ && !exactly && !exact_ && run >= base_ && run <= to_ / kBlock) {
      if (to <= to_) return;
      run = to_ / kBlock;  // the last run, if it was not full, is gathered again
      from = from_;
    } else {
      base_ = run;
      from_ = from;
      finite_ = true;
    }
    for (; run < run_end; ++run) gather(kv_head, run, from, to);
    head_ = kv_head;
    to_ = to;
    exact_ = exactly;
  }

 private:
  const uint8_t* row(uint32_t kv_head, uint32_t key, bool value) const {
    const AttentionArgs& a = s_.a;
    const program::KvView& v = a.view;
    const uint64_t block = uint64_t(a.block_table[key / v.block_tokens]), token = key % v.block_tokens;
    return a.cache + (a.layer * v.layer_stride + (value ? v.v_offset : 0) + block * v.block_stride + token * v.token_stride +
                      kv_head * v.head_stride) * sizeof(T);
  }

  void gather(uint32_t kv_head, uint32_t run, uint32_t from, uint32_t to) {
    const T *key[kBlock], *value[kBlock];
    bool whole = true;
    for (uint32_t i = 0; i < kBlock; ++i) {
      const uint32_t j = run * kBlock + i;
      const bool there = j >= from && j < to;
      key[i] = there ? reinterpret_cast<const T*>(row(kv_head, j, false)) : nullptr;
      value[i] = there ? reinterpret_cast<const T*>(row(kv_head, j, true)) : nullptr;
      whole &= there;
    }
    T* keys = keys_ + uint64_t(run - base_) * s_.dim_blocks() * kBlockElements;
    for (uint32_t d = 0; d < s_.dim_blocks(); ++d) {
      const uint32_t left = s_.a.head_dim - d * kBlock, dims = left < kBlock ? left : kBlock;
      const T* rows[kBlock];
      T edge[kBlock][kBlock];
      const bool direct = whole && dims == kBlock;
      stage(key, d, dims, direct, rows, edge);
      S::template pack_rows_as_n<T>(rows, keys + d * kBlockElements);
      stage(value, d, dims, direct, rows, edge);
      finite_ &= !S::template pack_rows_as_k<T>(rows, W::kExponent, values_ + (uint64_t(d) * capacity_ + run - base_) * kBlockElements);
    }
  }

  // Pointers to 32 elements of each row; through zero-filled copies where a row or some dims are missing.
  static void stage(const T* const* from, uint32_t d, uint32_t dims, bool direct, const T** rows, T (*edge)[kBlock]) {
    if (!direct) std::memset(edge, 0, kBlockElements * sizeof(T));
    for (uint32_t i = 0; i < kBlock; ++i) {
      if (direct) {
        rows[i] = from[i] + d * kBlock;
        continue;
      }
      if (from[i]) std::memcpy(edge[i], from[i] + d * kBlock, dims * sizeof(T));
      rows[i] = edge[i];
    }
  }

  const AttentionShape& s_;
  T *keys_, *values_;
  uint32_t capacity_;
  uint32_t head_ = UINT32_MAX, base_ = 0, from_ = 0, to_ = 0;
  bool finite_ = true, exact_ = false;
};

// ---- one unit ----

// Scores of one row to weights p in place: [runs * 32] scores from absolute key run * 32 on; [first, end) are seen. Returns the sum.
template <class S>
float softmax_row(float* s, uint32_t run, uint32_t runs, uint32_t first, uint32_t end, float scale, program::Act act) {
  using V = typename S::V;
  const uint32_t count = runs * kBlock, from = first - run * kBlock, to = end - run * kBlock;
  const V factor = S::set1(scale);
  for (uint32_t j = from & ~15u; j < to; j += 16) S::store(s + j, S::mul(S::load(s + j), factor));
  for (uint32_t j = 0; j < from; ++j) s[j] = -__builtin_inff();
  for (uint32_t j = to; j < count; ++j) s[j] = -__builtin_inff();
  V most = S::set1(-__builtin_inff());
  const uint32_t start = from & ~15u, stop = (to + 15) & ~15u;
  for (uint32_t j = start; j < stop; j += 16) {
    const V v = S::load(s + j);
    most = S::if_greater(v, most, v, most);
  }
  alignas(64) float lanes[16];
  S::store(lanes, most);
  float m = lanes[0];
  for (float v : lanes) m = v > m ? v : m;
  const V top = S::set1(m);
  V sum = S::zero();
  std::memset(s, 0, start * sizeof(float));
  for (uint32_t j = start; j < stop; j += 16) {
    V p = exp_lanes<S>(S::sub(S::load(s + j), top));
    if (act == program::Act::bf16) p = S::round_bf16(p);
    sum = S::add(sum, p);
    S::store(s + j, p);
  }
  std::memset(s + stop, 0, (count - stop) * sizeof(float));
  return sum_lanes<S>(sum);
}

template <class S, class M>
class AttentionWorker {
 public:
  using Elem = typename M::Elem;
  using T = typename M::Weight::T;

  AttentionWorker(const AttentionShape& s, Pool& pool, uint32_t thread, uint32_t unit_rows, uint32_t key_runs)
      : s_(s), gather_(s, pool.scratch<T>(thread, 2, uint64_t(key_runs) * s.dim_blocks() * kBlockElements),
                       pool.scratch<T>(thread, 3, uint64_t(key_runs) * s.dim_blocks() * kBlockElements), key_runs) {
    const uint64_t rows = typename M::Tiling(unit_rows * s.group()).padded();
    q_ = pool.scratch<Elem>(thread, 4, rows * s.dim_blocks() * kBlock);
    p_ = pool.scratch<Elem>(thread, 5, rows * key_runs * kBlock);
    scores_ = pool.scratch<float>(thread, 6, rows * key_runs * kBlock);
    out_ = pool.scratch<float>(thread, 7, rows * (s.dim_blocks() * kBlock + 1));
    sums_ = out_ + rows * s.dim_blocks() * kBlock;
  }

  // Query rows [begin, end) of all heads of kv_head.
  void unit(uint32_t kv_head, uint32_t begin, uint32_t end) {
    gather_.cover(kv_head, s_.first_key(begin), s_.end_key(end - 1), false);
    if (gather_.finite()) return multiply(kv_head, begin, end);
    // An infinity or NaN among the values: 0 * infinity would leak into rows that do not see it, so each row gets its own keys alone.
    for (uint32_t r = begin; r < end; ++r) {
      gather_.cover(kv_head, s_.first_key(r), s_.end_key(r), true);
      multiply(kv_head, r, r + 1);
    }
  }

 private:
  void multiply(uint32_t kv_head, uint32_t begin, uint32_t end) {
    const uint32_t group = s_.group(), rows = (end - begin) * group, dims = s_.dim_blocks();
    const uint32_t run = s_.first_key(begin) / kBlock, runs = (s_.end_key(end - 1) + kBlock - 1) / kBlock - run;
    const typename M::Tiling tiling(rows);
    const typename M::Guard guard(tiling);
    const uint64_t ld = uint64_t(runs) * kBlock;
    pack_queries(tiling, kv_head, begin, rows);
    for (uint32_t i = 0; i < runs; ++i)
      M::run(PanelView<Elem>{q_, dims, 0}, tiling, gather_.key_blocks(run + i), dims, scores_ + i * kBlock, ld, true, {});
    for (uint32_t i = 0; i < rows; ++i) {
      const uint32_t r = begin + i / group;
      sums_[i] = softmax_row<S>(scores_ + i * ld, run, runs, s_.first_key(r), s_.end_key(r), s_.a.scale, s_.a.act);
    }
    pack_weights(tiling, rows, runs, ld);
    for (uint32_t d = 0; d < dims; ++d)
      M::run(PanelView<Elem>{p_, runs, 0}, tiling, gather_.value_blocks(d, run), runs, out_ + d * kBlock, dims * kBlock, true, {});
    for (uint32_t i = 0; i < rows; ++i) finish(out_ + uint64_t(i) * dims * kBlock, sums_[i], row_of(s_.a.out, kv_head, begin, i));
  }

  template <class P>
  P* row_of(P* base, uint32_t kv_head, uint32_t begin, uint32_t i) const {
    const uint32_t group = s_.group();
    return base + (uint64_t(begin + i / group) * s_.a.heads + kv_head * group + i % group) * s_.a.head_dim;
  }

  void pack_queries(const typename M::Tiling& t, uint32_t kv_head, uint32_t begin, uint32_t rows) {
    for_slots(t, q_, s_.dim_blocks(), [&](uint32_t i, uint32_t d, Elem* to) {
      const uint32_t left = s_.a.head_dim - d * kBlock, dims = i >= rows ? 0 : left < kBlock ? left : kBlock;
      const float* from = dims ? row_of(s_.a.q, kv_head, begin, i) + d * kBlock : nullptr;
      alignas(64) float edge[kBlock];
      if (dims < kBlock) {
        std::memset(edge, 0, sizeof edge);
        if (dims) std::memcpy(edge, from, dims * sizeof(float));
        from = edge;
      }
      M::convert(from, s_.a.act, to);
    });
  }

  void pack_weights(const typename M::Tiling& t, uint32_t rows, uint32_t runs, uint64_t ld) {
    alignas(64) static constexpr float kZero[kBlock] = {};
    for_slots(t, p_, runs, [&](uint32_t i, uint32_t run, Elem* to) {
      M::convert(i < rows ? scores_ + i * ld + run * kBlock : kZero, program::Act::f32, to);  // p is rounded already
    });
  }

  template <class F>
  static void for_slots(const typename M::Tiling& t, Elem* panel, uint32_t runs, F&& f) {
    for (uint32_t tile = 0; tile < t.count(); ++tile) {
      const uint32_t first = t.first(tile), slots = t.slots(tile);
      Elem* to = panel + uint64_t(first) * runs * kBlock;
      for (uint32_t r = 0; r < slots; ++r)
        for (uint32_t run = 0; run < runs; ++run) f(first + r, run, to + (uint64_t(run) * slots + r) * kBlock);
    }
  }

  void finish(const float* o, float sum, float* to) const {
    const typename S::V l = S::set1(sum);
    each_lane<S>(o, s_.a.head_dim, to, [&](typename S::V v, uint64_t) { return S::div(S::add(v, S::zero()), l); });
  }

  const AttentionShape& s_;
  KvGather<S, typename M::Weight> gather_;
  Elem *q_, *p_;
  float *scores_, *out_, *sums_;
};

template <class S, class M>
void attention_with(Pool& pool, const AttentionArgs& a) {
  const AttentionShape s{a};
  const uint32_t keys = s.end_key(a.rows - 1), first = s.first_key(0);
  const uint32_t key_runs = (keys + kBlock - 1) / kBlock - first / kBlock;
  uint64_t unit = kUnitScores / (uint64_t(key_runs) * kBlock);
  unit = (unit > kUnitRows ? kUnitRows : unit) / s.group();
  const uint32_t unit_rows = unit < 1 ? 1 : unit > a.rows ? a.rows : uint32_t(unit);
  const uint32_t units = (a.rows + unit_rows - 1) / unit_rows;
  const bool worth = uint64_t(a.rows) * (keys - first) * a.heads * a.head_dim * 2 >= kForkMacs;
  pool.run_if(worth, uint64_t(units) * a.kv_heads, [&](uint64_t begin, uint64_t end, uint32_t thread) {
    AttentionWorker<S, M> worker(s, pool, thread, unit_rows, key_runs);
    for (uint64_t u = begin; u < end; ++u) {
      const uint32_t from = uint32_t(u % units) * unit_rows, to = a.rows - from < unit_rows ? a.rows : from + unit_rows;
      worker.unit(uint32_t(u / units), from, to);
    }
  });
}

template <class S>
void attention(Pool& pool, const AttentionArgs& a) {
  switch (a.kv_dtype) {
    case program::DType::bf16: return attention_with<S, FmaMultiplier<S, Bf16>>(pool, a);
    case program::DType::f16: return attention_with<S, FmaMultiplier<S, F16>>(pool, a);
    default: return attention_with<S, FmaMultiplier<S, F32>>(pool, a);
  }
}

}  // namespace
}  // namespace baton::engine
