// The packed stream of a layer: random segments and moves, cut at random bytes on both sides.
#include "transport/kv_pack.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

namespace baton::transport {
namespace {

std::vector<uint8_t> noise(std::mt19937& rng, size_t n) {
  std::vector<uint8_t> v(n);
  for (auto& b : v) b = uint8_t(rng());
  return v;
}

// Sorted by dst, with gaps; the sources in another order.
std::vector<KvSegment> random_segments(std::mt19937& rng, size_t n, uint64_t& src_bytes, uint64_t& dst_bytes) {
  std::vector<KvSegment> all(n);
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), rng);
  src_bytes = dst_bytes = 0;
  for (auto& s : all) {
    s.bytes = 1 + rng() % (rng() % 8 ? 300 : 9000);
    dst_bytes += rng() % 3 ? 0 : rng() % 70;
    s.dst = dst_bytes;
    dst_bytes += s.bytes;
  }
  for (size_t i : order) all[i].src = src_bytes, src_bytes += all[i].bytes + rng() % 5;
  return all;
}

std::vector<uint8_t> packed(std::mt19937& rng, const uint8_t* src, std::span<const KvSegment> segments, size_t most) {
  std::vector<uint8_t> stream;
  Packer p(src, segments);
  while (!p.done()) {
    std::vector<uint8_t> out(1 + rng() % most, 0xee);
    const uint64_t n = p.pack(out);
    EXPECT_TRUE(n == out.size() || (n && p.done()));
    EXPECT_TRUE(std::all_of(out.begin() + long(n), out.end(), [](uint8_t b) { return b == 0xee; })) << "wrote beyond what it said";
    stream.insert(stream.end(), out.begin(), out.begin() + long(n));
  }
  std::vector<uint8_t> none(8);
  EXPECT_EQ(p.pack(none), 0u);
  return stream;
}

TEST(KvPack, WhatIsUnpackedIsWhatTheSegmentsCopy) {
  std::mt19937 rng(20261126);
  for (int i = 0; i < 300; ++i) {
    SCOPED_TRACE(i);
    uint64_t src_bytes, dst_bytes;
    const auto segments = random_segments(rng, rng() % 60, src_bytes, dst_bytes);
    const auto src = noise(rng, src_bytes);
    std::vector<uint8_t> want(dst_bytes, 0), got(dst_bytes, 0), in_order;
    for (const auto& s : segments) {
      std::memcpy(&want[s.dst], &src[s.src], s.bytes);
      in_order.insert(in_order.end(), &src[s.src], &src[s.src] + s.bytes);
    }
    const auto stream = packed(rng, src.data(), segments, i % 3 ? 5000 : 40);
    ASSERT_EQ(stream, in_order);
    Unpacker u(got.data(), segments, i % 2 ? CopyMode::streaming : CopyMode::cached);
    for (size_t at = 0; !u.done();) {
      const size_t n = std::min<size_t>(stream.size() - at, 1 + rng() % (i % 5 ? 3000 : 30));
      ASSERT_EQ(u.unpack({stream.data() + at, n}), n);
      at += n;
    }
    copy_fence();
    ASSERT_EQ(u.unpack(stream), 0u) << "it is complete";
    ASSERT_EQ(got, want);
  }
}

// The two ends may be cut differently: the far side has whole blocks, the source scattered ones.
TEST(KvPack, HowTheSourceIsCutDoesNotShow) {
  std::mt19937 rng(4);
  KvLayout from;
  from.layers = 2, from.kv_heads = from.head_count = 4, from.head_dim = 8, from.blocks = 12;
  KvLayout to = from;
  to.order = KvOrder::head_major, to.block_tokens = 32, to.blocks = 5;
  std::vector<int32_t> a(10), b{3, 0, 4, 1, 2};
  std::iota(a.rbegin(), a.rend(), 1);
  const uint64_t tokens = 150;
  auto move = KvPlan::compile(from, to)->instantiate(a, b, 0, tokens);
  auto same = KvPlan::compile(to, to)->instantiate(b, b, 0, tokens); // what the far side knows
  ASSERT_TRUE(move.ok() && same.ok());
  const auto src = noise(rng, from.bytes());
  std::vector<uint8_t> want(to.bytes(), 0), got(to.bytes(), 0);
  for (uint32_t l = 0; l < to.layers; ++l) {
    ASSERT_NE(move->layer(l).size(), same->layer(l).size());
    copy_segments(want.data(), src.data(), move->layer(l), CopyMode::cached);
    const auto stream = packed(rng, src.data(), move->layer(l), 700);
    ASSERT_EQ(stream.size(), move->bytes(l));
    Unpacker u(got.data(), same->layer(l), CopyMode::cached);
    ASSERT_EQ(u.unpack(stream), stream.size());
    ASSERT_TRUE(u.done());
  }
  EXPECT_EQ(got, want);
}

}  // namespace
}  // namespace baton::transport
