#include "tools/model/shard.hpp"

#include "tools/model/fail.hpp"

#include <bit>

namespace baton::model {

namespace {

// The unsharded op's segments: the largest power of two up to 8, or up to 64 for the long sums of large models, that leaves runs of whole
// 32-k steps (and whole heads). As many ranks may share it.
uint32_t unsharded_segments(uint64_t k, uint64_t also) {
  for (uint32_t s = k >= 8192 ? 64 : 8; s > 1; s /= 2)
    if (k % s == 0 && (k / s) % 32 == 0 && (also == 0 || also % s == 0)) return s;
  return 1;
}

Error refuse(uint32_t ranks, const std::string& why) {
  return fail(BATON_INVALID_ARGUMENT, "choose a smaller --tp", "tensor parallelism {} does not fit this model: {}", ranks, why);
}

}  // namespace

Result<Shard> Shard::make(const ModelConfig& c, uint32_t rank, uint32_t ranks) {
  Shard s{.rank = rank, .ranks = ranks};
  if (!std::has_single_bit(ranks) || rank >= ranks) return refuse(ranks, "it must be a power of two");
  if (c.heads % ranks) return refuse(ranks, fmt::format("{} attention heads are not a multiple", c.heads));
  if (c.kv_heads % ranks && ranks % c.kv_heads) return refuse(ranks, fmt::format("{} KV heads can be neither split nor repeated evenly", c.kv_heads));
  if (c.ffn % ranks) return refuse(ranks, fmt::format("intermediate_size {} is not a multiple", c.ffn));
  uint32_t o = unsharded_segments(uint64_t(c.heads) * c.head_dim, c.heads), down = unsharded_segments(c.ffn, 0);
  if (o % ranks) return refuse(ranks, fmt::format("o_proj's K = {} has {} segments of whole heads and 32-k steps", uint64_t(c.heads) * c.head_dim, o));
  if (down % ranks) return refuse(ranks, fmt::format("down_proj's K = {} has {} segments of 32-k steps", c.ffn, down));
  if (ranks > 1 && c.o_bias) return refuse(ranks, "o_proj has a bias, which would be added once for each rank");
  s.heads = c.heads / ranks;
  s.kv_heads = c.kv_heads >= ranks ? c.kv_heads / ranks : 1;
  s.kv_begin = uint32_t(uint64_t(rank) * c.kv_heads / ranks);
  s.ffn = c.ffn / ranks;
  s.o_segments = o / ranks;
  s.down_segments = down / ranks;
  return s;
}

std::vector<WeightPart> weight_parts(const ModelConfig& c, const Shard& s) {
  std::vector<WeightPart> all;
  uint64_t d = c.head_dim, h = c.hidden;
  auto vector = [&](std::string name, std::string tensor, uint64_t n) { all.push_back({std::move(name), std::move(tensor), {n}, {int64_t(n)}}); };
  auto rows = [&](std::string name, std::string tensor, uint64_t begin, uint64_t count, uint64_t of, uint64_t k) {
    all.push_back({std::move(name), std::move(tensor), {of, k}, {int64_t(count), int64_t(k)}, begin, 0});
  };
  auto columns = [&](std::string name, std::string tensor, uint64_t begin, uint64_t count, uint64_t of) {
    all.push_back({std::move(name), std::move(tensor), {h, of}, {int64_t(h), int64_t(count)}, 0, begin});
  };
  auto bias = [&](std::string name, std::string tensor, uint64_t begin, uint64_t count, uint64_t of) {
    all.push_back({std::move(name), std::move(tensor), {of}, {int64_t(count)}, begin, 0});
  };
  rows("embed", "model.embed_tokens.weight", 0, c.vocab, c.vocab, h);
  uint64_t q = s.heads * d, kv = s.kv_heads * d, q_all = c.heads * d, kv_all = c.kv_heads * d, kv_begin = s.kv_begin * d;
  for (uint32_t l = 0; l < c.layers; ++l) {
    std::string to = fmt::format("l{}.", l), from = fmt::format("model.layers.{}.", l), attn = from + "self_attn.";
    vector(to + "attn_norm", from + "input_layernorm.weight", h);
    rows(to + "q", attn + "q_proj.weight", s.rank * q, q, q_all, h);
    rows(to + "k", attn + "k_proj.weight", kv_begin, kv, kv_all, h);
    rows(to + "v", attn + "v_proj.weight", kv_begin, kv, kv_all, h);
    if (c.qkv_bias) {
      bias(to + "q_bias", attn + "q_proj.bias", s.rank * q, q, q_all);
      bias(to + "k_bias", attn + "k_proj.bias", kv_begin, kv, kv_all);
      bias(to + "v_bias", attn + "v_proj.bias", kv_begin, kv, kv_all);
    }
    if (c.qk_norm) {
      vector(to + "q_norm", attn + "q_norm.weight", d);
      vector(to + "k_norm", attn + "k_norm.weight", d);
    }
    columns(to + "o", attn + "o_proj.weight", s.rank * q, q, q_all);
    if (c.o_bias) bias(to + "o_bias", attn + "o_proj.bias", 0, h, h);
    vector(to + "mlp_norm", from + "post_attention_layernorm.weight", h);
    rows(to + "gate", from + "mlp.gate_proj.weight", uint64_t(s.rank) * s.ffn, s.ffn, c.ffn, h);
    rows(to + "up", from + "mlp.up_proj.weight", uint64_t(s.rank) * s.ffn, s.ffn, c.ffn, h);
    columns(to + "down", from + "mlp.down_proj.weight", uint64_t(s.rank) * s.ffn, s.ffn, c.ffn);
  }
  vector("norm", "model.norm.weight", h);
  if (!c.tied) rows("head", "lm_head.weight", 0, c.vocab, c.vocab, h);
  return all;
}

void Constants::add(const std::string& name, const void* data, uint64_t bytes) {
  names_.push_back(name);
  list_.push_back({names_.back().c_str(), data, bytes});
}

Result<Constants> Constants::gather(const Model& m, const Shard& s) {
  Constants c;
  for (const WeightPart& p : weight_parts(m.config, s)) {
    BATON_ASSIGN(TensorView t, m.weights.tensor(p.tensor, p.whole));
    uint64_t element = program::dtype_bytes(t.type());
    uint64_t row_bytes = (p.whole.size() == 2 ? p.whole[1] : 1) * element;
    const uint8_t* first = t.data.data() + p.row * row_bytes;
    if (p.shape.size() < 2 || uint64_t(p.shape[1]) == p.whole[1]) {
      c.add(p.name, first, uint64_t(p.shape[0]) * row_bytes);
      continue;
    }
    uint64_t part = uint64_t(p.shape[1]) * element;
    std::vector<uint8_t> copy(uint64_t(p.shape[0]) * part);
    for (uint64_t r = 0; r < uint64_t(p.shape[0]); ++r) std::memcpy(copy.data() + r * part, first + r * row_bytes + p.column * element, part);
    c.copies_.push_back(std::move(copy));
    c.add(p.name, c.copies_.back().data(), c.copies_.back().size());
  }
  std::vector<float> freq = m.config.inv_freq();
  std::vector<uint8_t> bytes(freq.size() * sizeof(float));
  std::memcpy(bytes.data(), freq.data(), bytes.size());
  c.copies_.push_back(std::move(bytes));
  c.add("inv_freq", c.copies_.back().data(), c.copies_.back().size());
  return c;
}

}  // namespace baton::model
