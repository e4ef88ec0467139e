// Queues: order, several of them, many ops, back-pressure, closing with work in flight.
#include "tests/cts/fixture.h"

#include <algorithm>
#include <array>
#include <thread>

namespace baton::cts {
namespace {

// Copies on one queue happen in submit order: each byte is what the last one wrote.
void one_queue_keeps_submit_order(Fixture& f) {
  constexpr uint64_t kBytes = 4096, kRounds = 64;
  Buffer b = f.alloc(kBytes);
  Queue q = f.queue();
  Timeline t = f.timeline();
  std::vector<Op> ops;
  for (uint64_t i = 1; i <= kRounds; ++i) ops.push_back(fill(b, (i * 64) % kBytes, kBytes - (i * 64) % kBytes, uint32_t(i)).signal(t, i));
  must(q.submit(ops));
  must(t.wait_until(kRounds, soon()));
  Bytes expected(kBytes);
  for (uint64_t i = 1; i <= kRounds; ++i) std::fill(expected.begin() + ptrdiff_t((i * 64) % kBytes), expected.end(), uint8_t(i));
  EXPECT_TRUE(same(f.read(b, 0, kBytes), expected));
}

// A chain over two queues: points order ops that no queue orders.
void points_order_ops_of_two_queues(Fixture& f) {
  constexpr uint64_t kRounds = 50;
  Buffer a = f.alloc(256), b = f.alloc(256);
  f.fill(a, 0);
  f.fill(b, 0);
  Queue p = f.queue(), q = f.queue();
  Timeline ping = f.timeline("ping"), pong = f.timeline("pong");
  for (uint64_t i = 1; i <= kRounds; ++i) {
    // The second queue's half first: a wait on a point that nobody has submitted yet.
    must(q.submit({copy(a, 0, b, 0, 256).wait(ping, i).signal(pong, i)}));
    must(p.submit({fill(a, 0, 256, uint32_t(i)).wait(pong, i - 1).signal(ping, i)}));
  }
  must(pong.wait_until(kRounds, soon()));
  EXPECT_TRUE(same(f.read(b, 0, 256), Bytes(256, uint8_t(kRounds))));
}

// Empty ops in batches, so many that counters, rings and pools wrap many times over; at most some thousands at once. A device (or a busy
// machine) that is slow ends after a second and at least twenty thousand.
void a_million_ops(Fixture& f) {
  constexpr uint64_t kBatch = 64, kWindow = 4096;
  const uint64_t least = scaled(20'000), end = deadline_in_ms(1000);
  uint64_t total = scaled(1'000'000) / kBatch * kBatch;
  Queue q = f.queue();
  Timeline t = f.timeline();
  std::vector<Op> batch(kBatch);
  for (uint64_t n = 0; n < total; n += kBatch) {
    for (uint64_t i = 0; i < kBatch; ++i) batch[i] = nop().signal(t, n + i + 1);
    must(q.submit(batch));
    if (n > least && now_ns() > end) total = n + kBatch;
    if (n > kWindow) must(t.wait_until(n - kWindow, soon()));
  }
  must(t.wait_until(total, soon()));
}

// Far more ready ops than any ring has slots, in one submit: the rest waits its turn, in order.
void what_is_more_than_the_device_takes_waits_its_turn(Fixture& f) {
  const uint64_t count = 20'000 / kSlower;
  Buffer b = f.alloc(64), last = f.alloc(64);
  f.fill(b, 0);
  Queue q = f.queue();
  Timeline gate = f.timeline("gate"), t = f.timeline();
  std::vector<Op> ops;
  for (uint64_t i = 1; i <= count; ++i) ops.push_back(fill(b, 0, 64, uint32_t(i), 4).wait(gate, 1).signal(t, i));
  ops.push_back(copy(b, 0, last, 0, 64).wait(gate, 1).signal(t, count + 1));
  must(q.submit(ops));
  EXPECT_EQ(must(t.value()), 0u);
  gate.signal(1);
  must(t.wait_until(count + 1, soon()));
  Bytes expected(64);
  for (size_t i = 0; i < 64; ++i) expected[i] = uint8_t(count >> 8 * (i % 4));
  EXPECT_TRUE(same(f.read(last, 0, 64), expected));
}

void many_queues_at_once(Fixture& f) {
  constexpr uint32_t kQueues = 8;
  const uint64_t rounds = 200 / std::min<uint64_t>(kSlower, 10);
  std::vector<Queue> queues;
  std::vector<Timeline> timelines;
  std::vector<Buffer> buffers;
  for (uint32_t i = 0; i < kQueues; ++i) {
    queues.push_back(f.queue(i % f.info().lanes));
    timelines.push_back(f.timeline());
    buffers.push_back(f.alloc(512, f.heap_of(i % f.info().lanes)));
  }
  for (uint64_t r = 1; r <= rounds; ++r)
    for (uint32_t i = 0; i < kQueues; ++i) must(queues[i].submit(fill(buffers[i], 0, 512, uint32_t(r + i)).signal(timelines[i], r)));
  for (uint32_t i = 0; i < kQueues; ++i) {
    must(timelines[i].wait_until(rounds, soon()));
    EXPECT_TRUE(same(f.read(buffers[i], 0, 512), Bytes(512, uint8_t(rounds + i)))) << "queue " << i;
  }
}

// What waits fails with CANCELLED and the queue's name; what runs is waited for. The device works on.
void closing_with_work_in_flight_cancels_it(Fixture& f) {
  constexpr uint64_t kBytes = 1 << 20;
  Buffer a = f.alloc(kBytes), b = f.alloc(kBytes);
  f.fill(a, 5);
  for (int round = 0; round < 5; ++round) {
    Timeline never = f.timeline("never"), waiting = f.timeline("waiting"), running = f.timeline("running");
    Queue q = f.queue();
    must(q.submit(nop().wait(never, 1).signal(waiting, 1)));
    for (uint64_t i = 1; i <= 20; ++i) must(q.submit(copy(a, 0, b, 0, kBytes).signal(running, i)));
    q.reset();
    Status s = waiting.wait_until(1, soon());
    EXPECT_CODE(s, BATON_CANCELLED);
    EXPECT_TRUE(s.ok() || std::string(s.error().what).find("closed") != std::string::npos) << s.error().text();
    s = running.wait_until(20, soon());  // over, or cancelled: never neither
    EXPECT_TRUE(s.ok() || s.error().code == BATON_CANCELLED) << s.error().text();
  }
  f.fill(b, 6);
  EXPECT_TRUE(same(f.read(b, 0, 64), Bytes(64, 6)));
}

void a_refused_batch_leaves_nothing_behind(Fixture& f) {
  Buffer b = f.alloc(64);
  Queue q = f.queue();
  Timeline t = f.timeline();
  Op strange = nop(), flagged = nop(), nameless = nop();
  strange.opcode = 200;
  flagged.flags = 1;
  nameless.opcode = BATON_OP_HOST;
  for (const Op& bad : {strange, flagged, nameless, fill(b, 0, 65, 0)}) EXPECT_CODE(q.submit({nop().signal(t, 1), bad}), BATON_INVALID_ARGUMENT);
  EXPECT_OK(q.submit(std::span<const Op>()));
  must(q.submit(nop().signal(t, 2)));
  must(t.wait_until(2, soon()));
}

// HOST ops are called in the order of their points, between what the device does.
void host_ops_take_their_turn(Fixture& f) {
  Buffer b = f.alloc(256), h = f.host(256);
  struct Seen {
    const uint8_t* bytes;
    int value = -1;
  } seen{Fixture::mapped(h)};
  Queue q = f.queue();
  Timeline t = f.timeline();
  auto look = [](void* user) {
    auto* s = static_cast<Seen*>(user);
    s->value = s->bytes[255];
  };
  must(q.submit({fill(b, 0, 256, 42).signal(t, 1), copy(b, 0, h, 0, 256).wait(t, 1).signal(t, 2), host(look, &seen).wait(t, 2).signal(t, 3),
                 fill(b, 0, 256, 43).wait(t, 3).signal(t, 4)}));
  must(t.wait_until(4, soon()));
  EXPECT_EQ(seen.value, 42);
  EXPECT_TRUE(same(f.read(b, 0, 256), Bytes(256, 43)));
}

// Several threads, one queue: all ops complete, and what each thread submitted keeps its order.
void several_threads_submit_to_one_queue(Fixture& f) {
  constexpr uint32_t kThreads = 4;
  const uint64_t rounds = 500 / std::min<uint64_t>(kSlower, 10);
  Queue q = f.queue();
  std::vector<Buffer> buffers;
  std::vector<Timeline> timelines;
  for (uint32_t i = 0; i < kThreads; ++i) {
    buffers.push_back(f.alloc(128));
    timelines.push_back(f.timeline());
  }
  std::vector<std::thread> threads;
  std::array<Status, kThreads> ended;
  for (uint32_t i = 0; i < kThreads; ++i)
    threads.emplace_back([&, i] {
      for (uint64_t r = 1; r <= rounds && ended[i].ok(); ++r) {
        ended[i] = q.submit(fill(buffers[i], 0, 128, uint32_t(r + i)).signal(timelines[i], r));
        if (ended[i].ok() && r % 50 == 0) ended[i] = timelines[i].wait_until(r, soon());
      }
    });
  for (std::thread& t : threads) t.join();
  for (uint32_t i = 0; i < kThreads; ++i) {
    EXPECT_OK(ended[i]);
    must(timelines[i].wait_until(rounds, soon()));
    EXPECT_TRUE(same(f.read(buffers[i], 0, 128), Bytes(128, uint8_t(rounds + i)))) << "thread " << i;
  }
}

// A program that sleeps on the instance's descriptor, and polls when it is readable, sees every completion.
void a_sleeper_is_woken(Fixture& f) {
  Buffer a = f.alloc(1 << 20), b = f.alloc(1 << 20);
  f.fill(a, 1);
  Queue q = f.queue();
  Timeline t = f.timeline();
  for (uint64_t i = 1; i <= 50; ++i) {
    must(q.submit(copy(a, 0, b, 0, i % 2 ? 64 : 1 << 20).signal(t, i)));
    const uint64_t end = soon();
    while (must(t.value()) < i) {
      f.in().poll_wait(end);
      ASSERT_LT(now_ns(), end) << "op " << i << " woke nobody";
    }
  }
}

}  // namespace

const Suite& queue_suite() {
  static constexpr Case kCases[] = {
      {"OneQueueKeepsSubmitOrder", kNone, one_queue_keeps_submit_order},
      {"PointsOrderOpsOfTwoQueues", kNone, points_order_ops_of_two_queues},
      {"AMillionOps", kNone, a_million_ops},
      {"WhatIsMoreThanTheDeviceTakesWaitsItsTurn", kNone, what_is_more_than_the_device_takes_waits_its_turn},
      {"ManyQueuesAtOnce", kNone, many_queues_at_once},
      {"ClosingWithWorkInFlightCancelsIt", kNone, closing_with_work_in_flight_cancels_it},
      {"ARefusedBatchLeavesNothingBehind", kNone, a_refused_batch_leaves_nothing_behind},
      {"HostOpsTakeTheirTurn", kNone, host_ops_take_their_turn},
      {"SeveralThreadsSubmitToOneQueue", kNone, several_threads_submit_to_one_queue},
      {"ASleeperIsWoken", kNone, a_sleeper_is_woken},
  };
  static constexpr Suite kSuite{"queue", kCases};
  return kSuite;
}

}  // namespace baton::cts
