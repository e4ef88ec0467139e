// Handles that are used after their end, freed too early, never freed; drivers that complete what they should not.
#include "tests/unit/validate_test.hpp"

#include <fstream>
#include <regex>

namespace baton::test {
namespace {

using HandlesTest = ValidateTest;

TEST_F(HandlesTest, UsedAfterFree) {
  Device d = open("fake://?map=1");
  Queue q = must(d.queue());
  Timeline t = timeline();
  baton_buffer* b = nullptr;
  ASSERT_EQ(baton_alloc(d.get(), 0, 4096, &b, nullptr), BATON_OK);
  baton_free(b);
  EXPECT_TRUE(found.empty());
  void* p = nullptr;
  EXPECT_EQ(baton_map(b, &p, nullptr), BATON_INVALID_ARGUMENT);
  expect("use-after-free", "caller", true, "baton_map names a buffer of 4096 bytes on fake:// that was destroyed");
  baton_free(b);
  expect("use-after-free", "caller", true, "baton_free names a buffer of 4096 bytes on fake:// that was destroyed");
  Op fill = nop().tagged(9).signal(t, 1);
  fill.opcode = BATON_OP_FILL;
  fill.u.fill = {b, 0, 4096, 0, 1};
  EXPECT_CODE(q.submit(fill), BATON_INVALID_ARGUMENT);
  expect("use-after-free", "caller", true,
         "baton_submit (tag 9, queue 'fake:// lane 0') names a buffer of 4096 bytes on fake:// that was destroyed");
  EXPECT_EQ(must(t.value()), 0u);
}

TEST_F(HandlesTest, EachKindOfHandle) {
  baton_timeline* t = nullptr;
  ASSERT_EQ(baton_timeline_create(in.get(), "t", &t, nullptr), BATON_OK);
  baton_timeline_destroy(t);
  baton_timeline_signal(t, 1, 0);
  expect("use-after-free", "caller", true, "baton_timeline_signal names a timeline 't' that was destroyed");
  EXPECT_EQ(baton_timeline_wait(t, 1, soon(), nullptr), BATON_INVALID_ARGUMENT);
  expect("use-after-free", "caller", true, "baton_timeline_wait names a timeline 't' that was destroyed");
  EXPECT_EQ(baton_timeline_query(t, nullptr, nullptr), BATON_INVALID_ARGUMENT);
  expect("use-after-free", "caller", true, "baton_timeline_query names a timeline 't' that was destroyed");

  Device d = open("fake://");
  baton_queue* q = nullptr;
  baton_program* p = nullptr;
  ASSERT_EQ(baton_load(d.get(), 0, "x", 1, nullptr, 0, 0, 1, &p, nullptr), BATON_OK);
  ASSERT_EQ(baton_queue_open(d.get(), 0, &q, nullptr), BATON_OK);
  Op op = nop().tagged(3);
  static_cast<baton_op&>(op).signal[0] = {t, 1};
  EXPECT_EQ(baton_submit(q, &op, 1, nullptr), BATON_INVALID_ARGUMENT);
  expect("use-after-free", "caller", true, "baton_submit (tag 3, queue 'fake:// lane 0') names a timeline 't' that was destroyed");
  baton_unload(p);
  op = nop();
  op.opcode = BATON_OP_LAUNCH;
  op.u.launch.program = p;
  EXPECT_EQ(baton_submit(q, &op, 1, nullptr), BATON_INVALID_ARGUMENT);
  expect("use-after-free", "caller", true, "baton_submit (tag 0, queue 'fake:// lane 0') names a program on fake:// lane 0 that was destroyed");
  baton_queue_close(q);
  op = nop();
  EXPECT_EQ(baton_submit(q, &op, 1, nullptr), BATON_INVALID_ARGUMENT);
  expect("use-after-free", "caller", true, "baton_submit names a queue 'fake:// lane 0' that was destroyed");
  baton_device* gone = open("fake://b").get();  // closed at once
  EXPECT_EQ(baton_queue_open(gone, 0, &q, nullptr), BATON_INVALID_ARGUMENT);
  expect("use-after-free", "caller", true, "baton_queue_open names a device fake://b that was destroyed");
}

TEST_F(HandlesTest, FreedInFlight) {
  Device d = open("fake://?map=1");
  Queue q = must(d.queue());
  Program p = must(d.load(std::vector<uint8_t>{1}, {}));
  Buffer a = must(d.alloc(64)), b = must(d.alloc(128));
  Timeline gate = timeline("gate"), done = timeline("done"), mine = timeline("mine");
  const baton_binding bindings[] = {bind("x", b)};
  EXPECT_OK(q.submit(fill(a, 0, 64, 0).tagged(1).wait(gate, 1).signal(done, 1)));
  EXPECT_OK(q.submit(launch(p, bindings, {}).tagged(2).wait(gate, 1).wait(mine, 1).signal(done, 2)));
  a.reset();
  expect("free-in-flight", "caller", false,
         "buffer of 64 bytes on fake:// is freed while FILL (tag 1) on 'fake:// lane 0' uses it: the memory stays until the op is complete");
  b.reset();
  expect("free-in-flight", "caller", false,
         "buffer of 128 bytes on fake:// is freed while LAUNCH (tag 2) on 'fake:// lane 0' uses it: the memory stays until the op is complete");
  p.reset();
  expect("free-in-flight", "caller", false,
         "program on fake:// lane 0 is unloaded while LAUNCH (tag 2) on 'fake:// lane 0' uses it: it stays until the op is complete");
  mine.reset();
  expect("free-in-flight", "caller", false,
         "timeline 'mine' is destroyed while LAUNCH (tag 2) on 'fake:// lane 0' names it: ops that wait for it fail");
  gate.signal(1);
  in.poll();
}

TEST_F(HandlesTest, LeakedAtTheEnd) {
  Instance other = validating("validate");
  listen(other);
  baton_device* d = nullptr;
  baton_buffer* b = nullptr;
  baton_queue* q = nullptr;
  baton_timeline* t = nullptr;
  ASSERT_EQ(baton_open(other.get(), "host://", &d, nullptr), BATON_OK);
  for (int i = 0; i < 2; ++i) ASSERT_EQ(baton_alloc(d, 0, 4096, &b, nullptr), BATON_OK);
  ASSERT_EQ(baton_queue_open(d, 0, &q, nullptr), BATON_OK);
  ASSERT_EQ(baton_timeline_create(other.get(), "mine", &t, nullptr), BATON_OK);
  other.reset();
  EXPECT_THAT(texts(), ::testing::ElementsAre("leak: 1 queue is still open when the instance is destroyed: queue 'host:// lane 0'",
                                              "leak: 2 buffers are still open when the instance is destroyed: buffer of 4096 bytes on host://, ...",
                                              "leak: 1 device is still open when the instance is destroyed: device host://",
                                              "leak: 1 timeline is still open when the instance is destroyed: timeline 'mine'"));
}

TEST_F(HandlesTest, ManyDestroyedHandlesTakeBoundedMemory) {
  baton_timeline* first = nullptr;
  for (int i = 0; i < 20'000; ++i) {
    baton_timeline* t = nullptr;
    ASSERT_EQ(baton_timeline_create(in.get(), "", &t, nullptr), BATON_OK);
    baton_timeline_destroy(t);
    if (i == 10'000) first = t;
  }
  baton_timeline_signal(first, 1, 0);  // of the last 16,384: still known
  EXPECT_EQ(found.size(), 1u);
}

TEST(Validate, IsOffUnlessNamedAndRefusesWordsThatItDoesNotKnow) {
  Instance plain = make_instance();
  EXPECT_EQ(baton_set_finding_callback(plain.get(), nullptr, nullptr, nullptr), BATON_UNSUPPORTED);
  baton_instance_options o{sizeof o, 0, kDrivers, nullptr, "validate=loudly"};
  auto in = Instance::create(&o);
  ASSERT_FALSE(in.ok());
  EXPECT_EQ(in.error().code, BATON_INVALID_ARGUMENT);
  EXPECT_THAT(in.error().what, ::testing::HasSubstr("loudly"));
}

TEST(Validate, EveryRuleIsInTheReadmeWithALineThatItPrints) {
  auto slurp = [](const char* file) {
    std::ifstream f(std::string(BATON_SOURCE_DIR) + file);
    return std::string(std::istreambuf_iterator<char>(f), {});
  };
  const std::string rules = slurp("/hal/core/finding.h"), readme = slurp("/hal/README.md");
  const std::regex rule("\\{\"([a-z-]+)\", BATON_(MISUSE|WARNING), \"(caller|driver)\",\\s+\"([^\"]+)\"\\}");
  int n = 0;
  for (std::sregex_iterator it(rules.begin(), rules.end(), rule), end; it != end; ++it, ++n) {
    const std::string code = (*it)[1], severity = (*it)[2] == "MISUSE" ? "misuse" : "warning", blame = (*it)[3], next = (*it)[4];
    EXPECT_THAT(readme, ::testing::HasSubstr("\n| `" + code + (severity == "warning" ? "` (warning) | " : "` | ") + blame + " | "));
    const size_t line = readme.find("\nbaton: " + code + " [" + severity + ", " + blame + "'s]: ");
    ASSERT_NE(line, std::string::npos) << code;
    EXPECT_THAT(readme.substr(line + 1, readme.find('\n', line + 1) - line - 1), ::testing::EndsWith("; next: " + next));
  }
  EXPECT_EQ(n, 13);
}

TEST(ValidateDeathTest, AbortsAtTheFirstMisuse) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_DEATH(
      {
        setenv("BATON_LAYERS", "validate=abort", 1);
        Instance in = make_instance();
        Timeline t = must(in.timeline("t"));
        baton_timeline* gone = t.get();
        t.reset();
        baton_timeline_signal(gone, 1, 0);
      },
      "baton: use-after-free \\[misuse, caller's\\]: baton_timeline_signal names a timeline 't' that was destroyed; next: destroy a handle");
}

}  // namespace
}  // namespace baton::test
