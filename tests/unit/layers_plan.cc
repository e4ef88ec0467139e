// The fault plan's parser: what it takes, what it refuses and how it says so; and the layers' arguments.
#include "hal/layers/argument.h"
#include "hal/layers/fault/plan.h"

#include <gtest/gtest.h>

namespace baton::layers {
namespace {

TEST(FaultPlan, TakesEveryField) {
  auto p = parse_plan(R"({"seed": 5, "rules": [{"name": "n", "op": ["COPY", "FILL"], "device": "cs*", "tag": 3, "lane": 1, "every": 2,
    "times": 4, "action": "corrupt", "bits": 9}, {"op": "*", "probability": 0.5, "sticky": true, "action": "delay", "delay": "1.5us"}]})");
  ASSERT_TRUE(p.ok()) << p.error().what;
  ASSERT_EQ(p->rules.size(), 2u);
  const Rule &a = p->rules[0], &b = p->rules[1];
  EXPECT_EQ(p->seed, 5u);
  EXPECT_EQ(a.points, uint32_t(kCopy | kFill));
  EXPECT_EQ(a.device, "cs*");
  EXPECT_EQ(*a.tag, 3u);
  EXPECT_EQ(*a.lane, 1u);
  EXPECT_EQ(a.every, 2u);
  EXPECT_EQ(a.times, 4u);
  EXPECT_EQ(a.bits, 9u);
  EXPECT_EQ(b.points, kOps);
  EXPECT_TRUE(b.sticky);
  EXPECT_EQ(b.delay_ns, 1500u);
}

// Each names the place, and the next step says what is allowed.
TEST(FaultPlan, RefusesWithTheRuleAndWhatIsAllowed) {
  const struct {
    const char *text, *what, *next;
  } kWrong[] = {
      {"{\"rules\": [\n  {\"op\": COPY}]}", "line 2, column 10", "rules"},
      {"", "line 1", "rules"},
      {"[]", "[]", "rules"},
      {R"({"rule": []})", "'rule'", "rules"},
      {R"({"rules": 3})", "3", "rules"},
      {R"({"seed": -1, "rules": []})", "seed is -1", "whole number"},
      {R"({"rules": [7]})", "rule 1 is 7", "sticky"},
      {R"({"rules": [{"op": "COPY", "action": "fail"}, {"name": "b", "opp": 1}]})", "rule 2 \"b\" does not know 'opp'", "allowed: name, op"},
      {R"({"rules": [{"action": "fail"}]})", "has no op", "LAUNCH"},
      {R"({"rules": [{"op": "copy", "action": "fail"}]})", "op is \"copy\"", "COPY"},
      {R"({"rules": [{"op": [], "action": "fail"}]})", "empty list", "COPY"},
      {R"({"rules": [{"op": "COPY"}]})", "has no action", "duplicate"},
      {R"({"rules": [{"op": "COPY", "action": "explode"}]})", "\"explode\"", "duplicate"},
      {R"({"rules": [{"op": "alloc", "action": "drop"}]})", "cannot drop alloc", "NOP, COPY"},
      {R"({"rules": [{"op": "fence", "action": "lose"}]})", "cannot lose fence", "telemetry"},
      {R"({"rules": [{"op": ["fence", "alloc"], "action": "drop"}]})", "cannot drop alloc", "FILL, fence"},
      {R"({"rules": [{"op": "LAUNCH", "action": "corrupt"}]})", "cannot corrupt LAUNCH", "COPY, FILL"},
      {R"({"rules": [{"op": "open", "action": "lose"}]})", "cannot lose open", "alloc"},
      {R"({"rules": [{"op": "alloc", "tag": 1, "action": "fail"}]})", "tag", "COPY"},
      {R"({"rules": [{"op": "COPY", "nth": 0, "action": "fail"}]})", "nth is 0", "1 to"},
      {R"({"rules": [{"op": "COPY", "nth": 1, "every": 2, "action": "fail"}]})", "more than one", "keep one"},
      {R"({"rules": [{"op": "COPY", "probability": 1.5, "action": "fail"}]})", "1.5", "0 to 1"},
      {R"({"rules": [{"op": "COPY", "action": "fail", "code": "OOPS"}]})", "\"OOPS\"", "DEVICE_LOST"},
      {R"({"rules": [{"op": "COPY", "action": "fail", "code": "OK"}]})", "\"OK\"", "DEVICE_LOST"},
      {R"({"rules": [{"op": "COPY", "action": "delay"}]})", "no delay", "2us"},
      {R"({"rules": [{"op": "COPY", "action": "delay", "delay": "2 us"}]})", "2 us", "1.5ms"},
      {R"({"rules": [{"op": "COPY", "action": "delay", "delay": "2us", "bits": 1}]})", "has bits with action delay", "corrupt"},
      {R"({"rules": [{"op": "COPY", "action": "corrupt", "bits": 65}]})", "bits is 65", "1 to 64"},
      {R"({"rules": [{"op": "COPY", "sticky": 1, "action": "fail"}]})", "sticky is 1", "true or false"},
      {R"({"rules": [{"op": "COPY", "sticky": true, "times": 2, "action": "fail"}]})", "both", "keep one"},
  };
  for (auto& w : kWrong) {
    auto p = parse_plan(w.text);
    ASSERT_FALSE(p.ok()) << w.text;
    EXPECT_NE(std::string(p.error().what).find(w.what), std::string::npos) << w.text << "\n" << p.error().what;
    EXPECT_NE(std::string(p.error().next).find(w.next), std::string::npos) << w.text << "\n" << p.error().next;
  }
  EXPECT_FALSE(parse_plan("{\"rules\": [" + std::string(500'000, '[') + std::string(500'000, ']') + "]}").ok());
  EXPECT_FALSE(parse_plan(std::string((1 << 20) + 1, ' ')).ok());
  EXPECT_FALSE(parse_plan(std::string_view("{\"rules\"\0: []}", 14)).ok());
}

TEST(LayerArgument, OptionsDurationsPatterns) {
  auto a = parse_argument("/x/y.json?seed=7&COPY=1ms", {"seed", "COPY"});
  ASSERT_TRUE(a.ok());
  EXPECT_EQ(a->main, "/x/y.json");
  EXPECT_EQ(*a->number("seed", 0), 7u);
  EXPECT_EQ(*a->number("other", 9), 9u);
  EXPECT_FALSE(a->number("COPY", 0).ok());
  EXPECT_FALSE(parse_argument("x?sed=7", {"seed"}).ok());
  EXPECT_FALSE(parse_argument("x?seed", {"seed"}).ok());
  for (auto [text, ns] : {std::pair<const char*, uint64_t>{"0", 0}, {"250ns", 250}, {"2us", 2000}, {"1.5ms", 1'500'000}, {"1s", 1'000'000'000}})
    EXPECT_EQ(*parse_duration(text), ns) << text;
  for (const char* text : {"", "2", "us", "-1us", "2 us", "2usx", "2h", "1e30s", "nan", "inf"}) EXPECT_FALSE(parse_duration(text).ok()) << text;
  EXPECT_TRUE(matches("cs3://*", "cs3://127.0.0.1:1"));
  EXPECT_TRUE(matches("*", ""));
  EXPECT_TRUE(matches("a*b*c", "axxbyyc"));
  EXPECT_FALSE(matches("a*b", "axxc"));
}

}  // namespace
}  // namespace baton::layers
