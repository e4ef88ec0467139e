// Any thread may call: several submit, signal, wait, open, close and destroy while others poll. What is taken is done, once and in order.
#include "tests/unit/hal_test.hpp"

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>

namespace baton::test {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
constexpr int kRounds = 60;
#else
constexpr bool kSanitized = false;
constexpr int kRounds = 400;
#endif

class ThreadsTest : public HalTest {
 protected:
  void add(auto fn) { threads_.emplace_back(fn); }
  // Polls in `count` threads until the others are over.
  void run_and_poll(int count) {
    std::atomic<bool> over{false};
    std::vector<std::thread> pollers;
    for (int i = 0; i < count; ++i)
      pollers.emplace_back([&, i] {
        while (!over) i ? in.poll() : in.poll_wait(deadline_in_ms(1));
      });
    for (std::thread& t : threads_) t.join();
    over = true;
    for (std::thread& t : pollers) t.join();
  }
  std::vector<std::thread> threads_;
};

// HOST functions of one submitter on a queue that others submit to as well: each called once, in the order of its submits.
TEST_F(ThreadsTest, OpsOfOneThreadRunInTheOrderOfItsSubmits) {
  Device d = open("host://");
  Queue q = must(d.queue());
  struct Submitter {
    std::vector<int> seen;
    Timeline done;
    struct Step {
      Submitter* of;
      int id;
    };
    std::vector<Step> steps;
  } all[3];
  for (Submitter& s : all) {
    s.done = timeline();
    s.steps.resize(kRounds * 4);
    add([&] {
      for (int i = 0; i < kRounds * 4; i += 4) {
        Op ops[4];
        for (int k = i; k < i + 4; ++k) {
          s.steps[size_t(k)] = {&s, k};
          auto fn = [](void* u) { static_cast<Submitter::Step*>(u)->of->seen.push_back(static_cast<Submitter::Step*>(u)->id); };
          // Two functions that are ready may be called by two pollers at once: the wait orders them.
          ops[k - i] = host(fn, &s.steps[size_t(k)]).wait(s.done, uint64_t(k)).signal(s.done, uint64_t(k) + 1);
        }
        EXPECT_OK(q.submit(ops));
        if (i % 32 == 0) EXPECT_OK(s.done.wait_until(uint64_t(i) + 4, soon()));
      }
      EXPECT_OK(s.done.wait_until(kRounds * 4, soon()));
    });
  }
  run_and_poll(2);
  for (Submitter& s : all) {
    ASSERT_EQ(s.seen.size(), size_t(kRounds) * 4);
    for (int k = 0; k < kRounds * 4; ++k) ASSERT_EQ(s.seen[size_t(k)], k);
  }
}

// A ring of threads: each op waits on the timeline of the thread before, so every value depends on all threads' submits.
TEST_F(ThreadsTest, ARingOfSubmittersWithSignallersBetween) {
  Device h = open("host://"), f = open("fake://?timed=10");
  constexpr size_t kThreads = 3;
  Queue q[kThreads] = {must(h.queue()), must(f.queue()), must(h.queue())};
  Timeline t[kThreads] = {timeline("t0"), timeline("t1"), timeline("t2")}, gate = timeline("gate");
  for (size_t i = 0; i < kThreads; ++i)
    add([&, i] {
      for (uint64_t v = 1; v <= kRounds; ++v) {
        Op op = nop().signal(t[i], v);
        if (i) op.wait(t[i - 1], v);
        else if (v > 1) op.wait(t[kThreads - 1], v - 1);
        if (i == 1) op.wait(gate, v);
        EXPECT_OK(q[i].submit(op));
      }
    });
  add([&] {
    for (uint64_t v = 1; v <= kRounds; ++v) {
      gate.signal(v);
      if (v % 16 == 0) std::this_thread::yield();
    }
  });
  for (int i = 0; i < 2; ++i)
    add([&] {
      for (uint64_t v = 1; v <= kRounds; v += 7) EXPECT_OK(t[kThreads - 1].wait_until(v, soon()));
      EXPECT_OK(t[kThreads - 1].wait_until(kRounds, soon()));
    });
  run_and_poll(1);
  EXPECT_EQ(t[2].modelled_ns(kRounds), uint64_t(kRounds) * 10);
}

// Queues and timelines come and go with ops in flight: each op completes or is cancelled, and whoever waits hears of it.
TEST_F(ThreadsTest, ClosingAndDestroyingWhileOthersSubmit) {
  Device h = open("host://"), f = open("fake://?depth=4");
  std::atomic<int> done{0}, cancelled{0};
  for (int i = 0; i < 3; ++i)
    add([&, i] {
      for (int r = 0; r < kRounds / 4; ++r) {
        Queue q = must((i % 2 ? f : h).queue());
        Timeline last = timeline("last"), first = timeline("first");
        auto never = std::make_unique<Timeline>(timeline("never"));
        std::vector<Op> ops(8);
        for (uint64_t k = 0; k < 8; ++k) ops[k] = nop().signal(first, k + 1);
        if (r % 3) ops[6].wait(*never, 1);
        ops[7].wait(first, 7).signal(last, 1);
        EXPECT_OK(q.submit(ops));
        if (r % 3 == 1) never.reset();
        if (r % 3 == 2) q.reset();
        const Status s = last.wait_until(1, soon());
        ++(s.ok() ? done : cancelled);
        EXPECT_EQ(s.ok() ? BATON_OK : s.error().code, r % 3 == 0 ? BATON_OK : BATON_CANCELLED) << (s.ok() ? "" : s.error().text());
      }
    });
  run_and_poll(1);
  EXPECT_EQ(done + cancelled, 3 * (kRounds / 4));
}

// A close waits for a HOST function that runs. Until then other threads may still submit, and are refused.
TEST_F(ThreadsTest, SubmittersOfAQueueThatIsBeingClosedAreRefused) {
  Device d = open("host://");
  Queue q = must(d.queue());
  baton_queue* handle = q.get();
  Timeline taken = timeline("taken");
  struct Context {
    std::atomic<bool> called{false}, release{false};
  } context;
  auto fn = [](void* u) {
    auto* c = static_cast<Context*>(u);
    c->called = true;
    for (const uint64_t end = soon(); !c->release && now_ns() < end;) std::this_thread::yield();
  };
  EXPECT_OK(q.submit(host(fn, &context)));
  std::atomic<uint64_t> values[2]{};
  add([&] {
    while (!context.called) std::this_thread::yield();  // called by the thread that polls
    q.reset();
  });
  std::vector<std::thread> submitters;
  for (auto& value : values)
    submitters.emplace_back([&] {
      int32_t code = BATON_OK;
      for (const uint64_t end = soon(); code == BATON_OK && now_ns() < end; ++value) {
        const Op op = nop().signal(taken, value + 1);
        code = baton_submit(handle, &op, 1, nullptr);
      }
      EXPECT_EQ(code, BATON_CANCELLED);
    });
  add([&] {
    for (std::thread& s : submitters) s.join();
    context.release = true;
  });
  run_and_poll(1);
  uint64_t value = 0;
  baton_timeline_query(taken.get(), &value, nullptr);  // poisoned, if an op was taken just before the close
  EXPECT_LE(value, std::max(values[0].load(), values[1].load()));
}

// More threads than can be let in: the limit holds exactly, and room comes back.
TEST_F(ThreadsTest, TheLimitOfAQueueHoldsForSeveralSubmitters) {
  if (kSanitized) GTEST_SKIP() << "a quarter of a million ops take a sanitizer 20 s";
  Device d = open("host://");
  Queue q = must(d.queue());
  Timeline gate = timeline("gate"), done = timeline("done");
  std::atomic<uint32_t> taken{0};
  for (int i = 0; i < 3; ++i)
    add([&] {
      std::vector<Op> ops(1 << 13, nop().wait(gate, 1));
      for (int r = 0; r < 16; ++r) {
        const int32_t code = baton_submit(q.get(), ops.data(), uint32_t(ops.size()), nullptr);
        if (code == BATON_OK) taken += uint32_t(ops.size());
        else EXPECT_EQ(code, BATON_CAPACITY);
      }
    });
  run_and_poll(1);
  EXPECT_EQ(taken, 1u << 18);
  gate.signal(1);
  for (int i = 0; i < 100'000 && !q.submit(nop().signal(done, 1)).ok(); ++i) in.poll(1 << 20);
  EXPECT_OK(done.wait_until(1, soon()));
}

}  // namespace
}  // namespace baton::test
