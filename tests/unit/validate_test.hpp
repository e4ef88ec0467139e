// validate_test.hpp: an instance that validates, and what it has found.
#pragma once

#include "tests/unit/hal_test.hpp"

namespace baton::test {

struct Found {
  std::string code, blame, what;
  bool misuse;
};

class ValidateTest : public ::testing::Test {
 protected:
  static Instance validating(const char* layers) {
    baton_instance_options o{sizeof o, 0, kDrivers, nullptr, layers};
    return must(Instance::create(&o));
  }
  void SetUp() override { listen(in); }
  void listen(const Instance& to) {
    auto note = [](void* u, const baton_finding* f) {
      static_cast<std::vector<Found>*>(u)->push_back({f->code, f->blame, f->what, f->severity == BATON_MISUSE});
      EXPECT_STRNE(f->next, "");
    };
    EXPECT_OK(to.on_finding(note, &found));
  }
  Device open(const std::string& uri) { return must(in.open(uri)); }
  Timeline timeline(const std::string& name = "t") { return must(in.timeline(name)); }

  // There is one finding, and it is this one; then there are none.
  void expect(const char* code, const char* blame, bool misuse, const std::string& what) {
    ASSERT_EQ(found.size(), 1u) << ::testing::PrintToString(texts());
    EXPECT_EQ(found[0].code, code);
    EXPECT_EQ(found[0].blame, blame);
    EXPECT_EQ(found[0].misuse, misuse);
    EXPECT_EQ(found[0].what, what);
    found.clear();
  }
  std::vector<std::string> texts() const {
    std::vector<std::string> all;
    for (const Found& f : found) all.push_back(f.code + ": " + f.what);
    return all;
  }

  std::vector<Found> found;
  Instance in = validating("validate=patience=50");
};

}  // namespace baton::test
