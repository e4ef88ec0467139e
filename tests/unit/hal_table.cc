// Queues from a table: what transport sessions are built on.
#include "tests/unit/hal_test.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <deque>
#include <thread>

namespace baton::test {
namespace {

// A link whose far end is this object: takes ops, completes them when told.
struct Far {
  const baton_driver_host* core = nullptr;
  std::deque<baton_driver_op> ops;
  std::vector<uint64_t> steps;
  uint64_t cost = 0;
  size_t depth = 4;
  int fd = -1;
  bool closed = false, hold = false;
  Timeline* landed = nullptr;  // raised from inside poll
  uint64_t landed_value = 0;

  static int32_t submit(void* ctx, void* queue, const baton_driver_op* ops, uint32_t count, uint32_t* taken, baton_error*) {
    auto* f = static_cast<Far*>(ctx);
    EXPECT_EQ(ctx, queue);
    for (*taken = 0; *taken < count && f->ops.size() < f->depth; ++*taken) f->ops.push_back(ops[*taken]);
    f->readable(true);
    return BATON_OK;
  }
  static uint32_t poll(void* ctx, void*, uint32_t budget) {
    auto* f = static_cast<Far*>(ctx);
    if (f->landed) f->landed->signal(++f->landed_value);
    if (f->hold) return 0;
    uint32_t n = 0;
    for (; n < budget && !f->ops.empty(); ++n) {
      baton_driver_op op = f->ops.front();
      f->ops.pop_front();
      if (op.opcode == BATON_OP_COPY && op.reserved[0]) f->steps.push_back(op.u.plan.step);
      f->core->complete(op.cookie, f->cost, nullptr);
    }
    if (n) f->readable(false);
    return n;
  }
  static void close(void* ctx, void*) { static_cast<Far*>(ctx)->closed = true; }
  void readable(bool on) {
    if (fd < 0) return;
    uint64_t v = 1;
    ssize_t rc = on ? ::write(fd, &v, sizeof v) : ::read(fd, &v, sizeof v);
    (void)rc;
  }
};

class TableTest : public HalTest {
 protected:
  Queue make(Far& far) {
    baton_driver table{};
    table.struct_size = sizeof table;
    table.abi_version = BATON_ABI_VERSION;
    table.submit = Far::submit;
    table.poll = Far::poll;
    table.queue_close = Far::close;
    far.core = baton_queue_host(in.get());
    baton_queue* q = nullptr;
    Error e;
    EXPECT_EQ(baton_queue_from_table(in.get(), "link a:1", &table, &far, far.fd, &q, &e), BATON_OK) << e.text();
    return Queue(q);
  }
  Op plan(uint64_t step) {
    Op o;
    o.opcode = BATON_OP_COPY;
    o.plan_op = 1;
    o.u.plan = {this, step, {}};
    return o;
  }
};

TEST_F(TableTest, PlanOpsWaitAndSignalAsAnyOther) {
  Far far;
  far.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  far.cost = 50;
  {
    Queue q = make(far);
    Timeline made = timeline("made"), sent = timeline("sent");
    for (uint64_t l = 0; l < 10; ++l) EXPECT_OK(q.submit(plan(l).wait(made, l + 1).signal(sent, l + 1)));
    EXPECT_EQ(in.poll(), 0u);
    made.signal(10, 1000);
    EXPECT_OK(sent.wait_until(10, soon()));
    EXPECT_EQ(far.steps.size(), 10u);
    EXPECT_EQ(sent.modelled_ns(10), 1500u);
    EXPECT_FALSE(far.closed);
  }
  EXPECT_TRUE(far.closed);
  close(far.fd);
}

TEST_F(TableTest, ItsPollRunsWithoutOpsAndMayRaiseTimelines) {
  Far far;  // no descriptor: the waiting thread naps and polls
  Queue q = make(far);
  Timeline landed = timeline("landed");
  far.landed = &landed;
  EXPECT_OK(landed.wait_until(5, soon()));
  far.landed = nullptr;
}

TEST_F(TableTest, CompletingFromAnotherThreadWakesAWaiter) {
  Far far;
  far.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  far.hold = true;
  Queue q = make(far);
  Timeline sent = timeline("sent");
  EXPECT_OK(q.submit(plan(0).signal(sent, 1)));
  void* cookie = far.ops.front().cookie;
  far.ops.clear();
  std::thread canceller([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    Error e(BATON_CANCELLED, "the peer cancelled");
    far.core->complete(cookie, 0, &e);
    far.core->complete(cookie, 0, nullptr);  // stale
  });
  Status s = sent.wait_until(1, soon());
  EXPECT_CODE(s, BATON_CANCELLED);
  EXPECT_STREQ(s.error().hop, "link a:1");
  canceller.join();
  q.reset();
  close(far.fd);
}

TEST_F(TableTest, ContiguousCopiesCarryAddressesAndDescriptors) {
  Far far;
  far.hold = true;
  Queue q = make(far);
  Device h = open("host://"), f = open("fake://");
  Buffer a = must(h.alloc(8192)), b = must(h.alloc(8192)), c = must(f.alloc(64));
  EXPECT_OK(q.submit(copy(a, 4096, b, 100, 64)));
  ASSERT_EQ(far.ops.size(), 1u);
  const baton_driver_op& op = far.ops.front();
  EXPECT_EQ(op.u.copy.src.ptr, static_cast<uint8_t*>(must(a.map())) + 4096);
  EXPECT_GE(op.u.copy.src.fd, 0);
  EXPECT_EQ(op.u.copy.src.fd_offset, 4096u);
  EXPECT_EQ(op.u.copy.dst.fd_offset, 100u);
  EXPECT_EQ(op.reserved[0], 0);
  EXPECT_CODE(q.submit(copy(c, 0, b, 0, 64)), BATON_UNSUPPORTED);
  EXPECT_CODE(q.submit(fill(a, 0, 64, 0)), BATON_INVALID_ARGUMENT);
  far.hold = false;
}

TEST_F(TableTest, PlanOpsBelongToTables) {
  Device h = open("host://");
  Queue q = must(h.queue());
  EXPECT_CODE(q.submit(plan(0)), BATON_INVALID_ARGUMENT);
  baton_driver empty{};
  empty.struct_size = sizeof empty;
  baton_queue* out = nullptr;
  EXPECT_EQ(baton_queue_from_table(in.get(), "x", &empty, this, -1, &out, nullptr), BATON_INVALID_ARGUMENT);
}

// A session that is closed by what it hears: the queue goes away inside its own poll.
TEST_F(TableTest, AQueueMayBeClosedInsideItsOwnPoll) {
  struct Closing {
    Queue q;
    Timeline sent;
    bool closed = false;
  } c;
  baton_driver table{};
  table.struct_size = sizeof table;
  table.submit = [](void*, void*, const baton_driver_op*, uint32_t count, uint32_t* taken, baton_error*) -> int32_t {
    *taken = count;
    return BATON_OK;
  };
  table.poll = [](void* ctx, void*, uint32_t) -> uint32_t {
    static_cast<Closing*>(ctx)->q.reset();
    return 1;
  };
  table.queue_close = [](void* ctx, void*) { static_cast<Closing*>(ctx)->closed = true; };
  baton_queue* q = nullptr;
  ASSERT_EQ(baton_queue_from_table(in.get(), "link", &table, &c, -1, &q, nullptr), BATON_OK);
  c.q = Queue(q);
  c.sent = timeline("sent");
  EXPECT_OK(c.q.submit(plan(0).signal(c.sent, 1)));
  EXPECT_CODE(c.sent.wait_until(1, soon()), BATON_CANCELLED);
  EXPECT_TRUE(c.closed);
}

TEST_F(TableTest, WaitingInsideAPollIsRefusedAndPollingIsNothing) {
  struct Inside {
    baton_instance* in;
    Timeline t;
    int32_t code = 0;
    uint32_t polled = 99;
  } x{in.get(), timeline()};
  baton_driver table{};
  table.struct_size = sizeof table;
  table.submit = Far::submit;
  table.poll = [](void* ctx, void*, uint32_t) -> uint32_t {
    auto* i = static_cast<Inside*>(ctx);
    i->code = baton_timeline_wait(i->t.get(), 1, BATON_NO_DEADLINE, nullptr);
    i->polled = baton_poll(i->in, 1);
    return 0;
  };
  baton_queue* q = nullptr;
  ASSERT_EQ(baton_queue_from_table(in.get(), "link", &table, &x, -1, &q, nullptr), BATON_OK);
  in.poll();
  EXPECT_EQ(x.code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(x.polled, 0u);
  baton_queue_close(q);
}

}  // namespace
}  // namespace baton::test
