// Parts of the Neuron driver and emulator on their own: options, HBM allocator, container, launcher, collectives, status table.
#include "drivers/neuron/neff.hpp"
#include "drivers/neuron/nrt_abi.hpp"
#include "drivers/neuron/options.hpp"
#include "drivers/neuron/quirks.hpp"
#include "emulators/neuron/collective.hpp"
#include "emulators/neuron/hbm.hpp"
#include "emulators/neuron/neff_reader.hpp"
#include "tests/support/process.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include <gtest/gtest.h>

namespace baton::test {
namespace {

// ---- the driver's options ----

TEST(NeuronOptions, Uri) {
  auto o = neuron::parse_uri("neuron://3?libnrt=/a/libnrt.so.1&env.NEURON_RT_LOG_LEVEL=INFO&env.X=");
  ASSERT_TRUE(o.ok());
  EXPECT_EQ(o->chip, 3u);
  EXPECT_EQ(o->libnrt, "/a/libnrt.so.1");
  EXPECT_EQ(o->env.at("NEURON_RT_LOG_LEVEL"), "INFO");
  EXPECT_EQ(o->env.at("X"), "");
  EXPECT_TRUE(neuron::parse_uri("neuron://0").ok());
  for (const char* bad : {"neuron://", "neuron://x", "neuron://-1", "neuron://0?threads=2", "neuron://0?libnrt", "neuron://0?env.lower=1", "neuron://0?env.=1"}) {
    auto r = neuron::parse_uri(bad);
    ASSERT_FALSE(r.ok()) << bad;
    EXPECT_EQ(r.error().code, BATON_INVALID_ARGUMENT);
    EXPECT_NE(std::string(r.error().next).find("libnrt="), std::string::npos);
  }
}

TEST(NeuronOptions, Cores) {
  EXPECT_EQ(*neuron::parse_cores("3-5,6"), (std::vector<uint32_t>{3, 4, 5, 6}));
  for (const char* bad : {"2-1", "3,3", "a", "1-", "-1", "0-9999999"}) EXPECT_FALSE(neuron::parse_cores(bad).ok()) << bad;
  setenv("NEURON_RT_VISIBLE_CORES", "4-5", 1);
  EXPECT_EQ(*neuron::visible_cores(2), (std::vector<uint32_t>{4, 5}));
  EXPECT_EQ(neuron::visible_cores(3).error().code, BATON_MISMATCH);
  unsetenv("NEURON_RT_VISIBLE_CORES");
  EXPECT_EQ(*neuron::visible_cores(2), (std::vector<uint32_t>{0, 1}));
}

TEST(NeuronOptions, EnvironmentIsPutBack) {
  setenv("BATON_TEST_A", "before", 1);
  unsetenv("BATON_TEST_B");
  {
    neuron::Environment e;
    e.apply({{"BATON_TEST_A", "during"}, {"BATON_TEST_B", "new"}});
    EXPECT_STREQ(getenv("BATON_TEST_A"), "during");
    EXPECT_STREQ(getenv("BATON_TEST_B"), "new");
  }
  EXPECT_STREQ(getenv("BATON_TEST_A"), "before");
  EXPECT_EQ(getenv("BATON_TEST_B"), nullptr);
  unsetenv("BATON_TEST_A");
}

TEST(NeuronQuirks, Tables) {
  EXPECT_STREQ(neuron::family(nrt::kFamilyTrn2u).model, "Trainium2");
  EXPECT_EQ(neuron::family(nrt::kFamilyTrn1).physical_cores, 2u);
  EXPECT_STREQ(neuron::family(999).model, "Neuron");
  EXPECT_EQ(neuron::status_info(nrt::kResource).code, BATON_CAPACITY);
  EXPECT_TRUE(neuron::status_info(nrt::kExecHwErrHbmUe).fatal);
  EXPECT_FALSE(neuron::status_info(nrt::kExecBadInput).fatal);
  EXPECT_EQ(neuron::status_info(4711).code, BATON_FAILED);
}

// ---- HBM ----

TEST(NeuronHbm, RandomAllocationsNeverOverlapAndAllComesBack) {
  constexpr uint64_t kBytes = 1 << 20;
  auto hbm = neuron_emu::Hbm::create("test", kBytes);
  ASSERT_TRUE(hbm.ok());
  auto& h = **hbm;
  std::mt19937 random(7);
  std::map<uint64_t, uint64_t> live;
  for (int i = 0; i < 4000; ++i) {
    if (random() % 2) {
      uint64_t bytes = 1 + random() % 40000;
      auto at = h.allocate(bytes);
      if (!at) continue;
      EXPECT_EQ(*at % neuron_emu::kPage, 0u);
      auto next = live.lower_bound(*at);
      if (next != live.end()) {
        EXPECT_LE(*at + bytes, next->first);
      }
      if (next != live.begin()) {
        EXPECT_LE(std::prev(next)->first + std::prev(next)->second, *at);
      }
      live[*at] = (bytes + neuron_emu::kPage - 1) / neuron_emu::kPage * neuron_emu::kPage;
    } else if (!live.empty()) {
      auto it = std::next(live.begin(), long(random() % live.size()));
      h.release(it->first);
      live.erase(it);
    }
  }
  for (auto [at, bytes] : live) h.release(at);
  EXPECT_EQ(h.used(), 0u);
  EXPECT_TRUE(h.allocate(kBytes).has_value());
}

TEST(NeuronHbm, FreedPagesAreGivenBackAndReadZero) {
  auto hbm = neuron_emu::Hbm::create("test", 1 << 20);
  ASSERT_TRUE(hbm.ok());
  auto at = (*hbm)->allocate(8192);
  std::memset((*hbm)->base() + *at, 7, 8192);
  (*hbm)->release(*at);
  at = (*hbm)->allocate(8192);
  EXPECT_EQ((*hbm)->base()[*at + 5000], 0);
}

TEST(NeuronHbm, ReservationsAndRanges) {
  auto hbm = neuron_emu::Hbm::create("test", 64 << 10);
  ASSERT_TRUE(hbm.ok());
  auto& h = **hbm;
  EXPECT_TRUE(h.reserve(60 << 10));
  EXPECT_FALSE(h.reserve(8 << 10));
  EXPECT_FALSE(h.allocate(8 << 10).has_value());
  h.unreserve(60 << 10);
  auto a = h.allocate(4096), b = h.allocate(4096);
  EXPECT_EQ(h.find(h.base() + *a + 10, 100), *a + 10);
  EXPECT_FALSE(h.find(h.base() + *a + 4000, 200).has_value());  // runs into the next allocation
  EXPECT_FALSE(h.find(h.base() + *b + 4096, 1).has_value());
  EXPECT_FALSE(h.find(&a, 1).has_value());
}

// ---- container ----

TEST(NeuronNeff, WhatIsWrittenIsReadInPlace) {
  std::vector<uint8_t> program(1000, 5), w(700, 1), v(512, 2);
  std::vector<baton_constant> constants = {{"w \"quoted\"", w.data(), w.size()}, {"v", v.data(), v.size()}};
  auto neff = neuron::Neff::build("a name", 2, program, constants);
  ASSERT_TRUE(neff.ok());
  auto view = neuron_emu::read_neff({neff->data(), neff->bytes()});
  ASSERT_TRUE(view.ok()) << view.error().what;
  EXPECT_EQ(view->name, "a name");
  EXPECT_EQ(view->lnc, 2u);
  ASSERT_EQ(view->constants.size(), 2u);
  EXPECT_EQ(view->constants[0].name, "w \"quoted\"");
  EXPECT_EQ(view->constants[1].data.size(), 512u);
  EXPECT_EQ(view->constants[1].data[100], 2);
  EXPECT_GE(view->constants[0].data.data(), neff->data());
  EXPECT_LT(view->constants[0].data.data(), neff->data() + neff->bytes());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(view->constants[0].data.data()) % 512, 0u);
  EXPECT_EQ(view->program.size(), 1000u);
}

// FIPS 180-4's and RFC 1321's own examples; then a container's header.
TEST(NeuronNeff, TheHashIsThePackageVersions) {
  const uint8_t abc[] = {'a', 'b', 'c'};
  const uint8_t sha256[] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01}, md5[] = {0x90, 0x01, 0x50, 0x98, 0x3c, 0xd2, 0x4f, 0xb0, 0xd6, 0x96, 0x3f, 0x7d, 0x28, 0xe1, 0x7f, 0x72, 0x00};
  EXPECT_EQ(std::memcmp(neuron_emu::neff_hash(abc, 2).data(), sha256, sizeof sha256), 0);
  EXPECT_EQ(std::memcmp(neuron_emu::neff_hash(abc, 1).data(), md5, sizeof md5), 0);
  std::vector<uint8_t> program(100, 5);
  auto neff = neuron::Neff::build("n", 2, program, {});
  ASSERT_TRUE(neff.ok());
  auto* header = reinterpret_cast<neuron::NeffHeader*>(neff->data());
  const std::span<const uint8_t> all(neff->data(), neff->bytes());
  for (uint64_t package : {1u, 2u}) {
    header->pkg_version = package;
    const auto hash = neuron_emu::neff_hash(all.subspan(sizeof *header), package);
    std::memcpy(header->hash, hash.data(), hash.size());
    EXPECT_TRUE(neuron_emu::read_neff(all).ok()) << package;
    header->hash[15] ^= 1;
    EXPECT_EQ(neuron_emu::read_neff(all).error().code, BATON_CORRUPT) << package;
    EXPECT_TRUE(neuron_emu::read_neff(all, false).ok()) << package;
  }
}

// A constant without data is an input.
TEST(NeuronNeff, ConstantsThatAreInputs) {
  std::vector<uint8_t> program(10, 5);
  const baton_constant constants[] = {{"w", nullptr, 128}, {"v", nullptr, 64}};
  auto neff = neuron::Neff::build("n", 2, program, constants);
  ASSERT_TRUE(neff.ok());
  auto view = neuron_emu::read_neff({neff->data(), neff->bytes()});
  ASSERT_TRUE(view.ok()) << view.error().what;
  EXPECT_TRUE(view->constants.empty());
  EXPECT_EQ(view->inputs, (std::vector<std::string>{"w", "v"}));
  EXPECT_TRUE(view->portable);
}

TEST(NeuronNeff, NoConstants) {
  std::vector<uint8_t> program(1, 5);
  auto neff = neuron::Neff::build("", 1, program, {});
  ASSERT_TRUE(neff.ok());
  auto view = neuron_emu::read_neff({neff->data(), neff->bytes()});
  ASSERT_TRUE(view.ok());
  EXPECT_TRUE(view->constants.empty());
}

// ---- collectives ----

TEST(NeuronGroup, TreeSumInRankOrder) {
  constexpr uint32_t kRanks = 4;
  constexpr uint64_t kCount = 3000;
  neuron_emu::Group group(kRanks, "g");
  std::vector<std::vector<float>> x(kRanks);
  for (uint32_t r = 0; r < kRanks; ++r)
    for (uint64_t i = 0; i < kCount; ++i) x[r].push_back(float(r + 1) * 0.1f + float(i) * 1e-7f);
  std::vector<float> want(kCount);
  for (uint64_t i = 0; i < kCount; ++i) want[i] = (x[0][i] + x[1][i]) + (x[2][i] + x[3][i]);
  std::vector<std::thread> threads;
  for (uint32_t r = 0; r < kRanks; ++r)
    threads.emplace_back([&, r] {
      group.begin(r, 1, nullptr);
      for (int round = 0; round < 20; ++round) {
        std::vector<float> mine = x[r];
        ASSERT_TRUE(group.all_reduce(r, mine.data(), kCount).ok());
        ASSERT_EQ(std::memcmp(mine.data(), want.data(), kCount * 4), 0);
      }
      group.end(r, false);
    });
  for (auto& t : threads) t.join();
}

TEST(NeuronGroup, ScattersTheSumAndGathersIt) {
  constexpr uint32_t kRanks = 4;
  constexpr uint64_t kRows = 3, kWidth = 40;
  neuron_emu::Group group(kRanks, "g");
  std::vector<std::thread> threads;
  for (uint32_t r = 0; r < kRanks; ++r)
    threads.emplace_back([&, r] {
      group.begin(r, 1, nullptr);
      for (int round = 0; round < 20; ++round) {
        std::vector<float> x, sum, part(kRows * kWidth / kRanks), back(kRows * kWidth);
        for (uint64_t i = 0; i < kRows * kWidth; ++i) x.push_back(float(r + 1) * 0.1f + float(i) * 1e-3f);
        sum = x;
        ASSERT_TRUE(group.all_reduce(r, sum.data(), sum.size()).ok());
        ASSERT_TRUE(group.reduce_scatter(r, x.data(), kRows, kWidth, part.data()).ok());
        ASSERT_EQ(std::memcmp(&part[kWidth / kRanks], &sum[kWidth + r * kWidth / kRanks], kWidth / kRanks * 4), 0);
        ASSERT_TRUE(group.all_gather(r, part.data(), kRows, kWidth / kRanks, back.data()).ok());
        ASSERT_EQ(back, sum);
      }
      group.end(r, false);
    });
  for (auto& t : threads) t.join();
}

// A sum and a gather of as much are not the same call.
TEST(NeuronGroup, RanksInDifferentCallsFail) {
  neuron_emu::Group group(2, "g");
  std::vector<float> x(8), y(8), out(16);
  group.begin(0, 1, nullptr);
  group.begin(1, 1, nullptr);
  std::thread other([&] { EXPECT_EQ(group.all_gather(1, y.data(), 1, 8, out.data()).error().code, BATON_FAILED); });
  EXPECT_EQ(group.all_reduce(0, x.data(), 8).error().code, BATON_FAILED);
  other.join();
}

TEST(NeuronGroup, SeatsAreFilledBySignature) {
  neuron_emu::Groups groups;
  auto a0 = groups.join(0, 2, "a"), b0 = groups.join(0, 2, "b"), second = groups.join(0, 2, "a");
  EXPECT_NE(a0, b0);
  EXPECT_NE(a0, second);
  EXPECT_EQ(groups.join(1, 2, "a"), a0);
  EXPECT_EQ(groups.join(1, 2, "b"), b0);
  a0->leave(1);
  EXPECT_EQ(groups.join(1, 2, "a"), a0);  // a reloaded rank takes its seat again
}

// ---- the launcher ----

struct Launched {
  int code;
  std::string out, err;
};
Launched launch(const std::string& argument) {
  Process p({plugin("baton-emu-neuron"), argument});
  Exit e = p.wait(10000);
  return {e.code, p.out(), p.err()};
}

TEST(NeuronLauncher, PrintsAnOrdinaryAddress) {
  Launched r = launch("0?threads=2&isa=scalar");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out, "neuron://0?libnrt=" + plugin("emu/libnrt.so.1") + "&env.BATON_EMU_NEURON_THREADS=2&env.BATON_EMU_NEURON_ISA=scalar\n");
  EXPECT_EQ(launch("15?machine=trn2.48xlarge").code, 0);
  EXPECT_EQ(launch("1?chips=2&env.NEURON_RT_NUM_CORES=8").code, 0);
}

TEST(NeuronLauncher, RefusesInOneLineAndANextStep) {
  for (const char* bad : {"x", "", "0?threads=0", "0?threads=zwei", "0?isa=mmx", "0?chips=17", "3?chips=2", "0?machine=trn9", "1?machine=trn2.3xlarge", "16?machine=trn2.48xlarge", "0?folder=/proc/none", "0?colour=red", "0?threads", "0?timing=h100"}) {
    Launched r = launch(bad);
    EXPECT_NE(r.code, 0) << bad;
    EXPECT_EQ(r.out, "") << bad;
    EXPECT_LE(std::count(r.err.begin(), r.err.end(), '\n'), 2) << bad << ": " << r.err;
    EXPECT_TRUE(r.err.starts_with("baton-emu-neuron: ")) << r.err;
  }
}

}  // namespace
}  // namespace baton::test
