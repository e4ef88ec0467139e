// The fork-join pool: each index once, one contiguous run for each thread, scratch kept, and the choice of ISA.
#include "emulators/engine/pool.hpp"

#include "tests/unit/kernels_test.h"

#include <atomic>
#include <chrono>
#include <thread>

namespace baton::engine::test {
namespace {

TEST(Pool, EachIndexOnceInContiguousRuns) {
  for (uint32_t threads : {1u, 2u, 3u, 5u}) {
    Pool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (uint64_t n : {0ull, 1ull, 2ull, 4ull, 5ull, 100ull, 1001ull}) {
      std::vector<std::atomic<int>> hits(n);
      std::atomic<uint32_t> runs{0};
      pool.run(n, [&](uint64_t b, uint64_t e, uint32_t t) {
        EXPECT_LT(t, threads);
        EXPECT_LT(b, e);
        runs++;
        for (uint64_t i = b; i < e; ++i) hits[i]++;
      });
      for (auto& h : hits) EXPECT_EQ(h, 1);
      EXPECT_LE(runs, threads);
    }
  }
}

TEST(Pool, ManyForksBackToBackAndAfterSleep) {
  Pool pool(3);
  uint64_t sum = 0;
  for (int round = 0; round < 2000; ++round) {
    uint64_t part[3] = {};
    pool.run(30, [&](uint64_t b, uint64_t e, uint32_t t) { part[t] += e - b; });
    sum += part[0] + part[1] + part[2];
    if (round % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // longer than workers spin
  }
  EXPECT_EQ(sum, 2000u * 30);
}

TEST(Pool, WorkersFlushDenormals) {
  Pool pool(2);
  FlushDenormals flush;
  volatile float tiny = 0x1p-126f;
  float half[2] = {1, 1};
  pool.run(2, [&](uint64_t b, uint64_t, uint32_t) { half[b] = tiny * 0.5f; });
  EXPECT_EQ(half[0], 0.0f);
  EXPECT_EQ(half[1], 0.0f);
}

TEST(Pool, ScratchIsKeptAlignedAndPerThread) {
  Pool pool(2);
  auto* a = pool.scratch<float>(0, 0, 100);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % 64, 0u);
  EXPECT_EQ(pool.scratch<float>(0, 0, 50), a) << "a smaller request keeps the memory";
  EXPECT_NE(pool.scratch<float>(1, 0, 100), a);
  EXPECT_NE(pool.scratch<float>(0, 1, 100), a);
  pool.scratch<float>(0, 0, 1000);
  auto* b = pool.scratch<float>(0, 0, 1001);
  EXPECT_EQ(pool.scratch<float>(0, 0, 2000), b) << "growth leaves room";
}

TEST(FlushDenormals, RestoresTheThread) {
  volatile float tiny = 0x1p-126f;
  EXPECT_GT(tiny * 0.5f, 0.0f);
  {
    FlushDenormals flush;
    EXPECT_EQ(tiny * 0.5f, 0.0f);
    {
      FlushDenormals again;
      EXPECT_EQ(tiny * 0.5f, 0.0f);
    }
    EXPECT_EQ(tiny * 0.5f, 0.0f);
  }
  EXPECT_GT(tiny * 0.5f, 0.0f);
}

TEST(Isa, NamesParse) {
  for (Isa isa : {Isa::scalar, Isa::avx512, Isa::amx}) {
    auto r = parse_isa(isa_name(isa));
    if (isa <= best_isa()) {
      ASSERT_TRUE(r.ok());
      EXPECT_EQ(*r, isa);
      EXPECT_EQ(kernels(isa).isa, isa);
    } else {
      ASSERT_FALSE(r.ok());
      EXPECT_EQ(r.error().code, BATON_UNSUPPORTED);
      EXPECT_NE(std::string(r.error().next).find(isa_name(best_isa())), std::string::npos);
      EXPECT_LE(kernels(isa).isa, best_isa()) << "falls to what this CPU has";
    }
  }
  EXPECT_EQ(*parse_isa("auto"), best_isa());
  auto bad = parse_isa("sse9");
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.error().code, BATON_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace baton::engine::test
