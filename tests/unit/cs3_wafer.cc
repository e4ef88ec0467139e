// SRAM's allocation map and account, without a daemon around them.
#include "emulators/cs3/options.h"
#include "emulators/cs3/wafer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

namespace baton::cs3 {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;

Wafer make(uint64_t bytes) {
  auto w = Wafer::create(bytes, nullptr);
  EXPECT_TRUE(w.ok());
  return std::move(*w);
}

TEST(Wafer, AllOfItAndAllOfItAgain) {
  Wafer w = make(64 * kMiB);
  for (int round = 0; round < 3; ++round) {
    std::vector<uint32_t> handles;
    for (;;) {
      auto b = w.alloc(1, kMiB);
      if (!b) {
        EXPECT_EQ(b.error().code, BATON_CAPACITY);
        break;
      }
      handles.push_back((*b)->handle);
    }
    EXPECT_EQ(handles.size(), 64u);
    EXPECT_EQ(w.used(), 64 * kMiB);
    // Every second first, so that holes must join again.
    for (size_t i = 0; i < handles.size(); i += 2) EXPECT_TRUE(w.free(1, handles[i]).ok());
    EXPECT_FALSE(w.alloc(1, 2 * kMiB).ok()) << "no two free megabytes lie beside each other";
    for (size_t i = 1; i < handles.size(); i += 2) EXPECT_TRUE(w.free(1, handles[i]).ok());
    EXPECT_EQ(w.used(), 0u);
    auto whole = w.alloc(1, 64 * kMiB);
    ASSERT_TRUE(whole.ok());
    EXPECT_TRUE(w.free(1, (*whole)->handle).ok());
  }
}

TEST(Wafer, OverrunSaysTheNumbers) {
  Wafer w = make(44'000'000'000);
  ASSERT_TRUE(w.charge(35'100'000'000, "decode").ok());
  auto b = w.alloc(1, 10'000'000'000);
  ASSERT_FALSE(b.ok());
  EXPECT_EQ(b.error().code, BATON_CAPACITY);
  EXPECT_STREQ(b.error().what, "a buffer of 10.0 GB + weights 35.1 GB + buffers 0 bytes is over the 44.0 GB of SRAM");
  EXPECT_THAT(b.error().next, HasSubstr("shorten the context"));
  ASSERT_TRUE(w.alloc(1, 8'000'000'000).ok());
  const Status more = w.charge(1'000'000'000, "prefill");
  ASSERT_FALSE(more.ok());
  EXPECT_THAT(more.error().what, HasSubstr("'prefill' of 1.0 GB + weights 35.1 GB + buffers 8.0 GB"));
  w.uncharge(35'100'000'000);
  EXPECT_TRUE(w.charge(1'000'000'000, "prefill").ok());
  EXPECT_FALSE(w.alloc(1, UINT64_MAX).ok());
  EXPECT_FALSE(w.alloc(1, 0).ok());
}

TEST(Wafer, HasThePesOfItsFabric) {
  EXPECT_EQ(make(44'000'000'000).data().usable_pes(), 883'350u);
  EXPECT_EQ(make(44'000'000'000).data().pe_sram, 49'152u);
  auto other = Wafer::create(64 * kMiB, nullptr, 27, 34);
  ASSERT_TRUE(other.ok()) << other.error().what;
  EXPECT_EQ(other->data().usable_pes(), 20u * 32);
  EXPECT_EQ(other->data().pe_sram, 64 * kMiB / 640 + 1) << "less PEs, so more on each";
  EXPECT_FALSE(Wafer::create(64 * kMiB, nullptr, 7, 34).ok()) << "reserved edges leave nothing";
}

TEST(Wafer, RangesStayInsideOfTheirBlockAndSession) {
  Wafer w = make(64 * kMiB);
  const Block b = **w.alloc(7, 10'000);
  EXPECT_TRUE(w.range(7, b.handle, b.address, 10'000).ok());
  EXPECT_TRUE(w.range(7, b.handle, b.address + 10'000, 0).ok());
  EXPECT_FALSE(w.range(7, b.handle, b.address, 10'001).ok()) << "not into the rest of the page either";
  EXPECT_FALSE(w.range(7, b.handle, b.address + 1, UINT64_MAX).ok());
  EXPECT_FALSE(w.range(7, b.handle, b.address - 1, 1).ok());
  EXPECT_FALSE(w.range(8, b.handle, b.address, 1).ok()) << "another session's";
  EXPECT_FALSE(w.range(7, b.handle + 1, b.address, 1).ok());
  EXPECT_FALSE(w.free(8, b.handle).ok());
  w.use(b.handle, +1);
  const Status busy = w.free(7, b.handle);
  ASSERT_FALSE(busy.ok());
  EXPECT_EQ(busy.error().code, BATON_BUSY);
  w.use(b.handle, -1);
  EXPECT_TRUE(w.free(7, b.handle).ok());
  EXPECT_FALSE(w.free(7, b.handle).ok()) << "twice";
  EXPECT_FALSE(w.range(7, b.handle, b.address, 1).ok());
}

TEST(Wafer, FreedMemoryReadsZeroAgain) {
  Wafer w = make(64 * kMiB);
  const Block a = **w.alloc(1, 3 * 4096);
  std::memset(*w.range(1, a.handle, a.address, 3 * 4096), 0x5a, 3 * 4096);
  ASSERT_TRUE(w.free(1, a.handle).ok());
  const Block b = **w.alloc(2, 3 * 4096);
  EXPECT_EQ(a.address, b.address) << "first fit";
  const uint8_t* p = *w.range(2, b.handle, b.address, 3 * 4096);
  for (int i = 0; i < 3 * 4096; ++i) ASSERT_EQ(p[i], 0) << "another client's bytes";
}

TEST(Wafer, RandomUseNeverOverlapsAndEndsEmpty) {
  Wafer w = make(256 * kMiB);
  std::mt19937 random(3);
  std::vector<Block> live;
  uint64_t sum = 0;
  for (int i = 0; i < 4000; ++i) {
    if (random() % 3 && live.size() < 60) {
      auto made = w.alloc(1 + random() % 3, 1 + random() % (8 * kMiB));
      if (!made) continue;
      const Block b = **made;
      for (const Block& o : live) ASSERT_TRUE(b.address + b.bytes <= o.address || o.address + o.bytes <= b.address);
      live.push_back(b);
      sum += (b.bytes + kGranule - 1) / kGranule * kGranule;
    } else if (!live.empty()) {
      const size_t k = random() % live.size();
      ASSERT_TRUE(w.free(live[k].session, live[k].handle).ok());
      sum -= (live[k].bytes + kGranule - 1) / kGranule * kGranule;
      live.erase(live.begin() + ptrdiff_t(k));
    }
    ASSERT_EQ(w.used(), sum);
  }
  for (const uint64_t session : {1, 2, 3}) w.free_session(session);
  EXPECT_EQ(w.used(), 0u);
  EXPECT_TRUE(w.alloc(1, 256 * kMiB).ok()) << "one hole again";
}

TEST(DaemonOptions, RestIsCheckedAndKnownOptionsListed) {
  DaemonOptions o;
  EXPECT_TRUE(parse_rest("0", o).ok());
  EXPECT_EQ(o.sram_bytes(), 44'000'000'000u);
  EXPECT_TRUE(parse_rest("3?threads=2&isa=scalar&sram_gb=0.5&timing=none", o).ok());
  EXPECT_EQ(o.threads, 2u);
  EXPECT_EQ(o.isa, engine::Isa::scalar);
  EXPECT_EQ(o.sram_bytes(), 500'000'000u);
  EXPECT_TRUE(parse_rest("0?mode=timing&clock_ghz=1.1&fabric=762x1176", o).ok());
  EXPECT_FALSE(o.numbers);
  EXPECT_EQ(o.clock_ghz, 1.1);
  EXPECT_EQ(o.fabric_height, 1176u);
  for (const char* bad : {"", "x", "0?threads=0", "0?threads=two", "0?isa=mmx", "0?sram_gb=-1", "0?sram_gb=nan", "0?timing=", "0?fabric=762", "0?fabric=762x", "0?fabric=70000x9", "0?clock_ghz=0", "0?clock_ghz=fast", "0?mode=quick"}) EXPECT_FALSE(parse_rest(bad, o).ok()) << bad;
  const Status unknown = parse_rest("0?thread=2", o);
  ASSERT_FALSE(unknown.ok());
  EXPECT_STREQ(unknown.error().next, "options of emu+cs3://: wafers, threads, isa, sram_gb, timing, fabric, clock_ghz, mode, faults");
}

}  // namespace
}  // namespace baton::cs3
