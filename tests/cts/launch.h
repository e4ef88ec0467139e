// launch.h: programs on the device under test: load with weights, bind values given as host bytes, launch, read them back.
//
// Owner    Values own their buffers.   Threads  one.   Cost  copies every value to the device and back.
// Errors   load() and Values stop the case (must); run() answers what the launch ended with.
//
//     baton::Program p = load(f, program, weights);
//     Values v(f, {{"x", bytes_of(x)}, {"y", Bytes(n * 4)}});
//     must(run(f, p, v, {rows, position}));
//     std::vector<float> y = v.floats("y");
#pragma once

#include "tests/cts/fixture.h"
#include "tests/cts/tensor.h"

#include <map>

namespace baton::cts {

baton::Program load(Fixture&, const program::Program&, const Weights&, uint32_t lane = 0, uint32_t rank = 0, uint32_t ranks = 1);
// The same with bytes that may be malformed.
Result<baton::Program> try_load(Fixture&, std::span<const uint8_t> program, const Weights&, uint32_t lane = 0, uint32_t rank = 0, uint32_t ranks = 1);

template <class T>
Bytes bytes_of(const std::vector<T>& v) {
  Bytes b(v.size() * sizeof(T));
  if (!b.empty()) std::memcpy(b.data(), v.data(), b.size());
  return b;
}

class Values {  // bound by name
 public:
  Values(Fixture&, const std::map<std::string, Bytes>&, uint32_t lane = 0);
  std::span<const baton_binding> bindings() const { return list_; }
  Bytes bytes(const std::string& name) const;
  std::vector<float> floats(const std::string& name) const { return as<float>(name); }
  std::vector<int32_t> ints(const std::string& name) const { return as<int32_t>(name); }

 private:
  template <class T>
  std::vector<T> as(const std::string& name) const {
    const Bytes b = bytes(name);
    std::vector<T> v(b.size() / sizeof(T));
    if (!v.empty()) std::memcpy(v.data(), b.data(), v.size() * sizeof(T));
    return v;
  }
  Fixture& f_;
  struct Place {
    Buffer buffer;
    uint64_t offset, bytes;
  };
  std::map<std::string, Place> places_;
  std::vector<baton_binding> list_;
};

Status run(Fixture&, const baton::Program&, const Values&, const std::vector<int64_t>& args, uint32_t lane = 0);

}  // namespace baton::cts
