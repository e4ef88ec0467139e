// kernels_attention.h: a paged KV-cache filled with random rows, and attention as the text of kernels.hpp says it, for the tests.
#pragma once

#include "tests/unit/kernels_test.h"

#include <algorithm>
#include <numeric>

namespace baton::engine::test {

enum class Order { token_major, head_major };

struct KvShape {
  uint32_t heads = 4, kv_heads = 2, head_dim = 64, keys = 100, block_tokens = 16;
  DType dtype = DType::bf16;
  Order order = Order::token_major;
};

// Layer 1 of 2 of a cache whose other bytes are NaN, blocks in random order.
struct KvCache {
  KvShape s;
  std::vector<float> k, v;  // [keys, kv_heads, head_dim], as widened from the cache
  program::KvView view;
  std::vector<int32_t> table;
  std::vector<uint8_t> bytes;

  KvCache(const KvShape& shape, Random& random, Data d) : KvCache(shape, random.vector(count(shape), d), random.vector(count(shape), d), random) {}

  KvCache(const KvShape& shape, std::vector<float> keys, std::vector<float> values, Random& random)
      : s(shape), k(std::move(keys)), v(std::move(values)) {
    const uint32_t blocks = (s.keys + s.block_tokens - 1) / s.block_tokens + 3, size = program::dtype_bytes(s.dtype);
    const uint64_t block = uint64_t(s.block_tokens) * s.kv_heads * s.head_dim;
    view.block_tokens = s.block_tokens;
    view.block_stride = block;
    view.v_offset = blocks * block;
    view.layer_stride = 2 * view.v_offset;
    view.token_stride = s.order == Order::token_major ? uint64_t(s.kv_heads) * s.head_dim : s.head_dim;
    view.head_stride = s.order == Order::token_major ? s.head_dim : uint64_t(s.block_tokens) * s.head_dim;
    bytes.assign(2 * view.layer_stride * size, 0xff);
    table.resize(blocks);
    std::iota(table.begin(), table.end(), 0);
    for (uint32_t i = blocks; i > 1; --i) std::swap(table[i - 1], table[random.below(i)]);
    for (uint32_t j = 0; j < s.keys; ++j)
      for (uint32_t h = 0; h < s.kv_heads; ++h) {
        put(k, j, h, 0);
        put(v, j, h, view.v_offset);
      }
  }

  static uint64_t count(const KvShape& s) { return uint64_t(s.keys) * s.kv_heads * s.head_dim; }

  AttentionArgs args(const float* q, float* out, uint32_t rows, uint32_t position, Act act, uint32_t window = 0) const {
    AttentionArgs a{};
    a.q = q;
    a.out = out;
    a.rows = rows;
    a.heads = s.heads;
    a.kv_heads = s.kv_heads;
    a.head_dim = s.head_dim;
    a.window = window;
    a.position = position;
    a.scale = 1.0f / std::sqrt(float(s.head_dim));
    a.act = act;
    a.kv_dtype = s.dtype;
    a.cache = bytes.data();
    a.view = view;
    a.layer = 1;
    a.block_table = table.data();
    return a;
  }

 private:
  void put(std::vector<float>& x, uint32_t j, uint32_t h, uint64_t offset) {
    float* row = &x[(uint64_t(j) * s.kv_heads + h) * s.head_dim];
    const uint64_t at = view.layer_stride + offset + table[j / s.block_tokens] * view.block_stride + j % s.block_tokens * view.token_stride +
                        h * view.head_stride;
    uint8_t* to = bytes.data() + at * program::dtype_bytes(s.dtype);
    kernels_portable().round_to(row, s.head_dim, s.dtype, to);
    kernels_portable().widen(to, s.head_dim, s.dtype, row);
  }
};

inline std::vector<float> attention_ref(const KvCache& c, const AttentionArgs& a) {
  std::vector<float> out(uint64_t(a.rows) * a.heads * a.head_dim), p(c.s.keys + 32);
  for (uint32_t r = 0; r < a.rows; ++r)
    for (uint32_t h = 0; h < a.heads; ++h) {
      const float* q = a.q + (uint64_t(r) * a.heads + h) * a.head_dim;
      const uint32_t kv = h / (a.heads / a.kv_heads), end = a.position + r + 1, first = a.window && end > a.window ? end - a.window : 0;
      auto row = [&](const std::vector<float>& x, uint32_t j) { return &x[(uint64_t(j) * a.kv_heads + kv) * a.head_dim]; };
      std::fill(p.begin(), p.end(), 0.0f);
      float most = -INFINITY;
      for (uint32_t j = first; j < end; ++j) {
        float s = 0;
        for (uint32_t d = 0; d < a.head_dim; d += 32)
          s = dot32_ref(
              s, [&](int i) { return d + i < a.head_dim ? round_ref(q[d + i], a.act) : 0.0f; },
              [&](int i) { return d + i < a.head_dim ? row(c.k, j)[d + i] : 0.0f; });
        p[j] = s * a.scale;
        if (p[j] > most) most = p[j];
      }
      std::vector<float> lane(16);
      for (uint32_t j = first; j < end; ++j) {
        p[j] = p[j] - most;
        kernels_portable().exp(&p[j], 1, &p[j]);
        if (!std::isnan(p[j])) p[j] = round_ref(p[j], a.act);
        lane[j % 16] = lane[j % 16] + p[j];
      }
      const float l = tree_ref(lane.data(), 16);
      for (uint32_t d = 0; d < a.head_dim; ++d) {
        float o = 0;
        for (uint32_t j = 0; j < end; j += 32)
          o = dot32_ref(
              o, [&](int i) { return p[j + i]; }, [&](int i) { return j + i >= first && j + i < end ? row(c.v, j + i)[d] : 0.0f; });
        out[(uint64_t(r) * a.heads + h) * a.head_dim + d] = (o + 0.0f) / l;
      }
    }
  return out;
}

}  // namespace baton::engine::test
