// transport_kv_places.hpp: where each row of a KV layout is, and random layouts: the definition that plans are tested against.
//
// It is written out from the brackets of the banner of kv_layout.hpp, and shares nothing with KvLayout::strides().
#pragma once

#include "transport/kv_layout.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace baton::transport {

// From the outermost to the innermost: l layer, p K or V, b block, t token, h head, d element.
inline std::string nesting(const KvLayout& l) {
  static const std::map<std::pair<KvOrder, KvPairing>, std::string> all = {
      {{KvOrder::token_major, KvPairing::apart}, "lpbthd"}, {{KvOrder::token_major, KvPairing::block}, "lbpthd"}, {{KvOrder::token_major, KvPairing::token}, "lbtphd"},
      {{KvOrder::head_major, KvPairing::apart}, "lpbhtd"},  {{KvOrder::head_major, KvPairing::block}, "lbphtd"},  {{KvOrder::head_major, KvPairing::token}, "lbhtpd"},
      {{KvOrder::block_major, KvPairing::apart}, "blpthd"}, {{KvOrder::block_major, KvPairing::token}, "bltphd"},
      {{KvOrder::token_major, KvPairing::latent}, "lbtd"},  {{KvOrder::head_major, KvPairing::latent}, "lbtd"},   {{KvOrder::block_major, KvPairing::latent}, "bltd"}};
  return all.at({l.order, l.pairing});
}

// Where each element is, in elements.
struct Places {
  std::map<char, uint64_t> step;
  explicit Places(const KvLayout& l) {
    const std::map<char, uint64_t> extent = {{'l', l.layers_held()}, {'p', 2}, {'b', l.blocks}, {'t', l.block_tokens}, {'h', l.head_count}, {'d', l.head_dim}};
    const std::string order = nesting(l);
    uint64_t n = 1;
    for (auto it = order.rbegin(); it != order.rend(); ++it) {
      step[*it] = n;
      n *= extent.at(*it);
    }
  }
};

struct Side {
  KvLayout layout;
  std::vector<int32_t> table;
  std::vector<uint8_t> bytes;
};

// The row of (layer, half, token, head), all of the model, in bytes.
inline uint64_t row_at(const Side& s, const Places& p, uint32_t layer, uint32_t half, uint64_t token, uint32_t head) {
  const KvLayout& l = s.layout;
  auto step = [&](char c) { return p.step.count(c) ? p.step.at(c) : 0; };
  return program::dtype_bytes(l.dtype) * ((layer - l.layer_begin) * step('l') + half * step('p') + uint64_t(s.table[token / l.block_tokens]) * step('b') +
                                          token % l.block_tokens * step('t') + (head - l.head_begin) * step('h'));
}

inline Side random_side(std::mt19937& rng, KvLayout l, uint64_t tokens) {
  l.order = KvOrder(1 + rng() % 3);
  if (l.pairing != KvPairing::latent) l.pairing = KvPairing(1 + rng() % 3);
  if (l.order == KvOrder::block_major && l.pairing == KvPairing::block) l.pairing = KvPairing::apart;
  l.block_tokens = (const uint32_t[]){1, 3, 16, 64}[rng() % 4];
  const uint32_t need = uint32_t((tokens + l.block_tokens - 1) / l.block_tokens);
  l.blocks = need + rng() % 3;
  Side s{l, std::vector<int32_t>(l.blocks), std::vector<uint8_t>(l.bytes())};
  std::iota(s.table.begin(), s.table.end(), 0);
  if (rng() % 3) std::shuffle(s.table.begin(), s.table.end(), rng);
  s.table.resize(need);
  return s;
}

// Cuts [0, total) into `parts` ranges; where there are fewer than parts, some are the same.
inline std::vector<std::pair<uint32_t, uint32_t>> cut(uint32_t total, uint32_t parts) {
  std::vector<std::pair<uint32_t, uint32_t>> all;
  for (uint32_t i = 0; i < parts; ++i) {
    const uint32_t begin = uint32_t(uint64_t(i) * total / parts), end = uint32_t(uint64_t(i + 1) * total / parts);
    all.push_back({std::min(begin, total - 1), std::max(1u, end - begin)});
  }
  return all;
}

inline std::vector<Side> random_shards(std::mt19937& rng, const KvLayout& model, uint32_t by_head, uint32_t by_layer, uint64_t tokens) {
  std::vector<Side> all;
  for (auto [hb, hn] : cut(model.kv_heads, by_head))
    for (auto [lb, ln] : cut(model.layers, by_layer)) {
      KvLayout l = model;
      l.head_begin = hb, l.head_count = hn, l.layer_begin = lb, l.layer_count = ln;
      all.push_back(random_side(rng, l, tokens));
    }
  std::shuffle(all.begin(), all.end(), rng);
  return all;
}

}  // namespace baton::transport
