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
  return u128(l.layers_held()) * l.halves() * l.blocks * l.block_tokens * l.head_count * l.head_dim * program::dtype_bytes(l.dtype);
}

uint64_t scales_begin(const KvLayout& l) { return uint64_t((wide_bytes(l) + 63) / 64 * 64); }

bool known(program::DType t) { return t >= program::DType::f32 && t <= program::DType::f8e5m2; }
bool fp8(program::DType t) { return t == program::DType::f8e4m3 || t == program::DType::f8e5m2; }

std::string range_text(uint32_t begin, uint32_t count) { return fmt::format("[{},{})", begin, uint64_t(begin) + count); }
std::string shard_text(const KvLayout& l) { return fmt::format("[{},{})", l.head_begin, l.head_begin + l.head_count); }
std::string layers_text(const KvLayout& l) { return range_text(l.layer_begin, l.layers_held()); }
bool latent(const KvLayout& l) { return l.pairing == KvPairing::latent; }

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

const char* pairing_name(KvPairing p) {
  switch (p) {
    case KvPairing::apart: return "apart";
    case KvPairing::block: return "block";
    case KvPairing::token: return "token";
    case KvPairing::latent: return "latent";
  }
  return "unknown";
}

Result<KvPairing> parse_pairing(std::string_view s) {
  for (auto p : {KvPairing::apart, KvPairing::block, KvPairing::token, KvPairing::latent})
    if (s == pairing_name(p)) return p;
  return Error(BATON_INVALID_ARGUMENT, fmt::format("unknown KV pairing '{}'", s), "one of apart, block, token, latent");
}

const char* scales_name(KvScales s) {
  switch (s) {
    case KvScales::none: return "none";
    case KvScales::block_head: return "block_head";
  }
  return "unknown";
}

Result<KvScales> parse_scales(std::string_view s) {
  for (auto k : {KvScales::none, KvScales::block_head})
    if (s == scales_name(k)) return k;
  return Error(BATON_INVALID_ARGUMENT, fmt::format("unknown KV scales '{}'", s), "one of none, block_head");
}

uint64_t KvLayout::bytes() const {
  return scales == KvScales::none ? uint64_t(wide_bytes(*this)) : scales_begin(*this) + 4 * uint64_t(layers_held()) * halves() * blocks * head_count;
}

uint64_t KvLayout::scale_at(uint32_t layer, uint32_t half, uint32_t block, uint32_t head) const {
  return scales_begin(*this) + 4 * (((uint64_t(layer) * halves() + half) * blocks + block) * head_count + head);
}

std::array<KvLayout::Range, 2> KvLayout::range(uint32_t layer, uint32_t count, std::span<const int32_t> of) const {
  const auto [low, high] = std::minmax_element(of.begin(), of.end());
  const program::KvView v = strides();
  const uint32_t last = layer + count - 1, half = halves() - 1, first_block = uint32_t(*low), last_block = uint32_t(*high);
  const uint64_t begin = layer * v.layer_stride + first_block * v.block_stride;
  const uint64_t end = last * v.layer_stride + half * v.v_offset + last_block * v.block_stride + (block_tokens - 1) * v.token_stride +
                       (head_count - 1) * v.head_stride + head_dim;
  const Range numbers{begin * program::dtype_bytes(dtype), end * program::dtype_bytes(dtype)};
  if (scales == KvScales::none) return {numbers, {}};
  return {numbers, {scale_at(layer, 0, first_block, 0), scale_at(last, half, last_block, head_count - 1) + 4}};
}

program::KvView KvLayout::strides() const {
  const uint64_t row = uint64_t(head_count) * head_dim, half = block_tokens * row, block = halves() * half;
  const bool by_head = order == KvOrder::head_major, by_block = order == KvOrder::block_major, by_token = pairing == KvPairing::token;
  program::KvView v;
  v.block_tokens = block_tokens;
  v.head_stride = by_head ? uint64_t(block_tokens) * head_dim : head_dim;
  v.token_stride = by_head ? head_dim : row;
  v.block_stride = block;
  v.v_offset = half;
  v.layer_stride = blocks * block;
  if (by_token) { // K and V of a token, and in head_major of a token of one head, are neighbours
    v.v_offset = v.token_stride;
    v.token_stride *= 2;
    if (by_head) v.head_stride *= 2;
  }
  if (by_block) {
    v.layer_stride = block;
    v.block_stride = layers_held() * block;
  } else if (pairing == KvPairing::apart) {
    v.block_stride = half;
    v.v_offset = blocks * half;
  }
  if (pairing == KvPairing::latent) v.v_offset = 0;
  return v;
}

Result<program::KvView> KvLayout::view() const {
  if (pairing == KvPairing::latent)
    return Error(BATON_UNSUPPORTED, "KV layout: attention reads K and V, a latent row has neither", "give the program's cache a layout with K and V");
  if (fp8(dtype)) return Error(BATON_UNSUPPORTED, fmt::format("KV layout: attention does not read {}", program::dtype_name(dtype)), "give the program's cache f32, bf16 or f16");
  return strides();
}

// What is as it always was is left out: an older peer's text and hash of the same layout are the same.
std::string KvLayout::describe() const {
  std::string s = fmt::format("kv/1 layers={} kv_heads={} head_dim={} dtype={} order={} block_tokens={} blocks={} heads={}", layers, kv_heads, head_dim,
                              program::dtype_name(dtype), order_name(order), block_tokens, blocks, shard_text(*this));
  if (layer_begin || layers_held() != layers) s += fmt::format(" held_layers={}", layers_text(*this));
  if (pairing != KvPairing::apart) s += fmt::format(" pairing={}", pairing_name(pairing));
  if (rope_dim) s += fmt::format(" rope_dim={}", rope_dim);
  if (scales != KvScales::none) s += fmt::format(" scales={}", scales_name(scales));
  return s;
}

uint64_t KvLayout::hash() const {
  const std::string s = describe();
  return XXH3_64bits(s.data(), s.size());
}

Status KvLayout::check() const {
  auto bad = [&](const std::string& why) { return Error(BATON_INVALID_ARGUMENT, fmt::format("KV layout: {}", why), describe().substr(0, 190)); };
  if (!known(dtype)) return Error(BATON_INVALID_ARGUMENT, fmt::format("KV layout: unknown dtype {}", int(dtype)), "one of f32, bf16, f16, i32, f8e4m3, f8e5m2");
  if (std::string_view(order_name(order)) == "unknown") return bad(fmt::format("unknown order {}", int(order)));
  if (!layers || !kv_heads || !head_dim || !block_tokens || !blocks || !head_count) return bad("a size is zero");
  if (uint64_t(head_begin) + head_count > kv_heads) return bad(fmt::format("heads {} of a model with {}", shard_text(*this), kv_heads));
  if (layer_count ? uint64_t(layer_begin) + layer_count > layers : layer_begin != 0) return bad(fmt::format("layers {} of a model with {}", range_text(layer_begin, layer_count), layers));
  if (std::string_view(pairing_name(pairing)) == "unknown") return bad(fmt::format("unknown pairing {}", int(pairing)));
  if (pairing == KvPairing::block && order == KvOrder::block_major) return bad("pairing block of block_major is what it has when apart: say apart");
  if (latent(*this) && kv_heads != 1) return bad(fmt::format("latent rows of {} heads: a latent row is one head", kv_heads));
  if (latent(*this) ? rope_dim >= head_dim : rope_dim != 0) return bad(fmt::format("rope_dim {} of rows of {}, pairing {}", rope_dim, head_dim, pairing_name(pairing)));
  if (std::string_view(scales_name(scales)) == "unknown") return bad(fmt::format("unknown scales {}", int(scales)));
  if (scales != KvScales::none && !fp8(dtype)) return bad(fmt::format("scales of {}: FP8 alone has them", program::dtype_name(dtype)));
  // Each partial product is bounded before the next factor: six 32-bit factors could overflow 128 bits.
  u128 n = halves() * program::dtype_bytes(dtype);
  for (uint32_t f : {layers_held(), blocks, block_tokens, head_count, head_dim})
    if ((n *= f) > kMaxBytes) return bad("the buffer would exceed 2^60 bytes");
  return {};
}

}  // namespace baton::transport
