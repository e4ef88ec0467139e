// Memory: from the first byte to exhaustion and back, copies of any shape, mapping, sharing, and that nobody sees another's bytes.
#include "tests/cts/fixture.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace baton::cts {
namespace {

Status run(Fixture& f, const Op& op) {
  Queue q = f.queue();
  Timeline t = f.timeline();
  Op o = op;
  BATON_TRY(q.submit(o.signal(t, 1)));
  return t.wait_until(1, soon());
}

// In sixteen pieces that nobody touches, so that a heap of any size may be tried.
void a_heap_can_be_used_up_and_given_back(Fixture& f) {
  for (uint32_t heap = 0; heap < f.info().heap_count; ++heap) {
    const baton_heap_info before = must(f.device.info()).heaps[heap];
    const uint64_t piece = before.bytes_total / 16;
    std::vector<Buffer> all;
    Error full;
    while (all.size() <= 16 && !full.code) {
      auto b = f.device.alloc(piece, heap);
      if (b.ok()) all.push_back(std::move(*b));
      else full = b.error();
    }
    ASSERT_STREQ(baton_code_name(full.code), "CAPACITY") << before.name << ": " << all.size() << " pieces of a 16th; " << full.text();
    EXPECT_GE(all.size(), 14u) << before.name << " was empty, and takes few of its sixteenths";
    EXPECT_NE(full.next[0], 0) << "the error has no next step: " << full.text();
    EXPECT_NE(std::string(full.what).find_first_of("0123456789"), std::string::npos) << "the error has no number: " << full.text();
    EXPECT_GE(must(f.device.info()).heaps[heap].bytes_used, before.bytes_used + all.size() * piece);
    all.erase(all.begin());  // one back: exactly one fits again
    EXPECT_OK(f.device.alloc(piece, heap));
    all.clear();
    EXPECT_EQ(must(f.device.info()).heaps[heap].bytes_used, before.bytes_used);
    EXPECT_OK(f.device.alloc(14 * piece, heap));  // and it is whole again
  }
}

void more_than_a_heap_is_refused(Fixture& f) {
  const uint64_t total = f.info().heaps[0].bytes_total;
  for (uint64_t bytes : {total + 1, 2 * total, uint64_t(1) << 50, UINT64_MAX - 4095, UINT64_MAX}) {
    SCOPED_TRACE(bytes);
    EXPECT_CODE(f.device.alloc(bytes), BATON_CAPACITY);
  }
}

// Allocations of all sizes, freed in any order, keep their bytes to themselves.
void allocations_do_not_overlap(Fixture& f) {
  struct Piece {
    Buffer buffer;
    uint8_t value;
  };
  std::vector<Piece> live;
  for (int i = 0; i < 120; ++i) {
    const uint64_t bytes = 1 + f.rng() % (i % 3 ? 300 : 20000);
    Piece p{f.alloc(bytes, uint32_t(f.rng() % f.info().heap_count)), uint8_t(f.rng())};
    f.fill(p.buffer, p.value);
    live.push_back(std::move(p));
    if (live.size() > 30) {
      const size_t k = f.rng() % live.size();
      EXPECT_TRUE(same(f.read(live[k].buffer, 0, live[k].buffer.bytes()), Bytes(live[k].buffer.bytes(), live[k].value)));
      live.erase(live.begin() + ptrdiff_t(k));
    }
  }
  for (const Piece& p : live) EXPECT_TRUE(same(f.read(p.buffer, 0, p.buffer.bytes()), Bytes(p.buffer.bytes(), p.value)));
}

// Any offset, any length, all three directions; against a model of the same copies in host memory.
void copies_of_any_offset_and_length(Fixture& f) {
  constexpr uint64_t kBytes = 3 * 4096 + 5;
  Buffer a = f.alloc(kBytes), b = f.alloc(kBytes), h = f.host(kBytes);
  Bytes model_a = f.random(kBytes), model_b = f.random(kBytes), model_h = f.random(kBytes);
  f.write(a, 0, model_a);
  f.write(b, 0, model_b);
  std::memcpy(Fixture::mapped(h), model_h.data(), kBytes);
  const Buffer* buffers[] = {&a, &b, &h};
  Bytes* models[] = {&model_a, &model_b, &model_h};
  Queue q = f.queue();
  Timeline t = f.timeline();
  uint64_t n = 0;
  for (int i = 0; i < 100; ++i) {
    const size_t from = f.rng() % 3, to = (from + 1 + f.rng() % 2) % 3;
    const uint64_t longest = i % 2 ? 67 : kBytes, bytes = 1 + f.rng() % longest;
    const uint64_t at = f.rng() % (kBytes - bytes + 1), onto = f.rng() % (kBytes - bytes + 1);
    must(q.submit(copy(*buffers[from], at, *buffers[to], onto, bytes).signal(t, ++n)));
    std::memcpy(models[to]->data() + onto, models[from]->data() + at, bytes);
  }
  must(t.wait_until(n, soon()));
  EXPECT_TRUE(same(f.read(a, 0, kBytes), model_a));
  EXPECT_TRUE(same(f.read(b, 0, kBytes), model_b));
  EXPECT_TRUE(same(Bytes(Fixture::mapped(h), Fixture::mapped(h) + kBytes), model_h));
}

void a_large_copy_there_and_back(Fixture& f) {
  const uint64_t bytes = (scaled(8 << 20) | 0xfff) + 2;  // not a multiple of anything
  Buffer a = f.alloc(bytes);
  Bytes data(bytes);
  for (uint64_t i = 0; i < bytes; ++i) data[i] = uint8_t(i * 2654435761u >> 13);
  f.write(a, 0, data);
  EXPECT_TRUE(same(f.read(a, 0, bytes), data));
}

// Within one buffer a copy acts as memmove, or is refused and moves nothing; never anything in between.
void copies_that_overlap_move_or_are_refused(Fixture& f) {
  constexpr uint64_t kBytes = 9000;
  Buffer b = f.alloc(kBytes);
  for (auto [from, to] : {std::pair<uint64_t, uint64_t>{0, 100}, {100, 0}, {4096, 1}, {7, 7}}) {
    Bytes data = f.random(kBytes);
    f.write(b, 0, data);
    Status s = run(f, copy(b, from, b, to, 4500));
    if (s.ok()) std::memmove(data.data() + to, data.data() + from, 4500);
    else EXPECT_CODE(s, BATON_INVALID_ARGUMENT);
    EXPECT_TRUE(same(f.read(b, 0, kBytes), data)) << from << " -> " << to << (s.ok() ? ", which succeeded" : ", which was refused");
  }
}

void fills_of_every_pattern(Fixture& f) {
  constexpr uint64_t kBytes = 4096 + 12;
  Buffer b = f.alloc(kBytes);
  f.fill(b, 0);
  Bytes model(kBytes);
  for (uint32_t width : {1u, 2u, 4u})
    for (int i = 0; i < 6; ++i) {
      const uint64_t offset = f.rng() % 100 * width, bytes = (1 + f.rng() % ((kBytes - offset) / width)) * width;
      const uint32_t pattern = uint32_t(f.rng());
      must(run(f, fill(b, offset, bytes, pattern, width)));
      for (uint64_t k = 0; k < bytes; ++k) model[offset + k] = uint8_t(pattern >> 8 * (k % width));
      EXPECT_TRUE(same(f.read(b, 0, kBytes), model)) << width << " byte pattern, " << bytes << " at " << offset;
    }
  EXPECT_CODE(run(f, fill(b, 1, 4, 0, 4)), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(run(f, fill(b, 0, 6, 0, 4)), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(run(f, fill(b, 0, 6, 0, 3)), BATON_INVALID_ARGUMENT);
  EXPECT_OK(run(f, fill(b, kBytes, 0, 0, 4)));  // nothing, at the end
}

// At submit, naming offset and length; nothing of the batch is taken.
void what_lies_outside_of_a_buffer_is_refused(Fixture& f) {
  Buffer b = f.alloc(100), h = f.host(100);
  f.fill(b, 1);
  Queue q = f.queue();
  Timeline t = f.timeline();
  struct Range { uint64_t offset, bytes; };
  for (auto [offset, bytes] : {Range{0, 101}, {100, 1}, {1, 100}, {UINT64_MAX, 1}, {UINT64_MAX - 9, 20}, {50, UINT64_MAX}, {0, UINT64_MAX}}) {
    for (const Op& bad : {copy(b, offset, h, 0, bytes), copy(h, offset, b, 0, bytes), copy(b, 0, h, offset, bytes), copy(h, 0, b, offset, bytes),
                          fill(b, offset, bytes, 2)}) {
      Status s = q.submit({fill(b, 0, 100, 3).signal(t, 1), bad});
      EXPECT_CODE(s, BATON_INVALID_ARGUMENT);
    }
  }
  EXPECT_EQ(must(t.value()), 0u);
  EXPECT_TRUE(same(f.read(b, 0, 100), Bytes(100, 1)));
}

void what_is_mapped_is_the_memory(Fixture& f) {
  Buffer b = f.alloc(5000);
  uint8_t* p = Fixture::mapped(b);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u) << "a buffer begins on a cache line";
  EXPECT_EQ(Fixture::mapped(b), p) << "a buffer has one address";
  const Bytes data = f.random(5000);
  std::memcpy(p, data.data(), data.size());
  EXPECT_TRUE(same(f.read(b, 0, 5000), data));
  must(run(f, fill(b, 10, 20, 0x77)));
  for (int i = 10; i < 30; ++i) EXPECT_EQ(p[i], 0x77) << i;
  EXPECT_EQ(p[9], data[9]);
  EXPECT_EQ(p[30], data[30]);
}

void what_cannot_be_mapped_or_exported_is_refused_with_a_next_step(Fixture& f) {
  Buffer b = f.alloc(64);
  if (!f.info().heaps[0].mappable) {
    auto p = b.map();
    EXPECT_CODE(p, BATON_UNSUPPORTED);
    EXPECT_TRUE(p.ok() || p.error().next[0]);
  }
  if (!f.info().heaps[0].exportable) {
    auto x = b.export_fd();
    EXPECT_CODE(x, BATON_UNSUPPORTED);
    EXPECT_TRUE(x.ok() || x.error().next[0]);
  }
  if (f.info().heaps[0].mappable && f.info().heaps[0].exportable) skip("the heap can be mapped and exported");
}

struct Shared {
  int fd = -1;
  uint64_t offset = 0;
  explicit Shared(const Buffer& b) {
    const Buffer::Export x = must(b.export_fd());
    fd = x.fd;
    offset = x.offset;
  }
  ~Shared() { close(fd); }
  Shared(const Shared&) = delete;
};

// The export of every buffer says where in the object it starts: with offset 0 for all, neighbours would be overwritten.
void an_export_carries_its_offset(Fixture& f) {
  Device other = must(f.in().open("host://cts-importer"));
  std::vector<Buffer> buffers;
  for (uint64_t bytes : {100, 5000, 64, 12345}) {
    buffers.push_back(f.alloc(bytes));
    f.fill(buffers.back(), 0);
  }
  for (size_t i = 0; i < buffers.size(); ++i) {
    Shared x(buffers[i]);
    Buffer view = must(other.import_fd(x.fd, x.offset, buffers[i].bytes()));
    std::memset(Fixture::mapped(view), int(i + 1), view.bytes());
    must(run(f, fill(buffers[i], 0, 1, 0xf0)));
    EXPECT_EQ(Fixture::mapped(view)[0], 0xf0);
  }
  for (size_t i = 0; i < buffers.size(); ++i) {
    Bytes expected(buffers[i].bytes(), uint8_t(i + 1));
    expected[0] = 0xf0;
    EXPECT_TRUE(same(f.read(buffers[i], 0, expected.size()), expected)) << "buffer " << i;
  }
}

// A part of another's object, at an offset that is no multiple of a page.
// Nothing in info says whether a device imports: UNSUPPORTED with a next step keeps the promise as well.
void skip_without_import(Fixture& f, const Shared& x) {
  auto view = f.device.import_fd(x.fd, x.offset, 4096);
  if (!view && view.error().code == BATON_UNSUPPORTED && view.error().next[0]) skip(view.error().text());
}

// Who hears that a write through a descriptor is complete fences, and the device sees it.
void a_fence_shows_what_others_wrote(Fixture& f) {
  Buffer b = f.alloc(20000);
  f.fill(b, 0x11);
  Shared x(b);
  Device other = must(f.in().open("host://cts-importer"));
  Buffer view = must(other.import_fd(x.fd, x.offset, b.bytes()));
  const Bytes data = f.random(9000);
  std::memcpy(Fixture::mapped(view) + 4500, data.data(), data.size());
  must(b.fence(4500, data.size()));
  EXPECT_TRUE(same(f.read(b, 4500, data.size()), data));
  if (f.info().heaps[0].mappable) EXPECT_EQ(std::memcmp(Fixture::mapped(b) + 4500, data.data(), data.size()), 0) << "mapped";
  EXPECT_TRUE(same(f.read(b, 0, 4500), Bytes(4500, 0x11)));
  EXPECT_OK(b.fence(20000, 0));
  EXPECT_CODE(b.fence(20000, 1), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(b.fence(UINT64_MAX, 2), BATON_INVALID_ARGUMENT);
}

void an_import_is_the_same_memory(Fixture& f) {
  Buffer h = f.host(20000);
  Shared x(h);
  skip_without_import(f, x);
  const Bytes data = f.random(20000);
  std::memcpy(Fixture::mapped(h), data.data(), data.size());
  Buffer view = must(f.device.import_fd(x.fd, x.offset + 4160, 9000));
  EXPECT_EQ(view.bytes(), 9000u);
  EXPECT_NE(fcntl(x.fd, F_GETFD), -1) << "the import has closed a descriptor that is the caller's";
  EXPECT_TRUE(same(f.read(view, 0, 9000), Bytes(data.begin() + 4160, data.begin() + 13160)));
  must(run(f, fill(view, 8, 16, 0x3c)));
  for (int i = 0; i < 16; ++i) EXPECT_EQ(Fixture::mapped(h)[4160 + 8 + i], 0x3c);
  h.reset();  // the object lives as long as somebody imports it
  EXPECT_TRUE(same(f.read(view, 8, 16), Bytes(16, 0x3c)));
}

void an_import_beyond_its_object_is_refused(Fixture& f) {
  Buffer h = f.host(8192);
  Shared x(h);
  skip_without_import(f, x);
  EXPECT_CODE(f.device.import_fd(x.fd, x.offset, 8192 + 4096), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(f.device.import_fd(x.fd, x.offset + 8192, 1), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(f.device.import_fd(x.fd, UINT64_MAX - 10, 11), BATON_INVALID_ARGUMENT);
  EXPECT_CODE(f.device.import_fd(x.fd, uint64_t(1) << 62, 4096), BATON_INVALID_ARGUMENT);
  EXPECT_FALSE(f.device.import_fd(-1, 0, 4096).ok());
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  EXPECT_FALSE(f.device.import_fd(pipe_ends[0], 0, 4096).ok());
  close(pipe_ends[0]);
  close(pipe_ends[1]);
}

// Sizes that end within a page, where what is left of it is another allocation's, or nobody's.
void new_memory_never_shows_old_bytes(Fixture& f) {
  for (uint64_t bytes : {uint64_t(64), uint64_t(4096), uint64_t(5000), uint64_t(1) << 20}) {
    for (int round = 0; round < 4; ++round) {
      {
        std::vector<Buffer> old;
        for (int i = 0; i < 3; ++i) f.fill(old.emplace_back(f.alloc(bytes)), 0xa5);
      }
      Buffer fresh = f.alloc(bytes + 32);
      Buffer to = f.host(bytes + 32);
      Status s = run(f, copy(fresh, 0, to, 0, bytes + 32));
      if (!s.ok()) continue;  // a device may refuse to read what was never written
      const uint8_t* p = Fixture::mapped(to);
      EXPECT_EQ(std::count(p, p + bytes + 32, 0xa5), 0) << "of " << bytes + 32 << " new bytes";
      if (f.info().heaps[0].mappable) {
        const uint8_t* m = Fixture::mapped(fresh);
        EXPECT_EQ(std::count(m, m + bytes + 32, 0xa5), 0) << "mapped";
      }
    }
  }
}

// A buffer that is freed under an op lives until the op is over.
void a_buffer_freed_in_flight_lives_until_the_op_is_over(Fixture& f) {
  Queue q = f.queue();
  Timeline gate = f.timeline("gate"), t = f.timeline();
  Buffer to = f.alloc(1 << 16);
  {
    Buffer from = f.alloc(1 << 16);
    f.fill(from, 9);
    must(q.submit(copy(from, 0, to, 0, 1 << 16).wait(gate, 1).signal(t, 1)));
  }
  Buffer others = f.alloc(1 << 16);  // would be the same memory, had it been freed
  f.fill(others, 4);
  gate.signal(1);
  must(t.wait_until(1, soon()));
  EXPECT_TRUE(same(f.read(to, 0, 1 << 16), Bytes(1 << 16, 9)));
}

void each_heap_counts_its_own(Fixture& f) {
  for (uint32_t heap = 0; heap < f.info().heap_count; ++heap) {
    const DeviceInfo before = must(f.device.info());
    Buffer b = f.alloc(1 << 20, heap);
    const DeviceInfo after = must(f.device.info());
    for (uint32_t i = 0; i < after.heap_count; ++i) {
      const uint64_t more = after.heaps[i].bytes_used - before.heaps[i].bytes_used;
      if (i == heap) EXPECT_GE(more, 1u << 20) << after.heaps[i].name;
      else EXPECT_EQ(more, 0u) << after.heaps[i].name << ", after an allocation on " << after.heaps[heap].name;
    }
  }
}

}  // namespace

const Suite& memory_suite() {
  static constexpr Case kCases[] = {
      {"AHeapCanBeUsedUpAndGivenBack", kNone, a_heap_can_be_used_up_and_given_back},
      {"MoreThanAHeapIsRefused", kNone, more_than_a_heap_is_refused},
      {"AllocationsDoNotOverlap", kNone, allocations_do_not_overlap},
      {"CopiesOfAnyOffsetAndLength", kNone, copies_of_any_offset_and_length},
      {"ALargeCopyThereAndBack", kNone, a_large_copy_there_and_back},
      {"CopiesThatOverlapMoveOrAreRefused", kNone, copies_that_overlap_move_or_are_refused},
      {"FillsOfEveryPattern", kNone, fills_of_every_pattern},
      {"WhatLiesOutsideOfABufferIsRefused", kNone, what_lies_outside_of_a_buffer_is_refused},
      {"WhatIsMappedIsTheMemory", kMappable, what_is_mapped_is_the_memory},
      {"WhatCannotBeMappedOrExportedIsRefusedWithANextStep", kNone, what_cannot_be_mapped_or_exported_is_refused_with_a_next_step},
      {"AnExportCarriesItsOffset", kExportable, an_export_carries_its_offset},
      {"AFenceShowsWhatOthersWrote", kExportable, a_fence_shows_what_others_wrote},
      {"AnImportIsTheSameMemory", kNone, an_import_is_the_same_memory},
      {"AnImportBeyondItsObjectIsRefused", kNone, an_import_beyond_its_object_is_refused},
      {"NewMemoryNeverShowsOldBytes", kNone, new_memory_never_shows_old_bytes},
      {"ABufferFreedInFlightLivesUntilTheOpIsOver", kNone, a_buffer_freed_in_flight_lives_until_the_op_is_over},
      {"EachHeapCountsItsOwn", kNone, each_heap_counts_its_own},
  };
  static constexpr Suite kSuite{"memory", kCases};
  return kSuite;
}

}  // namespace baton::cts
