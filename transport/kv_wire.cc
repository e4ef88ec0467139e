#include "transport/kv_wire.hpp"

#include "transport/fabric.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

namespace baton::transport {

using nlohmann::json;

namespace {

struct BlocksHead { // of a block table
  uint32_t count, width;
};

}  // namespace

// What is as it always was is left out: an older peer reads it. It would overlook the rest, and then its plan has another hash.
json to_json(const KvLayout& l) {
  json j = {{"layers", l.layers},           {"kv_heads", l.kv_heads},
            {"head_dim", l.head_dim},       {"dtype", uint32_t(l.dtype)},
            {"order", order_name(l.order)}, {"block_tokens", l.block_tokens},
            {"blocks", l.blocks},           {"head_begin", l.head_begin},
            {"head_count", l.head_count}};
  if (l.layer_count) j["layer_begin"] = l.layer_begin, j["layer_count"] = l.layer_count;
  if (l.pairing != KvPairing::apart) j["pairing"] = pairing_name(l.pairing);
  if (l.rope_dim) j["rope_dim"] = l.rope_dim;
  if (l.scales != KvScales::none) j["scales"] = scales_name(l.scales);
  return j;
}

std::optional<uint64_t> u64_of(const json& j, const char* key) {
  if (!j.is_object()) return std::nullopt;
  const auto it = j.find(key);
  if (it == j.end() || !it->is_number_unsigned()) return std::nullopt;
  return it->get<uint64_t>();
}

std::optional<std::string> text_of(const json& j, const char* key) {
  if (!j.is_object()) return std::nullopt;
  const auto it = j.find(key);
  if (it == j.end() || !it->is_string()) return std::nullopt;
  return it->get<std::string>();
}

std::optional<std::vector<std::string>> texts_of(const json& j, const char* key) {
  if (!j.is_object() || !j.contains(key) || !j[key].is_array()) return std::nullopt;
  std::vector<std::string> all;
  for (const auto& x : j[key]) {
    if (!x.is_string()) return std::nullopt;
    all.push_back(x.get<std::string>());
  }
  return all;
}

void put_blocks(std::vector<uint8_t>& to, std::span<const int32_t> blocks) {
  uint32_t high = 0;
  for (const int32_t b : blocks) high = std::max(high, uint32_t(b));
  const BlocksHead head{uint32_t(blocks.size()), high <= UINT16_MAX ? uint32_t(sizeof(uint16_t)) : uint32_t(sizeof(int32_t))};
  const size_t at = to.size();
  to.resize(at + sizeof head + blocks.size() * head.width);
  uint8_t* ids = to.data() + at + sizeof head;
  std::memcpy(to.data() + at, &head, sizeof head);
  if (head.width == sizeof(int32_t)) std::memcpy(ids, blocks.data(), blocks.size_bytes());
  else
    for (size_t i = 0; i < blocks.size(); ++i) {
      const uint16_t id = uint16_t(blocks[i]);
      std::memcpy(ids + i * sizeof id, &id, sizeof id);
    }
}

std::optional<std::vector<int32_t>> take_blocks(std::span<const uint8_t>& from) {
  BlocksHead head;
  if (from.size() < sizeof head) return std::nullopt;
  std::memcpy(&head, from.data(), sizeof head);
  if (head.width != sizeof(uint16_t) && head.width != sizeof(int32_t)) return std::nullopt;
  if ((from.size() - sizeof head) / head.width < head.count) return std::nullopt;
  const uint8_t* ids = from.data() + sizeof head;
  from = from.subspan(sizeof head + size_t(head.count) * head.width);
  std::vector<int32_t> all(head.count);
  if (head.width == sizeof(int32_t)) {
    if (head.count) std::memcpy(all.data(), ids, all.size() * sizeof(int32_t));
    int32_t low = 0;
    for (const int32_t b : all) low = std::min(low, b);
    if (low < 0) return std::nullopt;
    return all;
  }
  for (size_t i = 0; i < all.size(); ++i) {
    uint16_t id;
    std::memcpy(&id, ids + i * sizeof id, sizeof id);
    all[i] = id;
  }
  return all;
}

Result<KvLayout> layout_from(const json& j) {
  const Error bad(BATON_CORRUPT, "a KV layout from the peer has a missing or malformed field", "run the same Baton version on both sides");
  KvLayout l;
  uint64_t dtype = 0;
  struct Field {
    const char* key;
    uint32_t* to;
    bool optional = false;
  };
  size_t known = 2; // dtype, order
  for (auto [key, to, optional] : {Field{"layers", &l.layers}, {"kv_heads", &l.kv_heads}, {"head_dim", &l.head_dim}, {"block_tokens", &l.block_tokens}, {"blocks", &l.blocks},
                         {"head_begin", &l.head_begin}, {"head_count", &l.head_count}, {"layer_begin", &l.layer_begin, true},
                                   {"layer_count", &l.layer_count, true}, {"rope_dim", &l.rope_dim, true}}) {
    if (optional && j.is_object() && !j.contains(key)) continue;
    const auto v = u64_of(j, key);
    if (!v || *v > UINT32_MAX) return bad;
    *to = uint32_t(*v);
    ++known;
  }
  const auto d = u64_of(j, "dtype");
  const auto o = text_of(j, "order");
  if (!d || *d > 255 || !o) return bad;
  dtype = *d;
  l.dtype = program::DType(dtype);
  BATON_ASSIGN(l.order, parse_order(*o));
  if (j.contains("pairing")) {
    const auto p = text_of(j, "pairing");
    if (!p) return bad;
    BATON_ASSIGN(l.pairing, parse_pairing(*p));
    ++known;
  }
  if (j.contains("scales")) {
    const auto k = text_of(j, "scales");
    if (!k) return bad;
    BATON_ASSIGN(l.scales, parse_scales(*k));
    ++known;
  }
  if (j.size() != known) // what this side overlooks, the peer means
    return Error(BATON_MISMATCH, "a KV layout from the peer has a field that is unknown here", "run the same Baton version on both sides");
  BATON_TRY(l.check());
  return l;
}

json to_json(const Error& e) { return {{"code", e.code}, {"what", e.what}, {"next", e.next}, {"device", e.device}, {"hop", e.hop}}; }

Error error_from(const json& j) {
  const json e = j.is_object() && j.contains("error") ? j["error"] : json();
  const auto code = u64_of(e, "code");
  std::string what = text_of(e, "what").value_or("");
  if (what.empty() || !what[0]) what = "the peer failed without a reason";
  Error out(code && *code > 0 && *code <= BATON_INTERNAL ? int32_t(*code) : int32_t(BATON_FAILED), what,
            text_of(e, "next").value_or("see the peer's own output"), text_of(e, "device").value_or(""));
  Error::put(out.hop, text_of(e, "hop").value_or(""));
  return out;
}

namespace {

// What is left of `from` without `taken`, which lies in it: at most four parts, by layers and then by heads.
void subtract(const KvPart& from, const KvPart& taken, std::vector<KvPart>& left) {
  const uint32_t layer_end = from.layer_begin + from.layer_count, taken_layer_end = taken.layer_begin + taken.layer_count;
  const uint32_t head_end = from.head_begin + from.head_count, taken_head_end = taken.head_begin + taken.head_count;
  auto put = [&](uint32_t hb, uint32_t he, uint32_t lb, uint32_t le) {
    if (hb < he && lb < le) left.push_back({hb, he - hb, lb, le - lb});
  };
  put(from.head_begin, head_end, from.layer_begin, taken.layer_begin);
  put(from.head_begin, taken.head_begin, taken.layer_begin, taken_layer_end);
  put(taken_head_end, head_end, taken.layer_begin, taken_layer_end);
  put(from.head_begin, head_end, taken_layer_end, layer_end);
}

// The part of `p` that the layout holds; counts of 0 where it holds none.
KvPart held(const KvPart& p, const KvLayout& by) {
  KvLayout rest;
  rest.head_begin = p.head_begin, rest.head_count = p.head_count, rest.layer_begin = p.layer_begin, rest.layer_count = p.layer_count;
  return common_part(by, rest);
}

} // namespace

Result<Shares> share_heads(std::span<const KvLayout> sources, const KvLayout& sink) {
  Shares out;
  BATON_TRY(sink.check());
  std::vector<KvPart> left{{sink.head_begin, sink.head_count, sink.layer_begin, sink.layers_held()}}, rest;
  std::string all;
  for (const KvLayout& s : sources) {
    BATON_TRY(s.check());
    BATON_TRY(same_kv_model(s, sink)); // names the first difference
    auto& plans = out.plans.emplace_back();
    rest.clear();
    for (const KvPart& p : left) {
      const KvPart mine = held(p, s);
      if (!mine.head_count || !mine.layer_count) {
        rest.push_back(p);
        continue;
      }
      BATON_ASSIGN(KvPlan plan, KvPlan::compile(s, sink, mine));
      all += fmt::format("{}:{:016x};", out.plans.size() - 1, plan.hash());
      out.converts |= plan.converts();
      plans.push_back(std::move(plan));
      subtract(p, mine, rest);
    }
    left.swap(rest);
    out.active += !plans.empty();
  }
  if (!left.empty()) {
    const KvPart& p = left[0];
    const std::string layers = p.layer_count == sink.layers ? "" : fmt::format(" in layer {}", p.layer_begin);
    return Error(BATON_MISMATCH, fmt::format("no source holds head {} of the sink's [{},{}){}", p.head_begin, sink.head_begin, sink.head_begin + sink.head_count, layers),
                 "open the transfer with every rank's source");
  }
  out.hash = XXH3_64bits(all.data(), all.size());
  return out;
}

Status send_transport(Session::Impl& s, const char* type, json body, std::vector<uint8_t> bytes) {
  return s.send_frame(FrameKind::transport, {type, std::move(body), std::move(bytes)});
}

std::string sender_key(const std::string& fabric, const std::string& sink) { return "sender:" + sink + ":" + fabric; }

void unclaimed(Session::Impl& s, const Message& m) {
  if (m.type == "kv.open") {
    const Error e(BATON_PERMISSION, "the ticket is unknown, or was used before", "ask the decode side for a new ticket");
    (void)send_transport(s, "kv.refuse", {{"id", u64_of(m.body, "id").value_or(0)}, {"error", to_json(e)}});
  } else if (m.type == "tl.import") {
    const Error e(BATON_NOT_FOUND, "this endpoint exports no timelines", "export one there first");
    (void)send_transport(s, "tl.refuse", {{"to", u64_of(m.body, "from").value_or(0)}, {"error", to_json(e)}});
  } else if (m.type == "kv.lend") {
    const Error e(BATON_NOT_FOUND, "this side borrows no KV-cache of that name", "create a KvBorrower there");
    (void)send_transport(s, "kv.decline", {{"id", u64_of(m.body, "id").value_or(0)}, {"error", to_json(e)}});
  } else if (m.type == "kv.credit" || m.type == "kv.rail") {
    const auto it = s.attached.find(sender_key(text_of(m.body, "fabric").value_or(""), text_of(m.body, "sink").value_or("")));
    if (it != s.attached.end() && it->second) static_cast<Sender*>(it->second.get())->heard(m);
  } else if (m.type == "kv.gone") {
    const std::string prefix = sender_key("", text_of(m.body, "sink").value_or("?"));
    for (auto it = s.attached.begin(); it != s.attached.end();) {
      if (it->first.rfind(prefix, 0) != 0) {
        ++it;
        continue;
      }
      auto* sender = static_cast<Sender*>(it->second.get()); // nullptr: it could not be made
      if (sender) sender->abandon();
      it = sender && sender->users ? std::next(it) : s.attached.erase(it);
    }
  }
}

}  // namespace baton::transport
