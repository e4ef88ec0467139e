// program_io.h: a portable program as a plain stream of fields, for targets that mutate programs rather than FlatBuffers bytes.
//
// One list of fields serves reading and writing. Whatever is read is a Program that need not verify; counts are small, so that an input
// cannot be a large program. What is missing reads as zero.
//
// Owner    plain functions.   Threads  any.   Cost  the size of the program.   Errors  none.
//
//     program::Program p;  ProgramReader(input).all(p);      std::string seed = ProgramWriter().all(p).bytes;
#pragma once

#include "hal/program/program.hpp"
#include "tests/fuzz/fuzz.h"

#include <type_traits>

namespace baton::fuzz {

template <class Io>
class ProgramFields {
 public:
  Io& all(program::Program& p) {
    text(p.name);
    one<uint8_t>(p.ranks);
    one<uint8_t>(p.loop);
    one<uint32_t>(p.max_tokens);
    one<uint32_t>(p.max_steps);
    one<uint32_t>(p.max_context);
    list(p.args, 7, [&](program::Arg& a) { one<uint8_t>(a); });
    list(p.values, 48, [&](program::Value& v) {
      text(v.name);
      one<uint8_t>(v.dtype);
      one<uint8_t>(v.storage);
      one<uint8_t>(v.optional);
      list(v.shape, 4, [&](int64_t& d) { one<int32_t>(d); });
    });
    list(p.ops, 48, [&](program::Op& o) { op(o); });
    return io();
  }

 private:
  void op(program::Op& o) {
    one<uint8_t>(o.code);
    list(o.in, 4, [&](uint32_t& i) { one<uint8_t>(i); });
    list(o.out, 2, [&](uint32_t& i) { one<uint8_t>(i); });
    one<uint8_t>(o.act);
    one<uint16_t>(o.segments);
    one<float>(o.eps);
    one<float>(o.scale);
    one<uint16_t>(o.heads);
    one<uint16_t>(o.kv_heads);
    one<uint16_t>(o.head_dim);
    one<uint16_t>(o.layer);
    one<uint32_t>(o.window);
    for (uint64_t* s : {&o.view.layer_stride, &o.view.v_offset, &o.view.block_stride, &o.view.token_stride, &o.view.head_stride}) one<uint64_t>(*s);
    one<uint32_t>(o.view.block_tokens);
    list(o.stops, 4, [&](int32_t& s) { one<int32_t>(s); });
  }
  Io& io() { return static_cast<Io&>(*this); }
  template <class Wire, class T>
  void one(T& v) {
    Wire w = Wire(v);
    io().raw(&w, sizeof w);
    if constexpr (std::is_same_v<T, bool>) v = w & 1;
    else v = T(w);
  }
  void text(std::string& s) {
    uint8_t n = uint8_t(s.size());
    io().raw(&n, 1);
    s.resize(n % 64);
    if (!s.empty()) io().raw(s.data(), s.size());
  }
  template <class T, class F>
  void list(std::vector<T>& v, uint8_t most, F each) {
    uint8_t n = uint8_t(v.size());
    io().raw(&n, 1);
    v.resize(n % (most + 1));
    for (T& x : v) each(x);
  }
};

class ProgramReader : public ProgramFields<ProgramReader> {
 public:
  explicit ProgramReader(Input& in) : in_(in) {}
  void raw(void* p, size_t n) {
    const std::span<const uint8_t> b = in_.bytes(n);
    std::memset(p, 0, n);
    if (!b.empty()) std::memcpy(p, b.data(), b.size());
  }

 private:
  Input& in_;
};

class ProgramWriter : public ProgramFields<ProgramWriter> {
 public:
  std::string bytes;
  void raw(const void* p, size_t n) { bytes.append(static_cast<const char*>(p), n); }
};

}  // namespace baton::fuzz
