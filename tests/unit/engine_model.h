// engine_model.h: a small random Llama-like model for tests: its weights (whole, or one rank's shard) and its prefill and decode
// programs, in the variants that matter: q/k norm, biases, tied embedding, dtypes, orders of the KV-cache, segments, ranks.
#pragma once

#include "emulators/engine/engine.hpp"
#include "hal/program/program.hpp"
#include "tests/cts/tensor.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace baton::test {

using program::Act;
using program::Arg;
using program::Builder;
using program::DType;
using program::KvView;
using program::Program;
using program::Storage;

using cts::from_bf16;
using cts::from_f16;
using cts::random_tensor;
using cts::rounded;
using cts::Tensor;
using cts::to_bf16;
using cts::to_bytes;
using cts::to_f16;
using cts::Weights;

enum class KvOrder { token_major, head_major, block_major };

struct Model {
  uint32_t vocabulary = 97, hidden = 64, heads = 8, kv_heads = 4, head_dim = 16, ffn = 96, layers = 2;
  bool qk_norm = false, bias = false, tied = false;
  DType dtype = DType::bf16, kv_dtype = DType::bf16;
  Act act = Act::bf16;
  uint32_t segments = 4, block_tokens = 16, max_tokens = 64, max_context = 128, window = 0;
  KvOrder order = KvOrder::token_major;
  bool prefill_logits = true; // of all rows
  std::vector<int32_t> stops;

  uint32_t blocks() const { return (max_context + block_tokens - 1) / block_tokens; }
  uint32_t pool_blocks() const { return blocks() + 3; } // physical blocks; more than one request needs

  KvView view(uint32_t ranks = 1) const {
    const uint64_t h = kv_heads / ranks, d = head_dim, t = block_tokens, b = pool_blocks(), l = layers;
    switch (order) {
      case KvOrder::token_major: return {2 * b * t * h * d, b * t * h * d, t * h * d, h * d, d, block_tokens};
      case KvOrder::head_major: return {2 * b * t * h * d, b * t * h * d, t * h * d, d, t * d, block_tokens};
      case KvOrder::block_major: return {2 * t * h * d, t * h * d, l * 2 * t * h * d, h * d, d, block_tokens};
    }
    return {};
  }
  uint64_t cache_elements(uint32_t ranks = 1) const {
    return uint64_t(layers) * 2 * pool_blocks() * block_tokens * (kv_heads / ranks) * head_dim;
  }
};

inline std::string layer_prefix(uint32_t l) {
  std::string s = std::to_string(l); // g++ 12 warns (-Wrestrict) about "l" + std::to_string(l)
  s.insert(0, 1, 'l');
  s += '.';
  return s;
}

inline Weights random_weights(const Model& m, uint32_t seed = 1) {
  std::mt19937 g(seed);
  Weights w;
  const int64_t q = m.heads * m.head_dim, kv = m.kv_heads * m.head_dim, h = m.hidden, f = m.ffn, v = m.vocabulary;
  auto matrix = [&](const std::string& name, int64_t n, int64_t k) { w[name] = random_tensor(g, m.dtype, {n, k}, 1.5f / std::sqrt(float(k))); };
  auto vector = [&](const std::string& name, int64_t n, float mean) { w[name] = random_tensor(g, m.dtype, {n}, 0.3f, mean); };
  w["embed"] = random_tensor(g, m.dtype, {v, h}, 1);
  if (!m.tied) matrix("lm_head", v, h);
  vector("norm", h, 1);
  for (uint32_t l = 0; l < m.layers; ++l) {
    const std::string p = layer_prefix(l);
    vector(p + "norm1", h, 1);
    vector(p + "norm2", h, 1);
    matrix(p + "q", q, h);
    matrix(p + "k", kv, h);
    matrix(p + "v", kv, h);
    matrix(p + "o", h, q);
    matrix(p + "gate", f, h);
    matrix(p + "up", f, h);
    matrix(p + "down", h, f);
    for (const char* n : {"q", "k", "v"})
      if (m.bias) vector(p + n + ".bias", n[0] == 'q' ? q : kv, 0);
    if (m.qk_norm) vector(p + "q_norm", m.head_dim, 1), vector(p + "k_norm", m.head_dim, 1);
  }
  Tensor inv{DType::f32, {int64_t(m.head_dim / 2)}, {}};
  for (uint32_t i = 0; i < m.head_dim / 2; ++i) inv.data.push_back(float(std::pow(10000.0, -2.0 * i / m.head_dim)));
  w["inv_freq"] = inv;
  return w;
}

// Rank r of n: heads and ffn columns are split; o and down keep their share of K.
inline Weights shard(const Weights& whole, uint32_t rank, uint32_t ranks) {
  Weights w;
  for (const auto& [name, t] : whole) {
    const std::string leaf = name.substr(name.find('.') + 1);
    const bool layer = name.find('.') != std::string::npos;
    const bool rows = layer && (leaf == "q" || leaf == "k" || leaf == "v" || leaf == "gate" || leaf == "up" || leaf.ends_with(".bias"));
    const bool columns = layer && (leaf == "o" || leaf == "down");
    Tensor s = t;
    if (rows) {
      s.shape[0] /= ranks;
      const size_t n = t.data.size() / ranks;
      s.data.assign(t.data.begin() + rank * n, t.data.begin() + (rank + 1) * n);
    } else if (columns) {
      s.shape[1] /= ranks;
      s.data.clear();
      for (int64_t r = 0; r < t.shape[0]; ++r)
        for (int64_t c = 0; c < s.shape[1]; ++c) s.data.push_back(t.data[r * t.shape[1] + rank * s.shape[1] + c]);
    }
    w[name] = s;
  }
  return w;
}

struct BuildState {
  Builder b;
  const Weights& w;
  std::map<std::string, uint32_t> index;
  uint32_t constant(const std::string& name) {
    auto [it, fresh] = index.try_emplace(name, 0);
    if (fresh) it->second = b.constant(name, w.at(name).dtype, w.at(name).shape);
    return it->second;
  }
};

inline uint32_t build_layer(BuildState& s, const Model& m, uint32_t ranks, uint32_t l, uint32_t x, uint32_t table, uint32_t cache) {
  Builder& b = s.b;
  const std::string p = layer_prefix(l);
  const uint32_t heads = m.heads / ranks, kv_heads = m.kv_heads / ranks, segments = std::max(1u, m.segments / ranks);
  const KvView view = m.view(ranks);
  auto bias = [&](const char* n) { return m.bias ? int64_t(s.constant(p + n + ".bias")) : -1; };
  uint32_t n1 = b.rms_norm(x, s.constant(p + "norm1"), 1e-5f);
  uint32_t q = b.matmul(n1, s.constant(p + "q"), m.act, 1, bias("q"));
  uint32_t k = b.matmul(n1, s.constant(p + "k"), m.act, 1, bias("k"));
  uint32_t v = b.matmul(n1, s.constant(p + "v"), m.act, 1, bias("v"));
  if (m.qk_norm) {
    q = b.rms_norm(q, s.constant(p + "q_norm"), 1e-6f);
    k = b.rms_norm(k, s.constant(p + "k_norm"), 1e-6f);
  }
  q = b.rope(q, s.constant("inv_freq"), heads, m.head_dim, 1);
  k = b.rope(k, s.constant("inv_freq"), kv_heads, m.head_dim, 1);
  b.kv_store(k, v, table, cache, l, kv_heads, m.head_dim, view);
  uint32_t a = b.attention(q, cache, table, m.act, l, heads, kv_heads, m.head_dim, 1 / std::sqrt(float(m.head_dim)), m.window, view);
  uint32_t o = b.matmul(a, s.constant(p + "o"), m.act, segments);
  if (ranks > 1) o = b.all_reduce(o);
  x = b.add(x, o);
  uint32_t n2 = b.rms_norm(x, s.constant(p + "norm2"), 1e-5f);
  uint32_t act = b.silu_mul(b.matmul(n2, s.constant(p + "gate"), m.act), b.matmul(n2, s.constant(p + "up"), m.act));
  uint32_t d = b.matmul(act, s.constant(p + "down"), m.act, segments);
  if (ranks > 1) d = b.all_reduce(d);
  x = b.add(x, d);
  if (!b.program().loop) b.mark();
  return x;
}

// Prefill: ids [T] -> logits [T, V] (optional) and token [1]. Decode: a loop over the token buffer; logits [S, V] optional.
inline Builder build_model(const Model& m, const Weights& w, bool loop, uint32_t ranks = 1) {
  BuildState s{Builder(loop ? "decode" : "prefill"), w, {}};
  Program& p = s.b.program();
  p.loop = loop;
  p.ranks = ranks;
  p.max_tokens = loop ? 1 : m.max_tokens;
  p.max_steps = loop ? m.max_tokens : 1;
  p.max_context = m.max_context;
  p.args = {loop ? Arg::steps : Arg::tokens, Arg::position, Arg::temperature, Arg::top_p, Arg::seed};
  if (loop) p.args.push_back(Arg::stop);
  const int64_t rows = loop ? program::kSteps : program::kTokens;
  uint32_t ids = s.b.value("ids", DType::i32, loop ? Storage::inout : Storage::input, {rows});
  uint32_t table = s.b.value("block_table", DType::i32, Storage::input, {int64_t(m.blocks())});
  uint32_t cache = s.b.value("kv", m.kv_dtype, Storage::cache, {int64_t(m.cache_elements(ranks))});
  uint32_t logits = s.b.value("logits", DType::f32, Storage::output, {loop || m.prefill_logits ? rows : 1, m.vocabulary}, true);
  uint32_t x = s.b.embed(ids, s.constant("embed"));
  for (uint32_t l = 0; l < m.layers; ++l) x = build_layer(s, m, ranks, l, x, table, cache);
  uint32_t n = s.b.rms_norm(x, s.constant("norm"), 1e-5f);
  const uint32_t head = s.constant(m.tied ? "embed" : "lm_head");
  if (loop) {
    s.b.matmul(n, head, m.act, 1, -1, logits);
    s.b.sample(logits, ids, m.stops);
    s.b.mark();
    return std::move(s.b);
  }
  if (m.prefill_logits) s.b.matmul(n, head, m.act, 1, -1, logits);
  uint32_t last = s.b.take_last(n);
  uint32_t token = s.b.value("token", DType::i32, Storage::output, {1}, true);
  uint32_t scores = m.prefill_logits ? s.b.matmul(last, head, m.act) : s.b.matmul(last, head, m.act, 1, -1, logits);
  s.b.sample(scores, token, {});
  return std::move(s.b);
}

}  // namespace baton::test
