#include "tools/baton/wire.hpp"

#include "tools/model/fail.hpp"
#include "tools/model/json_file.hpp"

#include <cmath>
#include <cstring>

namespace baton::runtime {

using nlohmann::json;
using transport::Message;

namespace {

constexpr const char* kVersions = "run the same version of baton on all sides";

Error bad(const Message& m, const char* key) { return fail(BATON_CORRUPT, kVersions, "message '{}': field '{}' is missing or of the wrong type", m.type, key); }

Result<double> number_field(const Message& m, const char* key) {
  auto it = m.body.find(key);
  if (it == m.body.end() || !it->is_number()) return bad(m, key);
  return it->get<double>();
}
Result<bool> bool_field(const Message& m, const char* key) {
  auto it = m.body.find(key);
  if (it == m.body.end() || !it->is_boolean()) return bad(m, key);
  return it->get<bool>();
}
Result<uint32_t> u32_field(const Message& m, const char* key) {
  BATON_ASSIGN(uint64_t v, u64_field(m, key));
  if (v > UINT32_MAX) return bad(m, key);
  return uint32_t(v);
}
json sampling_json(const Sampling& s) { return {{"temperature", s.temperature}, {"top_p", s.top_p}, {"seed", s.seed}}; }
Result<Sampling> sampling_of(const Message& m) {
  auto it = m.body.find("sampling");
  if (it == m.body.end() || !it->is_object()) return bad(m, "sampling");
  Message inner{m.type + " sampling", *it, {}};
  Sampling s;
  BATON_ASSIGN(s.temperature, number_field(inner, "temperature"));
  BATON_ASSIGN(s.top_p, number_field(inner, "top_p"));
  BATON_ASSIGN(s.seed, u64_field(inner, "seed"));
  if (!(s.temperature >= 0) || !std::isfinite(s.temperature)) return bad(inner, "temperature");
  if (!(s.top_p > 0 && s.top_p <= 1)) return bad(inner, "top_p");
  return s;
}

}  // namespace

Result<uint64_t> u64_field(const Message& m, const char* key) {
  auto it = m.body.find(key);
  if (it == m.body.end() || !model::is_u64(*it)) return bad(m, key);
  return it->get<uint64_t>();
}
Result<std::string> text_field(const Message& m, const char* key) {
  auto it = m.body.find(key);
  if (it == m.body.end() || !it->is_string()) return bad(m, key);
  return it->get<std::string>();
}
Result<std::vector<uint64_t>> list_field(const Message& m, const char* key) {
  auto it = m.body.find(key);
  if (it == m.body.end() || !it->is_array()) return bad(m, key);
  std::vector<uint64_t> all;
  for (const json& v : *it) {
    if (!model::is_u64(v)) return bad(m, key);
    all.push_back(v.get<uint64_t>());
  }
  return all;
}
Result<std::vector<float>> floats_of(const Message& m) {
  if (m.bytes.size() % 4) return bad(m, "bytes");
  std::vector<float> all(m.bytes.size() / 4);
  std::memcpy(all.data(), m.bytes.data(), m.bytes.size());
  return all;
}

Message Hello::message() const { return {"hello", {{"role", role}, {"model", model}, {"leg", to_json(leg)}, {"clock", clock_ns}}, {}}; }
Result<Hello> Hello::from(const Message& m) {
  Hello h;
  BATON_ASSIGN(h.role, text_field(m, "role"));
  BATON_ASSIGN(h.model, text_field(m, "model"));
  BATON_ASSIGN(h.clock_ns, u64_field(m, "clock"));
  if (!m.body.contains("leg")) return bad(m, "leg");
  h.leg = leg_from_json(m.body["leg"]);
  return h;
}

Message Reserve::message() const {
  return {"reserve",
          {{"id", id}, {"model", model}, {"prompt", prompt_tokens}, {"max_tokens", max_tokens}, {"sampling", sampling_json(sampling)},
           {"ignore_eos", ignore_eos}, {"logits", logits}},
          {}};
}
Result<Reserve> Reserve::from(const Message& m) {
  Reserve r;
  BATON_ASSIGN(r.id, u64_field(m, "id"));
  BATON_ASSIGN(r.model, text_field(m, "model"));
  BATON_ASSIGN(r.prompt_tokens, u32_field(m, "prompt"));
  BATON_ASSIGN(r.max_tokens, u32_field(m, "max_tokens"));
  BATON_ASSIGN(r.sampling, sampling_of(m));
  BATON_ASSIGN(r.ignore_eos, bool_field(m, "ignore_eos"));
  BATON_ASSIGN(r.logits, bool_field(m, "logits"));
  return r;
}

Message Prefill::message() const {
  Message m{"prefill", {{"id", id}, {"model", model}, {"sampling", sampling_json(sampling)}, {"logits", logits}, {"start", start_ns}}, {}};
  if (then >= 0) m.body["then"] = then;
  m.bytes.resize(ids.size() * 4);
  std::memcpy(m.bytes.data(), ids.data(), m.bytes.size());
  return m;
}
Result<Prefill> Prefill::from(const Message& m) {
  Prefill p;
  BATON_ASSIGN(p.id, u64_field(m, "id"));
  BATON_ASSIGN(p.model, text_field(m, "model"));
  BATON_ASSIGN(p.sampling, sampling_of(m));
  BATON_ASSIGN(p.logits, bool_field(m, "logits"));
  BATON_ASSIGN(p.start_ns, u64_field(m, "start"));
  if (m.body.contains("then")) {
    BATON_ASSIGN(const uint64_t then, u64_field(m, "then"));
    if (then > INT32_MAX) return bad(m, "then");
    p.then = int32_t(then);
  }
  if (m.bytes.size() % 4) return bad(m, "bytes");
  p.ids.resize(m.bytes.size() / 4);
  std::memcpy(p.ids.data(), m.bytes.data(), m.bytes.size());
  return p;
}

Message Handover::message() const { return {"handover", {{"id", id}, {"ticket", ticket}, {"decode", decode}, {"fabric", fabric}}, {}}; }
Result<Handover> Handover::from(const Message& m) {
  Handover h;
  BATON_ASSIGN(h.id, u64_field(m, "id"));
  BATON_ASSIGN(h.ticket, text_field(m, "ticket"));
  BATON_ASSIGN(h.decode, text_field(m, "decode"));
  BATON_ASSIGN(h.fabric, text_field(m, "fabric"));
  return h;
}

json to_json(const Error& e) {
  return {{"code", e.code}, {"epoch", e.epoch}, {"device", e.device}, {"hop", e.hop}, {"what", e.what}, {"next", e.next}};
}
Error error_from_json(const json& j) {
  auto text = [&](const char* key) { return j.is_object() && j.contains(key) && j[key].is_string() ? j[key].get<std::string>() : std::string(); };
  int32_t code = j.is_object() && j.contains("code") && j["code"].is_number_integer() ? j["code"].get<int32_t>() : int32_t(BATON_INTERNAL);
  Error e(code == BATON_OK ? int32_t(BATON_INTERNAL) : code, text("what"), text("next"), text("device"));
  Error::put(e.hop, text("hop"));
  return e;
}

json to_json(const Transfer& t) {
  json j{{"fabric", t.fabric}, {"bytes", t.bytes}, {"segments", t.segments}, {"spans", to_json(t.spans)}};
  for (const Transfer::Rail& r : t.rails) j["rails"].push_back({r.nic, r.peer_nic, r.bytes, r.failures});
  return j;
}
Transfer transfer_from_json(const json& j) {
  Transfer t;
  if (!j.is_object()) return t;
  if (j.contains("fabric") && j["fabric"].is_string()) t.fabric = j["fabric"].get<std::string>();
  if (j.contains("bytes") && model::is_u64(j["bytes"])) t.bytes = j["bytes"].get<uint64_t>();
  if (j.contains("segments") && model::is_u64(j["segments"])) t.segments = j["segments"].get<uint64_t>();
  if (j.contains("spans")) t.spans = spans_from_json(j["spans"]);
  if (j.contains("rails") && j["rails"].is_array())
    for (const json& r : j["rails"])
      if (r.is_array() && r.size() == 4 && r[0].is_string() && r[1].is_string() && model::is_u64(r[2]) && model::is_u64(r[3]))
        t.rails.push_back({r[0].get<std::string>(), r[1].get<std::string>(), r[2].get<uint64_t>(), r[3].get<uint64_t>()});
  return t;
}

Message failed_message(uint64_t id, const Error& e) { return {"failed", {{"id", id}, {"error", to_json(e)}}, {}}; }

Error with_hop(const Error& cause, const std::string& side) {
  constexpr std::string_view kThen = " > ";
  std::string rest = cause.hop;
  size_t first = std::min(rest.find(kThen), rest.size());
  std::string role = side.substr(0, side.find(' '));
  if (rest.compare(0, first, "client") == 0 || rest.compare(0, role.size(), role) == 0) rest.erase(0, std::min(rest.size(), first + kThen.size()));
  // What is left may begin with the same side as the transport names it: "decode cs3://b:2 (127.0.0.1:7001)".
  Error e = cause;
  Error::put(e.hop, rest.empty() ? side : rest.compare(0, role.size(), role) == 0 ? side + rest.substr(std::min(rest.size(), rest.find(kThen))) : side + " > " + rest);
  return e;
}

}  // namespace baton::runtime
