// Chunks: what is sealed opens once, in order, under its own label and stream, and nothing else does; no nonce twice; nothing allocated.
#include "transport_test.hpp"

#include "transport/aead.hpp"
#include "transport/crypto.hpp"

#include "tests/support/count_calls.h"

namespace baton::transport {

struct AeadTest {
  static void set(ChunkSealer& s, uint64_t n) { s.count_ = n; }
  static void set(ChunkOpener& o, uint64_t n) { o.count_ = n; }
};

namespace {

std::vector<uint8_t> pattern(size_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<uint8_t> v(n);
  for (auto& b : v) b = uint8_t(rng());
  return v;
}

class EachAead : public testing::TestWithParam<Aead> {
 protected:
  void SetUp() override {
    if (!aead_here(GetParam())) GTEST_SKIP() << aead_name(GetParam()) << " is not computed by this processor";
  }
  ChunkSealer sealer(uint64_t number = 7) { return must(ChunkSealer::create(GetParam(), key, number)); }
  ChunkOpener opener(const ChunkSealer& s, uint64_t number = 7) { return must(ChunkOpener::create(key, number, s.header())); }
  std::vector<uint8_t> sealed(ChunkSealer& s, const std::vector<uint8_t>& plain, const ChunkLabel& l) {
    std::vector<uint8_t> out(plain.size() + kTagBytes);
    EXPECT_TRUE(s.seal(out, plain, l));
    return out;
  }
  Key key = random_key();
};

TEST_P(EachAead, OpensWhatWasSealedInOrderAndInPlace) {
  ChunkSealer s = sealer();
  ChunkOpener o = opener(s);
  EXPECT_EQ(o.algorithm(), GetParam());
  uint32_t i = 0;
  for (size_t bytes : {0u, 1u, 15u, 16u, 17u, 4096u, 262144u, 1000003u}) {
    const auto plain = pattern(bytes, i);
    const ChunkLabel label{0x1122334455667788, 1, i, 2 * i, uint32_t(bytes)};
    std::vector<uint8_t> box(plain);
    box.resize(bytes + kTagBytes);
    ASSERT_TRUE(s.seal(box, {box.data(), bytes}, label));
    if (bytes > 15) { EXPECT_NE(std::memcmp(box.data(), plain.data(), bytes), 0); }
    ASSERT_TRUE(o.open({box.data(), bytes}, box, label));
    box.resize(bytes);
    EXPECT_EQ(box, plain);
    ++i;
  }
  EXPECT_EQ(s.chunks(), i);
  EXPECT_EQ(o.chunks(), i);
}

// What goes over the wire is the algorithm's, whoever computes it: key, nonce, label and tag by libsodium.
TEST_P(EachAead, AnotherLibraryOpensWhatWasSealed) {
  ChunkSealer s = sealer(9);
  Key k;
  std::vector<uint8_t> from(reinterpret_cast<const uint8_t*>("baton/2 chunks"), reinterpret_cast<const uint8_t*>("baton/2 chunks") + 14);
  const uint64_t number = 9;
  from.insert(from.end(), reinterpret_cast<const uint8_t*>(&number), reinterpret_cast<const uint8_t*>(&number) + 8);
  from.insert(from.end(), s.header().begin(), s.header().end());
  ASSERT_EQ(crypto_generichash(k.data(), k.size(), from.data(), from.size(), key.data(), key.size()), 0);
  for (uint64_t count = 0; count < 3; ++count) {
    const auto plain = pattern(5000, uint32_t(count));
    const ChunkLabel label{3, 1, 2, uint32_t(count), 5000};
    const auto box = sealed(s, plain, label);
    std::array<uint8_t, 12> nonce{};
    std::memcpy(&nonce[4], &count, 8);
    const auto open = GetParam() == Aead::aes256gcm ? crypto_aead_aes256gcm_decrypt : crypto_aead_chacha20poly1305_ietf_decrypt;
    std::vector<uint8_t> out(5000);
    ASSERT_EQ(open(out.data(), nullptr, nullptr, box.data(), box.size(), reinterpret_cast<const uint8_t*>(&label), sizeof label, nonce.data(), k.data()), 0) << count;
    EXPECT_EQ(out, plain);
  }
}

TEST_P(EachAead, NothingElseOpensAndAfterItNothingDoes) {
  const auto plain = pattern(1000, 1);
  const ChunkLabel label{5, 1, 2, 3, 1000};
  const auto wrong = [&](const char* what, auto change) {
    ChunkSealer s = sealer();
    ChunkOpener o = opener(s);
    auto first = sealed(s, plain, label), second = sealed(s, plain, label);
    ChunkLabel l = label;
    change(first, second, l);
    std::vector<uint8_t> out(1000, 0x5a);
    EXPECT_FALSE(o.open(out, first, l)) << what;
    EXPECT_TRUE(std::all_of(out.begin(), out.end(), [&](uint8_t b) { return b == 0 || b == 0x5a; })) << what << ": what does not authenticate is left in the buffer";
    EXPECT_FALSE(o.open(out, second, label)) << what << ": a stream goes on after a chunk that did not open";
  };
  using Bytes = std::vector<uint8_t>;
  for (size_t at : {size_t(0), size_t(500), size_t(999), size_t(1000), size_t(1015)}) wrong("a flipped bit", [&](Bytes& f, Bytes&, ChunkLabel&) { f[at] ^= 0x10; });
  wrong("the next chunk first", [](Bytes& f, Bytes& n, ChunkLabel&) { f = n; });
  wrong("another generation", [](Bytes&, Bytes&, ChunkLabel& l) { ++l.generation; });
  wrong("another source", [](Bytes&, Bytes&, ChunkLabel& l) { ++l.source; });
  wrong("another layer", [](Bytes&, Bytes&, ChunkLabel& l) { ++l.layer; });
  wrong("another chunk", [](Bytes&, Bytes&, ChunkLabel& l) { ++l.chunk; });
  wrong("other bytes", [](Bytes&, Bytes&, ChunkLabel& l) { --l.bytes; });
  wrong("cut short", [](Bytes& f, Bytes&, ChunkLabel&) { f.resize(900); });
  wrong("cut short, label and all", [](Bytes& f, Bytes&, ChunkLabel& l) { f.resize(900), l.bytes = 900 - kTagBytes; });
  wrong("a tag alone", [](Bytes& f, Bytes&, ChunkLabel& l) { f.resize(kTagBytes), l.bytes = 0; });
  wrong("less than a tag", [](Bytes& f, Bytes&, ChunkLabel& l) { f.resize(3), l.bytes = 0; });
}

TEST_P(EachAead, AChunkOpensOnce) {
  ChunkSealer s = sealer();
  ChunkOpener o = opener(s);
  const auto plain = pattern(64, 2);
  const ChunkLabel label{1, 0, 0, 0, 64};
  const auto box = sealed(s, plain, label);
  std::vector<uint8_t> out(64);
  ASSERT_TRUE(o.open(out, box, label));
  EXPECT_FALSE(o.open(out, box, label));
}

TEST_P(EachAead, WithoutOrderEachOpensOnceWithinTheWindow) {
  ChunkSealer s = sealer();
  std::vector<std::vector<uint8_t>> boxes;
  const auto label = [](uint64_t i) { return ChunkLabel{1, 0, 0, uint32_t(i), 8}; };
  const uint64_t n = 3 * ChunkOpener::kWindow;
  const auto plain = [](uint64_t i) { return pattern(8, uint32_t(i)); };
  for (uint64_t i = 0; i < n; ++i) {
    EXPECT_EQ(s.chunks(), i);
    boxes.push_back(sealed(s, plain(i), label(i)));
  }
  std::vector<uint8_t> out(8);
  const auto opens = [&](ChunkOpener& o, uint64_t i) { return o.open_at(i, out, boxes[i], label(i)) && out == plain(i); };
  // Shuffled by less than the window: all of them open, and then none again.
  std::mt19937 rng(4);
  std::vector<uint64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = 0; i + 500 < n; i += 500) std::shuffle(order.begin() + long(i), order.begin() + long(i) + 500, rng);
  {
    ChunkOpener o = opener(s);
    for (uint64_t i : order) ASSERT_TRUE(opens(o, i)) << i;
    EXPECT_EQ(o.chunks(), n);
  }
  const auto never_again = [&](std::vector<uint64_t> first, uint64_t then, const char* what) {
    ChunkOpener o = opener(s);
    for (uint64_t i : first) ASSERT_TRUE(opens(o, i)) << what;
    EXPECT_FALSE(o.open_at(then, out, boxes[then], label(then))) << what;
    EXPECT_FALSE(o.open_at(n - 1, out, boxes[n - 1], label(n - 1))) << what << ": and after it nothing";
  };
  const uint64_t w = ChunkOpener::kWindow;
  never_again({5}, 5, "the newest again");
  never_again({0, 1, 2, 700}, 1, "one of the window again");
  never_again({0, w - 1}, 0, "the oldest of the window again");
  never_again({0, w}, 0, "one behind the window, opened");
  never_again({7, w}, 0, "one behind the window, never opened");
  never_again({1, 2 * w + 5}, 1, "far behind");
  never_again({3, w + 2}, 3, "the same bit, a window ago");
  ChunkOpener o = opener(s);
  ASSERT_TRUE(opens(o, w - 1));
  EXPECT_TRUE(opens(o, 0)) << "the oldest that still may";
  ASSERT_TRUE(opens(o, w + 10));
  EXPECT_TRUE(opens(o, 11)) << "and when the window moved";
  EXPECT_FALSE(o.open(out, boxes[0], label(0))) << "a stream is of one kind";
  ChunkOpener wrong = opener(s);
  EXPECT_FALSE(wrong.open_at(1, out, boxes[0], label(0))) << "another's count";
}

TEST_P(EachAead, StreamsDoNotOpenEachOther) {
  const auto plain = pattern(64, 2);
  const ChunkLabel label{1, 0, 0, 0, 64};
  ChunkSealer a = sealer(1), b = sealer(1);
  EXPECT_NE(a.header(), b.header()) << "two streams of one number still differ by their salt";
  const auto box = sealed(a, plain, label);
  EXPECT_NE(box, sealed(b, plain, label)) << "the same key and nonce twice";
  std::vector<uint8_t> out(64);
  EXPECT_FALSE(must(ChunkOpener::create(key, 1, b.header())).open(out, box, label)) << "another stream's header";
  EXPECT_FALSE(must(ChunkOpener::create(key, 2, a.header())).open(out, box, label)) << "another connection";
  EXPECT_FALSE(must(ChunkOpener::create(random_key(), 1, a.header())).open(out, box, label)) << "another session";
  EXPECT_TRUE(must(ChunkOpener::create(key, 1, a.header())).open(out, box, label));
}

TEST_P(EachAead, ANonceIsNeverUsedTwice) {
  ChunkSealer s = sealer();
  ChunkOpener o = opener(s);
  const auto plain = pattern(8, 2);
  const ChunkLabel label{1, 0, 0, 0, 8};
  AeadTest::set(s, kMaxChunks - 1);
  AeadTest::set(o, kMaxChunks - 1);
  const auto last = sealed(s, plain, label);
  std::vector<uint8_t> out(8), more(8 + kTagBytes);
  EXPECT_TRUE(o.open(out, last, label));
  EXPECT_FALSE(s.seal(more, plain, label)) << "the counter is used up";
  EXPECT_FALSE(o.open(out, last, label));
  EXPECT_EQ(s.chunks(), kMaxChunks);
}

TEST_P(EachAead, RoomAndLabelAreChecked) {
  ChunkSealer s = sealer();
  const auto plain = pattern(8, 2);
  std::vector<uint8_t> small(8 + kTagBytes - 1), enough(8 + kTagBytes);
  EXPECT_FALSE(s.seal(small, plain, {1, 0, 0, 0, 8}));
  EXPECT_FALSE(s.seal(enough, plain, {1, 0, 0, 0, 9}));
  EXPECT_EQ(s.chunks(), 0u);
  ASSERT_TRUE(s.seal(enough, plain, {1, 0, 0, 0, 8}));
  ChunkOpener o = opener(s);
  std::vector<uint8_t> out(7);
  EXPECT_FALSE(o.open(out, enough, {1, 0, 0, 0, 8}));
}

TEST_P(EachAead, AllocatesNothing) {
  if (kSanitized) GTEST_SKIP() << "counted in the release tree";
  ChunkSealer s = sealer();
  ChunkOpener o = opener(s);
  const auto plain = pattern(4096, 2);
  std::vector<uint8_t> box(4096 + kTagBytes), out(4096);
  const auto before = test::calls().allocations;
  for (uint32_t i = 0; i < 100; ++i) {
    const ChunkLabel label{1, 0, 0, i, 4096};
    if (!s.seal(box, plain, label) || !o.open(out, box, label)) ADD_FAILURE();
  }
  EXPECT_EQ(test::calls().allocations, before);
}

INSTANTIATE_TEST_SUITE_P(Aead, EachAead, testing::Values(Aead::aes256gcm, Aead::chacha20poly1305),
                         [](auto& i) { return i.param == Aead::aes256gcm ? std::string("Aes256Gcm") : std::string("ChaCha20Poly1305"); });

TEST(AeadHeader, OnlyWhatThisVersionKnows) {
  const Key k = random_key();
  const ChunkHeader good = must(ChunkSealer::create(best_aead(), k, 1)).header();
  for (size_t at = 0; at < 8; ++at) {
    ChunkHeader h = good;
    h[at] = 0x7f;
    EXPECT_EQ(ChunkOpener::create(k, 1, h).error().code, BATON_CORRUPT) << at;
  }
  EXPECT_TRUE(ChunkOpener::create(k, 1, good).ok());
}

}  // namespace
}  // namespace baton::transport
