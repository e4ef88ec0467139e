// Compiled programs: what the driver does with a runtime that takes no portable container (the emulator's neff=compiled), and with a folder of
// what a compiler made. A stand-in for the compiler packs the portable program with its constants as inputs, as a compiled one has them.
#include "drivers/neuron/neff.hpp"
#include "hal/baton.hpp"
#include "hal/program/program.hpp"
#include "tests/support/process.h"
#include "tests/unit/neuron_models.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace baton::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

uint64_t soon() { return deadline_in_ms(60'000); }

template <class T>
T must(Result<T> r) {
  if (!r.ok()) {
    ADD_FAILURE() << r.error().text();
    std::abort();
  }
  return std::move(*r);
}

std::vector<uint8_t> slurp(const std::string& path) {
  std::ifstream f(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(f), {}};
}

// FOLDER/FINGERPRINT.neff for the program, as if a compiler had made it.
std::string compile(const std::string& folder, std::span<const uint8_t> bytes, uint32_t lnc = 2) {
  const program::Program p = must(program::parse(bytes));
  std::vector<baton_constant> constants;
  for (const program::Value& v : p.values) {
    if (v.storage != program::Storage::constant) continue;
    uint64_t n = dtype_bytes(v.dtype);
    for (int64_t d : v.shape) n *= uint64_t(d);
    constants.push_back({v.name.c_str(), nullptr, n});
  }
  auto neff = must(neuron::Neff::build(p.name, lnc, bytes, constants));
  std::snprintf(reinterpret_cast<neuron::NeffHeader*>(neff.data())->build_version, 32, "stand-in");
  const std::string path = folder + "/" + program::fingerprint(bytes) + ".neff";
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(neff.data()), std::streamsize(neff.bytes()));
  return path;
}

class Artifacts : public testing::Test {
 protected:
  std::string uri(const std::string& folder) { return "emu+neuron://0?neff=compiled" + (folder.empty() ? "" : "&artifacts=" + folder); }
  static Result<Program> load(const Device& d, const TinyModel& m, uint32_t lane = 0, uint32_t rank = 0, uint32_t ranks = 1) {
    const auto constants = m.constants();
    return d.load(m.bytes, constants, lane, rank, ranks);
  }
  // hidden of ids, by one launch of a program on `lane`; every rank's must be launched by then.
  struct Call {
    Buffer ids, hidden;
    Queue queue;
    Timeline done;
  };
  Call launch_on(const Device& d, const Program& p, uint32_t lane) {
    Call c{must(d.alloc(4096, lane)), must(d.alloc(kMaxTokens * kHidden * 4, lane)), must(d.queue(lane)), must(instance.timeline("done"))};
    std::memcpy(must(c.ids.map()), ids.data(), ids.size() * 4);
    std::vector<baton_binding> b = {bind("ids", c.ids, 0, ids.size() * 4), bind("hidden", c.hidden)};
    const std::vector<int64_t> args = {int64_t(ids.size()), 0};
    EXPECT_TRUE(c.queue.submit({launch(p, b, args).signal(c.done, 1)}).ok());
    return c;
  }
  std::vector<float> result(const Call& c) {
    const Status s = c.done.wait_until(1, soon());
    EXPECT_TRUE(s.ok()) << s.error().text();
    const auto* at = static_cast<const float*>(must(c.hidden.map()));
    return {at, at + ids.size() * kHidden};
  }
  std::vector<float> run(const Device& d, const Program& p, uint32_t lane = 0) { return result(launch_on(d, p, lane)); }
  std::vector<float> portable(const TinyModel& m) {
    Device d = must(instance.open("emu+neuron://0"));
    return run(d, must(load(d, m)));
  }
  Instance instance = must(Instance::create());
  TempDir folder;
  const std::vector<int32_t> ids = {5, 9, 30, 1, 44};
};

TEST_F(Artifacts, ARuntimeThatTakesNoPortableProgramSaysWhatIsMissing) {
  const TinyModel m = mlp();
  {
    Device d = must(instance.open(uri("")));
    auto p = load(d, m);
    ASSERT_FALSE(p.ok());
    EXPECT_EQ(p.error().code, BATON_VERSION);
    EXPECT_THAT(p.error().what, HasSubstr("'tiny mlp' is not compiled for this runtime, and no folder of artifacts is named"));
    EXPECT_THAT(p.error().next, HasSubstr("devctl artifacts"));
  }
  Device d = must(instance.open(uri(folder.path())));
  auto p = load(d, m);
  ASSERT_FALSE(p.ok());
  EXPECT_EQ(p.error().code, BATON_VERSION);
  EXPECT_THAT(p.error().what, HasSubstr("there is no " + folder.path() + "/" + program::fingerprint(m.bytes) + ".neff"));
}

TEST_F(Artifacts, ACompiledProgramHasTheBitsOfThePortableOneWithItsWeightsOnTheDevice) {
  const TinyModel m = mlp();
  const std::vector<float> want = portable(m);
  compile(folder.path(), m.bytes);
  Device d = must(instance.open(uri(folder.path())));
  const uint64_t before = must(d.info()).heaps[0].bytes_used;
  Program p = must(load(d, m));
  uint64_t weights = 0;
  for (const auto& w : m.data) weights += w.size();
  EXPECT_GE(must(d.info()).heaps[0].bytes_used - before, weights);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(run(d, p), want);
  // The same program with other weights is the same artifact, and not the same model.
  TinyModel other = mlp();
  for (auto& w : other.data) std::fill(w.begin(), w.end(), uint8_t(0));
  Program zero = must(load(d, other));
  EXPECT_EQ(run(d, zero), std::vector<float>(want.size(), 0.f));
  EXPECT_EQ(run(d, p), want);
  p.reset();
  zero.reset();
  EXPECT_EQ(must(d.info()).heaps[0].bytes_used, before) << "the weights go with the program";
  // The variable says the same as the option.
  setenv("BATON_NEURON_ARTIFACTS", folder.path().c_str(), 1);
  d.reset();
  Device by_variable = must(instance.open(uri("")));
  EXPECT_EQ(run(by_variable, must(load(by_variable, m))), want);
  unsetenv("BATON_NEURON_ARTIFACTS");
}

TEST_F(Artifacts, RanksLoadTheirsAndMeet) {
  const std::vector<float> want = portable(mlp());
  std::vector<TinyModel> models;
  for (uint32_t r = 0; r < 2; ++r) compile(folder.path(), models.emplace_back(mlp(r, 2)).bytes);
  EXPECT_EQ(program::fingerprint(models[0].bytes), program::fingerprint(models[1].bytes)) << "ranks differ in their weights alone";
  Device d = must(instance.open(uri(folder.path())));
  std::vector<Program> programs;
  std::vector<Call> calls;
  for (uint32_t r = 0; r < 2; ++r) programs.push_back(must(load(d, models[r], r, r, 2)));
  for (uint32_t r = 0; r < 2; ++r) calls.push_back(launch_on(d, programs[r], r));
  for (const Call& c : calls) EXPECT_EQ(result(c), want);
}

TEST_F(Artifacts, WhatIsNotThatProgramIsRefused) {
  const TinyModel m = mlp(), other = generator();
  const std::string path = compile(folder.path(), m.bytes);
  std::filesystem::copy_file(compile(folder.path(), other.bytes), path, std::filesystem::copy_options::overwrite_existing);
  Device d = must(instance.open(uri(folder.path())));
  auto p = load(d, m);
  ASSERT_FALSE(p.ok());
  EXPECT_EQ(p.error().code, BATON_MISMATCH) << p.error().text();
  EXPECT_THAT(p.error().what, HasSubstr("is not program 'tiny mlp': it has no "));
  for (uint64_t bytes : {uint64_t(0), uint64_t(100), uint64_t(5000)}) {
    compile(folder.path(), m.bytes);
    std::filesystem::resize_file(path, bytes);
    EXPECT_FALSE(load(d, m).ok()) << bytes;
  }
  compile(folder.path(), m.bytes, 1);
  EXPECT_THAT(load(d, m).error().what, HasSubstr("LNC 1")) << "compiled for another machine";
  compile(folder.path(), m.bytes);
  EXPECT_TRUE(load(d, m).ok());
}

// Of equal loads the runtime has one model; of loads that differ in lane or weights, each its own.
TEST_F(Artifacts, EqualLoadsShareOneModel) {
  Device d = must(instance.open("emu+neuron://0"));
  const TinyModel m = mlp();
  uint64_t weights = 0;
  for (const auto& w : m.data) weights += w.size();
  auto used = [&](uint32_t heap = 0) { return must(d.info()).heaps[heap].bytes_used; };
  const uint64_t empty = used();
  Program first = must(load(d, m));
  const uint64_t one = used();
  EXPECT_GE(one - empty, weights);
  Program second = must(load(d, m));
  EXPECT_LT(used() - one, weights) << "arguments alone";
  const std::vector<float> want = run(d, first);
  EXPECT_EQ(run(d, second), want);
  first.reset();
  EXPECT_EQ(run(d, second), want) << "the other's model is still its own";
  TinyModel other = mlp();
  other.data[1][3] ^= 1;
  const uint64_t before = used();
  Program differs = must(load(d, other));
  EXPECT_GE(used() - before, weights);
  Program elsewhere = must(load(d, m, 1));
  EXPECT_EQ(run(d, elsewhere, 1), want);
  ASSERT_TRUE(d.reset_device().ok());
  EXPECT_EQ(used(), empty) << "a reset gives all of them back";
  second.reset();
  EXPECT_EQ(run(d, must(load(d, m))), want);
}

json devctl(std::vector<std::string> args, int code) {
  args.insert(args.begin(), {tool("devctl"), "artifacts", std::string(BATON_SOURCE_DIR) + "/models/baton-tiny", "-o", "json"});
  Process p(args);
  p.close_stdin();
  const Exit e = p.wait(60'000);
  EXPECT_EQ(e.code, code) << p.err();
  return json::parse(p.out(), nullptr, false);
}

// From the list to the tokens: what devctl says is missing, compiled, is what the runtime then asks for.
TEST_F(Artifacts, TheListIsWhatTheRuntimeLoads) {
  json j = devctl({"--tp", "2", "--context", "256", "--artifacts", folder.path(), "--programs", folder.path()}, 1);
  ASSERT_TRUE(j.is_object());
  EXPECT_EQ(j["schema"], "baton.devctl.artifacts/1");
  ASSERT_EQ(j["programs"].size(), 2u) << "both ranks' prefill, and decode";
  EXPECT_EQ(j["missing"], 2);
  EXPECT_EQ(j["programs"][0]["role"], "prefill");
  EXPECT_EQ(j["programs"][0]["ranks"], json({0, 1}));
  EXPECT_EQ(j["programs"][0]["max_context"], 256);
  EXPECT_GT(j["programs"][0]["weight_bytes"], 1000000);
  for (const json& p : j["programs"]) {
    EXPECT_EQ(p["found"], false);
    compile(folder.path(), slurp(folder.path() + "/" + p["fingerprint"].get<std::string>() + ".program"));
  }
  j = devctl({"--tp", "2", "--context", "256", "--artifacts", folder.path()}, 0);
  EXPECT_EQ(j["missing"], 0);
  EXPECT_EQ(j["programs"][1]["found"], true);
  EXPECT_EQ(devctl({"--context", "256", "--artifacts", folder.path()}, 1)["missing"], 1) << "of one rank another prefill";

  j = devctl({"--role", "decode", "--context", "256"}, 0);
  ASSERT_EQ(j["programs"].size(), 1u);
  EXPECT_EQ(j["programs"][0]["role"], "decode");

  auto generate = [&](const std::string& prefill) {
    Process p({tool("baton"), "generate", "--prefill", prefill, "--decode", "emu+cs3://0", "--tp", "2", "--context", "256", "--max-tokens", "8", "--ignore-eos", "It is a truth"});
    p.close_stdin();
    const Exit e = p.wait(60'000);
    EXPECT_EQ(e.code, 0) << p.err();
    return p.out();
  };
  const std::string text = generate("emu+neuron://0");
  EXPECT_NE(text, "");
  EXPECT_EQ(generate(uri(folder.path())), text);
}

}  // namespace
}  // namespace baton::test
