// Layers as such (names, order, passing on, absent when off), delay and trace.
#include "hal/core/device.h"
#include "tests/unit/layers_test.hpp"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdlib>
#include <map>

namespace baton::test {
namespace {

using nlohmann::json;

TEST(Layers, AWrongListIsRefused) {
  EXPECT_CODE(try_layered("nosuch"), BATON_NOT_FOUND);
  EXPECT_NE(std::string(try_layered("nosuch").error().next).find("fault"), std::string::npos) << "the installed ones are named";
  for (const char* list : {"=x", "Fault", "delay=1us,,trace", "../delay"}) EXPECT_CODE(try_layered(list), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(try_layered("delay=soon"), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(try_layered("delay=5us..1us"), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(try_layered("delay=1us?MOP=2us"), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(try_layered("trace"), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(try_layered("trace=/nowhere/t.json"), BATON_IO);
  EXPECT_CODE(try_layered("fault=/nowhere/plan.json"), BATON_NOT_FOUND);
  ScratchFile broken("{\"rules\": [{\"op\": \"COPY\", \"action\": \"explode\"}]}");
  auto in = try_layered("fault=" + broken.path());
  EXPECT_CODE(in, BATON_INVALID_ARGUMENT);
  EXPECT_NE(std::string(in.error().what).find(broken.path() + ": fault plan rule 1"), std::string::npos) << in.error().what;
}

TEST(Layers, TheEnvironmentNamesThemUnlessTheCallerDoes) {
  setenv("BATON_LAYERS", "nosuch", 1);
  baton_instance_options o{sizeof o, 0, kDrivers, nullptr, nullptr};
  EXPECT_CODE(Instance::create(&o), BATON_NOT_FOUND);
  o.layers = "";
  EXPECT_OK(Instance::create(&o));
  o.layers = "delay=1us";
  EXPECT_OK(Instance::create(&o));
  o.layers = "";
  o.struct_size = offsetof(baton_instance_options, layers);  // a caller from before there were layers
  EXPECT_CODE(Instance::create(&o), BATON_NOT_FOUND);
  unsetenv("BATON_LAYERS");
}

// Nothing is called in between: the core calls the very function that the driver's file exports.
TEST(Layers, WithoutLayersTheDriversTableIsTheOneThatIsCalled) {
  Instance none = layered(""), one = layered("delay=0");
  Device plain = must(none.open("host://")), wrapped = must(one.open("host://"));
  void* file = dlopen(BATON_BUILD_DIR "/lib/baton/libbaton-driver-host.so", RTLD_NOW | RTLD_NOLOAD);
  ASSERT_NE(file, nullptr);
  const baton_driver* table = reinterpret_cast<baton_driver_fn>(dlsym(file, BATON_DRIVER_SYMBOL))();
  EXPECT_EQ(plain.get()->driver->submit, table->submit);
  EXPECT_EQ(plain.get()->driver->poll, table->poll);
  EXPECT_EQ(plain.get()->driver->alloc, table->alloc);
  EXPECT_NE(wrapped.get()->driver->submit, table->submit);
  dlclose(file);
}

TEST(Layers, WhatADeviceCannotStaysUnsupported) {
  ScratchFile plan(R"({"rules": []})");
  Instance in = layered("delay=0,fault=" + plan.path());
  Device fake = must(in.open("fake://x"));
  EXPECT_CODE(fake.telemetry(), BATON_UNSUPPORTED);
  EXPECT_CODE(fake.import_fd(0, 0, 16), BATON_UNSUPPORTED);
  EXPECT_EQ(std::string(must(fake.info()).name), "fake0");
  EXPECT_CODE(in.open("fake://refuse"), BATON_BUSY);
}

class StackOn : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Devices, StackOn, ::testing::Values("host://", "emu+neuron://0", "emu+cs3://0"));

TEST_P(StackOn, SeveralLayersAtOnce) {
  ScratchFile plan(R"({"rules": [{"op": "NOP", "tag": 9, "nth": 1, "action": "duplicate"}]})"), trace, calls;
  {
    Rig r("trace=" + trace.path() + ",record=" + calls.path() + ",fault=" + plan.path() + ",delay=1us..20us?seed=5", GetParam());
    for (uint64_t i = 0; i < Rig::kBytes; ++i) r.bytes[i] = uint8_t(i * 7);
    EXPECT_OK(r.run(copy(r.plain, 0, r.memory, 0, Rig::kBytes).tagged(1).signal(r.t, 1), 1));
    EXPECT_OK(r.run(fill(r.memory, 0, 1024, 0x77).tagged(2).signal(r.t, 2), 2));
    EXPECT_OK(r.run(copy(r.memory, 0, r.plain, 0, Rig::kBytes).tagged(3).signal(r.t, 3), 3));
    std::vector<Op> many(500);
    std::vector<Timeline> each;  // random delays end them in another order
    for (Op& op : many) {
      each.push_back(must(r.in.timeline("each")));
      op.tagged(9).signal(each.back(), 1);
    }
    EXPECT_OK(r.queue.submit(many));
    for (Timeline& t : each) EXPECT_OK(t.wait_until(1, soon()));
    for (uint64_t i = 0; i < Rig::kBytes; ++i) ASSERT_EQ(r.bytes[i], i < 1024 ? 0x77 : uint8_t(i * 7)) << i;
    EXPECT_OK(r.device.reset_device());
    Queue again = must(r.device.queue());
    EXPECT_OK(again.submit(nop().signal(r.t, 4)));
    EXPECT_OK(r.t.wait_until(4, soon()));
  }
  json events = json::parse(trace.read(), nullptr, false)["traceEvents"];
  ASSERT_TRUE(events.is_array()) << trace.read().substr(0, 400);
  std::map<std::string, int> count;
  bool modelled = false;
  for (auto& e : events) {
    if (e["ph"] != "X") continue;
    ++count[e["name"].get<std::string>()];
    modelled = modelled || (e["pid"] == 2 && e["dur"] > 0);
    EXPECT_GE(e["dur"].get<double>(), 0);
  }
  EXPECT_GE(count["COPY"], 2);
  EXPECT_EQ(count["NOP"], 501) << "a duplicate completion is not a span of its own, and none is lost";
  EXPECT_EQ(count["alloc"], 2);
  EXPECT_EQ(count["reset"], 1);
  EXPECT_EQ(modelled, std::string(GetParam()) != "host://") << "the emulated ones";
}

TEST(Delay, HoldsBackByKindAndReleasesFromPoll) {
  Rig r("delay=0?FILL=4ms&NOP=1us", "host://");
  uint64_t began = now_ns();
  EXPECT_OK(r.run(fill(r.memory, 0, 64, 1).signal(r.t, 1), 1));
  EXPECT_GE(now_ns() - began, 4'000'000u);
  began = now_ns();
  EXPECT_OK(r.queue.submit(fill(r.memory, 0, 64, 1).signal(r.t, 2)));
  EXPECT_EQ(must(r.t.value()), 1u) << "not inside submit";
  while (must(r.t.value()) < 2) r.in.poll_wait(soon());  // asleep until the descriptor is readable
  EXPECT_GE(now_ns() - began, 4'000'000u);
}

TEST(Delay, WhatIsHeldIsLetGoWhenCancelled) {
  Instance in = layered("delay=30s");
  Device d = must(in.open("host://"));
  Queue q = must(d.queue());
  Timeline t = must(in.timeline("t"));
  EXPECT_OK(q.submit(nop().signal(t, 1)));
  const uint64_t began = now_ns();
  q.reset();
  EXPECT_LT(now_ns() - began, 4'000'000'000u);
  EXPECT_CODE(t.wait_until(1, soon()), BATON_CANCELLED);
}

TEST(Trace, EachProcessAndInstanceHasItsOwnFile) {
  ScratchFile f;
  const std::string name = f.path() + "-%p", first = f.path() + "-" + std::to_string(getpid()), second = first + "-2";
  {
    Instance a = layered("trace=" + name), b = layered("trace=" + name);
    Instance c = layered("trace=" + f.path());
    EXPECT_CODE(try_layered("trace=" + f.path()), BATON_BUSY);
  }
  for (const std::string& path : {first, second, f.path()}) {
    std::ifstream in(path);
    EXPECT_TRUE(json::accept(in)) << path;
  }
  unlink(first.c_str());
  unlink(second.c_str());
}

}  // namespace
}  // namespace baton::test
