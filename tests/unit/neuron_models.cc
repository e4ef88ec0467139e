#include "tests/unit/neuron_models.hpp"

#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace baton::test {
namespace {

using program::Act;
using program::Arg;
using program::Builder;
using program::DType;
using program::kTokens;
using program::Storage;

// Deterministic weights of about +-1/sqrt(columns); `row0` and `col0` place a shard in the whole matrix.
float weight(const std::string& name, int64_t row, int64_t column, int64_t columns) {
  uint64_t h = 1469598103934665603ull;
  for (char c : name) h = (h ^ uint64_t(c)) * 1099511628211ull;
  h = (h ^ uint64_t(row)) * 1099511628211ull;
  h = (h ^ uint64_t(column)) * 1099511628211ull;
  h ^= h >> 29;
  h *= 0xbf58476d1ce4e5b9ull;
  h ^= h >> 32;
  return (float(h % 20011) / 10005.5f - 1.f) / std::sqrt(float(columns));
}

struct Maker {
  TinyModel model;
  Builder b;
  explicit Maker(const std::string& name) : b(name) {}

  // [rows, columns] out of a matrix that is `whole_columns` wide, from (row0, col0).
  uint32_t matrix(const std::string& name, int64_t rows, int64_t columns, int64_t row0 = 0, int64_t col0 = 0, int64_t whole = 0) {
    std::vector<uint8_t> data(size_t(rows * columns) * 4);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) {
        float w = weight(name, row0 + r, col0 + c, whole ? whole : columns);
        std::memcpy(&data[size_t(r * columns + c) * 4], &w, 4);
      }
    model.names.push_back(name);
    model.data.push_back(std::move(data));
    return b.constant(name, DType::f32, {rows, columns});
  }
  TinyModel finish() && {
    auto p = std::move(b).finish();
    if (!p.ok()) {
      std::fprintf(stderr, "test program: %s\n", p.error().what);
      std::abort();
    }
    model.program = std::move(*p);
    model.bytes = program::serialize(model.program);
    return std::move(model);
  }
};

}  // namespace

std::vector<baton_constant> TinyModel::constants() const {
  std::vector<baton_constant> all;
  for (size_t i = 0; i < names.size(); ++i) all.push_back({names[i].c_str(), data[i].data(), data[i].size()});
  return all;
}

TinyModel mlp(uint32_t rank, uint32_t ranks, bool scattered) {
  Maker m("tiny mlp");
  auto& p = m.b.program();
  p.ranks = ranks;
  p.max_tokens = kMaxTokens;
  p.max_context = 1024;
  p.args = {Arg::tokens, Arg::position};
  uint32_t ids = m.b.value("ids", DType::i32, Storage::input, {kTokens});
  uint32_t out = m.b.value("hidden", DType::f32, Storage::output, {kTokens, kHidden});
  int64_t inner = kInner / ranks;
  uint32_t x = m.b.embed(ids, m.matrix("table", kVocabulary, kHidden));
  for (uint32_t l = 0; l < kLayers; ++l) {
    std::string at = std::to_string(l);
    uint32_t up = m.b.matmul(x, m.matrix("up" + at, inner, kHidden, rank * inner), Act::f32);
    uint32_t gate = m.b.matmul(x, m.matrix("gate" + at, inner, kHidden, rank * inner), Act::f32);
    uint32_t y = m.b.matmul(m.b.silu_mul(gate, up), m.matrix("down" + at, kHidden, inner, 0, rank * inner, kInner), Act::f32, 4 / ranks);
    if (ranks > 1) y = scattered ? m.b.all_gather(m.b.reduce_scatter(y)) : m.b.all_reduce(y);
    x = m.b.add(x, y);
    m.b.mark();
  }
  m.b.matmul(x, m.matrix("head", kHidden, kHidden), Act::f32, 1, -1, out);
  return std::move(m).finish();
}

TinyModel generator() {
  Maker m("tiny generator");
  auto& p = m.b.program();
  p.loop = true;
  p.max_steps = kMaxSteps;
  p.max_context = 1024;
  p.args = {Arg::steps, Arg::position};
  uint32_t tokens = m.b.value("tokens", DType::i32, Storage::inout, {kMaxSteps + 1});
  uint32_t table = m.matrix("table", kVocabulary, kHidden);
  uint32_t x = m.b.embed(tokens, table);
  uint32_t up = m.b.matmul(x, m.matrix("up0", kInner, kHidden), Act::f32);
  uint32_t y = m.b.matmul(up, m.matrix("down0", kHidden, kInner), Act::f32);
  m.b.sample(m.b.matmul(m.b.add(x, y), m.matrix("head", kVocabulary, kHidden), Act::f32), tokens, {});
  m.b.mark();
  return std::move(m).finish();
}

std::vector<double> mlp_reference(const std::vector<int32_t>& ids) {
  auto product = [](const std::string& name, const std::vector<double>& x, int64_t rows) {
    std::vector<double> y(size_t(rows), 0.0);
    for (int64_t r = 0; r < rows; ++r)
      for (size_t c = 0; c < x.size(); ++c) y[size_t(r)] += double(weight(name, r, int64_t(c), int64_t(x.size()))) * x[c];
    return y;
  };
  std::vector<double> all;
  for (int32_t id : ids) {
    std::vector<double> x;
    for (int64_t c = 0; c < kHidden; ++c) x.push_back(weight("table", id, c, kHidden));
    for (uint32_t l = 0; l < kLayers; ++l) {
      std::string at = std::to_string(l);
      auto up = product("up" + at, x, kInner), gate = product("gate" + at, x, kInner);
      for (size_t i = 0; i < up.size(); ++i) up[i] *= gate[i] / (1 + std::exp(-gate[i]));
      auto y = product("down" + at, up, kHidden);
      for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
    }
    for (double v : product("head", x, kHidden)) all.push_back(v);
  }
  return all;
}

}  // namespace baton::test
