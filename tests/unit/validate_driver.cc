// What drivers may not do: complete an op twice, or one that they did not take; marks that go back; calls from elsewhere.
#include "tests/unit/validate_test.hpp"

namespace baton::test {
namespace {

using DriverTest = ValidateTest;

TEST_F(DriverTest, ADriverThatCompletesTwice) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Timeline t = timeline();
  EXPECT_OK(q.submit(nop().tagged(kLate).signal(t, 1)));
  EXPECT_OK(t.wait_until(1, soon()));
  expect("driver-double-complete", "driver", true, "NOP (tag 6782) on 'fake:// lane 0' was completed again");
  // A completion after a reset is not the driver's mistake.
  EXPECT_OK(q.submit(nop().tagged(kHang).signal(t, 2)));
  in.poll();
  EXPECT_OK(d.reset_device());
  EXPECT_CODE(t.wait_until(2, soon()), BATON_DEVICE_LOST);
  q.reset();
  EXPECT_TRUE(found.empty());
}

TEST_F(DriverTest, ADriverThatCompletesWhatItDoesNotTake) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Timeline t = timeline();
  EXPECT_OK(q.submit(nop().tagged(kEager).signal(t, 1)));
  EXPECT_OK(t.wait_until(1, soon()));
  expect("driver-not-taken", "driver", true, "NOP (tag 60062) on 'fake:// lane 0' was completed, though submit did not take it");
  EXPECT_OK(q.submit(nop().tagged(kUntaken).signal(t, 2)));
  EXPECT_OK(t.wait_until(2, soon()));  // the early completion is dropped, and the op is taken at the next try
  expect("driver-not-taken", "driver", true, "NOP (tag 1047) on 'fake:// lane 0' was completed, though submit did not take it");
}

TEST_F(DriverTest, MarksThatGoBackOrComeFromNoLaunch) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Program p = must(d.load(std::vector<uint8_t>{1}, {}));
  Timeline t = timeline(), marks = timeline("marks");
  EXPECT_OK(q.submit(nop().tagged(kMarks).signal(t, 1)));
  EXPECT_OK(t.wait_until(1, soon()));
  expect("driver-progress", "driver", true, "NOP (tag 14884) on 'fake:// lane 0' reports mark 1: marks are a LAUNCH's");
  EXPECT_OK(q.submit(launch(p, {}, {}).tagged(kBackwards).progress(marks).signal(t, 2)));
  EXPECT_THAT(texts(), ::testing::ElementsAre("driver-progress: LAUNCH (tag 47812) on 'fake:// lane 0' reports mark 1 after mark 2"));
  EXPECT_EQ(found[0].blame, "driver");
  EXPECT_TRUE(found[0].misuse);
  EXPECT_OK(t.wait_until(2, soon()));
  found.clear();
  EXPECT_OK(q.submit(launch(p, {}, {}).progress(marks, 10).signal(t, 3)));  // 1, 2, 3
  EXPECT_OK(t.wait_until(3, soon()));
  EXPECT_TRUE(found.empty()) << found[0].what;
}

TEST_F(DriverTest, ACompletionOnAThreadOfTheDrivers) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Timeline t = timeline();
  EXPECT_OK(q.submit(nop().tagged(kElsewhere).signal(t, 1)));
  EXPECT_OK(t.wait_until(1, soon()));
  q.reset();  // joins the thread
  expect("driver-outside-call", "driver", false, "complete for NOP (tag 32286) on 'fake:// lane 0' came from outside of submit and poll");
}

// A table's owner may cancel what it runs from any thread.
TEST_F(DriverTest, ATableThatCompletesFromElsewhereIsAtNoFault) {
  struct Held {
    void* cookie = nullptr;
  } held;
  baton_driver table{};
  table.submit = [](void* self, void*, const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error*) -> int32_t {
    if (count) static_cast<Held*>(self)->cookie = ops[0].cookie;
    *taken = count;
    return BATON_OK;
  };
  table.poll = [](void*, void*, uint32_t) -> uint32_t { return 0; };
  baton_queue* made = nullptr;
  ASSERT_EQ(baton_queue_from_table(in.get(), "session", &table, &held, -1, &made, nullptr), BATON_OK);
  Queue q(made);
  Timeline t = timeline();
  EXPECT_OK(q.submit(nop().signal(t, 1)));
  ASSERT_NE(held.cookie, nullptr);
  baton_queue_host(in.get())->complete(held.cookie, 0, nullptr);
  EXPECT_OK(t.wait_until(1, soon()));
  EXPECT_TRUE(found.empty());
}

}  // namespace
}  // namespace baton::test
