// The neuron driver through the core, on the emulated runtime: the driver that ships, opened by URI.
#include "hal/baton.hpp"
#include "tests/support/process.h"
#include "tests/unit/neuron_models.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <thread>

#include <gtest/gtest.h>

namespace baton::test {
namespace {

constexpr uint64_t kPatience = 30'000;  // ms; nothing here waits so long unless it is broken

uint64_t soon() { return deadline_in_ms(kPatience); }

#define OK_OR_DIE(decl, expr)                              \
  auto BATON_CAT(r_, __LINE__) = (expr);                   \
  ASSERT_TRUE(BATON_CAT(r_, __LINE__).ok()) << BATON_CAT(r_, __LINE__).error().text(); \
  decl = std::move(*BATON_CAT(r_, __LINE__))

class NeuronDriver : public ::testing::Test {
 protected:
  void SetUp() override {
    auto in = Instance::create();
    ASSERT_TRUE(in.ok()) << in.error().text();
    instance = std::move(*in);
  }
  Result<Device> open(const std::string& options = "") { return instance.open("emu+neuron://0" + options); }
  Instance instance;
};

TEST_F(NeuronDriver, InfoComesFromTheRuntime) {
  OK_OR_DIE(Device dev, open());
  OK_OR_DIE(DeviceInfo i, dev.info());
  EXPECT_EQ(i.emulated, 1u);
  EXPECT_STREQ(i.model, "Trainium2");
  EXPECT_STREQ(i.name, "trn0");
  EXPECT_EQ(i.lanes, 4u);
  ASSERT_EQ(i.heap_count, 4u);
  EXPECT_STREQ(i.heaps[2].name, "hbm2");
  EXPECT_EQ(i.heaps[2].bytes_total, 24ull << 30);
  EXPECT_EQ(i.heaps[2].mappable, 1u);
  EXPECT_EQ(i.heaps[2].exportable, 1u);
  EXPECT_EQ(i.collectives, 1u);
  EXPECT_EQ(i.progress, 1u);
  EXPECT_EQ(i.modelled, 1u);
  EXPECT_NE(std::string(i.timing).find("trn2"), std::string::npos);
  EXPECT_NE(std::string(i.firmware).find("emulator"), std::string::npos);
}

TEST_F(NeuronDriver, OpensChipsOfOneMachineTogetherAndRefusesOtherSettings) {
  OK_OR_DIE(Device a, instance.open("emu+neuron://0?chips=2"));
  OK_OR_DIE(Device b, instance.open("emu+neuron://1?chips=2"));
  OK_OR_DIE(DeviceInfo i, b.info());
  EXPECT_STREQ(i.name, "trn1");
  auto other = instance.open("emu+neuron://0?threads=2");
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().code, BATON_BUSY);
  auto missing = instance.open("emu+neuron://7");
  ASSERT_FALSE(missing.ok());
}

TEST_F(NeuronDriver, Refusals) {
  auto chip = instance.open("emu+neuron://5");
  ASSERT_FALSE(chip.ok());
  EXPECT_EQ(chip.error().code, BATON_NOT_FOUND) << chip.error().text();
  EXPECT_NE(std::string(chip.error().what).find("no chip 5"), std::string::npos) << chip.error().what;
  auto library = instance.open("neuron://0?libnrt=/nonexistent/libnrt.so.1");
  ASSERT_FALSE(library.ok());
  EXPECT_EQ(library.error().code, BATON_NOT_FOUND);
  auto foreign = instance.open("neuron://0?libnrt=libm.so.6");
  ASSERT_FALSE(foreign.ok());
  EXPECT_EQ(foreign.error().code, BATON_UNSUPPORTED);
  EXPECT_NE(std::string(foreign.error().what).find("nrt_init"), std::string::npos);
  auto option = instance.open("emu+neuron://0?speed=9");
  ASSERT_FALSE(option.ok());
  auto cores = instance.open("emu+neuron://0?env.NEURON_RT_VISIBLE_CORES=99");
  ASSERT_FALSE(cores.ok());
}

TEST_F(NeuronDriver, HeldCoresAreBusy) {
  TempDir folder;
  std::string uri = "emu+neuron://0?folder=" + folder.path();
  Process holder({"/usr/bin/flock", folder.path() + "/core2", "sleep", "60"});
  for (int i = 0; i < 500 && access((folder.path() + "/core2").c_str(), F_OK); ++i) usleep(10000);
  usleep(100000);
  auto dev = instance.open(uri);
  ASSERT_FALSE(dev.ok());
  EXPECT_EQ(dev.error().code, BATON_BUSY) << dev.error().text();
  EXPECT_NE(std::string(dev.error().what).find("core 2"), std::string::npos) << dev.error().what;
  holder.kill(SIGKILL);
}

TEST_F(NeuronDriver, CopyFillAndHeaps) {
  OK_OR_DIE(Device dev, open());
  OK_OR_DIE(Queue q, dev.queue(0));
  OK_OR_DIE(Timeline done, instance.timeline("done"));
  OK_OR_DIE(Buffer a, dev.alloc(1 << 20, 0));
  OK_OR_DIE(Buffer b, dev.alloc(3 << 20, 3));
  ASSERT_TRUE(q.submit({fill(a, 0, 1 << 20, 0x11), fill(a, 4, 4000, 0x04030201, 4), copy(a, 0, a, 8000, 4004).signal(done, 1)}).ok());
  ASSERT_TRUE(done.wait_until(1, soon()).ok());
  OK_OR_DIE(void* va, a.map());
  auto* p = static_cast<uint8_t*>(va);
  EXPECT_EQ(p[0], 0x11);
  EXPECT_EQ(p[4], 1);
  EXPECT_EQ(p[7], 4);
  EXPECT_EQ(p[8004], 1);
  // To another stack and core: through host memory, in more than one piece.
  for (size_t i = 0; i < 1 << 20; ++i) p[i] = uint8_t(i * 31 >> 3);
  ASSERT_TRUE(q.submit({copy(a, 0, b, 0, 1 << 20), copy(a, 0, b, 1 << 20, 1 << 20), copy(b, 512, b, 2 << 20, (1 << 20) + 1000 - 1000).signal(done, 2)}).ok());
  ASSERT_TRUE(done.wait_until(2, soon()).ok());
  OK_OR_DIE(void* vb, b.map());
  EXPECT_EQ(std::memcmp(vb, p, 1 << 20), 0);
  OK_OR_DIE(Telemetry t, dev.telemetry());
  EXPECT_EQ(t.ops_done, 6u);
}

TEST_F(NeuronDriver, ExportIsTheMemoryItself) {
  OK_OR_DIE(Device dev, open());
  OK_OR_DIE(Buffer first, dev.alloc(5000));
  OK_OR_DIE(Buffer b, dev.alloc(10000));
  OK_OR_DIE(Buffer::Export x, b.export_fd());
  OK_OR_DIE(void* va, b.map());
  void* at = mmap(nullptr, 10000, PROT_READ | PROT_WRITE, MAP_SHARED, x.fd, off_t(x.offset));
  ASSERT_NE(at, MAP_FAILED);
  std::memcpy(at, "handed over", 12);
  EXPECT_STREQ(static_cast<char*>(va), "handed over");
  // And the way back: a descriptor as a buffer of the device.
  OK_OR_DIE(Buffer imported, dev.import_fd(x.fd, x.offset + 7, 4));
  OK_OR_DIE(Buffer to, dev.alloc(64));
  OK_OR_DIE(Queue q, dev.queue(0));
  OK_OR_DIE(Timeline done, instance.timeline("done"));
  ASSERT_TRUE(q.submit({copy(imported, 0, to, 0, 4).signal(done, 1)}).ok());
  ASSERT_TRUE(done.wait_until(1, soon()).ok());
  OK_OR_DIE(void* vt, to.map());
  EXPECT_EQ(std::memcmp(vt, "over", 4), 0);
  munmap(at, 10000);
  // One importer an export, as the kernel has it for a dma-buf, through whichever copy of the descriptor; the next export has its own.
  int copied = dup(x.fd);
  EXPECT_EQ(dev.import_fd(copied, x.offset, 4).error().code, BATON_BUSY);
  OK_OR_DIE(Buffer::Export again, b.export_fd());
  EXPECT_TRUE(dev.import_fd(again.fd, again.offset, 4).ok());
  for (int fd : {x.fd, copied, again.fd}) close(fd);
}

// The runtime shows what others write through a descriptor only after a fence, never by itself (seed 0), and the driver makes none on its own: who
// hears that a write is complete asks for it.
TEST_F(NeuronDriver, WhatOthersHaveWrittenThroughAnExportIsVisibleAfterAFence) {
  OK_OR_DIE(Device dev, open("?visibility=0"));
  OK_OR_DIE(Buffer b, dev.alloc(10000));
  OK_OR_DIE(Buffer to, dev.alloc(64));
  OK_OR_DIE(Queue q, dev.queue(0));
  OK_OR_DIE(Timeline done, instance.timeline("done"));
  ASSERT_TRUE(q.submit({fill(b, 0, 10000, 0x11).signal(done, 1)}).ok());
  ASSERT_TRUE(done.wait_until(1, soon()).ok());
  EXPECT_TRUE(b.fence(0, 10000).ok()) << "of what was never exported: nothing to do";
  OK_OR_DIE(Buffer::Export x, b.export_fd());
  void* at = mmap(nullptr, 10000, PROT_READ | PROT_WRITE, MAP_SHARED, x.fd, off_t(x.offset));
  ASSERT_NE(at, MAP_FAILED);
  EXPECT_EQ(static_cast<uint8_t*>(at)[9999], 0x11);
  std::memcpy(static_cast<char*>(at) + 5000, "handed over", 12);
  OK_OR_DIE(void* va, b.map());
  OK_OR_DIE(void* vt, to.map());
  uint64_t n = 1;
  auto read = [&]() -> std::string {
    EXPECT_TRUE(q.submit({copy(b, 5000, to, 0, 12).signal(done, ++n)}).ok());
    EXPECT_TRUE(done.wait_until(n, soon()).ok());
    return std::string(static_cast<char*>(vt), 11);
  };
  EXPECT_EQ(static_cast<uint8_t*>(va)[5000], 0x11);
  EXPECT_EQ(read(), std::string(11, 0x11)) << "nobody has fenced";
  ASSERT_TRUE(b.fence(5006, 4).ok());
  EXPECT_EQ(read(), std::string(6, 0x11) + " ove" + "\x11") << "the range alone";
  ASSERT_TRUE(b.fence(0, 10000).ok());
  EXPECT_EQ(read(), "handed over");
  EXPECT_EQ(b.fence(9999, 2).error().code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(b.fence(UINT64_MAX, 2).error().code, BATON_INVALID_ARGUMENT);
  ASSERT_TRUE(dev.reset_device().ok());
  EXPECT_EQ(b.fence(0, 1).error().code, BATON_DEVICE_LOST);
  munmap(at, 10000);
  close(x.fd);
}

// Health is what the kernel driver's tree shows: without one, nothing is known.
TEST_F(NeuronDriver, TelemetryShowsTheInstruments) {
  TempDir folder;
  {
    OK_OR_DIE(Device dev, open("?timing=none"));
    OK_OR_DIE(Telemetry t, dev.telemetry());
    EXPECT_EQ(t.health, uint32_t(BATON_HEALTH_UNKNOWN));
    EXPECT_EQ(t.instruments, 0u);
  }
  const std::string machine = "?folder=" + folder.path();
  {
    OK_OR_DIE(Device dev, open(machine));
    OK_OR_DIE(Telemetry t, dev.telemetry());
    EXPECT_EQ(t.health, uint32_t(BATON_HEALTH_OK));
    EXPECT_EQ(t.instruments & ~BATON_INSTRUMENT_POWER, uint32_t(BATON_INSTRUMENT_ECC | BATON_INSTRUMENT_HW_ERRORS)) << "power has a reading once a minute is over";
    EXPECT_EQ(t.ecc_corrected + t.ecc_uncorrected + t.hw_errors, 0u);
    EXPECT_LE(t.power_percent_x100, 10000u);
  }
  std::string plan = R"({"rules":[{"call":"nrt_tensor_read","nth":1,"action":"ecc","ecc":"mem_ecc_corrected"},{"call":"nrt_tensor_read","nth":2,"action":"ecc","ecc":"mem_ecc_uncorrected"}]})";
  std::string file = folder.path() + "/plan.json";
  std::ofstream(file) << plan;
  OK_OR_DIE(Device dev, open(machine + "&faults=" + file));
  OK_OR_DIE(Buffer b, dev.alloc(64));
  OK_OR_DIE(Device host, instance.open("host://"));
  OK_OR_DIE(Buffer to, host.alloc(64));
  OK_OR_DIE(Queue q, dev.queue(0));
  OK_OR_DIE(Timeline done, instance.timeline("done"));
  ASSERT_TRUE(q.submit({fill(b, 0, 64, 1).signal(done, 1)}).ok());
  ASSERT_TRUE(done.wait_until(1, soon()).ok());
  uint64_t n = 1;
  const auto after_a_read = [&] {
    (void)q.submit({copy(b, 0, to, 0, 64).signal(done, ++n)});
    (void)done.wait_until(n, soon());
    return dev.telemetry();
  };
  OK_OR_DIE(Telemetry corrected, after_a_read());
  EXPECT_EQ(corrected.ecc_corrected, 1u);
  EXPECT_EQ(corrected.health, uint32_t(BATON_HEALTH_OK)) << "a corrected error is no damage";
  EXPECT_EQ(after_a_read().error().code, BATON_DEVICE_LOST) << "the core is gone with it";
  ASSERT_TRUE(dev.reset_device().ok());
  OK_OR_DIE(Telemetry t, dev.telemetry());
  EXPECT_EQ(t.ecc_corrected, 1u);
  EXPECT_EQ(t.ecc_uncorrected, 1u);
  EXPECT_EQ(t.health, uint32_t(BATON_HEALTH_DEGRADED));
}

TEST_F(NeuronDriver, FullHeapSaysItsNumbers) {
  OK_OR_DIE(Device dev, open());
  OK_OR_DIE(Buffer most, dev.alloc(20ull << 30, 1));
  auto more = dev.alloc(5ull << 30, 1);
  ASSERT_FALSE(more.ok());
  EXPECT_EQ(more.error().code, BATON_CAPACITY);
  EXPECT_NE(std::string(more.error().what).find("hbm1: 5.00 GiB asked, 20.00 GiB of 24.00 GiB"), std::string::npos) << more.error().what;
  EXPECT_EQ(dev.alloc(1, 4).error().code, BATON_INVALID_ARGUMENT);
}

// ---- launches ----

struct Bench {
  Program program;
  Buffer ids, hidden;
  Queue queue;
};

class NeuronLaunch : public NeuronDriver {
 protected:
  Result<Bench> prepare(const Device& dev, const TinyModel& m, const std::vector<int32_t>& ids, uint32_t lane, uint32_t rank, uint32_t ranks) {
    Bench b;
    auto constants = m.constants();
    BATON_ASSIGN(b.program, dev.load(m.bytes, constants, lane, rank, ranks));
    BATON_ASSIGN(b.ids, dev.alloc(4096, lane));
    BATON_ASSIGN(b.hidden, dev.alloc(kMaxTokens * kHidden * 4, lane));
    BATON_ASSIGN(b.queue, dev.queue(lane));
    BATON_ASSIGN(void* va, b.ids.map());
    std::memcpy(static_cast<uint8_t*>(va) + 64, ids.data(), ids.size() * 4);
    return b;
  }
  static Op launch_of(const Bench& b, const std::vector<baton_binding>& bindings, const std::vector<int64_t>& args) {
    return launch(b.program, bindings, args);
  }
  static std::vector<baton_binding> bindings(const Bench& b, size_t tokens) { return {bind("ids", b.ids, 64, tokens * 4), bind("hidden", b.hidden)}; }
};

TEST_F(NeuronLaunch, ProgramWithProgressAndModelledTime) {
  OK_OR_DIE(Device dev, open());
  std::vector<int32_t> ids = {5, 9, 30, 1};
  TinyModel m = mlp();
  OK_OR_DIE(Bench b, prepare(dev, m, ids, 1, 0, 1));
  OK_OR_DIE(Timeline made, instance.timeline("made"));
  OK_OR_DIE(Timeline done, instance.timeline("done"));
  std::vector<int64_t> args = {4, 0};
  auto bound = bindings(b, ids.size());
  ASSERT_TRUE(b.queue.submit({launch_of(b, bound, args).progress(made).signal(done, 1)}).ok());
  Status s = done.wait_until(1, soon());
  ASSERT_TRUE(s.ok()) << s.error().text();
  EXPECT_EQ(*made.value(), kLayers);
  OK_OR_DIE(void* va, b.hidden.map());
  auto want = mlp_reference(ids);
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(static_cast<float*>(va)[i], want[i], 1e-4);
  EXPECT_GT(done.modelled_ns(1), 0u);
  EXPECT_GT(made.modelled_ns(1), 0u);
  EXPECT_LT(made.modelled_ns(1), made.modelled_ns(3));
  EXPECT_LE(made.modelled_ns(3), done.modelled_ns(1));
}

TEST_F(NeuronLaunch, ManyLaunchesInOrder) {
  OK_OR_DIE(Device dev, open("?timing=none"));
  TinyModel m = generator();
  auto constants = m.constants();
  OK_OR_DIE(Program p, dev.load(m.bytes, constants, 0));
  OK_OR_DIE(Buffer tokens, dev.alloc((kMaxSteps + 1) * 4));
  OK_OR_DIE(Queue q, dev.queue(0));
  OK_OR_DIE(Timeline steps, instance.timeline("steps"));
  OK_OR_DIE(Timeline done, instance.timeline("done"));
  OK_OR_DIE(void* va, tokens.map());
  auto* t = static_cast<int32_t*>(va);
  t[0] = 11;
  std::vector<baton_binding> bound = {bind("tokens", tokens)};
  std::vector<int64_t> args = {int64_t(kMaxSteps), 0};
  ASSERT_TRUE(q.submit({launch(p, bound, args).progress(steps).signal(done, 1)}).ok());
  ASSERT_TRUE(done.wait_until(1, soon()).ok());
  std::vector<int32_t> once(t, t + kMaxSteps + 1);
  EXPECT_EQ(*steps.value(), kMaxSteps);
  // The same in pieces, launches queued behind one another: more than there are slots.
  constexpr int64_t kPiece = 4;
  std::memset(t, 0, (kMaxSteps + 1) * 4);
  t[0] = 11;
  std::vector<Op> ops;
  std::vector<std::vector<baton_binding>> bounds;
  std::vector<int64_t> piece = {kPiece, 0};
  for (uint32_t at = 0; at < kMaxSteps; at += kPiece) bounds.push_back({bind("tokens", tokens, at * 4, (kPiece + 1) * 4)});
  for (uint32_t i = 0; i < bounds.size(); ++i) {
    Op op = launch(p, bounds[i], piece).progress(steps, kMaxSteps + i * kPiece).signal(done, 2 + i);
    if (i) op.wait(done, 1 + i);
    ops.push_back(op);
  }
  ASSERT_TRUE(q.submit(ops).ok());
  Status s = done.wait_until(1 + bounds.size(), soon());
  ASSERT_TRUE(s.ok()) << s.error().text();
  EXPECT_EQ(std::vector<int32_t>(t, t + kMaxSteps + 1), once);
  EXPECT_EQ(*steps.value(), 2 * kMaxSteps);
}

TEST_F(NeuronLaunch, ManyAtOnceWithoutWaits) {
  OK_OR_DIE(Device dev, open("?timing=none"));
  std::vector<int32_t> ids = {5, 9, 30, 1};
  TinyModel m = mlp();
  OK_OR_DIE(Bench b, prepare(dev, m, ids, 0, 0, 1));
  OK_OR_DIE(Timeline done, instance.timeline("done"));
  std::vector<int64_t> args = {4, 0};
  auto bound = bindings(b, ids.size());
  std::vector<Op> ops(100, launch_of(b, bound, args));
  for (uint32_t i = 0; i < 100; ++i) ops[i].signal(done, i + 1);
  ASSERT_TRUE(b.queue.submit(ops).ok());
  Status s = done.wait_until(100, soon());
  ASSERT_TRUE(s.ok()) << s.error().text();
}

TEST_F(NeuronLaunch, WrongLaunchesAreRefused) {
  OK_OR_DIE(Device dev, open());
  std::vector<int32_t> ids = {5, 9};
  TinyModel m = mlp();
  OK_OR_DIE(Bench b, prepare(dev, m, ids, 0, 0, 1));
  OK_OR_DIE(Buffer far, dev.alloc(4096, 2));
  OK_OR_DIE(Queue lane2, dev.queue(2));
  struct Case {
    const char* what;
    const Queue* queue;
    std::vector<baton_binding> bound;
    std::vector<int64_t> args;
  };
  auto good = bindings(b, 2);
  std::vector<Case> cases = {
      {"has nothing named 'nose'", &b.queue, {good[0], good[1], bind("nose", b.ids)}, {2, 0}},
      {"binds 1 of the 2 values", &b.queue, {good[0]}, {2, 0}},
      {"takes 2 arguments", &b.queue, good, {2}},
      {"lane 0 works on heap 0", &b.queue, {bind("ids", far), good[1]}, {2, 0}},
      {"lane 0", &lane2, good, {2, 0}},
      {"'tokens' is 17", &b.queue, good, {17, 0}},
      {"is bound to 8 bytes", &b.queue, good, {3, 0}},
  };
  for (const Case& c : cases) {
    OK_OR_DIE(Timeline done, instance.timeline("done"));
    Status s = c.queue->submit({launch(b.program, c.bound, c.args).signal(done, 1)});  // the core refuses some, the driver the others
    if (s.ok()) s = done.wait_until(1, soon());
    ASSERT_FALSE(s.ok()) << c.what;
    EXPECT_EQ(s.error().code, BATON_INVALID_ARGUMENT) << s.error().text();
    EXPECT_NE(std::string(s.error().what).find(c.what), std::string::npos) << s.error().what;
  }
  auto constants = m.constants();
  constants.pop_back();
  auto missing = dev.load(m.bytes, constants, 0);
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(std::string(missing.error().what).find("head"), std::string::npos) << missing.error().what;
  std::vector<uint8_t> damaged(m.bytes.begin(), m.bytes.begin() + long(m.bytes.size() / 2));
  EXPECT_FALSE(dev.load(damaged, m.constants(), 0).ok());
}

TEST_F(NeuronLaunch, TensorParallelEqualsOneLaneBitForBit) {
  OK_OR_DIE(Device dev, open("?timing=none"));
  std::vector<int32_t> ids = {5, 9, 30, 1, 44, 44, 0};
  std::vector<int64_t> args = {int64_t(ids.size()), 0};
  TinyModel whole = mlp();
  OK_OR_DIE(Bench one, prepare(dev, whole, ids, 0, 0, 1));
  OK_OR_DIE(Timeline done, instance.timeline("done"));
  auto bound = bindings(one, ids.size());
  ASSERT_TRUE(one.queue.submit({launch_of(one, bound, args).signal(done, 1)}).ok());
  ASSERT_TRUE(done.wait_until(1, soon()).ok());
  OK_OR_DIE(void* want, one.hidden.map());
  for (uint32_t ranks : {2u, 4u}) {
    std::vector<Bench> all;
    std::vector<Timeline> made, ended;
    for (uint32_t r = 0; r < ranks; ++r) {
      OK_OR_DIE(Bench b, prepare(dev, mlp(r, ranks), ids, r, r, ranks));
      all.push_back(std::move(b));
      OK_OR_DIE(Timeline m, instance.timeline("made"));
      made.push_back(std::move(m));
      OK_OR_DIE(Timeline e, instance.timeline("ended"));
      ended.push_back(std::move(e));
    }
    for (uint64_t round = 1; round <= 3; ++round) {
      for (uint32_t r = 0; r < ranks; ++r) {
        auto rank_bound = bindings(all[r], ids.size());
        ASSERT_TRUE(all[r].queue.submit({launch_of(all[r], rank_bound, args).progress(made[r], (round - 1) * kLayers).signal(ended[r], round)}).ok());
      }
      for (uint32_t r = 0; r < ranks; ++r) {
        Status s = ended[r].wait_until(round, soon());
        ASSERT_TRUE(s.ok()) << s.error().text();
        EXPECT_EQ(*made[r].value(), round * kLayers);
        OK_OR_DIE(void* got, all[r].hidden.map());
        EXPECT_EQ(std::memcmp(got, want, ids.size() * kHidden * 4), 0) << "rank " << r << " of " << ranks;
      }
    }
  }
}

TEST_F(NeuronLaunch, PoisonedProgressCancelsAWaitingRank) {
  OK_OR_DIE(Device dev, open("?timing=none"));
  std::vector<int32_t> ids = {5, 9, 30};
  std::vector<int64_t> args = {3, 0};
  OK_OR_DIE(Bench a, prepare(dev, mlp(0, 2), ids, 0, 0, 2));
  OK_OR_DIE(Bench b, prepare(dev, mlp(1, 2), ids, 1, 1, 2));
  OK_OR_DIE(Timeline made, instance.timeline("made"));
  OK_OR_DIE(Timeline done, instance.timeline("done"));
  auto bound_a = bindings(a, 3), bound_b = bindings(b, 3);
  ASSERT_TRUE(a.queue.submit({launch_of(a, bound_a, args).progress(made).signal(done, 1)}).ok());
  ASSERT_EQ(done.wait_until(1, deadline_in_ms(20)).error().code, BATON_DEADLINE);  // rank 1 never comes
  made.poison(Error(BATON_CANCELLED, "the request was cancelled"));
  uint64_t began = now_ns();
  Status s = done.wait_until(1, soon());
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_CANCELLED) << s.error().text();
  EXPECT_LT(now_ns() - began, 2'000'000'000u);
  // The pair goes on.
  OK_OR_DIE(Timeline again, instance.timeline("again"));
  OK_OR_DIE(Timeline again_b, instance.timeline("again b"));
  ASSERT_TRUE(a.queue.submit({launch_of(a, bound_a, args).signal(again, 1)}).ok());
  ASSERT_TRUE(b.queue.submit({launch_of(b, bound_b, args).signal(again_b, 1)}).ok());
  Status after = again.wait_until(1, soon());
  EXPECT_TRUE(after.ok()) << after.error().text();
  EXPECT_TRUE(again_b.wait_until(1, soon()).ok());
}

TEST_F(NeuronLaunch, ClosingAQueueEndsALaunchThatWaits) {
  OK_OR_DIE(Device dev, open("?timing=none"));
  std::vector<int32_t> ids = {5, 9, 30};
  std::vector<int64_t> args = {3, 0};
  OK_OR_DIE(Timeline made, instance.timeline("made"));
  OK_OR_DIE(Timeline done, instance.timeline("done"));
  {
    OK_OR_DIE(Bench a, prepare(dev, mlp(0, 2), ids, 0, 0, 2));
    OK_OR_DIE(Bench b, prepare(dev, mlp(1, 2), ids, 1, 1, 2));
    auto bound = bindings(a, 3);
    ASSERT_TRUE(a.queue.submit({launch_of(a, bound, args).progress(made).signal(done, 1)}).ok());
    (void)instance.poll();
  }
  EXPECT_EQ(done.value().error().code, BATON_CANCELLED);
}

TEST_F(NeuronLaunch, ResetMakesOldHandlesStaleAndTheDeviceUsable) {
  OK_OR_DIE(Device dev, open("?timing=none"));
  std::vector<int32_t> ids = {5, 9, 30};
  std::vector<int64_t> args = {3, 0};
  OK_OR_DIE(DeviceInfo before, dev.info());
  {
    OK_OR_DIE(Bench a, prepare(dev, mlp(0, 2), ids, 0, 0, 2));
    OK_OR_DIE(Timeline done, instance.timeline("done"));
    auto bound = bindings(a, 3);
    ASSERT_TRUE(a.queue.submit({launch_of(a, bound, args).signal(done, 1)}).ok());
    (void)instance.poll();
    ASSERT_TRUE(dev.reset_device().ok());
    EXPECT_EQ(done.wait_until(1, soon()).error().code, BATON_DEVICE_LOST);
    EXPECT_FALSE(a.queue.submit({launch_of(a, bound, args)}).ok());
  }
  OK_OR_DIE(DeviceInfo after, dev.info());
  EXPECT_GT(after.epoch, before.epoch);
  EXPECT_EQ(after.heaps[0].bytes_used, before.heaps[0].bytes_used);
  OK_OR_DIE(Bench b, prepare(dev, mlp(), ids, 0, 0, 1));
  OK_OR_DIE(Timeline done, instance.timeline("done"));
  auto bound = bindings(b, 3);
  ASSERT_TRUE(b.queue.submit({launch_of(b, bound, args).signal(done, 1)}).ok());
  Status s = done.wait_until(1, soon());
  EXPECT_TRUE(s.ok()) << s.error().text();
}

TEST_F(NeuronLaunch, SleepingPollerHearsMarks) {
  OK_OR_DIE(Device dev, open("?timing=none"));
  std::vector<int32_t> ids = {5, 9, 30};
  std::vector<int64_t> args = {3, 0};
  OK_OR_DIE(Bench a, prepare(dev, mlp(0, 2), ids, 0, 0, 2));
  OK_OR_DIE(Bench b, prepare(dev, mlp(1, 2), ids, 1, 1, 2));
  OK_OR_DIE(Timeline made, instance.timeline("made"));
  OK_OR_DIE(Timeline done, instance.timeline("done"));
  auto bound_a = bindings(a, 3), bound_b = bindings(b, 3);
  ASSERT_TRUE(a.queue.submit({launch_of(a, bound_a, args).progress(made).signal(done, 1)}).ok());
  ASSERT_TRUE(b.queue.submit({launch_of(b, bound_b, args)}).ok());
  Status s = made.wait_until(1, soon());  // through the descriptor, not by luck of a spinning poll
  EXPECT_TRUE(s.ok()) << s.error().text();
  EXPECT_TRUE(done.wait_until(1, soon()).ok());
}

TEST(NeuronLeaks, HundredTimesOpenWorkClose) {
  TinyModel m = mlp();
  std::vector<int32_t> ids = {1, 2};
  auto round = [&] {
    auto in = Instance::create();
    ASSERT_TRUE(in.ok());
    OK_OR_DIE(Device dev, in->open("emu+neuron://0?timing=none"));
    OK_OR_DIE(Buffer a, dev.alloc(1 << 20));
    OK_OR_DIE(Buffer hidden, dev.alloc(kMaxTokens * kHidden * 4));
    OK_OR_DIE(Buffer::Export x, a.export_fd());
    close(x.fd);
    auto constants = m.constants();
    OK_OR_DIE(Program p, dev.load(m.bytes, constants, 0));
    OK_OR_DIE(Queue q, dev.queue(0));
    OK_OR_DIE(Timeline done, in->timeline("done"));
    std::vector<baton_binding> bound = {bind("ids", a, 0, 8), bind("hidden", hidden)};
    std::vector<int64_t> args = {2, 0};
    ASSERT_TRUE(q.submit({fill(a, 0, 4096, 0), launch(p, bound, args).wait(done, 0).signal(done, 1)}).ok());
    Status s = done.wait_until(1, soon());
    ASSERT_TRUE(s.ok()) << s.error().text();
  };
  round();
  round();
  Holdings before = holdings(getpid());
  for (int i = 0; i < 100; ++i) round();
  Holdings after = holdings(getpid());
  EXPECT_EQ(after.fds, before.fds);
  EXPECT_EQ(after.shared_mappings, before.shared_mappings);
}

}  // namespace
}  // namespace baton::test
