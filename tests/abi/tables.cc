// Driver tables that lack slots: each answers UNSUPPORTED, falls back, and never crashes.
#include "tests/unit/hal_test.hpp"

#include <dlfcn.h>

#include <cstddef>
#include <cstring>

namespace baton::test {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

constexpr char kAbiDrivers[] = BATON_BUILD_DIR "/tests/abi:" BATON_BUILD_DIR "/lib/baton:" BATON_BUILD_DIR "/tests/drivers";

void shape(uint32_t bytes, uint32_t missing) {
  static void* lib = dlopen(BATON_BUILD_DIR "/tests/abi/libbaton-driver-short.so", RTLD_NOW);
  ASSERT_NE(lib, nullptr) << dlerror();
  reinterpret_cast<void (*)(uint32_t, uint32_t)>(dlsym(lib, "short_driver_shape"))(bytes, missing);
}

// What a caller does with a device, and the steps that did not succeed: "reset UNSUPPORTED".
class Walk {
 public:
  std::vector<std::string> failed;

  void run() {
    Instance in = make_instance(kAbiDrivers);
    auto found = must(in.enumerate());
    if (std::none_of(found.begin(), found.end(), [](const DeviceInfo& i) { return !std::strcmp(i.driver, "frozen1"); })) failed.push_back("enumerate frozen1");
    auto dev = in.open("short://0");
    if (!note("open", dev)) return;
    host_ = must(in.open("host://"));
    note("info", dev->info());
    note("telemetry", dev->telemetry());
    auto b = dev->alloc(4096);
    if (note("alloc", b)) note("map", b->map());
    if (b) note("export", b->export_fd());
    if (b) note("fence", b->fence(0, 4096));
    auto q = dev->queue();
    if (note("queue", q)) moves(in, *dev, *q, b);
    if (b) both_ways(in, *dev, *b);
    note("reset", dev->reset_device());
    host_.reset();
  }

 private:
  template <class R>
  bool note(const char* step, const R& r) {
    if (!r.ok()) failed.push_back(std::string(step) + " " + baton_code_name(r.error().code));
    return r.ok();
  }
  Status arrives(const Instance& in, const Queue& q, Op op) {
    Timeline t = must(in.timeline("t"));
    BATON_TRY(q.submit(op.signal(t, 1)));
    return t.wait_until(1, soon());
  }
  void moves(const Instance& in, const Device& dev, const Queue& q, const Result<Buffer>& b) {
    note("nop", arrives(in, q, nop()));
    if (b) note("fill", arrives(in, q, fill(*b, 0, 4096, 0x5a)));
    const std::string text = "marks:2";
    auto p = dev.load({reinterpret_cast<const uint8_t*>(text.data()), text.size()}, {});
    if (note("load", p)) note("launch", arrives(in, q, launch(*p, {}, {})));
  }
  void both_ways(const Instance& in, const Device& dev, const Buffer& b) {
    Buffer there = must(host_.alloc(4096)), back = must(host_.alloc(4096));
    std::memset(must(there.map()), 0x42, 4096);
    auto to = in.link(host_, dev), from = in.link(dev, host_);
    if (!note("link to", to) || !note("link from", from)) return;
    const bool moved = note("copy to", arrives(in, *to, copy(there, 1, b, 2, 4000))) && note("copy from", arrives(in, *from, copy(b, 2, back, 3, 4000)));
    EXPECT_EQ(moved, !std::memcmp(static_cast<uint8_t*>(must(back.map())) + 3, static_cast<uint8_t*>(must(there.map())) + 1, 4000));
  }
  Device host_;
};

using Failures = std::vector<std::string>;

Failures walk(uint32_t bytes, uint32_t missing) {
  shape(bytes, missing);
  Walk w;
  w.run();
  return w.failed;
}

#define SLOT(name) #name, uint32_t(offsetof(baton_driver, name))
struct Slot {
  const char* name;
  uint32_t offset;
  Failures alone;   // without this slot alone
  Failures before;  // of a driver that is older than this slot: its table ends before it
};
const char *kExport = "export UNSUPPORTED", *kTelemetry = "telemetry UNSUPPORTED", *kReset = "reset UNSUPPORTED", *kAlloc = "alloc UNSUPPORTED",
           *kMap = "map UNSUPPORTED", *kQueue = "queue UNSUPPORTED", *kLoad = "load UNSUPPORTED", *kOpen = "open UNSUPPORTED",
           *kNoHeap = "alloc INVALID_ARGUMENT", *kNoLink = "link to UNSUPPORTED";  // the frozen heap has no export in any case

const Slot kSlots[] = {
    {SLOT(enumerate), {kExport}, {kOpen}},
    {SLOT(open), {kOpen}, {kOpen}},
    {SLOT(close), {kExport}, {kTelemetry, kAlloc, kQueue, kReset}},
    {SLOT(info), {kNoHeap}, {kTelemetry, kAlloc, kQueue, kReset}},
    {SLOT(telemetry), {kTelemetry, kExport}, {kTelemetry, kAlloc, kQueue, kReset}},
    {SLOT(reset), {kExport, kReset}, {kAlloc, kQueue, kReset}},
    {SLOT(alloc), {kAlloc}, {kAlloc, kQueue}},
    {SLOT(free), {kExport}, {kMap, kExport, kQueue, kNoLink}},
    {SLOT(map), {kMap, kExport}, {kMap, kExport, kQueue, kNoLink}},
    {SLOT(export_buffer), {kExport}, {kExport, kQueue}},  // both are host memory: copies go by memcpy
    {SLOT(import_buffer), {kExport}, {kExport, kQueue}},
    {SLOT(load), {kExport, kLoad}, {kExport, kQueue}},
    {SLOT(unload), {kExport}, {kExport, kQueue}},
    {SLOT(queue_open), {kExport, kQueue}, {kExport, kQueue}},
    {SLOT(queue_close), {kExport}, {kExport, kQueue}},
    {SLOT(submit), {kExport, kQueue}, {kExport, kQueue}},
    {SLOT(poll), {kExport}, {kExport}},  // one that completes inside submit needs no poll
    {SLOT(fence), {kExport}, {kExport}}, // none: what others write is visible
};

TEST(DriverTable, WholeAndLongerThanWhatIsKnown) {
  EXPECT_THAT(walk(sizeof(baton_driver), 0), ElementsAreArray({kExport}));
  EXPECT_THAT(walk(sizeof(baton_driver) + 64, 0), ElementsAreArray({kExport}));  // of a newer driver: what follows is not looked at
}

TEST(DriverTable, WithoutOneSlot) {
  for (const Slot& s : kSlots) EXPECT_THAT(walk(sizeof(baton_driver), s.offset), ElementsAreArray(s.alone)) << "without " << s.name;
}

TEST(DriverTable, OlderThanASlot) {
  for (const Slot& s : kSlots) EXPECT_THAT(walk(s.offset, 0), ElementsAreArray(s.before)) << "a table that ends before " << s.name;
}

TEST(DriverTable, EverySlotIsInTheList) { EXPECT_EQ(std::size(kSlots), (sizeof(baton_driver) - offsetof(baton_driver, enumerate)) / sizeof(void*)); }

TEST(DriverTable, TooShortToHaveAName) {
  shape(offsetof(baton_driver, scheme), 0);
  Instance in = make_instance(kAbiDrivers);
  EXPECT_CODE(in.open("short://0"), BATON_MISMATCH);
}

// Both ways over a link with a device whose memory is not mappable: that device moves the bytes, the other need not take ops.
TEST(DriverTable, WithoutAQueueMemoryIsReachedFromTheOtherEnd) {
  shape(sizeof(baton_driver), offsetof(baton_driver, queue_open));
  Instance in = make_instance(kAbiDrivers);
  Device s = must(in.open("short://0")), fake = must(in.open("fake://"));
  Buffer here = must(s.alloc(100)), there = must(fake.alloc(100)), back = must(s.alloc(100));
  std::memset(must(here.map()), 0x42, 100);
  Queue to = must(in.link(s, fake)), from = must(in.link(fake, s));
  Timeline t = must(in.timeline("t"));
  EXPECT_OK(to.submit(copy(here, 1, there, 2, 98).signal(t, 1)));
  EXPECT_OK(from.submit(copy(there, 2, back, 0, 98).wait(t, 1).signal(t, 2)));
  EXPECT_OK(t.wait_until(2, soon()));
  EXPECT_EQ(std::memcmp(must(here.map()), must(back.map()), 98), 0);
  EXPECT_THAT(must(in.plan_copy(s, fake)), HasSubstr("fake:// reads short://0"));
  EXPECT_THAT(must(in.plan_copy(fake, s)), HasSubstr("fake:// writes short://0"));
}

TEST(DriverTable, WithNeitherAQueueNorAMapThereIsNoEdge) {
  shape(offsetof(baton_driver, map), 0);
  Instance in = make_instance(kAbiDrivers);
  Device s = must(in.open("short://0")), fake = must(in.open("fake://"));
  auto to = in.link(s, fake), from = in.link(fake, s), self = in.link(s, s);
  EXPECT_CODE(to, BATON_UNSUPPORTED);
  EXPECT_CODE(from, BATON_UNSUPPORTED);
  EXPECT_CODE(self, BATON_UNSUPPORTED);
  EXPECT_STREQ(to.error().what, "no edge short://0 -> fake://: the driver of short://0 takes no ops");
  EXPECT_STREQ(from.error().what, "no edge fake:// -> short://0: the driver of short://0 takes no ops");
}

TEST(DriverTable, UnsupportedNamesTheDeviceAndWhatItCannot) {
  shape(sizeof(baton_driver), offsetof(baton_driver, submit));
  Instance in = make_instance(kAbiDrivers);
  Device s = must(in.open("short://0"));
  auto q = s.queue();
  EXPECT_CODE(q, BATON_UNSUPPORTED);
  EXPECT_STREQ(q.error().what, "short://0 has no queues");
  EXPECT_STREQ(q.error().device, "short://0");
}

}  // namespace
}  // namespace baton::test
