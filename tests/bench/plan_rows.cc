// KV plans of Llama-3.1-70B (80 layers, 8 heads of 128): what compiling costs, and what a block of a layer costs to instantiate.
#include "tests/bench/groups.h"
#include "transport/kv_layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>

namespace baton::bench {
namespace {

using transport::KvLayout;
using transport::KvOrder;
using transport::KvPlan;

constexpr uint64_t kTokens = 8192;

KvLayout layout(KvOrder order, uint32_t block_tokens) {
  KvLayout l;
  l.layers = 80, l.kv_heads = l.head_count = 8, l.head_dim = 128;
  l.order = order, l.block_tokens = block_tokens, l.blocks = uint32_t(2 * kTokens / block_tokens);
  return l;
}

std::vector<int32_t> table(const KvLayout& l, uint32_t seed) {
  std::vector<int32_t> t(l.blocks);
  std::iota(t.begin(), t.end(), 0);
  std::shuffle(t.begin(), t.end(), std::mt19937(seed));
  t.resize(kTokens / l.block_tokens);
  return t;
}

double ns_of(uint32_t times, auto&& work) {
  const auto begin = std::chrono::steady_clock::now();
  for (uint32_t i = 0; i < times; ++i) work();
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count() / times;
}

}  // namespace

Status plan_rows(const Settings& s, Report& report) {
  struct Case {
    const char* name;
    KvLayout from, to;
  };
  for (const Case& c : {Case{"block 16 to 16", layout(KvOrder::token_major, 16), layout(KvOrder::token_major, 16)},
                        {"block 16 to 64", layout(KvOrder::token_major, 16), layout(KvOrder::token_major, 64)},
                        {"block 16 to 64, block_major", layout(KvOrder::token_major, 16), layout(KvOrder::block_major, 64)}}) {
    BATON_ASSIGN(const KvPlan plan, KvPlan::compile(c.from, c.to));
    const auto from = table(c.from, 1), to = table(c.to, 2);
    transport::KvMove move;
    BATON_TRY(plan.instantiate(from, to, 0, kTokens, move));
    const double blocks = double(from.size()) * c.from.layers; // of the source
    report.add({.group = "plan", .figure = fmt::format("compile, {}", c.name), .unit = "us",
                .value = repeat(s.repeats(9), [&] { return ns_of(1000, [&] { (void)KvPlan::compile(c.from, c.to); }) / 1e3; }), .aim_on = AimOn::value_below, .aim = 1000});
    report.add({.group = "plan", .figure = fmt::format("instantiate a block of a layer, {}", c.name), .unit = "ns",
                .value = repeat(s.repeats(9), [&] { return ns_of(20, [&] { (void)plan.instantiate(from, to, 0, kTokens, move); }) / blocks; }), .aim_on = AimOn::value_below,
                .aim = 10, .note = "8192 tokens, block tables in random order, 80 layers; nothing is allocated."});
  }
  return {};
}

}  // namespace baton::bench
