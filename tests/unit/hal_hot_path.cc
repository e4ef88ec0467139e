// What the hot path promises: no allocation, no lock, no waiting for another thread, a cache line a timeline.
#include "tests/support/count_calls.h"
#include "tests/unit/hal_test.hpp"

#include <fstream>
#include <mutex>
#include <thread>

namespace baton::test {
namespace {

using HotPath = HalTest;

TEST(CountCalls, SeesAnAllocationAndALock) {
  const Calls before = calls();
  std::vector<char>* volatile p = new std::vector<char>(100);
  delete p;
  static std::mutex mu;
  { std::lock_guard lock(mu); }
  EXPECT_EQ(calls().allocations - before.allocations, 2u);
  EXPECT_EQ(calls().locks - before.locks, counts_locks() ? 1u : 0u);
}

// Every kind of op that the host device ends at once, and waits of each kind: met, not met, met by another op.
TEST_F(HotPath, SubmitAllocatesNothingAndLocksNothing) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Buffer b = must(d.alloc(4096));
  Timeline a = timeline("a"), z = timeline("z"), gate = timeline("gate");
  uint64_t v = 0, called = 0;
  std::vector<Op> nops(64), mixed(5);
  auto round = [&] {
    for (Op& op : nops) op = nop().signal(a, ++v);
    ASSERT_EQ(baton_submit(q.get(), nops.data(), 64, nullptr), BATON_OK);
    mixed[0] = nop().wait(a, v).signal(z, 2 * v);                                             // met
    mixed[1] = fill(b, 0, 4096, 1).wait(gate, v).signal(a, v + 1);                            // not met yet
    mixed[2] = copy(b, 0, b, 2048, 2048).wait(a, v + 1).wait(gate, v).signal(z, 2 * v + 2);   // by the fill and the gate
    mixed[3] = host([](void* u) { ++*static_cast<uint64_t*>(u); }, &called).wait(z, 2 * v + 2).signal(a, v + 2);
    mixed[4] = nop().wait(a, v + 2).signal(z, 2 * v + 3);
    ASSERT_EQ(baton_submit(q.get(), mixed.data(), 5, nullptr), BATON_OK);
    gate.signal(v);
    v += 2;
    while (in.poll()) {
    }
    uint64_t seen = 0;
    ASSERT_EQ(baton_timeline_query(z.get(), &seen, nullptr), BATON_OK);
    ASSERT_EQ(seen, 2 * v - 1);
    ASSERT_EQ(baton_timeline_wait(a.get(), v, BATON_NO_DEADLINE, nullptr), BATON_OK);
  };
  for (int i = 0; i < 10; ++i) round();
  const Calls before = calls();
  for (int i = 0; i < 100; ++i) round();
  const Calls after = calls();
  EXPECT_EQ(called, 110u);
  EXPECT_EQ(after.allocations - before.allocations, 0u);
  EXPECT_EQ(after.locks - before.locks, 0u);
  EXPECT_EQ(after.futexes - before.futexes, 0u);
}

// Keeps a thread inside the instance: in a span callback, until let go.
class Inside {
 public:
  explicit Inside(const Instance& in, const Queue& q) : in_(in) {
    baton_set_span_callback(in.get(), stay, this);
    thread_ = std::thread([&q] { EXPECT_OK(q.submit(nop())); });
    while (state_ != kIn) std::this_thread::yield();
  }
  ~Inside() { let_go(); }
  bool still() const { return state_ == kIn; }
  void let_go() {
    if (!thread_.joinable()) return;
    state_ = kLeaving;
    thread_.join();
    baton_set_span_callback(in_.get(), nullptr, nullptr);
  }

 private:
  enum { kNotYet, kIn, kLeaving };
  static void stay(void* self, const baton_span*) {
    auto* i = static_cast<Inside*>(self);
    int first = kNotYet;
    if (!i->state_.compare_exchange_strong(first, kIn)) return;
    for (const uint64_t end = soon(); i->state_ == kIn && now_ns() < end;) std::this_thread::yield();
    i->state_ = kLeaving;
  }
  const Instance& in_;
  std::atomic<int> state_{kNotYet};
  std::thread thread_;
};

TEST_F(HotPath, SubmitDoesNotWaitForAThreadThatIsInside) {
  Device d = open("host://"), fake = open("fake://");
  Queue other = must(d.queue()), q = must(d.queue()), lane = must(fake.queue());
  Buffer b = must(d.alloc(64)), far = must(fake.alloc(64));
  Program p = must(fake.load(std::vector<uint8_t>{1}, {}));
  Timeline go = timeline("go"), done = timeline("done"), launched = timeline("launched"), marks = timeline("marks");
  std::vector<int> order;
  struct Step {
    std::vector<int>* order;
    int id;
  } steps[3] = {{&order, 0}, {&order, 1}, {&order, 2}};
  auto fn = [](void* u) { static_cast<Step*>(u)->order->push_back(static_cast<Step*>(u)->id); };
  {
    Inside inside(in, other);
    for (Step& s : steps) EXPECT_OK(q.submit(host(fn, &s).wait(go, 1)));
    EXPECT_OK(q.submit({fill(b, 0, 64, 7).wait(go, 1).signal(done, 1), nop().wait(done, 1).wait(launched, 1).signal(done, 2)}));
    {
      const std::string name = "a name that is longer than a short string";
      const int64_t args[2] = {1, 2};
      const baton_binding bindings[2] = {bind(name.c_str(), far), bind("x", far, 8, 8)};
      EXPECT_OK(lane.submit(launch(p, bindings, args).progress(marks).signal(launched, 1)));
    }
    EXPECT_CODE(q.submit(fill(b, 60, 8, 0)), BATON_INVALID_ARGUMENT);  // refused at once all the same
    go.signal(1);
    EXPECT_TRUE(inside.still());
    EXPECT_EQ(must(done.value()), 0u);
  }
  EXPECT_OK(done.wait_until(2, soon()));
  EXPECT_EQ(must(marks.value()), 3u);
  while (order.size() < 3) in.poll();
  EXPECT_THAT(order, ::testing::ElementsAre(0, 1, 2));
  EXPECT_EQ(static_cast<uint8_t*>(must(b.map()))[63], 7);
}

TEST_F(HotPath, WhatWasPostedCountsBeforeAHandleGoes) {
  Device d = open("host://");
  Queue other = must(d.queue()), q = must(d.queue());
  Timeline done = timeline("done"), never = timeline("never");
  Buffer b = must(d.alloc(64));
  {
    Inside inside(in, other);
    EXPECT_OK(q.submit({nop().wait(never, 1).signal(done, 1), fill(b, 0, 64, 1)}));
    std::thread last([&] { inside.let_go(); });
    b.reset();
    never.reset();  // waits for the thread inside
    last.join();
  }
  Status s = done.wait_until(1, soon());
  EXPECT_CODE(s, BATON_CANCELLED);
  EXPECT_THAT(s.error().what, ::testing::HasSubstr("'never' was destroyed with 1 ops in flight"));
}

uint64_t resident_bytes() {
  std::ifstream f("/proc/self/statm");
  uint64_t pages = 0;
  f >> pages >> pages;
  return pages * 4096;
}

TEST_F(HotPath, AMillionTimelinesTakeLessThan128MB) {
  const size_t count = counts_locks() ? 1'000'000 : 10'000;  // a sanitizer's memory is its own
  std::vector<Timeline> all;
  all.reserve(count);
  memset(static_cast<void*>(all.data()), 0, count * sizeof(Timeline));
  const uint64_t before = resident_bytes();
  for (size_t i = 0; i < count; ++i) all.push_back(timeline("request " + std::to_string(i)));
  const uint64_t bytes = resident_bytes() - before;
  EXPECT_LT(bytes, counts_locks() ? 128'000'000u : UINT64_MAX);
  for (size_t i = 0; i < count; i += 997) all[i].signal(i);
  for (size_t i = 0; i < count; i += 997) EXPECT_EQ(must(all[i].value()), i);
  all.resize(count / 2);
  Timeline again = timeline("again");  // memory of one that is gone, as new
  EXPECT_EQ(must(again.value()), 0u);
}

}  // namespace
}  // namespace baton::test
