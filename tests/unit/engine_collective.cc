// TreeCollective: the tree's order, reuse, abort, timeout, ranks that disagree.
#include "emulators/engine/collective.hpp"
#include "engine_device.h"

#include <gtest/gtest.h>

#include <thread>

namespace baton::test {
namespace {

using engine::TreeCollective;

constexpr uint64_t kLong = 20'000'000'000ull;

float tree(const std::vector<float>& x, size_t begin, size_t end) {
  if (end - begin == 1) return x[begin];
  const size_t middle = (begin + end) / 2;
  return tree(x, begin, middle) + tree(x, middle, end);
}

TEST(Collective, SumsAsABalancedTreeInRankOrder) {
  for (uint32_t ranks : {1u, 2u, 4u, 8u})
    for (uint64_t count : {1ull, 3ull, 255ull, 1024ull, 5000ull}) {
      std::mt19937 g(ranks * 1000 + count);
      std::normal_distribution<float> normal(0, 1000);
      std::vector<std::vector<float>> x(ranks, std::vector<float>(count));
      for (auto& part : x)
        for (float& f : part) f = normal(g) * (g() % 2 ? 1e-6f : 1);
      const auto parts = x;
      TreeCollective group(ranks, kLong);
      std::vector<std::thread> threads;
      for (uint32_t r = 0; r < ranks; ++r) threads.emplace_back([&, r] { EXPECT_TRUE(group.all_reduce(r, x[r].data(), count).ok()); });
      for (auto& t : threads) t.join();
      for (uint64_t i = 0; i < count; ++i) {
        std::vector<float> column;
        for (const auto& part : parts) column.push_back(part[i]);
        for (uint32_t r = 0; r < ranks; ++r) ASSERT_EQ(x[r][i], tree(column, 0, ranks)) << ranks << " ranks, element " << i;
      }
    }
}

TEST(Collective, AScatterIsPartOfTheSumAndAGatherPutsItBack) {
  for (uint32_t ranks : {1u, 2u, 8u}) {
    const uint64_t rows = 5, width = ranks * 37;
    std::vector<std::vector<float>> x(ranks, std::vector<float>(rows * width)), sum, back(ranks, std::vector<float>(rows * width));
    std::mt19937 g(ranks);
    for (auto& part : x)
      for (float& f : part) f = float(g()) * 1e-3f;
    sum = x;
    TreeCollective group(ranks, kLong);
    std::vector<std::thread> threads;
    for (uint32_t r = 0; r < ranks; ++r)
      threads.emplace_back([&, r] {
        std::vector<float> mine(rows * width / ranks, -1.f);
        EXPECT_TRUE(group.all_reduce(r, sum[r].data(), rows * width).ok());
        EXPECT_TRUE(group.reduce_scatter(r, x[r].data(), rows, width, mine.data()).ok());
        for (uint64_t row = 0; row < rows; ++row)
          EXPECT_EQ(std::memcmp(&mine[row * width / ranks], &sum[r][row * width + r * (width / ranks)], width / ranks * 4), 0) << "row " << row;
        EXPECT_TRUE(group.all_gather(r, mine.data(), rows, width / ranks, back[r].data()).ok());
      });
    for (auto& t : threads) t.join();
    for (uint32_t r = 0; r < ranks; ++r) EXPECT_EQ(back[r], sum[r]) << "rank " << r << " of " << ranks;
  }
}

TEST(Collective, CallsThatDifferAreRefused) {
  TreeCollective group(2, kLong);
  std::vector<float> a(8), b(8), out(16);
  std::atomic<int> refused = 0;
  std::thread other([&] { refused += group.reduce_scatter(1, b.data(), 1, 8, out.data()).error().code == BATON_INVALID_ARGUMENT; });
  refused += group.all_reduce(0, a.data(), 8).error().code == BATON_INVALID_ARGUMENT;
  other.join();
  EXPECT_EQ(refused, 2);
}

TEST(Collective, ManyCallsInARow) {
  TreeCollective group(4, kLong);
  std::vector<std::thread> threads;
  for (uint32_t r = 0; r < 4; ++r)
    threads.emplace_back([&, r] {
      for (int i = 1; i <= 300; ++i) {
        std::vector<float> x(1 + i % 7, float(r + 1) * float(i));
        ASSERT_TRUE(group.all_reduce(r, x.data(), x.size()).ok());
        for (float f : x) ASSERT_EQ(f, 10.0f * float(i));
      }
    });
  for (auto& t : threads) t.join();
}

TEST(Collective, AbortWakesAllWithTheFirstCause) {
  TreeCollective group(4, kLong);
  std::vector<std::thread> threads;
  std::atomic<int> failed = 0;
  for (uint32_t r = 0; r < 3; ++r)
    threads.emplace_back([&, r] {
      float x = 1;
      Status s = group.all_reduce(r, &x, 1);
      if (!s.ok() && s.error().code == BATON_CANCELLED && std::string(s.error().what) == "first") ++failed;
    });
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  group.abort(Error(BATON_CANCELLED, "first"));
  group.abort(Error(BATON_INTERNAL, "second"));
  for (auto& t : threads) t.join();
  EXPECT_EQ(failed, 3);
  float x = 1;
  EXPECT_FALSE(group.all_reduce(3, &x, 1).ok()); // stays failed
  group.reset();
  std::vector<std::thread> again;
  for (uint32_t r = 0; r < 4; ++r)
    again.emplace_back([&, r] {
      float y = 1;
      EXPECT_TRUE(group.all_reduce(r, &y, 1).ok());
      EXPECT_EQ(y, 4);
    });
  for (auto& t : again) t.join();
}

TEST(Collective, ATimeoutNamesWhoIsMissing) {
  TreeCollective group(4, 20'000'000);
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (uint32_t r : {0u, 3u})
    threads.emplace_back([&, r] {
      float x = 1;
      Status s = group.all_reduce(r, &x, 1);
      if (!s.ok() && s.error().code == BATON_DEADLINE && std::string(s.error().what).find("rank 1, 2 of 4") != std::string::npos) ++right;
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(right, 2);
}

TEST(Collective, CountsThatDifferAndRanksOutside) {
  TreeCollective group(2, kLong);
  std::vector<float> a(4), b(5);
  std::atomic<int> refused = 0;
  std::thread other([&] { refused += group.all_reduce(1, b.data(), 5).error().code == BATON_INVALID_ARGUMENT; });
  refused += group.all_reduce(0, a.data(), 4).error().code == BATON_INVALID_ARGUMENT;
  other.join();
  EXPECT_EQ(refused, 2);
  TreeCollective three(3, kLong);
  EXPECT_FALSE(three.all_reduce(0, a.data(), 4).ok());
  TreeCollective two(2, kLong);
  EXPECT_FALSE(two.all_reduce(2, a.data(), 4).ok());
}

}  // namespace
}  // namespace baton::test
