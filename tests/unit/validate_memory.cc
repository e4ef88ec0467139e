// Memory that is read before anybody wrote it, and ops that touch the same bytes with nothing between them.
#include "hal/program/program.hpp"
#include "tests/unit/validate_test.hpp"

#include <unistd.h>

namespace baton::test {
namespace {

namespace bp = baton::program;
using bp::Arg, bp::DType, bp::Storage;

class MemoryTest : public ValidateTest {
 protected:
  // Runs and returns how it ended; its findings stay in `found`.
  void run(Queue& q, Op op) {
    EXPECT_OK(q.submit(op.signal(done, ++value)));
    EXPECT_OK(done.wait_until(value, soon()));
  }
  Timeline done = timeline("done");
  uint64_t value = 0;
};

TEST_F(MemoryTest, BytesThatNobodyHasWritten) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Buffer a = must(d.alloc(128)), b = must(d.alloc(256));
  run(q, copy(a, 0, b, 0, 128).tagged(1));
  expect("read-before-write", "caller", true,
         "COPY (tag 1) on 'fake:// lane 0' reads bytes 0..128 of buffer of 128 bytes on fake://, which nobody has written");
  run(q, copy(a, 0, b, 0, 128));  // once is enough
  run(q, copy(b, 64, a, 0, 64));  // what was copied there counts as written
  EXPECT_TRUE(found.empty()) << found[0].what;
  run(q, fill(b, 192, 64, 7));
  run(q, copy(b, 100, a, 0, 128).tagged(2));
  expect("read-before-write", "caller", true,
         "COPY (tag 2) on 'fake:// lane 0' reads bytes 100..228 of buffer of 256 bytes on fake://, of which nobody has written 128..192");
  run(q, copy(b, 0, a, 0, 0));  // nothing moves
  EXPECT_TRUE(found.empty());
}

TEST_F(MemoryTest, TheWriterNeedOnlyHaveBegun) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Buffer a = must(d.alloc(64)), b = must(d.alloc(64));
  EXPECT_OK(q.submit({fill(a, 0, 64, 7), copy(a, 0, b, 0, 64).signal(done, 1)}));
  EXPECT_OK(done.wait_until(1, soon()));
  EXPECT_TRUE(found.empty()) << found[0].what;
}

TEST_F(MemoryTest, AHandleThatIsMadeAnewStartsUnwritten) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Buffer to = must(d.alloc(64));
  for (int i = 0; i < 3; ++i) {
    Buffer a = must(d.alloc(64));
    run(q, copy(a, 0, to, 0, 64));
    ASSERT_EQ(found.size(), 1u) << i;
    found.clear();
  }
}

TEST_F(MemoryTest, WhatMayBeWrittenFromElsewhereCountsAsWritten) {
  Device d = open("host://");
  Queue q = must(d.queue());
  Buffer mapped = must(d.alloc(64)), exported = must(d.alloc(64)), to = must(d.alloc(64));
  must(mapped.map());
  auto object = must(exported.export_fd());
  Buffer imported = must(d.import_fd(object.fd, object.offset, 64));
  close(object.fd);
  for (Buffer* b : {&mapped, &exported, &imported}) run(q, copy(*b, 0, to, 0, 64));
  EXPECT_TRUE(found.empty()) << found[0].what;
}

TEST_F(MemoryTest, ALinkReadsToo) {
  Device d = open("fake://a"), e = open("fake://b"), h = open("host://");
  Buffer a = must(d.alloc(3 << 20)), b = must(e.alloc(3 << 20)), c = must(h.alloc(3 << 20));
  Queue staged = must(in.link(d, e)), out = must(in.link(d, h));
  run(staged, copy(a, 0, b, 0, 3 << 20).tagged(1));
  expect("read-before-write", "caller", true,
         "COPY (tag 1) on 'link fake://a -> fake://b' reads bytes 0..3145728 of buffer of 3145728 bytes on fake://a, which nobody has written");
  run(out, copy(a, 0, c, 0, 3 << 20));
  Queue back = must(in.link(h, e));
  run(back, copy(c, 1, b, 0, 100));
  EXPECT_TRUE(found.empty()) << found[0].what;
}

// y = w * x for as many rows as the launch has tokens.
std::vector<uint8_t> multiply() {
  bp::Builder b("multiply");
  b.program().max_tokens = 8;
  b.program().args = {Arg::tokens};
  const uint32_t x = b.value("x", DType::f32, Storage::input, {bp::kTokens, 4}), y = b.value("y", DType::f32, Storage::output, {bp::kTokens, 4});
  b.matmul(x, b.constant("w", DType::f32, {4, 4}), bp::Act::f32, 1, -1, y);
  return serialize(must(std::move(b).finish()));
}

TEST_F(MemoryTest, ALaunchReadsItsInputsAndWritesItsOutputs) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Program p = must(d.load(multiply(), {}));
  Buffer x = must(d.alloc(128)), y = must(d.alloc(128)), to = must(d.alloc(128));
  const baton_binding bindings[] = {bind("x", x), bind("y", y)};
  const int64_t two[] = {2}, three[] = {3};
  run(q, fill(x, 0, 32, 7));
  run(q, launch(p, bindings, two));  // two rows of four floats
  run(q, copy(y, 0, to, 0, 128));    // how far an output is written is not told apart
  EXPECT_TRUE(found.empty()) << found[0].what;
  run(q, launch(p, bindings, three).tagged(3));
  expect("read-before-write", "caller", true,
         "LAUNCH (tag 3) on 'fake:// lane 0' reads bytes 0..48 of buffer of 128 bytes on fake:// (binding 'x'), of which nobody has written 32..48");
}

TEST_F(MemoryTest, AProgramThatIsNotOursIsNotJudged) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Program p = must(d.load(std::vector<uint8_t>(64, 1), {}));
  Buffer x = must(d.alloc(64)), to = must(d.alloc(64));
  const baton_binding bindings[] = {bind("x", x)};
  run(q, launch(p, bindings, {}));
  run(q, copy(x, 0, to, 0, 64));  // it may have been written
  EXPECT_TRUE(found.empty()) << found[0].what;
}

// One layer that stores K and V of its input and attends over the cache.
std::vector<uint8_t> attend() {
  const bp::KvView view{.layer_stride = 4096, .v_offset = 2048, .block_stride = 64, .token_stride = 4, .head_stride = 4, .block_tokens = 16};
  bp::Builder b("attend");
  b.program().max_tokens = 8;
  b.program().max_context = 256;
  b.program().args = {Arg::tokens, Arg::position};
  const uint32_t x = b.value("x", DType::f32, Storage::input, {bp::kTokens, 4}), y = b.value("y", DType::f32, Storage::output, {bp::kTokens, 4});
  const uint32_t cache = b.value("kv", DType::f32, Storage::cache, {4096}), table = b.value("blocks", DType::i32, Storage::input, {16});
  b.kv_store(x, x, table, cache, 0, 1, 4, view);
  const uint32_t a = b.attention(x, cache, table, bp::Act::f32, 0, 1, 1, 4, 0.5f, 0, view);
  b.matmul(a, b.constant("w", DType::f32, {4, 4}), bp::Act::f32, 1, -1, y);
  return serialize(must(std::move(b).finish()));
}

TEST_F(MemoryTest, ACacheThatNobodyHasFilled) {
  Device d = open("fake://");
  Queue q = must(d.queue());
  Program p = must(d.load(attend(), {}));
  Buffer x = must(d.alloc(128)), y = must(d.alloc(128)), kv = must(d.alloc(16384)), blocks = must(d.alloc(64));
  const baton_binding bindings[] = {bind("x", x), bind("y", y), bind("kv", kv), bind("blocks", blocks)};
  run(q, fill(x, 0, 128, 7));
  run(q, fill(blocks, 4, 8, 0));  // the second and the third block
  const int64_t late[] = {8, 30}, early[] = {1, 0};
  run(q, launch(p, bindings, late).tagged(1));  // tokens 30..37
  expect("read-before-write", "caller", true,
         "LAUNCH (tag 1) on 'fake:// lane 0' attends to 30 earlier tokens in bytes 0..16384 of buffer of 16384 bytes on fake:// (binding 'kv'), which "
         "nobody has written");
  run(q, launch(p, bindings, late));  // the launch itself has written some of it, where is not told apart
  EXPECT_TRUE(found.empty()) << found[0].what;
  run(q, launch(p, bindings, early).tagged(2));
  expect("read-before-write", "caller", true,
         "LAUNCH (tag 2) on 'fake:// lane 0' reads bytes 0..4 of buffer of 64 bytes on fake:// (binding 'blocks'), which nobody has written");
}

// ---- overlap ----

class OverlapTest : public MemoryTest {
 protected:
  void SetUp() override {
    MemoryTest::SetUp();
    run(q, fill(a, 0, 256, 7));
    run(q, fill(b, 0, 256, 7));
  }
  // Ends the ops that hang, with their timeline.
  void end() {
    hung.poison(Error(BATON_CANCELLED, "enough"));
    in.poll();
  }
  Device d = open("fake://");
  Queue q = must(d.queue(0)), r = must(d.queue(1));
  Buffer a = must(d.alloc(256)), b = must(d.alloc(256));
  Timeline hung = timeline("hung");
};

TEST_F(OverlapTest, AWriterAndAReaderOnTwoQueues) {
  EXPECT_OK(q.submit(fill(a, 64, 64, 1).tagged(kHang).signal(hung, 1)));
  run(r, copy(a, 0, b, 0, 64));    // beside it
  run(r, copy(a, 128, b, 0, 64));  // behind it
  EXPECT_TRUE(found.empty()) << found[0].what;
  run(r, copy(a, 0, b, 0, 100).tagged(2));
  expect("unordered-overlap", "caller", true,
         "COPY (tag 2) on 'fake:// lane 1' reads bytes 0..100 of buffer of 256 bytes on fake:// while FILL (tag 19014) on 'fake:// lane 0' writes "
         "64..128, and neither waits for the other");
  run(r, fill(a, 0, 256, 1).tagged(3));
  expect("unordered-overlap", "caller", true,
         "FILL (tag 3) on 'fake:// lane 1' writes bytes 0..256 of buffer of 256 bytes on fake:// while FILL (tag 19014) on 'fake:// lane 0' writes "
         "64..128, and neither waits for the other");
  end();
  run(r, copy(a, 0, b, 0, 256));  // it is over
  EXPECT_TRUE(found.empty()) << found[0].what;
}

TEST_F(OverlapTest, WhatIsOrderedOrOnlyReadsOrIsOnOneQueueIsNone) {
  Timeline t = timeline("t");
  EXPECT_OK(q.submit({fill(a, 0, 64, 1).signal(t, 1), copy(a, 0, b, 0, 64).wait(t, 1).tagged(kHang).signal(hung, 1)}));
  run(r, nop().wait(t, 1));
  run(r, copy(a, 0, b, 128, 64));  // both read
  EXPECT_OK(q.submit(fill(b, 0, 64, 2).signal(t, 2)));  // same queue: the device's order
  Queue s = must(d.queue(1));
  EXPECT_OK(s.submit(copy(b, 0, a, 64, 64).wait(t, 2).signal(t, 3)));  // waits
  EXPECT_TRUE(found.empty()) << found[0].what;
  end();
  EXPECT_OK(t.wait_until(3, soon()));
  EXPECT_TRUE(found.empty()) << found[0].what;
}

TEST_F(OverlapTest, ALaunchThatReportsProgressMayBeFollowedClosely) {
  Program p = must(d.load(multiply(), {}));
  const baton_binding bindings[] = {bind("x", a, 0, 128), bind("y", b, 0, 128)};
  const int64_t rows[] = {8};
  Timeline marks = timeline("marks");
  Buffer to = must(d.alloc(256));
  EXPECT_OK(q.submit(launch(p, bindings, rows).progress(marks).tagged(kHang).signal(hung, 1)));
  run(r, copy(b, 0, to, 0, 16));  // its caller knows when: at a mark
  EXPECT_TRUE(found.empty()) << found[0].what;
  end();
}

TEST_F(OverlapTest, ALaunchsInputsAndOutputs) {
  Program p = must(d.load(multiply(), {}));
  const baton_binding bindings[] = {bind("x", a), bind("y", b)};
  const int64_t rows[] = {4};
  EXPECT_OK(q.submit(launch(p, bindings, rows).tagged(kHang).signal(hung, 1)));
  run(r, fill(b, 64, 64, 1));  // beyond its rows
  EXPECT_TRUE(found.empty()) << found[0].what;
  run(r, fill(a, 0, 16, 1).tagged(2));
  expect("unordered-overlap", "caller", true,
         "FILL (tag 2) on 'fake:// lane 1' writes bytes 0..16 of buffer of 256 bytes on fake:// while LAUNCH (tag 19014) on 'fake:// lane 0' reads "
         "0..64, and neither waits for the other");
  run(r, copy(b, 0, a, 128, 16).tagged(3));
  expect("unordered-overlap", "caller", true,
         "COPY (tag 3) on 'fake:// lane 1' reads bytes 0..16 of buffer of 256 bytes on fake:// while LAUNCH (tag 19014) on 'fake:// lane 0' writes "
         "0..64, and neither waits for the other");
  end();
}

// A queue that is full has its ops handed to it twice; they are looked at once.
TEST_F(OverlapTest, AnOpThatIsNotTakenAtOnceIsSeenOnce) {
  Device small = open("fake://small?depth=1");
  Queue s = must(small.queue(0)), u = must(small.queue(1));
  Buffer c = must(small.alloc(64)), e = must(small.alloc(64));
  EXPECT_OK(s.submit(fill(c, 0, 64, 1).tagged(kHang).signal(hung, 1)));
  EXPECT_OK(u.submit({nop().tagged(kHang).signal(hung, 2), copy(c, 0, e, 0, 64).tagged(2)}));
  for (int i = 0; i < 5; ++i) in.poll();
  EXPECT_EQ(found.size(), 1u) << ::testing::PrintToString(texts());
  end();
  run(u, nop());
  EXPECT_EQ(found.size(), 1u) << ::testing::PrintToString(texts());
}

}  // namespace
}  // namespace baton::test
