// What a plan does on the way, by one thread, cold buffers, 64 MiB at the source: reorder, other blocks, FP8 with scales, checksum; beside the
// plain copy of as many bytes between scattered blocks, which is what the conversion is fused into.
#include "tests/bench/groups.h"
#include "transport/checksum.hpp"
#include "transport/kv_pack.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>

namespace baton::bench {
namespace {

using program::DType;
using transport::KvLayout;
using transport::KvOrder;
using transport::KvScales;

constexpr uint64_t kTokens = 16384, kBytes = 64u << 20; // one layer of Llama-3.1-70B: 2 x 16384 x 8 x 128 of bf16
constexpr uint64_t kChunk = 256u << 10;

KvLayout layout(KvOrder order, uint32_t block_tokens, DType dtype = DType::bf16, KvScales scales = KvScales::none) {
  KvLayout l;
  l.layers = 1, l.kv_heads = l.head_count = 8, l.head_dim = 128;
  l.order = order, l.block_tokens = block_tokens, l.blocks = uint32_t(kTokens / block_tokens);
  l.dtype = dtype, l.scales = scales;
  return l;
}

std::vector<int32_t> table(const KvLayout& l, uint32_t seed) {
  std::vector<int32_t> t(l.blocks);
  std::iota(t.begin(), t.end(), 0);
  std::shuffle(t.begin(), t.end(), std::mt19937(seed));
  return t;
}

double ms(auto&& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

struct Case {
  const char* name;
  KvLayout from, to;
};

}  // namespace

Status recode_rows(const Settings& s, Report& report) {
  Area src(kBytes + (1u << 20)), dst(kBytes + (1u << 20)), chunk(kChunk);
  for (size_t i = 0; i < kBytes / 2; ++i) reinterpret_cast<uint16_t*>(src.data())[i] = uint16_t(0x3c00 + (i * 40503u) % 0x400 + (i % 3 ? 0 : 0x8000)); // 2^-7 to 2
  const KvLayout plain = layout(KvOrder::token_major, 16);
  BATON_ASSIGN(const auto copy_plan, transport::KvPlan::compile(plain, plain));
  BATON_ASSIGN(const auto copy, copy_plan.instantiate(table(plain, 1), table(plain, 2), 0, kTokens));
  auto copied = [&] {
    return ms([&] {
      transport::copy_segments(dst.data(), src.data(), copy.layer(0), transport::pick_copy(copy.bytes(0), copy.layer(0).size()));
      transport::copy_fence();
    });
  };
  const std::string yardstick = "copy of 2048 blocks of 32 KiB";
  auto row = [&](std::string figure, double aim, auto&& once, std::string note) {
    const Pair p = interleave(s.repeats(15), once, copied);
    report.add({.group = "recode", .figure = std::move(figure), .unit = "ms", .value = p.figure, .yardstick = yardstick, .against = p.yardstick, .ratio = p.ratio.median,
                .aim_on = AimOn::ratio_below, .aim = aim, .note = std::move(note)});
  };
  const KvLayout fp8 = layout(KvOrder::token_major, 16, DType::f8e4m3), scaled = layout(KvOrder::token_major, 16, DType::f8e4m3, KvScales::block_head),
                 wafer = layout(KvOrder::head_major, 64, DType::f8e4m3, KvScales::block_head);
  for (const Case& c : {Case{"bf16 to f8e4m3", plain, fp8}, {"bf16 to f8e4m3 and scales", plain, scaled}, {"bf16 to f8e4m3 and scales, head_major, block 64", plain, wafer},
                        {"f8e4m3 and scales to bf16", scaled, plain}, {"f8e4m3 and scales to bf16, from head_major, block 64", wafer, plain}}) {
    progress(fmt::format("recode: {}", c.name));
    BATON_ASSIGN(const auto plan, transport::KvPlan::compile(c.from, c.to));
    BATON_ASSIGN(const auto move, plan.instantiate(table(c.from, 1), table(c.to, 2), 0, kTokens));
    const transport::Recoder how(plan);
    const transport::LayerUnits units{&how, &move, 0};
    std::vector<uint8_t> scratch;
    row(c.name, 1.5, [&] {
      return ms([&] {
        for (size_t next = 0; next < units.size();) units.step(dst.data(), src.data(), next, 2u << 20, transport::CopyMode::streaming);
        transport::copy_fence();
      });
    }, "64 MiB of bf16, one thread.");
    row("the same, with its checksum", 1.5, [&] {
      return ms([&] {
        transport::Checksum sum;
        for (size_t next = 0; next < units.size();) units.step(dst.data(), src.data(), next, 2u << 20, transport::CopyMode::streaming, &sum, &scratch);
        transport::copy_fence();
      });
    }, "What a transfer with checksums does: one xxh3 of the layer.");
    row("the same, packed with checksums", 1.5, [&] {
      return ms([&] {
        transport::Packer p(src.data(), units);
        while (!p.done()) transport::checksum(chunk.data(), p.pack({chunk.data(), kChunk}));
      });
    }, "Chunks of 256 KiB, each with its xxh3: what a stream sends.");
  }
  KvLayout small = layout(KvOrder::token_major, 2); // 4 KiB blocks
  BATON_ASSIGN(const auto small_plan, transport::KvPlan::compile(small, small));
  BATON_ASSIGN(const auto move, small_plan.instantiate(table(small, 1), table(small, 2), 0, kTokens));
  row("packed, 16384 blocks of 4 KiB", 1.3, [&] { return ms([&] { for (transport::Packer p(src.data(), move.layer(0)); !p.done();) p.pack({chunk.data(), kChunk}); }); }, "");
  row("packed, 16384 blocks of 4 KiB, with checksums", 1.5, [&] {
    return ms([&] { for (transport::Packer p(src.data(), move.layer(0)); !p.done();) transport::checksum(chunk.data(), p.pack({chunk.data(), kChunk})); });
  }, "");
  return {};
}

}  // namespace baton::bench
