// KvSpill and the ring below it: bytes come back, errors say where, and nothing stays open.
#include "transport_spill_test.hpp"

#include "transport/uring.hpp"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <csignal>

namespace baton::transport {
namespace {

using testing::HasSubstr;

// As on a disk with this much room for each file.
template <class F>
void with_file_limit(uint64_t bytes, F f) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit was;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &was), 0);
  const rlimit small{bytes, was.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  f();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &was), 0);
}

// What a child of this process makes of `f`: 0 if it says OK and its text has `text`.
template <class F>
int in_child(const std::string& text, F f) {
  const pid_t pid = fork();
  if (pid == 0) {
    Result<std::string> r = f();
    const std::string said = r.ok() ? *r : r.error().text();
    if (said.find(text) == std::string::npos) fprintf(stderr, "%s\n", said.c_str());
    _exit(said.find(text) == std::string::npos ? 1 : r.ok() ? 0 : 2);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  return status;
}

struct How {
  const char* name;
  bool direct, io_uring;
};
struct Spill : SpillTest, testing::WithParamInterface<How> {
  Spill() { options.direct = GetParam().direct, options.io_uring = GetParam().io_uring; }
};
INSTANTIATE_TEST_SUITE_P(All, Spill, testing::Values(How{"direct_uring", true, true}, How{"cached_uring", false, true}, How{"direct_pread", true, false},
                                                     How{"cached_pread", false, false}),
                         [](const auto& i) { return std::string(i.param.name); });

TEST_P(Spill, RandomSizesAndAlignmentsComeBackInAnyOrder) {
  constexpr uint64_t kBlocks = 100;
  options.block_bytes = 300'000, options.blocks = kBlocks;
  std::mt19937 rng(7);
  std::vector<uint64_t> bytes(kBlocks), order(kBlocks);
  std::vector<uint8_t> memory(kBlocks * 304'000 + 8192);
  std::iota(order.begin(), order.end(), 0);
  auto at = [&](uint64_t i) { return memory.data() + i * 304'000 + (i % 3 ? (i * 37) % 4000 : 0); };
  for (int round = 0; round < 2; ++round) {
    auto spill = open();
    std::vector<KvSpill::Put> puts;
    for (uint64_t i = 0; i < kBlocks; ++i) {
      bytes[i] = i % 5 == 0 ? options.block_bytes : i % 5 == 1 ? 4096 * (1 + i % 70) : 1 + rng() % options.block_bytes;
      fill_block(at(i), bytes[i], i + 1000 * uint64_t(round));
    }
    std::shuffle(order.begin(), order.end(), rng);
    for (uint64_t i : order) puts.push_back({key_of(i), at(i), bytes[i]});
    for (size_t n = 0; n < puts.size(); n += 25) ASSERT_OK(spill.put(std::span(puts).subspan(n, 25)));
    std::fill(memory.begin(), memory.end(), 0);
    std::shuffle(order.begin(), order.end(), rng);
    std::vector<KvSpill::Get> gets;
    for (uint64_t i : order) gets.push_back({key_of(i), at(i), bytes[i]});
    ASSERT_OK(spill.get(gets));
    for (uint64_t i = 0; i < kBlocks; ++i) {
      const auto want = block_of(bytes[i], i + 1000 * uint64_t(round));
      ASSERT_EQ(std::memcmp(at(i), want.data(), want.size()), 0) << "block " << i << " of " << bytes[i] << " bytes";
    }
    EXPECT_EQ(spill.stats().blocks, kBlocks);
    std::vector<KvBlockKey> all;
    for (auto& b : spill.list()) all.push_back(b.key);
    ASSERT_OK(spill.drop(all));
    EXPECT_EQ(spill.stats().bytes, 0u);
  }
}

TEST_P(Spill, AnotherOpenFindsWhatWasPutReplacedAndDropped) {
  {
    auto spill = open();
    for (uint64_t n = 0; n < 10; ++n) ASSERT_OK(put_one(spill, n));
    ASSERT_OK(drop_one(spill, 3));
    ASSERT_OK(drop_one(spill, 99));
    const auto v = block_of(500, 77); // other bytes below key 4
    const KvSpill::Put p[2] = {{key_of(5), v.data(), 500}, {key_of(4), v.data(), 500}};
    ASSERT_OK(spill.put(p));
    EXPECT_THAT(spill.describe(), HasSubstr(GetParam().io_uring ? "io_uring, 64 in flight" : "pread and pwrite (not asked for)"));
  }
  auto spill = open();
  EXPECT_EQ(spill.stats().blocks, 9u);
  for (uint64_t n = 0; n < 10; ++n) EXPECT_EQ(spill.has(key_of(n)), n != 3);
  for (uint64_t n : {0, 1, 2, 6, 7, 8, 9}) EXPECT_OK(get_one(spill, n));
  std::vector<uint8_t> out(500);
  const KvSpill::Get g{key_of(4), out.data(), 500};
  ASSERT_OK(spill.get({&g, 1}));
  EXPECT_EQ(out, block_of(500, 77));
  EXPECT_EQ(spill.list().front().key, key_of(0));
  EXPECT_EQ(spill.list().back().key, key_of(4));
}

TEST_P(Spill, FullIsAnErrorAndDroppedSlotsAreUsedAgain) {
  options.blocks = 8;
  auto spill = open();
  for (uint64_t n = 0; n < 8; ++n) ASSERT_OK(put_one(spill, n));
  const Status s = put_one(spill, 8);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_CAPACITY);
  EXPECT_THAT(s.error().what, HasSubstr("1 blocks to put, 0 of 8 slots are free"));
  EXPECT_EQ(put_one(spill, 0).error().code, BATON_CAPACITY) << "a replacement needs a slot too: the old block stays until the new one is durable";
  for (uint64_t n = 0; n < 16; ++n) {
    ASSERT_OK(drop_one(spill, n));
    ASSERT_OK(put_one(spill, n + 8));
  }
  for (uint64_t n = 16; n < 24; ++n) EXPECT_OK(get_one(spill, n));
  EXPECT_LE(std::filesystem::file_size(path("blocks")), 8 * kBlock);
}

TEST_P(Spill, EveryFlippedByteOfABlockIsFound) {
  auto spill = open();
  for (uint64_t n = 0; n < 4; ++n) ASSERT_OK(put_one(spill, n));
  for (uint64_t at : {uint64_t(0), uint64_t(1), uint64_t(4095), uint64_t(4096), kBlock / 2, kBlock - 1}) {
    flip("blocks", 2 * kBlock + at);
    std::vector<uint8_t> out(kBlock, 1);
    const KvSpill::Get g{key_of(2), out.data(), kBlock};
    const Status s = spill.get({&g, 1});
    ASSERT_FALSE(s.ok()) << at;
    EXPECT_EQ(s.error().code, BATON_CORRUPT);
    EXPECT_THAT(s.error().what, testing::AllOf(HasSubstr("blocks: slot 2 (byte 32768)"), HasSubstr("checksum")));
    EXPECT_THAT(s.error().next, HasSubstr("drop the block"));
    EXPECT_EQ(out, std::vector<uint8_t>(kBlock)) << "what is not verified is not handed out";
    flip("blocks", 2 * kBlock + at);
    EXPECT_OK(get_one(spill, 2));
  }
  ASSERT_OK(drop_one(spill, 2));
  ASSERT_OK(put_one(spill, 2));
  EXPECT_OK(get_one(spill, 2));
}

TEST_P(Spill, BlocksInEachOthersPlaceAreFound) {
  auto spill = open();
  for (uint64_t n = 0; n < 2; ++n) ASSERT_OK(put_one(spill, n));
  std::string blocks = read("blocks"), swapped = blocks;
  std::swap_ranges(swapped.begin(), swapped.begin() + kBlock, swapped.begin() + kBlock);
  write("blocks", swapped);
  for (uint64_t n = 0; n < 2; ++n) EXPECT_EQ(get_one(spill, n).error().code, BATON_CORRUPT);
  write("blocks", blocks.substr(0, kBlock + 100)); // and a file that was cut
  EXPECT_OK(get_one(spill, 0));
  const Status s = get_one(spill, 1);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_CORRUPT);
  EXPECT_THAT(s.error().what, HasSubstr("blocks: ends within"));
}

TEST_P(Spill, DiskFullIsOneErrorAndTheStoreGoesOn) {
  constexpr uint64_t kLong = 1 << 20;
  options.block_bytes = kLong, options.blocks = 1 << 20; // more than the limit below lets it keep
  auto spill = open();
  ASSERT_OK(put_one(spill, 0, kLong));
  const uint64_t limit = std::filesystem::file_size(path("blocks")) + 2 * kLong, room = limit / kLong;
  std::vector<uint8_t> v = block_of(kLong, 5);
  std::vector<KvSpill::Put> puts;
  for (uint64_t n = 1; n <= room; ++n) puts.push_back({key_of(n), v.data(), kLong});
  Status all, fewer;
  with_file_limit(limit, [&] { all = spill.put(puts), fewer = spill.put(std::span(puts).first(room - 1)); });
  ASSERT_FALSE(all.ok());
  EXPECT_EQ(all.error().code, BATON_CAPACITY) << all.error().text();
  EXPECT_THAT(all.error().what, testing::AllOf(HasSubstr("blocks: room for"), HasSubstr("File too large")));
  EXPECT_THAT(all.error().next, HasSubstr("free space"));
  ASSERT_OK(fewer);
  EXPECT_EQ(spill.stats().blocks, room);
  EXPECT_OK(get_one(spill, 0, kLong));
  ASSERT_OK(spill.put(puts));
}

TEST_P(Spill, AnIndexThatFindsNoRoomStaysAsItWas) {
  options.block_bytes = 100, options.blocks = 2;
  auto spill = open();
  const auto v = block_of(100, 1);
  const std::vector<KvSpill::Put> puts(2, {key_of(1), v.data(), 100}); // the second replaces the first
  for (int i = 0; i < 60; ++i) { // until the index is longer than `blocks`
    ASSERT_OK(spill.put(puts));
    ASSERT_OK(drop_one(spill, 1));
  }
  ASSERT_OK(put_one(spill, 7, 100));
  const uint64_t bytes = spill.stats().index_bytes;
  ASSERT_EQ(std::filesystem::file_size(path("index")), bytes);
  Status put, drop;
  with_file_limit(bytes + 32, [&] { put = put_one(spill, 1, 100), drop = drop_one(spill, 7); });
  for (const Status* s : {&put, &drop}) {
    ASSERT_FALSE(s->ok());
    EXPECT_EQ(s->error().code, BATON_CAPACITY);
    EXPECT_THAT(s->error().what, HasSubstr("/index: write of 32 bytes"));
  }
  EXPECT_EQ(std::filesystem::file_size(path("index")), bytes);
  EXPECT_OK(get_one(spill, 7, 100));
  ASSERT_OK(put_one(spill, 1, 100));
  ASSERT_OK(drop_one(spill, 7));
  EXPECT_OK(get_one(spill, 1, 100));
}

TEST_P(Spill, AHundredRoundsHoldNothing) {
  options.blocks = 8;
  auto round = [&](uint64_t n) {
    auto spill = open();
    ASSERT_OK(put_one(spill, n));
    ASSERT_OK(get_one(spill, n));
    ASSERT_FALSE(get_one(spill, n + 1).ok());
    ASSERT_FALSE(KvSpill::open(options).ok());
    ASSERT_OK(drop_one(spill, n));
  };
  for (uint64_t n = 0; n < 5; ++n) round(n);
  const size_t fds = open_fds();
  const uint64_t rss = test::holdings(getpid()).rss_bytes;
  for (uint64_t n = 0; n < 100; ++n) round(n);
  EXPECT_EQ(open_fds(), fds);
  if (!kSanitized) {
    EXPECT_LT(test::holdings(getpid()).rss_bytes, rss + (4 << 20));
  }
}

struct SpillOnce : SpillTest {};

Result<std::string> round_trip(const KvSpillOptions& options) {
  BATON_ASSIGN(auto spill, KvSpill::open(options));
  for (uint64_t n = 0; n < 20; ++n) BATON_TRY(put_one(spill, n));
  for (uint64_t n = 0; n < 20; ++n) BATON_TRY(get_one(spill, n));
  return spill.describe();
}

TEST_F(SpillOnce, WhereTheKernelRefusesARingItGoesOnWithout) {
  EXPECT_EQ(in_child("pread and pwrite (io_uring_setup: Operation not permitted)", [&]() -> Result<std::string> {
    sock_filter code[] = {{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
                          {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_io_uring_setup},
                          {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
                          {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}};
    sock_fprog program{4, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) return Error(BATON_IO, "no seccomp");
    return round_trip(options);
  }), 0);
}

TEST_F(SpillOnce, WhereMemoryMayNotBePinnedItGoesOnWithout) {
  EXPECT_EQ(in_child("files registered, buffers not registered (registering 4194304 bytes of memory: Cannot allocate memory)", [&]() -> Result<std::string> {
    const rlimit small{1 << 20, 1 << 20}; // enough for the ring itself
    __user_cap_header_struct head{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct nothing[2] = {};
    if (setrlimit(RLIMIT_MEMLOCK, &small) || syscall(SYS_capset, &head, nothing)) return Error(BATON_IO, "no capset");
    return round_trip(options);
  }), 0);
}

TEST_F(SpillOnce, ASecondOpenerIsToldWhoHasIt) {
  auto spill = open();
  auto second = KvSpill::open(options);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, BATON_BUSY);
  EXPECT_THAT(second.error().what, HasSubstr("process " + std::to_string(getpid()) + " has it open"));
  ASSERT_OK(put_one(spill, 1));
}

TEST_F(SpillOnce, AnotherLayoutOrBlockSizeIsRefused) {
  { auto spill = open(); ASSERT_OK(put_one(spill, 1)); }
  const std::string index = read("index");
  KvSpillOptions other = options;
  other.layout = 0x99;
  auto r = KvSpill::open(other);
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().code, BATON_MISMATCH);
  EXPECT_THAT(r.error().what, testing::AllOf(HasSubstr("0000000000001234"), HasSubstr("0000000000000099")));
  other = options, other.block_bytes = 8192;
  EXPECT_EQ(KvSpill::open(other).error().code, BATON_MISMATCH);
  other = options, other.blocks = 0;
  EXPECT_EQ(KvSpill::open(other).error().code, BATON_INVALID_ARGUMENT);
  other = options, other.folder = dir.path() + "/no/such";
  EXPECT_EQ(KvSpill::open(other).error().code, BATON_IO);
  EXPECT_EQ(read("index"), index) << "a refused open wrote";
  EXPECT_OK(get_one(*std::make_unique<KvSpill>(open()), 1));
}

TEST_F(SpillOnce, CallerMistakes) {
  auto spill = open();
  EXPECT_EQ(put_one(spill, 1, 0).error().code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(put_one(spill, 1, kBlock + 1).error().code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(get_one(spill, 1).error().code, BATON_NOT_FOUND);
  ASSERT_OK(put_one(spill, 1, 100));
  EXPECT_EQ(get_one(spill, 1, 99).error().code, BATON_MISMATCH);
  EXPECT_OK(spill.put({}));
  EXPECT_OK(spill.get({}));
  EXPECT_OK(spill.drop({}));
}

TEST_F(SpillOnce, TheCapacityMayChangeBetweenOpens) {
  { auto spill = open(); for (uint64_t n = 0; n < 64; ++n) ASSERT_OK(put_one(spill, n, 64)); }
  options.blocks = 63;
  auto r = KvSpill::open(options);
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().code, BATON_CAPACITY);
  EXPECT_THAT(r.error().next, HasSubstr("64 blocks"));
  options.blocks = 100;
  auto spill = open();
  for (uint64_t n = 64; n < 100; ++n) ASSERT_OK(put_one(spill, n, 64));
  for (uint64_t n = 0; n < 100; ++n) EXPECT_OK(get_one(spill, n, 64));
}

TEST_F(SpillOnce, AnIndexThatGrewIsWrittenAnew) {
  options.direct = false;
  auto spill = open();
  std::vector<uint8_t> v = block_of(64, 1);
  std::vector<KvSpill::Put> puts;
  std::vector<KvBlockKey> keys;
  for (uint64_t n = 100; n < 160; ++n) puts.push_back({key_of(n), v.data(), 64}), keys.push_back(key_of(n));
  ASSERT_OK(put_one(spill, 1));
  for (int i = 0; i < 60; ++i) {
    ASSERT_OK(spill.put(puts));
    ASSERT_OK(spill.drop(keys));
  }
  EXPECT_LT(spill.stats().index_bytes, 64u * 4400);
  EXPECT_FALSE(std::filesystem::exists(path("index.new")));
  EXPECT_OK(get_one(spill, 1));
  const uint64_t generation = spill.list()[0].generation;
  ASSERT_OK(put_one(spill, 2));
  EXPECT_GT(spill.list()[1].generation, generation + 60 * 60) << "generations go on across a new index";
}

TEST_F(SpillOnce, RegisteredMemoryIsReadAndWrittenInPlace) {
  auto spill = open();
  const uint64_t bytes = 64 * kBlock;
  auto* memory = static_cast<uint8_t*>(aligned_alloc(4096, bytes));
  const bool pinned = spill.add_memory(memory, bytes);
  std::vector<KvSpill::Put> puts;
  std::vector<KvSpill::Get> gets;
  for (uint64_t n = 0; n < 64; ++n) {
    fill_block(memory + n * kBlock, kBlock, n);
    puts.push_back({key_of(n), memory + n * kBlock, kBlock});
    gets.push_back({key_of(n), memory + n * kBlock, kBlock});
  }
  ASSERT_OK(spill.put(puts));
  std::memset(memory, 0, bytes);
  ASSERT_OK(spill.get(gets));
  for (uint64_t n = 0; n < 64; ++n) {
    const auto want = block_of(kBlock, n);
    EXPECT_EQ(std::memcmp(memory + n * kBlock, want.data(), kBlock), 0) << n;
  }
  if (pinned) spill.remove_memory(memory);
  free(memory);
  EXPECT_OK(get_one(spill, 5));
}

TEST_F(SpillOnce, TheRingSaysWhereAFileEndsAndWhatIsUnderWay) {
  auto ring = must(Uring::open({.depth = 4}));
  EXPECT_EQ(Uring::open({.depth = 0}).error().code, BATON_INVALID_ARGUMENT);
  const std::string name = dir.path() + "/file";
  bool direct = true;
  Fd fd(open_direct(name.c_str(), O_RDWR | O_CREAT, 0600, direct));
  const uint32_t file = must(ring.add_file(fd.get(), direct, "file"));
  std::vector<uint8_t> in = block_of(5'000'000, 3), out(in.size());
  const UringIo w{UringIo::write, file, 0, in.data(), in.size()};
  ASSERT_OK(ring.run({&w, 1}, deadline_in_ms(60000)));
  const UringIo r{UringIo::read, file, 0, out.data(), out.size()};
  ASSERT_OK(ring.start({&r, 1}));
  EXPECT_EQ(ring.start({&r, 1}).error().code, BATON_BUSY);
  while (!ring.step()) {}
  ASSERT_OK(ring.wait(0));
  EXPECT_EQ(in, out);
  const UringIo beyond{UringIo::read, file, 4'997'120, out.data(), 8192};
  const Status s = ring.run({&beyond, 1});
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_CORRUPT);
  EXPECT_THAT(s.error().what, HasSubstr("file: ends within"));
  const UringIo wrong{UringIo::read, file + 1, 0, out.data(), 1};
  EXPECT_EQ(ring.run({&wrong, 1}).error().code, BATON_INVALID_ARGUMENT);
  const UringIo again{UringIo::read, file, 4096, out.data(), 4096};
  ASSERT_OK(ring.run({&again, 1}));
  EXPECT_EQ(std::memcmp(out.data(), in.data() + 4096, 4096), 0);
  ASSERT_OK(ring.start({&r, 1})); // the destructor waits for what the kernel still writes into `out`
}

}  // namespace
}  // namespace baton::transport
