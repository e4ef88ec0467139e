#include "transport/kv_recode.hpp"

#include "transport/checksum.hpp"

#include <algorithm>
#include <cfloat>
#include <cstring>

namespace baton::transport {
namespace {

constexpr uint32_t kHeads = 64;      // at once: their scales are on the stack

float load(const uint8_t* p) {
  float f;
  std::memcpy(&f, p, sizeof f);
  return f;
}
void store(uint8_t* p, float f) { std::memcpy(p, &f, sizeof f); }

template <size_t Element>
void copy(void* d, const void* s, size_t n, float) {
  std::memcpy(d, s, n * Element);
}

}  // namespace

Recoder::Side Recoder::side(const KvLayout& l, const KvPart& part) {
  const program::KvView v = l.strides();
  const uint64_t e = program::dtype_bytes(l.dtype), first = part.head_begin - l.head_begin;
  Side s;
  s.layer = v.layer_stride * e, s.half = v.v_offset * e, s.block = v.block_stride * e, s.token = v.token_stride * e, s.head = v.head_stride * e;
  s.at = first * s.head;
  s.layer_begin = l.layer_begin;
  s.scaled = l.scales != KvScales::none;
  if (s.scaled) {
    s.scales = l.scale_at(0, 0, 0, uint32_t(first));
    s.scale_block = 4 * uint64_t(l.head_count);
    s.scale_half = s.scale_block * l.blocks;
    s.scale_layer = s.scale_half * l.halves();
  }
  return s;
}

Recoder::Recoder(const KvPlan& plan)
    : unit_(plan.dst()), from_(side(plan.src(), plan.part())), to_(side(plan.dst(), plan.part())), halves_(plan.src().halves()), heads_(plan.part().head_count), head_dim_(plan.src().head_dim), dst_bytes_(plan.dst().bytes()) {
  unit_.kv_heads = unit_.head_count = heads_, unit_.head_begin = 0;
  unit_.layers = 1, unit_.layer_begin = unit_.layer_count = 0;
  unit_.blocks = 1;
  const program::DType from = plan.src().dtype, to = unit_.dtype;
  const uint32_t in = program::dtype_bytes(from), out = program::dtype_bytes(to);
  const ConvertFn same = out == 4 ? copy<4> : out == 2 ? copy<2> : copy<1>;
  auto made = kv_converter(from, to);
  how_ = {made.ok() ? *made : same, kv_row_converter(from, to), kv_largest(from), in, out, to, false};
  copy_ = {same, nullptr, nullptr, out, out, to, true};
}

uint64_t Recoder::unit_bytes(std::span<const KvRun> unit) const {
  uint64_t tokens = 0;
  for (const KvRun& r : unit) tokens += r.tokens;
  return uint64_t(halves_) * heads_ * (tokens * head_dim_ * how_.to_element + (to_.scaled ? 4 : 0));
}

// As if the unit's tokens were a buffer of one block. Every run lies in block 0, and tokens count from the first of the unit.
Recoder::Side Recoder::packed(std::span<const KvRun> unit) const {
  KvLayout l = unit_;
  l.block_tokens = unit.back().dst_token + unit.back().tokens - unit.front().dst_token;
  l.scales = KvScales::none;
  const program::KvView v = l.strides();
  Side s;
  s.half = v.v_offset * how_.to_element, s.token = v.token_stride * how_.to_element, s.head = v.head_stride * how_.to_element;
  s.at = uint64_t(0) - unit.front().dst_token * s.token;
  s.scaled = to_.scaled;
  s.scales = l.bytes();
  s.scale_half = 4 * uint64_t(heads_);
  return s;
}

void Recoder::move(uint8_t* dst, const uint8_t* src, uint32_t layer, std::span<const KvRun> unit, std::span<const KvRun> then, CopyMode mode, uint8_t* stream) const {
  run(how_, from_, to_, dst, src, layer, unit, then, mode == CopyMode::streaming, stream);
}

void Recoder::pack(uint8_t* stream, const uint8_t* src, uint32_t layer, std::span<const KvRun> unit, std::span<const KvRun> then) const {
  run(how_, from_, packed(unit), stream, src, layer, unit, then);
}

void Recoder::unpack(uint8_t* dst, const uint8_t* stream, uint32_t layer, std::span<const KvRun> unit) const {
  const KvRun& first = unit.front();
  const KvRun whole{0, first.dst, first.dst_token, first.dst_token, unit.back().dst_token + unit.back().tokens - first.dst_token};
  run(copy_, packed(unit), to_, dst, stream, layer, {&whole, 1});
}

void Recoder::repack(uint8_t* stream, const uint8_t* dst, uint32_t layer, std::span<const KvRun> unit) const {
  const KvRun& first = unit.front();
  const KvRun whole{first.dst, first.dst, first.dst_token, first.dst_token, unit.back().dst_token + unit.back().tokens - first.dst_token};
  run(copy_, to_, packed(unit), stream, dst, layer, {&whole, 1});
}

void Recoder::run(const How& how, const Side& from, const Side& to, uint8_t* dst, const uint8_t* src, uint32_t layer, std::span<const KvRun> unit, std::span<const KvRun> then, bool stream, uint8_t* also) const {
  const Side aside = also ? packed(unit) : Side();
  const uint64_t in_row = uint64_t(head_dim_) * how.from_element, out_row = uint64_t(head_dim_) * how.to_element;
  const bool scaled = from.scaled || to.scaled;
  const bool in_tokens = from.token == in_row;                                             // a head's tokens are neighbours
  const bool both_tokens = in_tokens && to.token == out_row;
  const bool both_heads = (!scaled || how.carry) && from.head == in_row && to.head == out_row;  // a token's heads are, on both sides
  const uint64_t src_layer = from.at + (layer - from.layer_begin) * from.layer, dst_layer = to.at + (layer - to.layer_begin) * to.layer;
  const uint8_t* src_scales = src + from.scales + (layer - from.layer_begin) * from.scale_layer;
  uint8_t* dst_scales = dst + to.scales + (layer - to.layer_begin) * to.scale_layer;
  float factor[kHeads], inverse[kHeads], most[kHeads];
  std::fill(std::begin(factor), std::end(factor), 1.0f);
  std::fill(std::begin(inverse), std::end(inverse), 1.0f);
  for (uint32_t half = 0; half < halves_; ++half)
    for (uint32_t first = 0; first < heads_; first += kHeads) {
      const uint32_t heads = std::min(kHeads, heads_ - first);
      auto from_scales = [&](const KvRun& r) { return src_scales + half * from.scale_half + uint64_t(r.src) * from.scale_block + 4 * uint64_t(first); };
      uint8_t* const to_scales = dst_scales + half * to.scale_half + uint64_t(unit.front().dst) * to.scale_block + 4 * uint64_t(first);
      auto rows_of = [&](const KvRun& r, uint32_t of_half) {
        return src + (src_layer + of_half * from.half + uint64_t(r.src) * from.block + r.src_token * from.token + first * from.head);
      };
      auto rows_at = [&](const KvRun& r) { return rows_of(r, half); };
      auto after = [&](const KvRun& r) -> const uint8_t* { // what is read next
        if (&r != &unit.back()) return rows_at((&r)[1]);
        return half + 1 < halves_ ? rows_of(unit.front(), half + 1) : then.empty() ? nullptr : rows_of(then.front(), 0);
      };
      // What is read when all of the unit's half has been read already, for its scales: the next half's share.
      auto instead = [&](const KvRun& r) -> const uint8_t* {
        const size_t i = size_t(&r - unit.data());
        return half + 1 < halves_ ? rows_of(r, half + 1) : i < then.size() ? rows_of(then[i], 0) : nullptr;
      };
      const bool read = to.scaled && !how.carry;
      uint8_t* const also_scales = also ? also + aside.scales + half * aside.scale_half + 4 * uint64_t(first) : nullptr;
      if (to.scaled && how.carry) {
        std::memcpy(to_scales, from_scales(unit.front()), 4 * uint64_t(heads));
      } else if (to.scaled) {
        std::fill(most, most + heads, 0.0f);
        for (const KvRun& r : unit) {
          float of_run[kHeads];
          how.largest(in_tokens ? Heads{rows_at(r), uint64_t(r.tokens) * head_dim_, heads, 1, from.head, 0} : Heads{rows_at(r), head_dim_, heads, r.tokens, from.head, from.token}, of_run);
          for (uint32_t h = 0; h < heads; ++h) {
            const float m = from.scaled ? of_run[h] * load(from_scales(r) + 4 * h) : of_run[h];
            most[h] = m > most[h] && m <= FLT_MAX ? m : most[h]; // a source's scale may be anything
          }
        }
        for (uint32_t h = 0; h < heads; ++h) {
          const float scale = kv_scale(most[h], how.to);
          store(to_scales + 4 * h, scale);
          if (also) store(also_scales + 4 * h, scale);
          inverse[h] = 1 / scale;
        }
      }
      for (const KvRun& r : unit) {
        if (!how.carry)
          for (uint32_t h = 0; h < heads; ++h) factor[h] = from.scaled ? load(from_scales(r) + 4 * h) * inverse[h] : inverse[h];
        const uint8_t* s = rows_at(r);
        uint8_t* d = dst + (dst_layer + half * to.half + uint64_t(r.dst) * to.block + r.dst_token * to.token + first * to.head);
        const uint64_t to_aside = aside.at + half * aside.half + r.dst_token * aside.token + first * aside.head;
        auto convert = [&](uint32_t head, uint64_t n, size_t rows, float f) {
          const uint8_t* next = read ? instead(r) : head + 1 < heads && !both_heads ? s + (head + 1) * from.head : after(r);
          if (read && next) next += head * n * rows * in_row;
          const Rows all{d + head * to.head, s + head * from.head, n * head_dim_, rows, to.token, from.token, next, read, stream, also ? also + (to_aside + head * aside.head) : nullptr, aside.token};
          if (how.rows) return how.rows(all, f);
          for (size_t i = 0; i < rows; ++i) {
            how.convert(all.dst + i * all.dst_step, all.src + i * all.src_step, all.n, f);
            if (all.also) std::memcpy(all.also + i * all.also_step, all.dst + i * all.dst_step, all.n * how.to_element);
          }
        };
        if (both_heads && from.token == heads * in_row && to.token == heads * out_row) {
          convert(0, uint64_t(r.tokens) * heads, 1, factor[0]);
        } else if (both_heads) {
          convert(0, heads, r.tokens, factor[0]);
        } else {
          for (uint32_t h = 0; h < heads; ++h) both_tokens ? convert(h, r.tokens, 1, factor[h]) : convert(h, 1, r.tokens, factor[h]);
        }
      }
    }
}

void LayerUnits::add_landed(Checksum& sum, const uint8_t* dst, std::vector<uint8_t>& scratch) const {
  for (size_t i = 0; i < size(); ++i) {
    const uint64_t bytes = how->unit_bytes(unit(i));
    if (scratch.size() < bytes) scratch.resize(bytes);
    how->repack(scratch.data(), dst, layer, unit(i));
    sum.add(scratch.data(), bytes);
  }
}

uint64_t LayerUnits::step(uint8_t* dst, const uint8_t* src, size_t& next, uint64_t budget, CopyMode mode, Checksum* sum, std::vector<uint8_t>* scratch) const {
  uint64_t done = 0;
  for (; next < size(); ++next) {
    const auto unit = move->unit(next);
    const uint64_t bytes = how->unit_bytes(unit);
    if (done && done + bytes > budget) break;
    done += bytes;
    if (sum && scratch->size() < bytes) scratch->resize(bytes);
    how->move(dst, src, layer, unit, this->unit(next + 1), mode, sum ? scratch->data() : nullptr);
    if (sum) sum->add(scratch->data(), bytes);
  }
  return done;
}

}  // namespace baton::transport
