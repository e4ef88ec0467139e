#include "tools/model/programs.hpp"

#include "tools/model/fail.hpp"

#include <cmath>

namespace baton::model {

using program::Arg;
using program::Builder;
using program::DType;
using program::kSteps;
using program::kTokens;
using program::Storage;

namespace {

// Both programs are the same layers around other ends.
class Transformer {
 public:
  Transformer(const Model& m, const Numbers& n, const Shard& s, const Bounds& bounds, bool loop) : c_(m.config), n_(n), s_(s), m_(m), b_(loop ? "decode" : "prefill") {
    program::Program& p = b_.program();
    p.ranks = s.ranks;
    p.loop = loop;
    p.max_tokens = loop ? 1 : bounds.max_tokens;
    p.max_steps = loop ? bounds.max_context : 1;
    p.max_context = bounds.max_context;
    if (loop) p.args = {Arg::position, Arg::steps, Arg::temperature, Arg::top_p, Arg::seed, Arg::stop};
    else p.args = {Arg::tokens, Arg::position, Arg::temperature, Arg::top_p, Arg::seed};
  }

  // Layer by layer: where its K and V are.
  Status caches(const Layouts& layouts, uint32_t max_context) {
    for (size_t i = 0; i < layouts.size(); ++i) {
      const transport::KvLayout& layout = layouts[i];
      BATON_ASSIGN(const program::KvView view, layout.view());
      int64_t blocks = (int64_t(max_context) + layout.block_tokens - 1) / layout.block_tokens;
      int64_t elements = int64_t(layout.bytes() / program::dtype_bytes(layout.dtype));
      Place place{view, b_.value(binding_name("table", i, layouts.size()), DType::i32, Storage::input, {blocks}), 0, 0};
      place.cache = b_.value(binding_name("cache", i, layouts.size()), n_.kv, Storage::cache, {elements});
      for (; place.layer < layout.layers_held(); ++place.layer) kv_.push_back(place);
    }
    if (kv_.size() != c_.layers) return fail(BATON_INVALID_ARGUMENT, "cut_layers() of the whole layout (wafers.hpp)", "layouts of {} layers for a model of {}", kv_.size(), c_.layers);
    return {};
  }

  Status constants() {
    for (const WeightPart& p : weight_parts(c_, s_)) {
      BATON_ASSIGN(TensorView t, m_.weights.tensor(p.tensor, p.whole));
      if (p.shape.size() == 2 && !matrix_) matrix_ = t.type();
      if (p.shape.size() == 2 && t.type() != *matrix_)
        return fail(BATON_UNSUPPORTED, "use a checkpoint whose matrices have one dtype", "{}: tensor '{}' is {}, the matrices before it are {}", m_.dir, p.tensor, t.dtype,
                    program::dtype_name(*matrix_));
      weights_[p.name] = b_.constant(p.name, t.type(), p.shape);
    }
    freq_ = b_.constant("inv_freq", DType::f32, {int64_t(c_.head_dim / 2)});
    return {};
  }

  uint32_t norm(uint32_t x, const std::string& name) { return b_.rms_norm(x, weights_.at(name), c_.rms_eps); }
  uint32_t linear(uint32_t x, const std::string& name, uint32_t segments = 1) {
    auto bias = weights_.find(name + "_bias");
    return b_.matmul(x, weights_.at(name), n_.act, segments, bias == weights_.end() ? -1 : int64_t(bias->second));
  }
  uint32_t joined(uint32_t x) { return s_.ranks > 1 ? b_.all_reduce(x) : x; }

  // The residual stream after all layers. In prefill layer l's K and V can travel from its mark on, while the rest computes.
  uint32_t layers(uint32_t x, bool mark_kv) {
    float scale = float(1.0 / std::sqrt(double(c_.head_dim)));
    for (uint32_t l = 0; l < c_.layers; ++l) {
      std::string w = fmt::format("l{}.", l);
      uint32_t h = norm(x, w + "attn_norm");
      uint32_t k = linear(h, w + "k"), v = linear(h, w + "v");
      if (c_.qk_norm) k = norm(k, w + "k_norm");
      k = b_.rope(k, freq_, s_.kv_heads, c_.head_dim, 1);
      const Place& at = kv_[l];
      b_.kv_store(k, v, at.table, at.cache, at.layer, s_.kv_heads, c_.head_dim, at.view);
      if (mark_kv) b_.mark();
      uint32_t q = linear(h, w + "q");
      if (c_.qk_norm) q = norm(q, w + "q_norm");
      q = b_.rope(q, freq_, s_.heads, c_.head_dim, 1);
      uint32_t a = b_.attention(q, at.cache, at.table, n_.act, at.layer, s_.heads, s_.kv_heads, c_.head_dim, scale, c_.window[l], at.view);
      x = b_.add(x, joined(linear(a, w + "o", s_.o_segments)));
      h = norm(x, w + "mlp_norm");
      uint32_t f = b_.silu_mul(linear(h, w + "gate"), linear(h, w + "up"));
      x = b_.add(x, joined(linear(f, w + "down", s_.down_segments)));
    }
    return x;
  }
  uint32_t embed(uint32_t ids, std::vector<int32_t> stops = {}) { return b_.embed(ids, weights_.at("embed"), std::move(stops)); }
  void head(uint32_t x, uint32_t logits) { b_.matmul(norm(x, "norm"), weights_.at(c_.tied ? "embed" : "head"), n_.act, 1, -1, int64_t(logits)); }
  Builder& builder() { return b_; }

 private:
  const ModelConfig& c_;
  const Numbers& n_;
  const Shard& s_;
  const Model& m_;
  Builder b_;
  std::map<std::string, uint32_t> weights_;
  std::optional<DType> matrix_;
  struct Place {
    program::KvView view;
    uint32_t table = 0, cache = 0, layer = 0; // of that cache
  };
  std::vector<Place> kv_; // by layer of the model
  uint32_t freq_ = 0;
};

}  // namespace

Result<Precision> parse_precision(std::string_view s) {
  if (s == "auto") return Precision::automatic;
  if (s == "f32") return Precision::f32;
  return fail(BATON_INVALID_ARGUMENT, "use auto or f32", "unknown precision '{}'", s);
}
const char* precision_name(Precision p) { return p == Precision::f32 ? "f32" : "auto"; }

Result<Numbers> Numbers::of(const Model& m, Precision precision) {
  const ModelConfig& c = m.config;
  BATON_ASSIGN(TensorView q, m.weights.tensor("model.layers.0.self_attn.q_proj.weight", {uint64_t(c.heads) * c.head_dim, c.hidden}));
  if (precision == Precision::f32) return Numbers{};
  if (q.type() == DType::bf16) return Numbers{program::Act::bf16, DType::bf16};
  return Numbers{program::Act::f32, q.type()};
}

transport::KvLayout kv_layout(const ModelConfig& c, const Numbers& n, const Shard& s, transport::KvOrder order, uint32_t block_tokens, uint32_t blocks) {
  transport::KvLayout l;
  l.layers = c.layers;
  l.kv_heads = c.kv_heads;
  l.head_dim = c.head_dim;
  l.dtype = n.kv;
  l.order = order;
  l.block_tokens = block_tokens;
  l.blocks = blocks;
  l.head_begin = s.kv_begin;
  l.head_count = s.kv_heads;
  return l;
}

std::string binding_name(const char* what, size_t i, size_t of) { return of > 1 ? fmt::format("{}{}", what, i) : what; }

Result<program::Program> prefill_program(const Model& m, const Numbers& n, const Shard& s, const Layouts& layouts, Bounds bounds) {
  Transformer t(m, n, s, bounds, false);
  BATON_TRY(t.caches(layouts, bounds.max_context));
  Builder& b = t.builder();
  uint32_t ids = b.value("ids", DType::i32, Storage::input, {kTokens});
  uint32_t token = b.value("token", DType::i32, Storage::output, {1});
  uint32_t logits = b.value("logits", DType::f32, Storage::output, {1, int64_t(m.config.vocab)}, true);
  BATON_TRY(t.constants());
  t.head(b.take_last(t.layers(t.embed(ids), true)), logits);
  b.sample(logits, token, {});
  return std::move(b).finish();
}

Result<program::Program> decode_program(const Model& m, const Numbers& n, const Shard& s, const Layouts& layouts, Bounds bounds) {
  Transformer t(m, n, s, bounds, true);
  BATON_TRY(t.caches(layouts, bounds.max_context));
  Builder& b = t.builder();
  uint32_t tokens = b.value("tokens", DType::i32, Storage::inout, {kSteps});
  uint32_t logits = b.value("logits", DType::f32, Storage::output, {kSteps, int64_t(m.config.vocab)}, true);
  BATON_TRY(t.constants());
  t.head(t.layers(t.embed(tokens, m.config.eos), false), logits);
  b.sample(logits, tokens, m.config.eos);
  b.mark();
  return std::move(b).finish();
}

}  // namespace baton::model
