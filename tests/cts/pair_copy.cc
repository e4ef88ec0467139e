// Pairs, copies: every size and offset by whichever path the planner chose, order, both ways at once, what is refused before submit.
#include "tests/cts/pair.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <thread>

namespace baton::cts {
namespace {

using testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;

std::string shown(const DeviceInfo& i) { return std::string(i.uri).substr(0, std::string(i.uri).find('?')); }

// The plan says which path and why, as the two heaps allow.
void the_plan_names_path_and_ends(Fixture& f) {
  const std::string plan = must(f.in().plan_copy(f.device, f.peer)), path = plan.substr(0, plan.find(' '));
  auto mappable = [](const DeviceInfo& i) { return std::any_of(i.heaps, i.heaps + i.heap_count, [](auto& h) { return h.mappable; }); };
  if (!mappable(f.info()) && !mappable(f.peer_info())) EXPECT_EQ(path, "staged") << plan;
  else EXPECT_THAT(path, testing::AnyOf("mapped", "imported")) << plan;
  EXPECT_THAT(plan, HasSubstr(shown(f.info())));
  EXPECT_THAT(plan, HasSubstr(shown(f.peer_info())));
  EXPECT_EQ(must(f.in().plan_copy(f.device, f.device)).substr(0, 6), "direct");
}

// Sizes around what a path is made of (a byte, a page, a staging slot of 1 MiB, more than the ring of 8), at odd offsets; not a byte beside.
void every_size_and_offset(Fixture& f) {
  Ends e(f);
  constexpr uint64_t kOffsets[][2] = {{0, 0}, {1, 0}, {0, 1}, {4095, 63}, {4097, 4095}};
  std::vector<uint64_t> sizes = {1, 3, 64, 4095, 4096, 65537, kMiB - 1, kMiB, kMiB + 1};
  if (kSlower == 1) sizes.insert(sizes.end(), {2 * kMiB + 4097, 9 * kMiB + 5});
  const Bytes data = f.random(sizes.back() + 5000);
  Bytes expected(sizes.back() + 5000, 0xee);
  Buffer src = e.filled(e.from, data), dst = e.filled(e.to, expected);
  for (size_t i = 0; i < sizes.size(); ++i)
    for (auto& [src_offset, dst_offset] : kOffsets) {
      if (sizes[i] > 2 * kMiB && &src_offset != &kOffsets[i % 5][0]) continue;  // the largest once each
      SCOPED_TRACE(std::to_string(sizes[i]) + " bytes from " + std::to_string(src_offset) + " to " + std::to_string(dst_offset));
      must(e.arrives(e.link, copy(src, src_offset, dst, dst_offset, sizes[i])));
      std::copy_n(data.begin() + ptrdiff_t(src_offset), sizes[i], expected.begin() + ptrdiff_t(dst_offset));
      const uint64_t window = std::min(sizes[i] + 2 * 4096, dst.bytes());
      ASSERT_TRUE(same(e.bytes(e.to, dst, 0, window), Bytes(expected.begin(), expected.begin() + ptrdiff_t(window))));
    }
  EXPECT_TRUE(same(e.bytes(e.to, dst), expected));
  EXPECT_TRUE(same(e.bytes(e.from, src), data)) << "a copy changed its source";
}

void a_copy_of_nothing_completes(Fixture& f) {
  Ends e(f);
  Buffer src = e.filled(e.from, Bytes(64, 1)), dst = e.filled(e.to, Bytes(64, 2));
  EXPECT_OK(e.arrives(e.link, copy(src, 64, dst, 64, 0)));
  EXPECT_OK(e.arrives(e.link, nop()));
  EXPECT_TRUE(same(e.bytes(e.to, dst), Bytes(64, 2)));
}

// Overlapping targets: the bytes tell whether the points held.
void many_small_copies_in_order(Fixture& f) {
  Ends e(f);
  constexpr uint64_t kBytes = 8192;
  const uint64_t count = scaled(2000) + 100;
  const Bytes data = f.random(kBytes);
  Bytes expected(kBytes, 0);
  Buffer src = e.filled(e.from, data), dst = e.filled(e.to, expected);
  Timeline t = f.timeline();
  std::vector<Op> ops;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t n = 1 + f.rng() % 64, from = f.rng() % (kBytes - n), to = f.rng() % (kBytes - n);
    ops.push_back(copy(src, from, dst, to, n).wait(t, i).signal(t, i + 1));
    std::copy_n(data.begin() + ptrdiff_t(from), n, expected.begin() + ptrdiff_t(to));
  }
  must(e.link.submit(ops));
  must(t.wait_until(count, soon()));
  EXPECT_TRUE(same(e.bytes(e.to, dst), expected));
}

// No points between them: they may overtake each other, and all arrive.
void many_small_copies_at_once(Fixture& f) {
  Ends e(f);
  const uint64_t count = scaled(3000) + 200, bytes = count * 100;
  const Bytes data = f.random(bytes);
  Bytes expected(bytes, 0x77);
  Buffer src = e.filled(e.from, data), dst = e.filled(e.to, expected);
  std::vector<Timeline> landed;
  std::vector<Op> ops;
  for (uint64_t i = 0; i < count; ++i) {
    landed.push_back(f.timeline("landed"));
    ops.push_back(copy(src, i * 100 + 1, dst, (count - 1 - i) * 100, 97).signal(landed.back(), 1));
    std::copy_n(data.begin() + ptrdiff_t(i * 100 + 1), 97, expected.begin() + ptrdiff_t((count - 1 - i) * 100));
  }
  must(e.link.submit(ops));
  for (Timeline& t : landed) must(t.wait_until(1, soon()));
  EXPECT_TRUE(same(e.bytes(e.to, dst), expected));
}

void both_ways_at_once(Fixture& f) {
  Ends e(f);
  Queue back = must(f.in().link(e.to, e.from));
  const uint64_t bytes = (kSlower == 1 ? 3 * kMiB : kMiB) + 13, rounds = 4;
  const Bytes there = f.random(bytes), here = f.random(bytes);
  Buffer a = e.filled(e.from, there), b = e.filled(e.to, here), a2 = e.filled(e.from, Bytes(bytes, 0)), b2 = e.filled(e.to, Bytes(bytes, 0));
  Timeline t = f.timeline("there"), u = f.timeline("back");
  auto run = [&](const Queue& q, const Buffer& src, const Buffer& dst, const Timeline& done) {
    for (uint64_t i = 1; i <= rounds; ++i) EXPECT_OK(q.submit(copy(src, 0, dst, 0, bytes).signal(done, i)));
    EXPECT_OK(done.wait_until(rounds, soon()));
  };
  std::thread other([&] { run(back, b, a2, u); });
  run(e.link, a, b2, t);
  other.join();
  EXPECT_TRUE(same(e.bytes(e.to, b2), there));
  EXPECT_TRUE(same(e.bytes(e.from, a2), here));
}

// The step of a disaggregated runtime: made at one end, landed at the other, read there, again and again in the same two buffers.
void points_order_both_ends_and_the_link(Fixture& f) {
  Ends e(f);
  constexpr uint64_t kBytes = 5000, kRounds = 20;
  Buffer src = e.filled(e.from, Bytes(kBytes, 0)), dst = e.filled(e.to, Bytes(kBytes, 0)), seen = f.host(kBytes * kRounds);
  Queue q = must(e.from.queue()), r = must(e.to.queue());
  Timeline made = f.timeline("made"), landed = f.timeline("landed"), ready = f.timeline("ready");
  for (uint64_t i = 1; i <= kRounds; ++i) {
    must(r.submit(copy(dst, 0, seen, (i - 1) * kBytes, kBytes).wait(landed, i).signal(ready, i)));
    must(e.link.submit(copy(src, 0, dst, 0, kBytes).wait(made, i).wait(ready, i - 1).signal(landed, i)));
    must(q.submit(fill(src, 0, kBytes, uint32_t(i)).wait(landed, i - 1).signal(made, i)));
  }
  must(ready.wait_until(kRounds, soon()));
  const uint8_t* got = Fixture::mapped(seen);
  for (uint64_t i = 0; i < kRounds; ++i)
    EXPECT_EQ(std::count(got + i * kBytes, got + (i + 1) * kBytes, uint8_t(i + 1)), int64_t(kBytes)) << "round " << i + 1;
}

// A modelled end's copy does not end before it began, and a longer one takes no less.
void a_modelled_copy_takes_its_time(Fixture& f) {
  if (!f.info().modelled && !f.peer_info().modelled) skip("neither end's time is modelled");
  Ends e(f);
  Buffer src = e.filled(e.from, Bytes(2 * kMiB, 1)), dst = e.filled(e.to, Bytes(2 * kMiB, 2));
  auto cost = [&](uint64_t bytes) {
    Queue link = must(f.in().link(e.from, e.to));
    Timeline gate = f.timeline("gate"), t = f.timeline();
    gate.signal(1, 5000);
    must(link.submit(copy(src, 0, dst, 0, bytes).wait(gate, 1).signal(t, 1)));
    must(t.wait_until(1, soon()));
    EXPECT_GT(t.modelled_ns(1), 5000u) << bytes << " bytes";
    return t.modelled_ns(1);
  };
  const uint64_t small = cost(64), large = cost(2 * kMiB);
  EXPECT_GT(large, small);
}

// All or nothing, with the numbers or the edge named; what was refused leaves no trace.
void refused_before_submit(Fixture& f) {
  Ends e(f);
  Buffer src = e.filled(e.from, Bytes(4096, 1)), dst = e.filled(e.to, Bytes(4096, 2));
  Timeline t = f.timeline();
  auto refused = [&](const Op& op, int32_t code, const std::string& what) {
    Op good = copy(src, 0, dst, 0, 4096).signal(t, 1);
    const Status s = e.link.submit({good, op});
    EXPECT_CODE(s, code);
    if (s.ok()) return;
    EXPECT_THAT(std::string(s.error().what), HasSubstr(what));
  };
  refused(copy(src, 1, dst, 0, 4096), BATON_INVALID_ARGUMENT, "4096 bytes at offset 1 of a buffer of 4096 bytes");
  refused(copy(src, 0, dst, 4097, 0), BATON_INVALID_ARGUMENT, "offset 4097");
  refused(copy(src, UINT64_MAX, dst, 0, 2), BATON_INVALID_ARGUMENT, "offset 18446744073709551615");
  refused(copy(dst, 0, src, 0, 64), BATON_INVALID_ARGUMENT, shown(f.peer_info()) + " -> " + shown(f.info()));
  refused(fill(dst, 0, 64, 0), BATON_INVALID_ARGUMENT, "FILL on link");
  refused(launch(Program(), {}, {}), BATON_INVALID_ARGUMENT, "LAUNCH on link");
  EXPECT_EQ(must(t.value()), 0u);
  EXPECT_TRUE(same(e.bytes(e.to, dst), Bytes(4096, 2)));
  // A lane reaches its own memory and what the host can see; for more there are links, and the refusal says so.
  for (auto [d, other, b, c] : {std::tuple(&e.from, &f.peer_info(), &src, &dst), std::tuple(&e.to, &f.info(), &dst, &src)}) {
    Queue q = must(d->queue());
    Timeline u = f.timeline();
    const Status s = q.submit(copy(*b, 0, *c, 0, 64).signal(u, 1));
    if (other->heaps[0].mappable) {
      EXPECT_OK(s);
      EXPECT_OK(u.wait_until(1, soon()));
    } else {
      EXPECT_CODE(s, BATON_UNSUPPORTED);
      if (s.ok()) continue;
      EXPECT_THAT(std::string(s.error().what), HasSubstr("no direct edge between"));
      EXPECT_THAT(std::string(s.error().next), HasSubstr("baton_link_open"));
    }
  }
}

}  // namespace

const Suite& pair_copy_suite() {
  static constexpr Case kCases[] = {
      {"ThePlanNamesPathAndEnds", kNone, the_plan_names_path_and_ends},
      {"EverySizeAndOffset", kNone, every_size_and_offset},
      {"ACopyOfNothingCompletes", kNone, a_copy_of_nothing_completes},
      {"ManySmallCopiesInOrder", kNone, many_small_copies_in_order},
      {"ManySmallCopiesAtOnce", kNone, many_small_copies_at_once},
      {"BothWaysAtOnce", kNone, both_ways_at_once},
      {"PointsOrderBothEndsAndTheLink", kNone, points_order_both_ends_and_the_link},
      {"AModelledCopyTakesItsTime", kNone, a_modelled_copy_takes_its_time},
      {"RefusedBeforeSubmit", kNone, refused_before_submit},
  };
  static constexpr Suite kSuite{"pair_copy", kCases, About::pair};
  return kSuite;
}

}  // namespace baton::cts
