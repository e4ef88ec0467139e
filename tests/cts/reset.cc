// Reset and epochs: what was in flight fails, what was made before is stale for good, and the device starts anew.
#include "tests/cts/workload.h"

#include <algorithm>
#include <memory>

namespace baton::cts {
namespace {

void expect_works(Fixture& f) {
  Work w(f, 3);
  Queue q = f.queue();
  Timeline t = f.timeline();
  must(q.submit(w.launch().signal(t, 1)));
  must(t.wait_until(1, soon()));
  EXPECT_EQ(w.result()[0], 8.0f);
}

void the_epoch_rises_and_the_device_starts_anew(Fixture& f) {
  uint64_t epoch = f.info().epoch;
  for (int i = 0; i < 3; ++i) {
    must(f.device.reset_device());
    EXPECT_EQ(must(f.device.info()).epoch, epoch + 1);
    epoch = must(f.device.info()).epoch;
    EXPECT_STREQ(must(f.device.info()).name, f.info().name);
    expect_works(f);
  }
}

void handles_of_before_are_stale_for_good(Fixture& f) {
  Buffer b = f.alloc(4096);
  Queue q = f.queue();
  Work w(f, 2);
  f.fill(b, 1);
  must(f.device.reset_device());
  Status s = q.submit(nop());
  EXPECT_CODE(s, BATON_DEVICE_LOST);
  EXPECT_TRUE(s.ok() || s.error().next[0]) << "the error has no next step";
  Queue fresh = f.queue();
  Buffer fresh_buffer = f.alloc(4096);
  f.fill(fresh_buffer, 2);
  EXPECT_CODE(fresh.submit(fill(b, 0, 64, 0)), BATON_DEVICE_LOST);
  EXPECT_CODE(fresh.submit(copy(b, 0, fresh_buffer, 0, 64)), BATON_DEVICE_LOST);
  EXPECT_CODE(fresh.submit(copy(fresh_buffer, 0, b, 0, 64)), BATON_DEVICE_LOST);
  EXPECT_CODE(fresh.submit(w.launch()), BATON_DEVICE_LOST);
  EXPECT_CODE(b.map(), BATON_DEVICE_LOST);
  EXPECT_CODE(b.export_fd(), BATON_DEVICE_LOST);
  must(f.device.reset_device());
  EXPECT_CODE(fresh.submit(nop()), BATON_DEVICE_LOST);
}

// The memory of before is the device's again at once, not only when its handles are freed.
void the_memory_of_before_is_given_back(Fixture& f) {
  const baton_heap_info heap = f.info().heaps[0];
  Buffer old = f.alloc(heap.bytes_total / 4 * 3);
  must(f.device.reset_device());
  EXPECT_EQ(must(f.device.info()).heaps[0].bytes_used, heap.bytes_used);
  auto fresh = f.device.alloc(heap.bytes_total / 4 * 3);
  EXPECT_OK(fresh);
  old.reset();
  if (!fresh.ok()) return;
  EXPECT_GE(must(f.device.info()).heaps[0].bytes_used, fresh->bytes()) << "freeing the stale handle gave back memory of the new epoch";
}

// Freed late, a stale handle frees nothing of the new epoch.
void freeing_what_is_stale_harms_nothing(Fixture& f) {
  std::vector<Buffer> old;
  for (int i = 0; i < 8; ++i) f.fill(old.emplace_back(f.alloc(8192)), 1);
  auto work = std::make_unique<Work>(f, 2);
  Queue q = f.queue();
  must(f.device.reset_device());
  std::vector<Buffer> fresh;
  for (int i = 0; i < 8; ++i) f.fill(fresh.emplace_back(f.alloc(8192)), uint8_t(10 + i));
  Work other(f, 3);
  old.clear();
  work.reset();
  q.reset();
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(same(f.read(fresh[size_t(i)], 0, 8192), Bytes(8192, uint8_t(10 + i)))) << "buffer " << i;
  Queue fresh_queue = f.queue();
  Timeline t = f.timeline();
  must(fresh_queue.submit(other.launch().signal(t, 1)));
  must(t.wait_until(1, soon()));
  EXPECT_EQ(other.result()[0], 8.0f);
}

// Copies, a launch, and ops that wait: each ends with DEVICE_LOST and names the device; none hangs.
void what_is_in_flight_fails(Fixture& f) {
  for (int round = 0; round < 3; ++round) {
    Buffer a = f.alloc(1 << 20), b = f.alloc(1 << 20);
    f.fill(a, 1);
    Work w(f, 2000);
    Queue q = f.queue(), copies = f.queue();
    Timeline never = f.timeline("never"), waiting = f.timeline("waiting"), marks = f.timeline("marks"), launched = f.timeline("launched"),
             copied = f.timeline("copied");
    must(q.submit({nop().wait(never, 1).signal(waiting, 1), w.launch().progress(marks).signal(launched, 1)}));
    for (uint64_t i = 1; i <= 10; ++i) must(copies.submit(copy(a, 0, b, 0, 1 << 20).wait(launched, i == 10).signal(copied, i)));
    if (round) f.in().poll();
    if (round == 2 && f.info().progress) must(marks.wait_until(1, soon()));
    must(f.device.reset_device());
    for (const Timeline* t : {&waiting, &launched, &marks, &copied}) {
      Status s = t->wait_until(UINT64_MAX, soon());
      EXPECT_CODE(s, BATON_DEVICE_LOST);
      EXPECT_TRUE(s.ok() || s.error().device[0]) << "the error names no device: " << s.error().text();
    }
  }
  expect_works(f);
}

void old_bytes_do_not_survive(Fixture& f) {
  for (uint64_t bytes : {uint64_t(64), uint64_t(5000), uint64_t(1) << 20}) {
    Buffer old = f.alloc(bytes);
    f.fill(old, 0xa5);
    must(f.device.reset_device());
    Buffer fresh = f.alloc(bytes), to = f.host(bytes);
    Queue q = f.queue();
    Timeline t = f.timeline();
    must(q.submit(copy(fresh, 0, to, 0, bytes).signal(t, 1)));
    if (!t.wait_until(1, soon()).ok()) continue;  // a device may refuse to read what was never written
    EXPECT_EQ(std::count(Fixture::mapped(to), Fixture::mapped(to) + bytes, 0xa5), 0) << "of " << bytes << " bytes";
  }
}

}  // namespace

const Suite& reset_suite() {
  static constexpr Case kCases[] = {
      {"TheEpochRisesAndTheDeviceStartsAnew", kNone, the_epoch_rises_and_the_device_starts_anew},
      {"HandlesOfBeforeAreStaleForGood", kNone, handles_of_before_are_stale_for_good},
      {"TheMemoryOfBeforeIsGivenBack", kNone, the_memory_of_before_is_given_back},
      {"FreeingWhatIsStaleHarmsNothing", kNone, freeing_what_is_stale_harms_nothing},
      {"WhatIsInFlightFails", kNone, what_is_in_flight_fails},
      {"OldBytesDoNotSurvive", kNone, old_bytes_do_not_survive},
  };
  static constexpr Suite kSuite{"reset", kCases};
  return kSuite;
}

}  // namespace baton::cts
