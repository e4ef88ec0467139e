// Compiled with -O2 in the sanitizer trees too: millions of elements, most of a run's time at -O0.
#include "transport_kv_data.hpp"

namespace baton::transport {
namespace {

uint16_t value_of(uint32_t layer, bool v, uint64_t token, uint32_t head, uint32_t d, uint32_t salt) {
  uint64_t x = ((((uint64_t(layer) * 2 + v) * 100003 + token) * 257 + head) * 1021 + d) * 2654435761u + salt;
  return uint16_t(x ^ x >> 16 ^ x >> 32);
}

template <class F>
void each_element(const KvLayout& l, const std::vector<int32_t>& blocks, uint64_t tokens, F f) {
  const auto w = l.strides();
  for (uint32_t y = 0; y < l.layers_held(); ++y)
    for (uint32_t v = 0; v < l.halves(); ++v)
      for (uint64_t t = 0; t < tokens; ++t)
        for (uint32_t h = 0; h < l.head_count; ++h)
          for (uint32_t d = 0; d < l.head_dim; ++d)
            f(y * w.layer_stride + v * w.v_offset + uint64_t(blocks[t / l.block_tokens]) * w.block_stride + t % l.block_tokens * w.token_stride + h * w.head_stride + d, l.layer_begin + y, v, t,
              l.head_begin + h, d);
}

}  // namespace

void fill_kv(const Buffer& b, const KvLayout& l, const std::vector<int32_t>& blocks, uint64_t tokens, uint32_t salt) {
  auto* p = static_cast<uint16_t*>(*b.map());
  each_element(l, blocks, tokens, [&](uint64_t at, uint32_t y, bool v, uint64_t t, uint32_t h, uint32_t d) { p[at] = value_of(y, v, t, h, d, salt); });
}

uint64_t wrong_kv(const Buffer& b, const KvLayout& l, const std::vector<int32_t>& blocks, uint64_t tokens, uint32_t salt) {
  const auto* p = static_cast<const uint16_t*>(*b.map());
  uint64_t wrong = 0;
  each_element(l, blocks, tokens, [&](uint64_t at, uint32_t y, bool v, uint64_t t, uint32_t h, uint32_t d) { wrong += p[at] != value_of(y, v, t, h, d, salt); });
  return wrong;
}

}  // namespace baton::transport
