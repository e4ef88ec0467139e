// What is left of a KvSpill when its process is killed or its index is cut or damaged: blocks that are whole, or absent, or an error.
#include "transport_spill_test.hpp"

#include "transport/spill_index.hpp"

#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <csignal>
#include <set>
#include <thread>

namespace baton::transport {
namespace {

using testing::HasSubstr;

struct SpillCrash : SpillTest {
  // Five batches: blocks 0, 1, 2; block 3; drop of 1; blocks 4, 5, 6; block 7. The files as they are before an orderly end.
  std::string index, blocks;
  static constexpr uint64_t kRecords = 9;
  void fill() {
    options.direct = false;
    auto spill = open();
    auto put = [&](std::initializer_list<uint64_t> keys) {
      std::vector<std::vector<uint8_t>> data;
      std::vector<KvSpill::Put> puts;
      for (uint64_t n : keys) data.push_back(block_of(kBlock, n)), puts.push_back({key_of(n), data.back().data(), kBlock});
      ASSERT_OK(spill.put(puts));
    };
    put({0, 1, 2});
    put({3});
    ASSERT_OK(drop_one(spill, 1));
    put({4, 5, 6});
    put({7});
    index = read("index"), blocks = read("blocks");
    ASSERT_EQ(index.size(), (kRecords + 1) * kSpillUnit);
  }
  void restore(const std::string& changed) {
    write("index", changed);
    write("blocks", blocks);
  }
  void expect_blocks(std::set<uint64_t> there) {
    auto spill = open();
    for (uint64_t n = 0; n < 9; ++n) {
      ASSERT_EQ(spill.has(key_of(n)), there.contains(n)) << n;
      if (there.contains(n)) ASSERT_OK(get_one(spill, n));
    }
    ASSERT_OK(put_one(spill, 8));
    ASSERT_OK(get_one(spill, 8));
  }
};

TEST_F(SpillCrash, AnIndexCutAtAnyByteEndsWithItsLastWholeRecord) {
  fill();
  for (uint64_t cut = 0; cut < kSpillUnit; ++cut) {
    SCOPED_TRACE(cut);
    restore(index.substr(0, kRecords * kSpillUnit + cut));
    expect_blocks({0, 2, 3, 4, 5, 6});
    expect_blocks({0, 2, 3, 4, 5, 6, 8}); // and it goes on from there
    restore(index.substr(0, 6 * kSpillUnit + cut)); // the drop is the last whole one
    expect_blocks({0, 2, 3});
  }
}

TEST_F(SpillCrash, ATornBatchMayHaveHoles) {
  fill();
  for (uint64_t hole = 6; hole < 9; ++hole) { // of the batch 4, 5, 6, whose successor never came
    std::string torn = index.substr(0, 9 * kSpillUnit);
    std::fill_n(torn.begin() + long(hole * kSpillUnit), kSpillUnit, '\0');
    restore(torn);
    std::set<uint64_t> there{0, 2, 3};
    for (uint64_t n = 4; n < hole - 2; ++n) there.insert(n);
    expect_blocks(there);
  }
}

TEST_F(SpillCrash, EveryFlippedByteOfADurableRecordIsFound) {
  fill();
  for (uint64_t at = 0; at < kRecords * kSpillUnit; at += at < kSpillUnit ? 1 : 5) {
    std::string flipped = index;
    flipped[at] ^= 0x10;
    restore(flipped);
    auto r = KvSpill::open(options);
    ASSERT_FALSE(r.ok()) << at;
    EXPECT_EQ(r.error().code, at >= 8 && at < 12 ? BATON_VERSION : BATON_CORRUPT) << r.error().text();
    EXPECT_THAT(r.error().what, HasSubstr("/index: "));
    if (at >= kSpillUnit) {
      EXPECT_THAT(r.error().what, HasSubstr("record " + std::to_string(at / kSpillUnit - 1) + " at byte "));
    }
    EXPECT_THAT(r.error().next, HasSubstr("spill anew"));
    EXPECT_EQ(read("index"), flipped) << "a refused open wrote";
  }
}

TEST_F(SpillCrash, AfterAnOrderlyEndNoRecordPassesForTorn) {
  fill();
  { auto spill = open(); }
  const std::string closed = read("index");
  ASSERT_EQ(closed.size(), index.size() + kSpillUnit);
  for (uint64_t at = kSpillUnit; at < closed.size(); at += 7) {
    std::string flipped = closed;
    flipped[at] ^= 1;
    restore(flipped);
    auto r = KvSpill::open(options);
    ASSERT_EQ(r.ok(), at >= index.size()) << at << ": the mark itself may tear, all else is found";
  }
  restore(closed);
  for (int i = 0; i < 5; ++i) auto spill = open();
  EXPECT_EQ(read("index").size(), closed.size()) << "opening alone adds nothing";
}

TEST_F(SpillCrash, AnIndexThatWasCutBelowItsBaseIsFound) {
  fill();
  options.blocks = 65; // written anew: all its records are its base
  { auto spill = open(); }
  const std::string anew = read("index");
  for (uint64_t bytes = 0; bytes < 8 * kSpillUnit; bytes += 16) {
    restore(anew.substr(0, bytes));
    EXPECT_EQ(KvSpill::open(options).error().code, BATON_CORRUPT) << bytes;
  }
}

TEST_F(SpillCrash, AnIndexThatWasNotFinishedIsNotTaken) {
  fill();
  restore(index);
  write("index.new", "half");
  expect_blocks({0, 2, 3, 4, 5, 6, 7});
}

TEST_F(SpillCrash, WritesOfAKilledProcessAreWaitedFor) {
  { auto spill = open(); ASSERT_OK(put_one(spill, 1)); }
  // What a write in flight holds: the description of `blocks`.
  const int late = ::open(path("blocks").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(flock(late, LOCK_EX), 0);
  auto r = KvSpill::open(options);
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().code, BATON_BUSY);
  EXPECT_THAT(r.error().what, HasSubstr("blocks: writes of a process that has ended"));
  std::thread lands([&] { usleep(50'000), ::close(late); });
  const uint64_t start = now_ns();
  r = KvSpill::open(options);
  const uint64_t took = now_ns() - start;
  lands.join();
  ASSERT_OK(r);
  EXPECT_GT(took, 20'000'000u);
  EXPECT_OK(get_one(*r, 1));
}

// What the child says it is about to do, and has done.
struct Said {
  enum Kind : uint32_t { put, drop, done } kind;
  uint32_t count;
  uint64_t first;
};

constexpr uint64_t kSmall = 5000;

// Puts and drops until it is killed.
[[noreturn]] void child(const KvSpillOptions& options, int out, uint64_t next, uint32_t seed) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  auto say = [&](Said s) { if (::write(out, &s, sizeof s) != sizeof s) _exit(1); };
  auto spill = KvSpill::open(options);
  if (!spill.ok()) _exit(2);
  std::mt19937 rng(seed);
  for (;;) {
    const auto all = spill->list();
    const uint32_t n = 1 + rng() % 8;
    if (all.size() + n > options.blocks || (all.size() > 8 && rng() % 3 == 0)) {
      const KvBlockKey k = all[rng() % all.size()].key;
      say({Said::drop, 1, k.low});
      if (!spill->drop({&k, 1}).ok()) _exit(3);
    } else {
      std::vector<std::vector<uint8_t>> data;
      std::vector<KvSpill::Put> puts;
      for (uint32_t i = 0; i < n; ++i) data.push_back(block_of(kSmall, next + i)), puts.push_back({key_of(next + i), data.back().data(), kSmall});
      say({Said::put, n, next});
      if (!spill->put(puts).ok()) _exit(4);
      next += n;
    }
    say({Said::done, 0, 0});
  }
}

TEST_F(SpillCrash, KilledAtFiftyPointsItHasWhatItAcknowledgedAndNothingElse) {
  options.blocks = 40;
  std::mt19937 rng(11);
  std::set<uint64_t> there;
  uint64_t next = 1, operations = 0, under_way = 0;
  for (uint32_t point = 0; point < 50; ++point) {
    SCOPED_TRACE(point);
    options.direct = point % 2, options.io_uring = point % 3;
    int way[2];
    ASSERT_EQ(pipe2(way, O_CLOEXEC), 0);
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) child(options, way[1], next, point);
    ::close(way[1]);
    std::optional<Said> open_op;
    std::set<uint64_t> maybe; // what the operation that was under way is about
    uint32_t left = rng() % 20;
    bool killed = false;
    auto end = [&] {
      usleep(rng() % 3000);
      ASSERT_EQ(::kill(pid, SIGKILL), 0);
      killed = true;
    };
    if (left == 0) end();
    for (Said s; ::read(way[0], &s, sizeof s) == sizeof s;) {
      if (s.kind != Said::done) {
        open_op = s;
        if (s.kind == Said::put) next = s.first + s.count;
        continue;
      }
      ASSERT_TRUE(open_op);
      for (uint64_t n = open_op->first; n < open_op->first + open_op->count; ++n)
        if (open_op->kind == Said::put) there.insert(n);
        else there.erase(n);
      open_op.reset();
      ++operations;
      if (!killed && left-- == 0) end();
    }
    ::close(way[0]);
    int status;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "the child ended by itself: " << status;
    if (open_op)
      for (uint64_t n = open_op->first; n < open_op->first + open_op->count; ++n) maybe.insert(n);
    under_way += !maybe.empty();

    auto spill = open();
    std::set<uint64_t> found;
    for (auto& b : spill.list()) {
      ASSERT_OK(get_one(spill, b.key.low, kSmall));
      ASSERT_TRUE(there.contains(b.key.low) || maybe.contains(b.key.low)) << b.key.low << " was dropped, or never put";
      found.insert(b.key.low);
    }
    for (uint64_t n : there) ASSERT_TRUE(found.contains(n) || maybe.contains(n)) << n << " was acknowledged and is gone";
    there = found;
  }
  EXPECT_GT(operations, 100u);
  EXPECT_GT(under_way, 10u) << "most kills hit nothing";
}

}  // namespace
}  // namespace baton::transport
