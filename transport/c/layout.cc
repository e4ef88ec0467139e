// The layouts of baton_kv.h: pure functions.
#include "transport/c/handles.hpp"
#include "transport/kv_layout_text.hpp"

namespace baton::kv_c {

using namespace transport;

KvLayout layout_in(const baton_kv_layout* from) {
  const baton_kv_layout c = copy_in(from);
  KvLayout l;
  l.layers = c.layers, l.kv_heads = c.kv_heads, l.head_dim = c.head_dim, l.blocks = c.blocks;
  // A number that no uint8_t holds must not become one that is known.
  auto small = [](uint32_t v, uint8_t zero) { return uint8_t(v == 0 ? zero : v > 255 ? 255 : v); };
  l.dtype = program::DType(small(c.dtype, uint8_t(l.dtype)));
  l.order = KvOrder(small(c.order, uint8_t(l.order)));
  l.pairing = KvPairing(small(c.pairing, uint8_t(l.pairing)));
  l.scales = KvScales(small(c.scales, 0));
  if (c.block_tokens) l.block_tokens = c.block_tokens;
  l.head_begin = c.head_begin;
  l.head_count = c.head_count ? c.head_count : c.kv_heads > c.head_begin ? c.kv_heads - c.head_begin : 0;
  l.layer_begin = c.layer_begin, l.layer_count = c.layer_count, l.rope_dim = c.rope_dim;
  return l;
}

baton_kv_layout layout_out(const KvLayout& l) {
  baton_kv_layout c{};
  c.struct_size = sizeof c;
  c.layers = l.layers, c.kv_heads = l.kv_heads, c.head_dim = l.head_dim, c.blocks = l.blocks;
  c.dtype = uint32_t(l.dtype), c.order = uint32_t(l.order), c.pairing = uint32_t(l.pairing), c.scales = uint32_t(l.scales);
  c.block_tokens = l.block_tokens, c.head_begin = l.head_begin, c.head_count = l.head_count;
  c.layer_begin = l.layer_begin, c.layer_count = l.layer_count, c.rope_dim = l.rope_dim;
  return c;
}

} // namespace baton::kv_c

using namespace baton;
using namespace baton::kv_c;

int32_t baton_kv_layout_parse(const char* text, uint64_t bytes, baton_kv_layout* out, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!text) return missing("the text");
    if (!out) return missing("the result");
    BATON_ASSIGN(const auto l, transport::parse_layout(bytes ? std::string_view(text, bytes) : std::string_view(text)));
    copy_out(out, layout_out(l));
    return {};
  });
}

int32_t baton_kv_layout_text(const baton_kv_layout* layout, char* text, uint64_t text_bytes, uint64_t* needed, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!layout) return missing("the layout");
    if (!text && text_bytes) return missing("the text");
    const auto l = layout_in(layout);
    BATON_TRY(l.check());
    const std::string s = l.describe();
    if (needed) *needed = s.size() + 1;
    if (text_bytes) {
      const size_t n = std::min<size_t>(s.size(), text_bytes - 1);
      std::memcpy(text, s.data(), n);
      text[n] = 0;
    }
    return {};
  });
}

int32_t baton_kv_layout_facts(const baton_kv_layout* layout, uint64_t* hash, uint64_t* pool_bytes, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!layout) return missing("the layout");
    const auto l = layout_in(layout);
    BATON_TRY(l.check());
    if (hash) *hash = l.hash();
    if (pool_bytes) *pool_bytes = l.bytes();
    return {};
  });
}

int32_t baton_kv_layout_compare(const baton_kv_layout* source, const baton_kv_layout* target, baton_error* error) {
  return edge(error, [&]() -> Status {
    if (!source || !target) return missing("a layout");
    const auto s = layout_in(source), t = layout_in(target);
    BATON_TRY(s.check());
    BATON_TRY(t.check());
    BATON_TRY(transport::same_kv_model(s, t)); // names the first difference
    auto plan = transport::KvPlan::compile(s, t);
    if (!plan.ok()) return plan.error();
    return {};
  });
}
