// record, and devctl replay: the same results on the device recorded and on another; a result that differs is found, a recording that
// cannot be replayed is refused.
#include "hal/program/program.hpp"
#include "tests/support/process.h"
#include "tests/unit/layers_test.hpp"

#include <nlohmann/json.hpp>

namespace baton::test {
namespace {

using nlohmann::json;

struct Ran {
  int code;
  json document;
  std::string err;
};

Ran replay(const std::string& file, std::vector<std::string> more = {}) {
  std::vector<std::string> args = {tool("devctl"), "replay", file, "-o", "json"};
  args.insert(args.end(), more.begin(), more.end());
  Process p(args);
  p.close_stdin();
  Exit e = p.wait(120'000);
  EXPECT_TRUE(e.ended);
  return {e.code, json::parse(p.out(), nullptr, false), p.err()};
}

std::vector<uint8_t> doubling() {
  program::Builder b("double");
  uint32_t x = b.value("x", program::DType::f32, program::Storage::input, {1, 8});
  uint32_t y = b.value("y", program::DType::f32, program::Storage::output, {1, 8});
  b.program().ops.push_back({.code = program::OpCode::add, .in = {x, x}, .out = {y}});
  return program::serialize(must(std::move(b).finish()));
}

// Copies in, launches, fills, copies out: y = x + x, then half of x overwritten.
void session(const std::string& layers, const std::string& uri) {
  Rig r(layers, uri);
  Program p = must(r.device.load(doubling(), {}));
  Buffer x = must(r.device.alloc(32)), y = must(r.device.alloc(32));
  float numbers[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  std::memcpy(r.bytes, numbers, sizeof numbers);
  EXPECT_OK(r.run(copy(r.plain, 0, x, 0, 32).tagged(1).signal(r.t, 1), 1));
  const baton_binding bound[] = {bind("x", x), bind("y", y)};
  EXPECT_OK(r.run(launch(p, bound, {}).tagged(2).signal(r.t, 2), 2));
  EXPECT_OK(r.run(copy(y, 0, r.plain, 64, 32).tagged(3).signal(r.t, 3), 3));
  std::memcpy(numbers, r.bytes + 64, sizeof numbers);
  EXPECT_EQ(numbers[7], 16);
  EXPECT_OK(r.run(fill(x, 0, 16, 0x3f800000, 4).tagged(4).signal(r.t, 4), 4));
  EXPECT_OK(r.run(copy(x, 0, r.plain, 128, 32).tagged(5).signal(r.t, 5), 5));
  EXPECT_CODE(r.device.alloc(uint64_t(1) << 60), BATON_CAPACITY);  // a failure is recorded and replayed as well
}

class ReplayOf : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Devices, ReplayOf, ::testing::Values("host://", "emu+neuron://0", "emu+cs3://0"));

TEST_P(ReplayOf, GivesTheSameResults) {
  ScratchFile calls;
  session("record=" + calls.path() + "?mapped=1", GetParam());
  Ran same = replay(calls.path());
  EXPECT_EQ(same.code, 0) << same.err << same.document.dump(1);
  EXPECT_EQ(same.document["ops"], 5);
  EXPECT_GE(same.document["compared"], 10);
  EXPECT_EQ(same.document["stopped"], "");
  // On another device: what it computes is the same, bit for bit.
  Ran other = replay(calls.path(), {"--device", "host://"});
  EXPECT_EQ(other.code, 0) << other.err << other.document.dump(1);
}

TEST(Replay, FindsAResultThatDiffers) {
  ScratchFile calls, plan(R"({"seed": 2, "rules": [{"op": "COPY", "tag": 3, "action": "corrupt"}, {"op": "FILL", "action": "fail", "code": "IO"}]})");
  {
    Rig r("record=" + calls.path() + ",fault=" + plan.path(), "host://");
    EXPECT_OK(r.queue.submit(copy(r.plain, 0, r.memory, 0, 64).signal(r.t, 1)));
    EXPECT_OK(r.t.wait_until(1, soon()));
    EXPECT_OK(r.queue.submit(copy(r.memory, 0, r.plain, 64, 64).tagged(3).signal(r.t, 2)));
    EXPECT_OK(r.t.wait_until(2, soon()));
    EXPECT_OK(r.queue.submit(fill(r.memory, 0, 64, 0).signal(r.t, 3)));
    EXPECT_CODE(r.t.wait_until(3, soon()), BATON_IO);
  }
  Ran r = replay(calls.path());  // without the faults
  EXPECT_EQ(r.code, 1) << r.err;
  ASSERT_EQ(r.document["differences"].size(), 2u) << r.document.dump(1);
  EXPECT_NE(r.document["differences"][0]["what"].get<std::string>().find("wrote"), std::string::npos);
  EXPECT_EQ(r.document["differences"][1]["recorded"], "IO");
  EXPECT_EQ(r.document["differences"][1]["replayed"], "OK");
}

TEST(Replay, RefusesWhatItCannotDo) {
  ScratchFile few, text("{\"schema\":\"baton.record/1\"}\n{\"call\":\"submit\"\n"), other("{}\n");
  session("record=" + few.path() + "?inline=8", "host://");
  EXPECT_EQ(replay(few.path()).code, 6);  // contents by their hash alone
  Ran malformed = replay(text.path());
  EXPECT_EQ(malformed.code, 2);
  EXPECT_NE(malformed.err.find("line 2"), std::string::npos) << malformed.err;
  EXPECT_EQ(replay(other.path()).code, 2);
  EXPECT_EQ(replay("/nowhere").code, 3);
}

}  // namespace
}  // namespace baton::test
