// A program as JSON, for whoever does not build it in C++: names in the place of numbers, judged by verify() in the end.
#include "hal/program/json.h"

#include "hal/json_depth.hpp"
#include "hal/program/program.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <type_traits>

namespace baton::program {
namespace {

using Json = nlohmann::json;

const char* storage_name(Storage s) {
  static const char* const names[] = {"storage?", "input", "output", "inout", "cache", "constant", "scratch"};
  return names[std::min<size_t>(size_t(s), 6)];
}
const char* act_name(Act a) { return a == Act::f32 ? "f32" : "bf16"; }

// Takes fields out of one object; the first that is not as it should be is the error. What is left over is unknown.
class Fields {
 public:
  Fields(const Json& j, std::string where) : where_(std::move(where)) {
    if (j.is_object()) left_ = j;
    else fail("is not an object");
  }
  template <class T>
  void take(const char* key, T& to) {
    const Json j = pop(key);
    if (j.is_null()) return;
    bool good;
    if constexpr (std::is_same_v<T, bool>) good = j.is_boolean();
    else if constexpr (std::is_same_v<T, std::string>) good = j.is_string();
    else if constexpr (std::is_floating_point_v<T>) good = j.is_number();
    else good = j.is_number_integer() && (std::is_signed_v<T> ? j.get<double>() >= -2147483648.0 && j.get<double>() <= 2147483647.0
                                                              : j.is_number_unsigned() && j.get<uint64_t>() <= std::numeric_limits<T>::max());
    if (good) to = j.get<T>();
    else fail(fmt::format("'{}' is {}", key, j.dump().substr(0, 40)));
  }
  // One of an enum's names, `first` to `last`.
  template <class E>
  E name_of(const Json& j, const char* key, const char* (*name)(E), E last) {
    for (int e = 1; e <= int(last); ++e)
      if (j.is_string() && j.get_ref<const std::string&>() == name(E(e))) return E(e);
    fail(fmt::format("'{}' is {}", key, j.dump().substr(0, 40)));
    return last;
  }
  template <class E>
  void take_name(const char* key, E& to, const char* (*name)(E), E last) {
    const Json j = pop(key);
    if (!j.is_null()) to = name_of(j, key, name, last);
  }
  // Each element of a list.
  template <class F>
  void each(const char* key, F f) {
    const Json j = pop(key);
    if (j.is_null()) return;
    if (!j.is_array()) return fail(fmt::format("'{}' is not a list", key));
    for (size_t i = 0; i < j.size() && status_.ok(); ++i) f(j[i], i);
  }
  Json pop(const char* key) {
    auto it = left_.find(key);
    if (it == left_.end()) return {};
    Json j = std::move(*it);
    left_.erase(it);
    return j;
  }
  void fail(const std::string& what) {
    if (status_.ok()) status_ = Error(BATON_INVALID_ARGUMENT, fmt::format("{} {}", where_, what), "hal/program/json.h shows the form");
  }
  Status end() {
    if (status_.ok() && !left_.empty()) fail(fmt::format("has no field '{}'", left_.begin().key()));
    return status_;
  }

 private:
  std::string where_;
  Json left_ = Json::object();
  Status status_;
};

Status read_value(const Json& j, size_t i, Program& p, std::map<std::string, uint32_t>& index) {
  Value v;
  Fields f(j, fmt::format("value {}", i));
  f.take("name", v.name);
  f.take_name("dtype", v.dtype, dtype_name, DType::i32);
  f.take_name("storage", v.storage, storage_name, Storage::scratch);
  f.take("optional", v.optional);
  f.each("shape", [&](const Json& d, size_t) {
    if (d == "tokens") v.shape.push_back(kTokens);
    else if (d == "steps") v.shape.push_back(kSteps);
    else if (d.is_number_unsigned() && d.get<uint64_t>() <= INT64_MAX) v.shape.push_back(d.get<int64_t>());
    else f.fail(fmt::format("'shape' holds {}", d.dump().substr(0, 40)));
  });
  index.emplace(v.name, uint32_t(i));
  p.values.push_back(std::move(v));
  return f.end();
}

Status read_view(const Json& j, size_t i, KvView& v) {
  if (j.is_null()) return {};
  Fields f(j, fmt::format("the view of op {}", i));
  f.take("layer_stride", v.layer_stride);
  f.take("v_offset", v.v_offset);
  f.take("block_stride", v.block_stride);
  f.take("token_stride", v.token_stride);
  f.take("head_stride", v.head_stride);
  f.take("block_tokens", v.block_tokens);
  return f.end();
}

Status read_op(const Json& j, size_t i, Program& p, const std::map<std::string, uint32_t>& index) {
  Op op;
  Fields f(j, fmt::format("op {}", i));
  f.take_name("op", op.code, opcode_name, kLastOpCode);
  for (auto [key, list] : {std::pair{"in", &op.in}, std::pair{"out", &op.out}})
    f.each(key, [&, key = key, list = list](const Json& name, size_t) {
      auto it = name.is_string() ? index.find(name.get_ref<const std::string&>()) : index.end();
      if (it == index.end()) f.fail(fmt::format("'{}' names {}, which is no value", key, name.dump().substr(0, 40)));
      else list->push_back(it->second);
    });
  f.take_name("act", op.act, act_name, Act::bf16);
  f.take("segments", op.segments);
  f.take("eps", op.eps);
  f.take("scale", op.scale);
  f.take("heads", op.heads);
  f.take("kv_heads", op.kv_heads);
  f.take("head_dim", op.head_dim);
  f.take("layer", op.layer);
  f.take("window", op.window);
  f.each("stops", [&](const Json& s, size_t) {
    if (s.is_number_integer() && s >= 0 && s <= INT32_MAX) op.stops.push_back(s.get<int32_t>());
    else f.fail(fmt::format("'stops' holds {}", s.dump().substr(0, 40)));
  });
  BATON_TRY(read_view(f.pop("view"), i, op.view));
  p.ops.push_back(std::move(op));
  return f.end();
}

Result<Program> from_json(std::string_view text) {
  if (json_too_deep(text)) return Error(BATON_CORRUPT, fmt::format("JSON with brackets over {} deep", kMaxJsonDepth), "hal/program/json.h shows the form");
  const Json j = Json::parse(text, nullptr, false);
  if (j.is_discarded()) return Error(BATON_CORRUPT, fmt::format("{} bytes that are not JSON", text.size()), "hal/program/json.h shows the form");
  Program p;
  std::map<std::string, uint32_t> index;
  Fields f(j, "the program");
  f.take("name", p.name);
  f.take("ranks", p.ranks);
  f.take("loop", p.loop);
  f.take("max_tokens", p.max_tokens);
  f.take("max_steps", p.max_steps);
  f.take("max_context", p.max_context);
  f.each("args", [&](const Json& a, size_t) { p.args.push_back(f.name_of(a, "args", arg_name, Arg::stop)); });
  Status inner;
  f.each("values", [&](const Json& v, size_t i) {
    if (inner.ok()) inner = read_value(v, i, p, index);
  });
  f.each("ops", [&](const Json& o, size_t i) {
    if (inner.ok()) inner = read_op(o, i, p, index);
  });
  BATON_TRY(inner);
  BATON_TRY(f.end());
  BATON_TRY(verify(p));
  return p;
}

}  // namespace
}  // namespace baton::program

int32_t baton_program_from_json(const char* json, void* out, uint64_t out_bytes, uint64_t* bytes, baton_error* error) {
  baton::Error why;
  if (!json || !bytes) {
    why = baton::Error(BATON_INVALID_ARGUMENT, "baton_program_from_json: json or bytes is NULL");
  } else if (auto p = baton::program::from_json(json); !p.ok()) {
    why = p.error();
  } else {
    const std::vector<uint8_t> all = baton::program::serialize(*p);
    *bytes = all.size();
    if (out) std::memcpy(out, all.data(), std::min<uint64_t>(out_bytes, all.size()));
  }
  if (error) std::memcpy(error, &why, error->struct_size && error->struct_size < sizeof why ? error->struct_size : sizeof why);
  return why.code;
}
