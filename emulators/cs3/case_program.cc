#include "emulators/cs3/case_program.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace baton::cs3 {
namespace {

using program::Act;
using program::Arg;
using program::Builder;
using program::DType;
using program::KvView;
using program::Storage;

constexpr float kEps = 1e-5f;

class Layers {
 public:
  Layers(Builder& b, const CaseModel& m, uint32_t context) : b_(b), m_(m) {
    const uint64_t token = uint64_t(m.kv_heads) * m.head_dim, block = token * kCaseBlockTokens;
    view_ = {.layer_stride = 4 * block, .v_offset = block, .block_stride = 2 * block, .token_stride = token, .head_stride = m.head_dim, .block_tokens = kCaseBlockTokens};
    table_ = b_.value("table", DType::i32, Storage::input, {(int64_t(context) + kCaseBlockTokens - 1) / kCaseBlockTokens});
    cache_ = b_.value("cache", DType::bf16, Storage::cache, {int64_t(view_.layer_stride * m.layers)});
    freq_ = b_.constant("inv_freq", DType::f32, {m.head_dim / 2});
  }

  uint32_t matrix(const std::string& name, int64_t n, int64_t k) { return b_.constant(name, DType::bf16, {n, k}); }
  uint32_t linear(uint32_t x, const std::string& name, int64_t n, int64_t k) { return b_.matmul(x, matrix(name, n, k), Act::bf16); }
  uint32_t norm(uint32_t x, const std::string& name, int64_t width) { return b_.rms_norm(x, b_.constant(name, DType::bf16, {width}), kEps); }

  uint32_t layer(uint32_t x, uint32_t l) {
    const std::string w = fmt::format("l{}.", l);
    const int64_t q_width = int64_t(m_.heads) * m_.head_dim, kv_width = int64_t(m_.kv_heads) * m_.head_dim;
    uint32_t h = norm(x, w + "attn_norm", m_.hidden);
    uint32_t k = linear(h, w + "k", kv_width, m_.hidden);
    const uint32_t v = linear(h, w + "v", kv_width, m_.hidden);
    if (m_.qk_norm) k = norm(k, w + "k_norm", m_.head_dim);
    b_.kv_store(b_.rope(k, freq_, m_.kv_heads, m_.head_dim, 1), v, table_, cache_, l, m_.kv_heads, m_.head_dim, view_);
    uint32_t q = linear(h, w + "q", q_width, m_.hidden);
    if (m_.qk_norm) q = norm(q, w + "q_norm", m_.head_dim);
    q = b_.rope(q, freq_, m_.heads, m_.head_dim, 1);
    const uint32_t a = b_.attention(q, cache_, table_, Act::bf16, l, m_.heads, m_.kv_heads, m_.head_dim, float(1 / std::sqrt(double(m_.head_dim))), 0, view_);
    x = b_.add(x, linear(a, w + "o", m_.hidden, q_width));
    h = norm(x, w + "mlp_norm", m_.hidden);
    const uint32_t gate = linear(h, w + "gate", m_.ffn, m_.hidden);
    const uint32_t f = b_.silu_mul(gate, linear(h, w + "up", m_.ffn, m_.hidden));
    return b_.add(x, linear(f, w + "down", m_.hidden, m_.ffn));
  }

 private:
  Builder& b_;
  const CaseModel& m_;
  KvView view_;
  uint32_t table_ = 0, cache_ = 0, freq_ = 0;
};

Result<program::Program> product(uint32_t side) {
  Builder b("product");
  const uint32_t x = b.value("x", DType::f32, Storage::input, {1, side}), w = b.constant("w", DType::bf16, {side, side});
  b.matmul(x, w, Act::bf16, 1, -1, int64_t(b.value("y", DType::f32, Storage::output, {1, side})));
  return std::move(b).finish();
}

}  // namespace

Result<program::Program> case_program(const CaseModel& m, uint32_t tokens, uint32_t context) {
  if (m.matrix) return product(m.matrix);
  if (!m.hidden || !m.layers || !m.heads || !m.kv_heads || !m.head_dim || !m.ffn || !tokens || context < tokens)
    return Error(BATON_INVALID_ARGUMENT, "a case's model lacks a dimension, or its context is shorter than its tokens", "correct emulators/timing/cs3_cases.json");
  const bool loop = tokens == 1;
  const uint32_t vocabulary = std::max(1u, m.vocabulary);
  Builder b(loop ? "decode" : "prefill");
  program::Program& p = b.program();
  p.loop = loop;
  p.max_tokens = tokens;
  p.max_steps = loop ? 2 : 1;
  p.max_context = context + 1;
  if (loop) p.args = {Arg::position, Arg::steps, Arg::temperature, Arg::top_p, Arg::seed, Arg::stop};
  else p.args = {Arg::tokens, Arg::position, Arg::temperature, Arg::top_p, Arg::seed};
  const uint32_t ids = loop ? b.value("tokens", DType::i32, Storage::inout, {program::kSteps}) : b.value("ids", DType::i32, Storage::input, {program::kTokens});
  const uint32_t token = loop ? ids : b.value("token", DType::i32, Storage::output, {1});
  const uint32_t logits = b.value("logits", DType::f32, Storage::output, {loop ? program::kSteps : 1, vocabulary}, true);
  Layers layers(b, m, p.max_context);
  uint32_t x = b.embed(ids, layers.matrix("embed", vocabulary, m.hidden));
  for (uint32_t l = 0; l < m.layers; ++l) x = layers.layer(x, l);
  if (!loop) x = b.take_last(x);
  b.matmul(layers.norm(x, "norm", m.hidden), layers.matrix("head", vocabulary, m.hidden), Act::bf16, 1, -1, int64_t(logits));
  b.sample(logits, token, {});
  return std::move(b).finish();
}

}  // namespace baton::cs3
