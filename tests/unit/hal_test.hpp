// hal_test.hpp: an instance that finds the built drivers and the fake one, and short names for what tests do all the time.
#pragma once

#include "hal/baton.hpp"
#include "tests/unit/hal_fake_tags.hpp"

#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace baton::test {

inline constexpr char kDrivers[] = BATON_BUILD_DIR "/lib/baton:" BATON_BUILD_DIR "/tests/drivers";

// The value, or the test fails with the error's text.
template <class T>
T must(Result<T> r) {
  if (!r) {
    ADD_FAILURE() << r.error().text() << " / " << r.error().next;
    std::abort();
  }
  return std::move(*r);
}
#define EXPECT_OK(status)                         \
  do {                                            \
    auto&& s_ = (status);                         \
    EXPECT_TRUE(s_.ok()) << (s_.ok() ? "" : s_.error().text()); \
  } while (0)
#define EXPECT_CODE(status, expected)             \
  do {                                            \
    auto&& s_ = (status);                         \
    ASSERT_FALSE(s_.ok());                        \
    EXPECT_STREQ(baton_code_name(s_.error().code), baton_code_name(expected)) << s_.error().text(); \
  } while (0)

inline Instance make_instance(const char* drivers = kDrivers, const char* emulators = nullptr) {
  baton_instance_options o{sizeof o, 0, drivers, emulators};
  return must(Instance::create(&o));
}

inline uint64_t soon() { return deadline_in_ms(20'000); }  // an end that only a broken test reaches

inline int open_descriptors() {
  int n = 0;
  DIR* dir = opendir("/proc/self/fd");
  while (readdir(dir)) ++n;
  closedir(dir);
  return n;
}

class HalTest : public ::testing::Test {
 protected:
  Device open(const std::string& uri) { return must(in.open(uri)); }
  Timeline timeline(const std::string& name = "t") { return must(in.timeline(name)); }
  Instance in = make_instance();
};

}  // namespace baton::test
