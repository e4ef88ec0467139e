// Registry and info: what a device says of itself, what it refuses to be opened with, how it is closed.
#include "tests/cts/fixture.h"

#include <dirent.h>

#include <algorithm>
#include <cstddef>
#include <set>

namespace baton::cts {
namespace {

std::string scheme_of(const std::string& uri) {
  std::string s = uri.substr(0, uri.find("://"));
  return s.starts_with("emu+") ? s.substr(4) : s;
}

// NUL-terminated, printable.
template <size_t N>
void expect_text(const char (&text)[N], const char* field, bool may_be_empty) {
  const std::string_view all(text, N);
  const size_t end = all.find('\0');
  ASSERT_NE(end, all.npos) << "info." << field << " is not terminated";
  EXPECT_TRUE(may_be_empty || end) << "info." << field << " is empty";
  for (char c : all.substr(0, end)) EXPECT_FALSE(static_cast<unsigned char>(c) < 0x20 || c == 0x7f) << "info." << field << " holds a control character";
}

void expect_sane(const DeviceInfo& i) {
  expect_text(i.uri, "uri", false);
  expect_text(i.name, "name", false);
  expect_text(i.model, "model", false);
  expect_text(i.driver, "driver", false);
  expect_text(i.firmware, "firmware", true);
  expect_text(i.location, "location", true);
  expect_text(i.timing, "timing", true);
  EXPECT_EQ(scheme_of(i.uri), i.driver) << "info.uri and info.driver";
  EXPECT_EQ(std::string(i.name).find_first_of(" */:,"), std::string::npos) << "info.name '" << i.name << "' is no selector";
  EXPECT_STRNE(i.name, "all");
  EXPECT_GE(i.lanes, 1u);
  ASSERT_LE(i.heap_count, uint32_t(BATON_MAX_HEAPS));
  std::set<std::string> names;
  for (uint32_t h = 0; h < i.heap_count; ++h) {
    expect_text(i.heaps[h].name, "heaps[].name", false);
    EXPECT_TRUE(names.insert(i.heaps[h].name).second) << "two heaps are called " << i.heaps[h].name;
    EXPECT_GT(i.heaps[h].bytes_total, 0u) << i.heaps[h].name;
    EXPECT_LE(i.heaps[h].bytes_used, i.heaps[h].bytes_total) << i.heaps[h].name;
  }
  for (uint32_t flag : {i.emulated, i.collectives, i.progress, i.modelled}) EXPECT_LE(flag, 1u);
  EXPECT_EQ(i.modelled != 0, i.timing[0] != 0) << "info.modelled and the name of its model, info.timing, go together";
}

void info_is_sane(Fixture& f) {
  expect_sane(f.info());
  EXPECT_EQ(f.info().driver, scheme_of(f.subject().uri));
  EXPECT_GE(f.info().epoch, 1u);
  for (int i = 0; i < 3; ++i) {  // what may not change while the device is open
    const DeviceInfo now = must(f.device.info());
    EXPECT_STREQ(now.name, f.info().name);
    EXPECT_EQ(now.lanes, f.info().lanes);
    ASSERT_EQ(now.heap_count, f.info().heap_count);
    for (uint32_t h = 0; h < now.heap_count; ++h) {
      EXPECT_EQ(now.heaps[h].bytes_total, f.info().heaps[h].bytes_total);
      EXPECT_EQ(now.heaps[h].mappable, f.info().heaps[h].mappable);
      EXPECT_EQ(now.heaps[h].exportable, f.info().heaps[h].exportable);
    }
  }
}

// A caller that was built against an older, shorter struct gets that much and no byte more.
void info_and_telemetry_fill_no_more_than_the_caller_has(Fixture& f) {
  DeviceInfo info;
  std::fill_n(reinterpret_cast<uint8_t*>(&info), sizeof info, uint8_t(0xee));
  info.struct_size = offsetof(baton_device_info, lanes);
  Error e;
  ASSERT_EQ(baton_info(f.device.get(), &info, &e), BATON_OK) << e.text();
  EXPECT_STREQ(info.name, f.info().name);
  EXPECT_EQ(info.lanes, 0xeeeeeeeeu);
  baton_telemetry t;
  std::fill_n(reinterpret_cast<uint8_t*>(&t), sizeof t, uint8_t(0xee));
  t.struct_size = offsetof(baton_telemetry, busy_ns);
  ASSERT_EQ(baton_telemetry_read(f.device.get(), &t, &e), BATON_OK) << e.text();
  EXPECT_EQ(t.modelled_ns, 0xeeeeeeeeeeeeeeeeu);
}

void options_that_are_unknown_are_refused(Fixture& f) {
  const std::string joined = f.subject().uri + (f.subject().uri.find('?') == std::string::npos ? "?" : "&");
  for (const char* option : {"no_such_option=1", "no_such_option", "no_such_option="}) {
    auto d = f.in().open(joined + option);
    ASSERT_FALSE(d.ok()) << joined << option << " was opened";
    EXPECT_STREQ(baton_code_name(d.error().code), "INVALID_ARGUMENT") << d.error().text();
    EXPECT_NE(d.error().text().find("no_such_option"), std::string::npos) << "the error does not name the option: " << d.error().text();
    EXPECT_NE(d.error().next[0], 0) << "the error has no next step: " << d.error().text();
  }
}

// Nonsense is opened or refused with a reason; nothing crashes, and the next open works.
void addresses_that_are_nonsense_are_refused_with_a_reason(Fixture& f) {
  const std::string scheme = f.subject().uri.substr(0, f.subject().uri.find("://")) + "://";
  const std::string long_text(4096, 'x');
  for (const std::string& rest : {std::string("?"), std::string("?="), std::string("?&&&"), std::string("?=="), "?" + long_text, "?a=" + long_text,
                                  std::string("%00?%%"), std::string("?\x01=\xff"), std::string("-1"), std::string("99999999999999999999")}) {
    auto d = f.in().open(scheme + rest);
    EXPECT_TRUE(d.ok() || d.error().what[0]) << scheme << rest.substr(0, 20) << ": an error without a word";
  }
  EXPECT_OK(f.in().open(f.subject().uri));
}

void enumerate_finds_devices_that_are_sane_and_stops_when_told(Fixture& f) {
  for (const DeviceInfo& d : must(f.in().enumerate())) expect_sane(d);
  int calls = 0;
  auto stop_at_once = [](void* n, const baton_device_info*) -> int32_t { return ++*static_cast<int*>(n); };
  Error e;
  EXPECT_EQ(baton_enumerate(f.in().get(), stop_at_once, &calls, &e), BATON_OK) << e.text();
  EXPECT_LE(calls, 1);
}

void a_device_opens_twice_and_each_has_its_own_handles(Fixture& f) {
  Device second = must(f.in().open(f.subject().uri));
  EXPECT_STREQ(must(second.info()).uri, f.info().uri);
  Buffer a = f.alloc(4096), b = must(second.alloc(4096));
  f.fill(a, 1);
  Queue q = must(second.queue());
  Timeline t = f.timeline();
  must(q.submit(fill(b, 0, 4096, 2).signal(t, 1)));
  must(t.wait_until(1, soon()));
  EXPECT_TRUE(same(f.read(a, 0, 4096), Bytes(4096, 1)));
  EXPECT_CODE(q.submit(fill(a, 0, 4096, 3)), BATON_INVALID_ARGUMENT);  // memory of the other handle
  b.reset();
  q.reset();
  second.reset();
  EXPECT_TRUE(same(f.read(a, 0, 4096), Bytes(4096, 1)));
}

int open_descriptors() {
  int n = 0;
  DIR* dir = opendir("/proc/self/fd");
  while (dir && readdir(dir)) ++n;
  if (dir) closedir(dir);
  return n;
}

void opening_and_closing_leaves_no_descriptor(Fixture& f) {
  auto once = [&] {
    Device d = must(f.in().open(f.subject().uri));
    Queue q = must(d.queue());
    Buffer b = must(d.alloc(4096));
    Timeline t = f.timeline();
    must(q.submit(fill(b, 0, 4096, 0).signal(t, 1)));
    must(t.wait_until(1, soon()));
  };
  once();
  const int before = open_descriptors();
  for (int i = 0; i < 10; ++i) once();
  EXPECT_EQ(open_descriptors(), before);
}

void a_device_lives_until_its_last_child_is_gone(Fixture& f) {
  Device d = must(f.in().open(f.subject().uri));
  Queue q = must(d.queue());
  Buffer b = must(d.alloc(4096));
  Timeline t = f.timeline();
  d.reset();
  must(q.submit(fill(b, 0, 4096, 7).signal(t, 1)));
  must(t.wait_until(1, soon()));
  q.reset();
  EXPECT_EQ(b.bytes(), 4096u);
}

template <class T>
void expect_refused(const Result<T>& r, uint64_t number) {
  ASSERT_FALSE(r.ok());
  EXPECT_STREQ(baton_code_name(r.error().code), "INVALID_ARGUMENT") << r.error().text();
  EXPECT_NE(std::string(r.error().what).find(std::to_string(number)), std::string::npos) << "the error does not name " << number << ": " << r.error().text();
}

void arguments_out_of_range_are_refused_with_numbers(Fixture& f) {
  const uint32_t lanes = f.info().lanes, heaps = f.info().heap_count;
  for (uint32_t lane : {lanes, UINT32_MAX}) expect_refused(f.device.queue(lane), lane);
  for (uint32_t heap : {heaps, UINT32_MAX}) expect_refused(f.device.alloc(64, heap), heap);
  expect_refused(f.device.alloc(0), 0);
}

}  // namespace

const Suite& registry_suite() {
  static constexpr Case kCases[] = {
      {"InfoIsSane", kNone, info_is_sane},
      {"InfoAndTelemetryFillNoMoreThanTheCallerHas", kNone, info_and_telemetry_fill_no_more_than_the_caller_has},
      {"OptionsThatAreUnknownAreRefused", kNone, options_that_are_unknown_are_refused},
      {"AddressesThatAreNonsenseAreRefusedWithAReason", kNone, addresses_that_are_nonsense_are_refused_with_a_reason},
      {"EnumerateFindsDevicesThatAreSaneAndStopsWhenTold", kNone, enumerate_finds_devices_that_are_sane_and_stops_when_told},
      {"ADeviceOpensTwiceAndEachHasItsOwnHandles", kNone, a_device_opens_twice_and_each_has_its_own_handles},
      {"OpeningAndClosingLeavesNoDescriptor", kNone, opening_and_closing_leaves_no_descriptor},
      {"ADeviceLivesUntilItsLastChildIsGone", kNone, a_device_lives_until_its_last_child_is_gone},
      {"ArgumentsOutOfRangeAreRefusedWithNumbers", kNone, arguments_out_of_range_are_refused_with_numbers},
  };
  static constexpr Suite kSuite{"registry", kCases};
  return kSuite;
}

}  // namespace baton::cts
