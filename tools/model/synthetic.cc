#include "tools/model/synthetic.hpp"

#include "tools/model/fail.hpp"
#include "tools/model/shard.hpp"

#include <xxhash.h>

#include <algorithm>
#include <numeric>

namespace baton::model {

namespace {

uint64_t mix(uint64_t& state) { // splitmix64
  uint64_t z = state += 0x9E3779B97F4A7C15ull;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ z >> 27) * 0x94D049BB133111EBull;
  return z ^ z >> 31;
}

// Sign and mantissa are random, the exponent one of four under 2^-5: magnitudes 0.002 to 0.03, as trained matrices have.
uint32_t random_bits(uint64_t r, const std::string& dtype) {
  uint32_t sign = uint32_t(r >> 63), down = uint32_t(r >> 32) & 3;
  if (dtype == "BF16") return sign << 15 | (121 - down) << 7 | (uint32_t(r) & 0x7F);
  if (dtype == "F16") return sign << 15 | (9 - down) << 10 | (uint32_t(r) & 0x3FF);
  return sign << 31 | (121 - down) << 23 | (uint32_t(r) & 0x7FFFFF);
}
uint32_t one_bits(const std::string& dtype) { return dtype == "BF16" ? 0x3F80 : dtype == "F16" ? 0x3C00 : 0x3F800000; }

struct Pool {
  std::vector<uint8_t> random, ones;
};

}  // namespace

ModelConfig tinyllama_shape() {
  ModelConfig c;
  c.hidden = 2048;
  c.layers = 22;
  c.heads = 32;
  c.kv_heads = 4;
  c.head_dim = 64;
  c.ffn = 5632;
  c.vocab = 32000;
  c.max_context = 2048;
  c.rms_eps = 1e-5f;
  c.window.assign(c.layers, 0);
  c.eos = {2};
  c.bos = 1;
  return c;
}

Result<Model> shapes_alone(const ModelConfig& c, const std::string& dtype) {
  BATON_ASSIGN(Shard whole, Shard::make(c, 0, 1));
  std::map<std::string, TensorView> tensors;
  for (const WeightPart& p : weight_parts(c, whole)) tensors[p.tensor] = {dtype, p.whole, {}};
  return Model::make("shapes", c, Weights::from_memory("shapes", std::move(tensors), nullptr));
}

Result<Model> synthetic_model(const ModelConfig& c, const std::string& dtype, uint64_t seed) {
  if (dtype != "BF16" && dtype != "F16" && dtype != "F32") return fail(BATON_INVALID_ARGUMENT, "use BF16, F16 or F32", "synthetic dtype '{}'", dtype);
  BATON_ASSIGN(Shard whole, Shard::make(c, 0, 1));
  std::vector<WeightPart> parts = weight_parts(c, whole);
  auto count = [](const WeightPart& p) { return std::accumulate(p.whole.begin(), p.whole.end(), uint64_t(1), std::multiplies<>()); };
  uint64_t element = dtype == "F32" ? 4 : 2, largest = 0, longest = 0;
  for (const WeightPart& p : parts) {
    largest = std::max(largest, count(p));
    if (p.whole.size() == 1) longest = std::max(longest, count(p));
  }
  constexpr uint64_t kSlack = 1 << 18; // numbers: each tensor starts somewhere else in the pool
  auto pool = std::make_shared<Pool>();
  pool->random.resize((largest + kSlack) * element);
  pool->ones.resize(longest * element);
  uint64_t state = seed;
  for (uint64_t i = 0; i < pool->random.size(); i += element) {
    uint32_t bits = random_bits(mix(state), dtype);
    std::memcpy(pool->random.data() + i, &bits, element);
  }
  uint32_t one = one_bits(dtype);
  for (uint64_t i = 0; i < pool->ones.size(); i += element) std::memcpy(pool->ones.data() + i, &one, element);

  std::map<std::string, TensorView> tensors;
  for (const WeightPart& p : parts) {
    bool norm = p.name.ends_with("norm");
    uint64_t at = norm ? 0 : XXH3_64bits_withSeed(p.tensor.data(), p.tensor.size(), seed) % kSlack / 32 * 32 * element;
    tensors[p.tensor] = {dtype, p.whole, {(norm ? pool->ones.data() : pool->random.data()) + at, count(p) * element}};
  }
  return Model::make("synthetic", c, Weights::from_memory("synthetic", std::move(tensors), pool));
}

}  // namespace baton::model
