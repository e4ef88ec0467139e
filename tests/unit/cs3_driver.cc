// The driver's table called directly, with a host that only records: what the core does not show (descriptors, budgets, sleeping).
#include "tests/unit/cs3_test.hpp"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <deque>

namespace baton::cs3::test {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;

struct Recorded {
  bool done = false;
  int32_t code = 0;
  std::string what;
  uint64_t cost_ns = 0, marks = 0;
  bool cancel = false;
};

struct Recorder {
  static void complete(void* cookie, uint64_t cost_ns, const baton_error* e) {
    auto* r = static_cast<Recorded*>(cookie);
    EXPECT_FALSE(r->done) << "completed twice";
    r->done = true;
    r->cost_ns = cost_ns;
    if (e) r->code = e->code, r->what = e->what;
  }
  static int32_t progress(void* cookie, uint64_t k, uint64_t) {
    auto* r = static_cast<Recorded*>(cookie);
    EXPECT_EQ(k, ++r->marks);
    return r->cancel;
  }
  static void lost(void* self, const baton_error* e) {
    auto* r = static_cast<Recorder*>(self);
    ++r->losses;
    r->why = *e;
  }
  int losses = 0;
  Error why;
};

class Driver : public ::testing::Test {
 protected:
  void SetUp() override { open(""); }
  void open(const std::string& options) {
    if (device) {
      table->queue_close(device, queue);
      table->close(device);
    }
    auto* get = reinterpret_cast<baton_driver_fn>(::dlsym(library, BATON_DRIVER_SYMBOL));
    table = get();
    host = {sizeof host, BATON_ABI_VERSION, Recorder::complete, Recorder::progress, Recorder::lost, &recorder};
    ASSERT_EQ(table->open(&host, (daemon.uri() + options).c_str(), &device, &e), BATON_OK) << e.what;
    ASSERT_EQ(table->queue_open(device, 0, &queue, &fd, &e), BATON_OK);
  }
  void TearDown() override {
    if (!device) return;
    table->queue_close(device, queue);
    table->close(device);
  }
  void* alloc(uint64_t bytes) {
    void* m = nullptr;
    EXPECT_EQ(table->alloc(device, 0, bytes, &m, &e), BATON_OK) << e.what;
    return m;
  }
  baton_driver_op copy(Recorded& r, void* mem, uint64_t offset, void* ptr, uint64_t bytes, bool in, int file = -1, uint64_t file_offset = 0) {
    baton_driver_op op{};
    op.opcode = BATON_OP_COPY;
    op.cookie = &r;
    op.u.copy.bytes = bytes;
    (in ? op.u.copy.dst : op.u.copy.src) = {mem, nullptr, offset, -1, 0, 0};
    (in ? op.u.copy.src : op.u.copy.dst) = {nullptr, ptr, 0, file, 0, file_offset};
    return op;
  }
  baton_driver_op nop(Recorded& r) {
    baton_driver_op op{};
    op.opcode = BATON_OP_NOP;
    op.cookie = &r;
    return op;
  }
  // Submits all and polls until all are done; sleeps on the descriptor when there is nothing.
  void run(std::vector<baton_driver_op> ops, uint32_t budget = 64) {
    size_t taken = 0;
    const uint64_t end = soon();
    while (now_ns() < end) {
      if (taken < ops.size()) {
        uint32_t n = 0;
        ASSERT_EQ(table->submit(device, queue, ops.data() + taken, uint32_t(ops.size() - taken), &n, &e), BATON_OK);
        taken += n;
      }
      const uint32_t handled = table->poll(device, queue, budget);
      EXPECT_LE(handled, budget);
      const bool done = std::all_of(ops.begin(), ops.end(), [](const auto& o) { return static_cast<Recorded*>(o.cookie)->done; });
      if (done || recorder.losses) return;
      if (handled == 0) {
        pollfd p{fd, POLLIN, 0};
        ASSERT_EQ(::poll(&p, 1, 10'000), 1) << "nothing wakes the driver: a wake-up was lost";
      }
    }
    FAIL() << "ops never ended";
  }
  DaemonProcess daemon;
  void* library = ::dlopen(BATON_BUILD_DIR "/lib/baton/libbaton-driver-cs3.so", RTLD_NOW);
  const baton_driver* table = nullptr;
  baton_driver_host host{};
  Recorder recorder;
  void *device = nullptr, *queue = nullptr;
  int fd = -1;
  Error e;
};

// More than all slots of the arena at once, in both directions, both carriers, with a budget of one event a poll.
TEST_F(Driver, LargeCopiesCrossTheArena) {
  for (const char* options : {"?carrier=shm", "?carrier=tcp"}) {
    open(options);
    std::vector<uint8_t> from = noise(45 * kMiB + 3, 1), back(from.size());
    void* m = alloc(from.size());
    Recorded in, out;
    run({copy(in, m, 0, from.data(), from.size(), true), copy(out, m, 0, back.data(), back.size(), false)}, 1);
    EXPECT_EQ(in.code, BATON_OK) << in.what;
    EXPECT_EQ(std::memcmp(from.data(), back.data(), from.size()), 0) << options;
    EXPECT_GT(in.cost_ns, 0u);
    Recorded one;
    run({copy(one, m, 0, from.data(), kMiB, true)});
    EXPECT_LT(in.cost_ns, one.cost_ns * 30) << "a copy of 45 chunks is modelled as one transaction";
    table->free(device, m);
  }
}

TEST_F(Driver, DescriptorsAreUsedWhereTheyCanBe) {
  constexpr uint64_t kBytes = 3 * kMiB + 17, kAt = 4096 + 5;
  void* m = alloc(kBytes);
  const auto both_ways = [&](int file, bool writable) {
    auto* p = static_cast<uint8_t*>(::mmap(nullptr, kAt + kBytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, file, 0));
    ASSERT_NE(p, MAP_FAILED);
    std::vector<uint8_t> want(kBytes), copy_back(kBytes);
    std::memcpy(want.data(), p + kAt, kBytes);
    Recorded a, b, c;
    run({copy(a, m, 0, p + kAt, kBytes, true, file, kAt), copy(b, m, 0, copy_back.data(), kBytes, false)});
    EXPECT_EQ(std::memcmp(copy_back.data(), want.data(), kBytes), 0);
    if (writable) {
      std::memset(p + kAt, 0, kBytes);
      run({copy(c, m, 0, p + kAt, kBytes, false, file, kAt)});
      EXPECT_EQ(std::memcmp(p + kAt, want.data(), kBytes), 0);
    }
    ::munmap(p, kAt + kBytes);
  };
  const auto make = [&](uint8_t seed) {
    Fd f(::memfd_create("t", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    const std::vector<uint8_t> bytes = noise(kAt + kBytes, seed);
    EXPECT_EQ(::write(f.get(), bytes.data(), bytes.size()), ssize_t(bytes.size()));
    return f;
  };
  const Fd plain = make(1);
  both_ways(plain.get(), true);
  const Fd read_only(::open(("/proc/self/fd/" + std::to_string(plain.get())).c_str(), O_RDONLY | O_CLOEXEC));
  both_ways(read_only.get(), false);
  for (uint8_t i = 0; i < 40; ++i) both_ways(make(uint8_t(i + 2)).get(), true);  // more objects than are kept, and descriptor numbers reused
  char path[] = "/tmp/baton-cs3-XXXXXX";
  const Fd disk(::mkostemp(path, O_CLOEXEC));
  ::unlink(path);
  std::vector<uint8_t> bytes(kAt + kBytes, 0x3c);
  ASSERT_EQ(::write(disk.get(), bytes.data(), bytes.size()), ssize_t(bytes.size()));
  both_ways(disk.get(), true);  // whatever file system this is
  table->free(device, m);
}

TEST_F(Driver, ErrorsEndTheirOpAlone) {
  void* m = alloc(2 * kMiB);
  std::vector<uint8_t> big(8 * kMiB);
  Recorded over, fine, after;
  run({copy(over, m, kMiB, big.data(), 8 * kMiB, true), copy(fine, m, 0, big.data(), 2 * kMiB, false), nop(after)});
  EXPECT_EQ(over.code, BATON_INVALID_ARGUMENT);
  EXPECT_THAT(over.what, HasSubstr("outside of buffer"));
  EXPECT_EQ(fine.code, BATON_OK);
  EXPECT_EQ(after.code, BATON_OK);
  table->free(device, m);
}

TEST_F(Driver, ThousandsOfOpsAreTakenAsRoomComes) {
  std::deque<Recorded> all(5000);
  std::vector<baton_driver_op> ops;
  for (Recorded& r : all) ops.push_back(nop(r));
  run(ops, 7);
  EXPECT_TRUE(std::all_of(all.begin(), all.end(), [](const Recorded& r) { return r.done && r.code == BATON_OK; }));
}

// With every length of pause between exchanges, so that both sides are met awake, asleep and in between.
TEST_F(Driver, NoWakeUpIsLost) {
  for (const char* options : {"?carrier=shm", "?carrier=tcp"}) {
    open(options);
    std::vector<uint64_t> awake;
    for (uint32_t i = 0; i < 3000; ++i) {
      Recorded r;
      const uint64_t begin = now_ns();
      run({nop(r)});
      ASSERT_TRUE(r.done);
      if (i < 2000) awake.push_back(now_ns() - begin);
      else ::usleep(i % 100);
    }
    std::sort(awake.begin(), awake.end());
    RecordProperty(std::string("nop_median_ns") + options, std::to_string(awake[awake.size() / 2]));
    std::printf("empty op%s: median %.1f us, 10%% %.1f us, 90%% %.1f us\n", options, double(awake[1000]) / 1e3, double(awake[200]) / 1e3,
                double(awake[1800]) / 1e3);
  }
}

TEST_F(Driver, IdleDescriptorSleepsAndNoticesTheDaemonsEnd) {
  for (const char* options : {"?carrier=shm", "?carrier=tcp"}) {
    DaemonProcess mine;
    void *d = nullptr, *q = nullptr;
    int watched = -1;
    recorder.losses = 0;
    ASSERT_EQ(table->open(&host, (mine.uri() + options).c_str(), &d, &e), BATON_OK);
    ASSERT_EQ(table->queue_open(d, 0, &q, &watched, &e), BATON_OK);
    pollfd p{watched, POLLIN, 0};
    EXPECT_TRUE(eventually([&] {
      table->poll(d, q, 64);
      return ::poll(&p, 1, 0) == 0;
    })) << "an idle device must not keep its sleeper busy";
    mine.signal(SIGKILL);
    EXPECT_EQ(::poll(&p, 1, 1000), 1);
    EXPECT_TRUE(eventually([&] {
      table->poll(d, q, 64);
      return recorder.losses == 1;
    }, 1000));
    EXPECT_EQ(recorder.why.code, BATON_DEVICE_LOST);
    EXPECT_THAT(recorder.why.what, HasSubstr(mine.uri().substr(6) + ": the wafer daemon is gone"));
    Recorded r;
    auto op = nop(r);
    uint32_t taken = 0;
    table->submit(d, q, &op, 1, &taken, &e);
    table->poll(d, q, 64);
    EXPECT_EQ(recorder.losses, 1) << "told once";
    EXPECT_FALSE(r.done) << "the core has failed it";
    table->queue_close(d, q);
    table->close(d);
  }
}


TEST_F(Driver, CancelStopsALaunchAndAClosedQueueIsNotTouched) {
  constexpr uint32_t kSteps = 100'000;
  const TinyDecode m = make_decode(kSteps, 512);
  void* program = nullptr;
  ASSERT_EQ(table->load(device, 0, m.bytes.data(), m.bytes.size(), m.constants.data(), uint32_t(m.constants.size()), 0, 1, &program, &e), BATON_OK)
      << e.what;
  void* tokens = alloc((kSteps + 1) * 4);
  const baton_driver_binding binding{"tokens", tokens, 0, (kSteps + 1) * 4};
  const int64_t args[] = {kSteps, 0};
  const auto launch = [&](Recorded& r) {
    baton_driver_op op{};
    op.opcode = BATON_OP_LAUNCH;
    op.cookie = &r;
    op.u.launch = {program, &binding, args, 1, 2, 1};
    return op;
  };
  Recorded stopped, next;
  stopped.cancel = true;  // says so at its first mark
  run({launch(stopped), nop(next)});
  EXPECT_EQ(stopped.code, BATON_CANCELLED);
  EXPECT_LT(stopped.marks, kSteps);
  EXPECT_EQ(next.code, BATON_OK);

  // A launch and a copy behind it are let go with their queue: the copy's memory is the caller's again at once.
  Recorded orphan, copied;
  auto* page = static_cast<uint8_t*>(::mmap(nullptr, kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const baton_driver_op ops[] = {launch(orphan), copy(copied, tokens, 0, page, 100'000, false)};
  uint32_t taken = 0;
  ASSERT_EQ(table->submit(device, queue, ops, 2, &taken, &e), BATON_OK);
  ASSERT_EQ(taken, 2u);
  EXPECT_TRUE(eventually([&] {
    table->poll(device, queue, 64);
    return orphan.marks > 0;
  }));
  table->queue_close(device, queue);
  ::munmap(page, kMiB);
  ASSERT_EQ(table->queue_open(device, 0, &queue, &fd, &e), BATON_OK);
  Recorded after;
  run({nop(after)});
  EXPECT_EQ(after.code, BATON_OK);
  EXPECT_FALSE(orphan.done);
  EXPECT_FALSE(copied.done);
  table->free(device, tokens);
  table->unload(device, program);
  baton_device_info i{};
  ASSERT_EQ(table->info(device, &i, &e), BATON_OK);
  EXPECT_EQ(i.heaps[0].bytes_used, 0u);
}

}  // namespace
}  // namespace baton::cs3::test
