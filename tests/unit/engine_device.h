// engine_device.h: a device for tests: the model's prefill and decode programs loaded on 1, 2 or 4 rank threads, one KV-cache each.
#pragma once

#include "emulators/engine/collective.hpp"
#include "emulators/engine/engine.hpp"
#include "engine_model.h"

#include <gtest/gtest.h>

#include <optional>
#include <thread>

namespace baton::test {

using engine::Binding;
using engine::Constant;
using engine::Executable;
using engine::Isa;
using engine::Options;
using engine::Run;
using engine::RunHooks;
using engine::Step;

// The paths that this CPU can run.
inline std::vector<Isa> isas() {
  std::vector<Isa> all;
  for (const char* name : {"scalar", "avx512", "amx"})
    if (auto isa = engine::parse_isa(name); isa.ok()) all.push_back(*isa);
  return all;
}

template <class T>
std::span<uint8_t> bytes_of(std::vector<T>& v) {
  return {reinterpret_cast<uint8_t*>(v.data()), v.size() * sizeof(T)};
}

// Weights as a load wants them; owns the bytes.
struct Constants {
  std::map<std::string, std::vector<uint8_t>> bytes;
  std::vector<Constant> list;
  explicit Constants(const Weights& w) {
    for (const auto& [name, t] : w) bytes[name] = to_bytes(t.data, t.dtype);
    for (const auto& [name, b] : bytes) list.push_back({name, b});
  }
};

inline Executable load(const Program& p, const Weights& w, const Options& o) {
  Constants c(w);
  auto exe = Executable::load(program::serialize(p), c.list, o);
  if (!exe.ok()) ADD_FAILURE() << exe.error().what;
  return std::move(*exe);
}

inline Status finish(Run run, uint32_t* steps = nullptr) {
  Step s;
  while ((s = run.step()) == Step::more) {}
  if (steps) *steps = run.steps_done();
  if (s == Step::failed) return run.error();
  return {};
}

struct Sampling {
  double temperature = 0, top_p = 1;
  uint64_t seed = 0;
};

class TestDevice {
 public:
  TestDevice(const Model& m, const Weights& w, uint32_t ranks = 1, Isa isa = Isa::scalar, uint32_t threads = 1)
      : m_(m), group_(ranks, 20'000'000'000ull) {
    for (uint32_t r = 0; r < ranks; ++r) {
      const Weights mine = shard(w, r, ranks);
      const Options o{.isa = isa, .threads = threads};
      prefill_.push_back(load(build_model(m, mine, false, ranks).program(), mine, o));
      decode_.push_back(load(build_model(m, mine, true, ranks).program(), mine, o));
      cache_.emplace_back(m.cache_elements(ranks) * program::dtype_bytes(m.kv_dtype), 0xAA);
    }
    // Scattered blocks, in no order.
    for (uint32_t i = 0; i < m.blocks(); ++i) table_.push_back(int32_t((i * 7 + 2) % m.pool_blocks()));
  }

  // Rows of logits of ids[begin, end) at positions begin...
  std::vector<float> prefill(const std::vector<int32_t>& ids, size_t begin, size_t end, Sampling s = {}, int32_t* token = nullptr) {
    const std::vector<int64_t> args = {int64_t(end - begin), int64_t(begin), std::bit_cast<int64_t>(s.temperature),
                                       std::bit_cast<int64_t>(s.top_p), int64_t(s.seed)};
    std::vector<int32_t> part(ids.begin() + begin, ids.begin() + end);
    return launch(prefill_, part, args, m_.prefill_logits ? end - begin : 1, token);
  }

  // ids[0] is the token at `position`; ids[1..steps] are drawn. Returns a row of logits for each step.
  std::vector<float> decode(std::vector<int32_t>& ids, size_t position, uint32_t steps, Sampling s = {}, bool stop = false) {
    ids.resize(steps + 1);
    const std::vector<int64_t> args = {steps, int64_t(position), std::bit_cast<int64_t>(s.temperature), std::bit_cast<int64_t>(s.top_p),
                                       int64_t(s.seed), stop};
    return launch(decode_, ids, args, steps, nullptr);
  }

  // The cache's element of this layer, K or V, position, head and d, as bits; over all ranks.
  uint32_t kv_bits(uint32_t layer, bool v, uint32_t pos, uint32_t head, uint32_t d) const {
    const uint32_t ranks = uint32_t(cache_.size()), per = m_.kv_heads / ranks;
    const KvView view = m_.view(ranks);
    const uint64_t e = layer * view.layer_stride + (v ? view.v_offset : 0) + uint64_t(table_[pos / m_.block_tokens]) * view.block_stride +
                       pos % m_.block_tokens * view.token_stride + head % per * view.head_stride + d;
    const uint32_t size = program::dtype_bytes(m_.kv_dtype);
    uint32_t bits = 0;
    std::memcpy(&bits, &cache_[head / per][e * size], size);
    return bits;
  }

  std::vector<uint8_t>& cache(uint32_t rank = 0) { return cache_[rank]; }
  std::vector<int32_t>& table() { return table_; }
  Executable& prefill_program(uint32_t rank = 0) { return prefill_[rank]; }
  Executable& decode_program(uint32_t rank = 0) { return decode_[rank]; }
  uint32_t steps_done = 0;

 private:
  std::vector<float> launch(std::vector<Executable>& exe, std::vector<int32_t>& ids, const std::vector<int64_t>& args, size_t rows,
                            int32_t* token) {
    const size_t ranks = exe.size();
    std::vector<std::vector<float>> logits(ranks, std::vector<float>(rows * m_.vocabulary));
    std::vector<std::vector<int32_t>> own(ranks, ids), drawn(ranks, std::vector<int32_t>(1));
    std::vector<Status> status(ranks);
    std::vector<std::thread> threads;
    for (size_t r = 0; r < ranks; ++r)
      threads.emplace_back([&, r] {
        std::vector<Binding> b = {{"ids", bytes_of(own[r])}, {"block_table", bytes_of(table_)}, {"kv", cache_[r]}, {"logits", bytes_of(logits[r])}};
        if (token) b.push_back({"token", bytes_of(drawn[r])});
        status[r] = finish(Run(exe[r], b, args, {.collective = &group_, .rank = uint32_t(r)}), r ? nullptr : &steps_done);
        if (!status[r].ok()) group_.abort(status[r].error());
      });
    for (auto& t : threads) t.join();
    for (size_t r = 0; r < ranks; ++r) {
      EXPECT_TRUE(status[r].ok()) << status[r].error().what;
      EXPECT_EQ(std::memcmp(logits[r].data(), logits[0].data(), logits[0].size() * 4), 0) << "rank " << r;
    }
    if (token) *token = drawn[0][0];
    ids = own[0];
    return logits[0];
  }

  Model m_;
  std::vector<Executable> prefill_, decode_;
  std::vector<std::vector<uint8_t>> cache_;
  std::vector<int32_t> table_;
  engine::TreeCollective group_;
};

}  // namespace baton::test
