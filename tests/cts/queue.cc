// Queues: order, several of them, many ops, back-pressure, closing with work in flight.
#include "tests/cts/fixture.h"

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

}  // namespace

const Suite& queue_suite() {
  static constexpr Case kCases[] = {
      {"OneQueueKeepsSubmitOrder", kNone, one_queue_keeps_submit_order},
      {"PointsOrderOpsOfTwoQueues", kNone, points_order_ops_of_two_queues},
  };
  static constexpr Suite kSuite{"queue", kCases};
  return kSuite;
}

}  // namespace baton::cts
