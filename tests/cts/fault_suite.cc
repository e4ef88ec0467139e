// Faults: every kind at every call and op, in flight and at teardown. The cause is named, nothing hangs, nothing is left behind, and the
// device works afterwards.
#include "tests/cts/fault.h"

#include <gmock/gmock.h>

#include <cstring>

namespace baton::cts {
namespace {

using testing::HasSubstr;

constexpr struct {
  uint8_t opcode;
  const char* name;
} kOps[] = {{BATON_OP_NOP, "NOP"}, {BATON_OP_COPY, "COPY"}, {BATON_OP_LAUNCH, "LAUNCH"}, {BATON_OP_FILL, "FILL"}};
constexpr uint64_t kPatienceNs = 4'000'000'000;  // nothing may take longer
constexpr uint32_t kTag = 7;

// A rule for ops with the tag, on each kind of op that `ops` names.
std::string plan(const std::string& ops, const std::string& action) {
  return R"({"seed": 5, "rules": [{"name": "injected", "op": )" + ops + R"(, "tag": 7, )" + action + "}]}";
}
constexpr char kAnyOp[] = R"(["NOP", "COPY", "LAUNCH", "FILL"])";

// Runs `body` and holds it to the deadline; descriptors and mappings are as before.
template <class Body>
void bounded(Fixture& f, Body body) {
  f.device.reset();
  body();  // what is loaded once stays: drivers, layers
  const Holding before = holding();
  const uint64_t began = now_ns();
  body();
  EXPECT_LT(now_ns() - began, kPatienceNs * kSlower);
  EXPECT_EQ(holding(), before);
}

void expect_cause(const Status& s, int32_t code, const std::string& point) {
  EXPECT_CODE(s, code);
  if (s.ok()) return;
  EXPECT_THAT(std::string(s.error().what), HasSubstr("\"injected\": " + point + ", match "));
}

// ---- ops ----

void an_op_fails_with_the_cause(Fixture& f) {
  bounded(f, [&] {
    Faulty d(f, plan(kAnyOp, R"("action": "fail", "code": "IO")"));
    for (auto& [opcode, name] : kOps) {
      Timeline marks = must(d.in.timeline("marks")), after = must(d.in.timeline("after"));
      Op op = d.op(opcode, kTag);
      if (opcode == BATON_OP_LAUNCH) op.progress(marks);
      Timeline t = d.submit(op);
      must(d.queue.submit(nop().wait(t, 1).signal(after, 1)));
      expect_cause(t.wait_until(1, soon()), BATON_IO, name);
      expect_cause(after.wait_until(1, soon()), BATON_IO, name);  // and so does what waited for it
      if (opcode == BATON_OP_LAUNCH) expect_cause(marks.wait_until(1, soon()), BATON_IO, name);
      d.expect_usable();
    }
  });
}

void a_delayed_op_arrives_late(Fixture& f) {
  bounded(f, [&] {
    Faulty d(f, plan(kAnyOp, R"("action": "delay", "delay": "2ms")"));
    for (auto& [opcode, name] : kOps) {
      SCOPED_TRACE(name);
      const uint64_t began = now_ns();
      EXPECT_OK(d.submit(d.op(opcode, kTag)).wait_until(1, soon()));
      EXPECT_GE(now_ns() - began, 2'000'000u);
    }
    d.expect_usable();
  });
}

// A lost completion: the waiter's deadline is what ends the wait, a poison what ends the op.
void a_dropped_op_ends_by_deadline_and_cancel(Fixture& f) {
  bounded(f, [&] {
    Faulty d(f, plan(kAnyOp, R"("action": "drop")"));
    for (auto& [opcode, name] : kOps) {
      Timeline t = d.submit(d.op(opcode, kTag));
      EXPECT_CODE(t.wait_until(1, deadline_in_ms(3)), BATON_DEADLINE);
      d.expect_usable();
      t.poison(Error(BATON_CANCELLED, "enough"));
      EXPECT_CODE(t.wait_until(1, soon()), BATON_CANCELLED);
    }
  });
}

// The second completion of an op finds nothing, also if its memory serves another op by then.
void a_second_completion_is_ignored(Fixture& f) {
  bounded(f, [&] {
    Faulty d(f, plan(kAnyOp, R"("action": "duplicate")"));
    Timeline t = must(d.in.timeline("all"));
    uint64_t n = 0;
    for (int round = 0; round < 4; ++round)
      for (auto& [opcode, name] : kOps) {
        must(d.queue.submit(d.op(opcode, kTag).wait(t, n).signal(t, n + 1)));
        ++n;
        must(d.queue.submit(d.op(opcode, 0).wait(t, n).signal(t, n + 1)));
        ++n;
      }
    EXPECT_OK(t.wait_until(n, soon()));
    EXPECT_EQ(must(t.value()), n);
    d.expect_usable();
  });
}

// Nobody is told: comparing finds it, at the right place.
void corruption_is_seen_by_comparing(Fixture& f) {
  bounded(f, [&] {
    Faulty d(f, plan(R"("COPY")", R"("action": "corrupt", "bits": 3)"));
    auto flipped = [&] {
      int bits = 0;
      const uint32_t one = 0x3f800000;
      for (uint64_t i = 0; i < Faulty::kBytes; ++i) bits += __builtin_popcount(d.bytes[i] ^ reinterpret_cast<const uint8_t*>(&one)[i % 4]);
      return bits;
    };
    EXPECT_OK(d.submit(d.op(BATON_OP_FILL, 0)).wait_until(1, soon()));
    EXPECT_OK(d.submit(d.op(BATON_OP_COPY, kTag)).wait_until(1, soon()));
    EXPECT_EQ(flipped(), 3) << "on its way out";
    EXPECT_OK(d.submit(d.op(BATON_OP_COPY, 0)).wait_until(1, soon()));
    EXPECT_EQ(flipped(), 0);
    EXPECT_OK(d.submit(copy(d.plain, 0, d.memory, 0, Faulty::kBytes).tagged(kTag)).wait_until(1, soon()));
    EXPECT_OK(d.submit(d.op(BATON_OP_COPY, 0)).wait_until(1, soon()));
    EXPECT_EQ(flipped(), 3) << "on its way in";
    d.expect_usable();
  });
}

// Everything in flight fails with the cause, calls are refused until the reset, and the new epoch works.
void a_device_that_is_lost_at_an_op(Fixture& f) {
  bounded(f, [&] {
    Faulty d(f, plan(kAnyOp, R"("action": "lose")"));
    for (auto& [opcode, name] : kOps) {
      Timeline never = must(d.in.timeline("never")), waiting = must(d.in.timeline("waiting"));
      must(d.queue.submit(nop().wait(never, 1).signal(waiting, 1)));
      Timeline before = d.submit(d.op(BATON_OP_LAUNCH, 0)), t = d.submit(d.op(opcode, kTag));
      expect_cause(t.wait_until(1, soon()), BATON_DEVICE_LOST, name);
      expect_cause(waiting.wait_until(1, soon()), BATON_DEVICE_LOST, name);
      if (Status s = before.wait_until(1, soon()); !s.ok()) expect_cause(s, BATON_DEVICE_LOST, name);
      EXPECT_CODE(d.queue.submit(nop()), BATON_DEVICE_LOST);
      EXPECT_CODE(d.device.alloc(64), BATON_DEVICE_LOST);
      must(d.device.reset_device());
      EXPECT_CODE(d.queue.submit(nop()), BATON_DEVICE_LOST);  // the old epoch's
      d.equip();
      d.expect_usable();
    }
  });
}

// ---- calls ----

// Each call fails once with the cause, then works: as if nothing had been.
void a_call_fails_with_the_cause(Fixture& f) {
  bounded(f, [&] {
    std::string rules;
    for (auto [point, code] : {std::pair("open", "BUSY"), {"telemetry", "IO"}, {"alloc", "CAPACITY"}, {"load", "CORRUPT"}, {"queue_open", "IO"},
                               {"export", "IO"}, {"import", "IO"}, {"reset", "FAILED"}})
      rules += std::string(rules.empty() ? "" : ",") + R"({"name": "injected", "nth": 1, "action": "fail", "op": ")" + point + R"(", "code": ")" +
               code + R"(", "device": ")" + device_of(f) + R"("})";
    Faulty d(f, R"({"rules": [)" + rules + "]}", false);
    auto once = [](auto call, int32_t code, const char* point) {
      auto r = call();
      EXPECT_CODE(r, code);
      if (!r.ok()) {
        EXPECT_THAT(std::string(r.error().what), HasSubstr(std::string("\"injected\": ") + point + ", match 1"));
      }
      EXPECT_OK(call());
    };
    once([&]() -> Status {
      auto opened = d.in.open(d.uri);
      if (!opened) return opened.error();
      d.device = std::move(*opened);
      return {};
    }, BATON_BUSY, "open");
    once([&] { return d.device.telemetry(); }, BATON_IO, "telemetry");
    once([&] { return d.device.alloc(64); }, BATON_CAPACITY, "alloc");
    once([&] { return d.load(); }, BATON_CORRUPT, "load");
    once([&] { return d.device.queue(); }, BATON_IO, "queue_open");
    if (f.info().heaps[0].exportable) {
      Buffer b = must(d.device.alloc(4096));
      auto fails = b.export_fd();
      EXPECT_CODE(fails, BATON_IO);
      auto x = must(b.export_fd());
      auto imported = d.device.import_fd(x.fd, x.offset, 4096);
      close(x.fd);
      EXPECT_THAT(baton_code_name(imported ? BATON_OK : imported.error().code), testing::AnyOf(std::string("IO"), std::string("UNSUPPORTED")));
    }
    // A reset that fails leaves the device lost, with that cause, until one succeeds.
    EXPECT_CODE(d.device.reset_device(), BATON_FAILED);
    EXPECT_CODE(d.device.alloc(64), BATON_DEVICE_LOST);
    EXPECT_OK(d.device.reset_device());
    d.equip();
    d.expect_usable();
  });
}

void a_device_that_is_lost_at_a_call(Fixture& f) {
  bounded(f, [&] {
    for (const char* point : {"telemetry", "alloc", "load", "queue_open"}) {
      // equip() is the first alloc, load and queue_open; its like after it is the one.
      const std::string nth = std::strcmp(point, "telemetry") ? "2" : "1";
      Faulty d(f, R"({"rules": [{"name": "injected", "op": ")" + std::string(point) + R"(", "nth": )" + nth + R"(, "action": "lose", "device": ")" +
                  device_of(f) + R"("}]})");
      Timeline never = must(d.in.timeline("never")), waiting = must(d.in.timeline("waiting"));
      must(d.queue.submit(nop().wait(never, 1).signal(waiting, 1)));
      auto call = [&]() -> Status {
        const std::string p = point;
        if (p == "telemetry") BATON_TRY(d.device.telemetry());
        if (p == "alloc") BATON_TRY(d.device.alloc(64));
        if (p == "load") BATON_TRY(d.load());
        if (p == "queue_open") BATON_TRY(d.device.queue());
        return {};
      };
      expect_cause(call(), BATON_DEVICE_LOST, point);
      expect_cause(waiting.wait_until(1, soon()), BATON_DEVICE_LOST, point);
      EXPECT_CODE(d.device.alloc(64), BATON_DEVICE_LOST);
      must(d.device.reset_device());
      d.equip();
      d.expect_usable();
    }
  });
}

// ---- in flight, at teardown ----

// The third of many fails: the others arrive, whatever the order in which they were taken.
void one_of_many_in_flight_fails(Fixture& f) {
  bounded(f, [&] {
    for (auto& [opcode, name] : kOps) {
      Faulty d(f, plan(kAnyOp, R"("nth": 3, "action": "fail", "code": "CORRUPT")"));
      std::vector<Timeline> all;
      std::vector<Op> ops;
      for (int i = 0; i < 20; ++i) {
        all.push_back(must(d.in.timeline("each")));
        ops.push_back(d.op(opcode, kTag).signal(all.back(), 1));
      }
      must(d.queue.submit(ops));
      for (size_t i = 0; i < all.size(); ++i) {
        SCOPED_TRACE(std::string(name) + " " + std::to_string(i));
        const Status s = all[i].wait_until(1, soon());
        if (i == 2) {
          expect_cause(s, BATON_CORRUPT, name);
        } else {
          EXPECT_OK(s);
        }
      }
    }
  });
}

// Closed in every order with ops that are dropped, held back, or running.
void teardown_with_ops_in_flight(Fixture& f) {
  bounded(f, [&] {
    for (const char* action : {R"("action": "drop")", R"("action": "delay", "delay": "30ms")", R"("action": "duplicate")"})
      for (int order = 0; order < 3; ++order) {
        Faulty d(f, plan(kAnyOp, action));
        std::vector<Timeline> all;
        for (auto& [opcode, name] : kOps) all.push_back(d.submit(d.op(opcode, kTag)));
        if (order == 0) d.queue.reset(), d.program.reset(), d.memory.reset(), d.device.reset();
        if (order == 1) d.device.reset(), d.memory.reset(), d.program.reset(), d.queue.reset();
        if (order == 2) continue;  // timelines and all by the destructors
        for (Timeline& t : all)
          if (Status s = t.wait_until(1, soon()); !s.ok()) EXPECT_CODE(s, BATON_CANCELLED);
      }
  });
}

}  // namespace

const Suite& fault_suite() {
  static constexpr Case kCases[] = {
      {"AnOpFailsWithTheCause", kNone, an_op_fails_with_the_cause},
      {"ADelayedOpArrivesLate", kNone, a_delayed_op_arrives_late},
      {"ADroppedOpEndsByDeadlineAndCancel", kNone, a_dropped_op_ends_by_deadline_and_cancel},
      {"ASecondCompletionIsIgnored", kNone, a_second_completion_is_ignored},
      {"CorruptionIsSeenByComparing", kNone, corruption_is_seen_by_comparing},
      {"ADeviceThatIsLostAtAnOp", kNone, a_device_that_is_lost_at_an_op},
      {"ACallFailsWithTheCause", kNone, a_call_fails_with_the_cause},
      {"ADeviceThatIsLostAtACall", kNone, a_device_that_is_lost_at_a_call},
      {"OneOfManyInFlightFails", kNone, one_of_many_in_flight_fails},
      {"TeardownWithOpsInFlight", kNone, teardown_with_ops_in_flight},
  };
  static constexpr Suite kSuite{"fault", kCases, About::faults};
  return kSuite;
}

}  // namespace baton::cts
