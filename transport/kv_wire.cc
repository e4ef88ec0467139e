#include "transport/kv_wire.hpp"

#include "transport/fabric.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

namespace baton::transport {

using nlohmann::json;

json to_json(const KvLayout& l) {
  return {{"layers", l.layers},           {"kv_heads", l.kv_heads},
          {"head_dim", l.head_dim},       {"dtype", uint32_t(l.dtype)},
          {"order", order_name(l.order)}, {"block_tokens", l.block_tokens},
          {"blocks", l.blocks},           {"head_begin", l.head_begin},
          {"head_count", l.head_count}};
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

std::optional<std::vector<int32_t>> blocks_of(const json& j, const char* key) {
  if (!j.is_object() || !j.contains(key) || !j[key].is_array()) return std::nullopt;
  std::vector<int32_t> all;
  for (const auto& x : j[key]) {
    if (!x.is_number_integer()) return std::nullopt;
    const int64_t v = x.get<int64_t>();
    if (v < 0 || v > INT32_MAX) return std::nullopt;
    all.push_back(int32_t(v));
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
  };
  for (auto [key, to] : {Field{"layers", &l.layers}, {"kv_heads", &l.kv_heads}, {"head_dim", &l.head_dim}, {"block_tokens", &l.block_tokens}, {"blocks", &l.blocks},
                         {"head_begin", &l.head_begin}, {"head_count", &l.head_count}}) {
    const auto v = u64_of(j, key);
    if (!v || *v > UINT32_MAX) return bad;
    *to = uint32_t(*v);
  }
  const auto d = u64_of(j, "dtype");
  const auto o = text_of(j, "order");
  if (!d || *d > 255 || !o) return bad;
  dtype = *d;
  l.dtype = program::DType(dtype);
  BATON_ASSIGN(l.order, parse_order(*o));
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

Result<Shares> share_heads(std::span<const KvLayout> sources, const KvLayout& sink) {
  Shares out;
  std::vector<bool> taken(sink.kv_heads);
  std::string all;
  for (const KvLayout& s : sources) {
    auto whole = KvPlan::compile(s, sink); // names the first difference
    auto& plans = out.plans.emplace_back();
    if (!whole.ok()) {
      const bool elsewhere = s.head_begin + s.head_count <= sink.head_begin || sink.head_begin + sink.head_count <= s.head_begin;
      if (!elsewhere || s.kv_heads != sink.kv_heads || s.layers != sink.layers || s.head_dim != sink.head_dim || s.dtype != sink.dtype) return whole.error();
      continue;
    }
    const uint32_t end = std::min(s.head_begin + s.head_count, sink.head_begin + sink.head_count);
    for (uint32_t h = std::max(s.head_begin, sink.head_begin); h < end;) {
      uint32_t to = h;
      while (to < end && !taken[to]) taken[to++] = true;
      if (to > h) {
        BATON_ASSIGN(KvPlan p, KvPlan::compile(s, sink, h, to - h));
        all += fmt::format("{}:{:016x};", out.plans.size() - 1, p.hash());
        plans.push_back(std::move(p));
      }
      h = std::max(to, h + 1);
    }
    out.active += !plans.empty();
  }
  for (uint32_t h = sink.head_begin; h < sink.head_begin + sink.head_count; ++h)
    if (!taken[h])
      return Error(BATON_MISMATCH, fmt::format("no source holds head {} of the sink's [{},{})", h, sink.head_begin, sink.head_begin + sink.head_count),
                   "open the transfer with every rank's source");
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
  } else if (m.type == "kv.gone") {
    const std::string prefix = sender_key("", text_of(m.body, "sink").value_or("?"));
    for (auto it = s.attached.begin(); it != s.attached.end();) {
      if (it->first.rfind(prefix, 0) != 0) {
        ++it;
        continue;
      }
      auto* sender = static_cast<Sender*>(it->second.get());
      sender->abandon();
      it = sender->users ? std::next(it) : s.attached.erase(it);
    }
  }
}

}  // namespace baton::transport
