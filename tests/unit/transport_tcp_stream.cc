// A layer of small segments over a socket: what arrives is what was sent, whatever is given up in between; and who may not send, or sends nonsense.
#include "transport_test.hpp"

#include "transport/endpoint.hpp"
#include "transport/tcp_stream.hpp"

#include <poll.h>
#include <sys/socket.h>

namespace baton::transport {
namespace {

constexpr uint64_t kGeneration = 7;
constexpr uint32_t kLayers = 6, kBlocks = 900; // 3.5 MiB a layer: more than a socket takes at once

class TcpStream : public testing::Test {
 protected:
  TcpStream() {
    layout_.layers = kLayers;
    layout_.kv_heads = layout_.head_count = 1;
    layout_.head_dim = 64;
    layout_.order = KvOrder::block_major;
    layout_.blocks = kBlocks;
    from_.resize(layout_.bytes());
    for (auto& b : from_) b = uint8_t(rng_());
    to_.assign(layout_.bytes(), 0);
    KvPlan plan = must(KvPlan::compile(layout_, layout_));
    moves_.parts.emplace_back();
    moves_.parts[0].push_back(must(plan.instantiate(table(), table(), 0, uint64_t(kBlocks) * 16 - 5)));
    moves_.bytes = {from_.size()};
    memory_ = {"m", to_.data(), to_.size()};
    flows_.emplace(memory_);
    flows_->allow(kGeneration, 0, &moves_);
    landing_.emplace(ep_.impl(), *flows_);
    EXPECT_OK(landing_->listen("127.0.0.1"));
  }
  std::vector<int32_t> table() { return shuffled_blocks(rng_, layout_, uint64_t(kBlocks) * 16); }

  Batch batch(uint32_t layer, uint64_t generation = kGeneration) {
    Batch b;
    b.src = from_.data();
    b.layer = layer;
    b.segments = moves_.parts[0][0].layer(layer);
    b.bytes = moves_.parts[0][0].bytes(layer);
    b.generation = generation;
    return b;
  }
  // The far side's socket, connected and admitted.
  TcpStreamSender sender() {
    TcpStreamSender s;
    EXPECT_OK(s.start(landing_->offer(), 128 << 10));
    Batch probe = batch(0);
    EXPECT_TRUE(poll_until(in_, [&] { return s.takes(probe); }));
    return s;
  }
  Note layer_note(const Batch& b) {
    Note n{};
    n.generation = b.generation;
    n.layer = b.layer;
    n.offset = b.streamed;
    return n;
  }
  bool read() {
    uint32_t worked = 0;
    return landing_->poll(worked);
  }
  // Sends all of it, the landing reading in between.
  void move(TcpStreamSender& s, Batch& b) {
    ASSERT_TRUE(s.takes(b));
    ASSERT_TRUE(poll_until(in_, [&] {
      s.step(b, 1 + rng_() % (3u << 20));
      EXPECT_TRUE(read()) << landing_->broken();
      return b.error || (b.posted() && !b.outstanding);
    }, kSoonMs));
    ASSERT_FALSE(b.error) << b.error->text();
    ASSERT_TRUE(poll_until(in_, [&] { return !read() || flows_->complete(layer_note(b)); }, kSoonMs));
    ASSERT_EQ(landing_->broken(), nullptr);
    for (const KvSegment& g : b.segments) ASSERT_EQ(memcmp(to_.data() + g.dst, from_.data() + g.src, g.bytes), 0) << "layer " << b.layer;
  }
  // A socket of a peer that has the token, and what it says.
  Fd raw(bool right_token = true) {
    const auto o = landing_->offer();
    Fd fd = must(tcp_connect(o["address"]));
    EXPECT_TRUE(poll_until(in_, [&] {
      pollfd p{fd.get(), POLLOUT, 0};
      return ::poll(&p, 1, 0) == 1;
    }));
    std::string hex = o["token"];
    if (!right_token) hex[5] = hex[5] == '0' ? '1' : '0';
    std::vector<uint8_t> token(32);
    for (size_t i = 0; i < token.size(); ++i) token[i] = uint8_t(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
    EXPECT_EQ(send(fd.get(), token.data(), token.size(), 0), 32);
    return fd;
  }
  Note chunk(uint64_t offset, uint64_t bytes) {
    Note n{};
    n.kind = Note::Kind::piece;
    n.generation = kGeneration;
    n.offset = offset;
    n.bytes = bytes;
    return n;
  }
  void expect_broken(const Note& n, const char* why) {
    Fd fd = raw();
    EXPECT_EQ(send(fd.get(), &n, sizeof n, 0), ssize_t(sizeof n));
    EXPECT_EQ(send(fd.get(), from_.data(), 4096, 0), 4096);
    EXPECT_TRUE(poll_until(in_, [&] { return !read(); }, kSoonMs));
    ASSERT_NE(landing_->broken(), nullptr);
    EXPECT_STREQ(landing_->broken(), why);
    EXPECT_TRUE(untouched());
  }
  bool untouched() const {
    return std::all_of(to_.begin(), to_.end(), [](uint8_t b) { return b == 0; });
  }

  std::mt19937 rng_{20261126};
  Instance in_ = must(Instance::create());
  Endpoint ep_ = must(Endpoint::open(in_, {.listen = "127.0.0.1:0", .key = random_key(), .name = "sink"}));
  KvLayout layout_;
  std::vector<uint8_t> from_, to_;
  KvMoves moves_;
  LandingMemory memory_;
  std::optional<StreamFlows> flows_;
  std::optional<TcpStreamLanding> landing_;
};

TEST_F(TcpStream, EachLayerArrives) {
  TcpStreamSender s = sender();
  for (uint32_t y = 0; y < kLayers; ++y) {
    Batch b = batch(y);
    move(s, b);
    EXPECT_EQ(b.streamed, b.bytes);
  }
}

TEST_F(TcpStream, LayersInTurnsArrive) {
  TcpStreamSender s = sender();
  std::vector<Batch> all;
  for (uint32_t y = 0; y < kLayers; ++y) all.push_back(batch(y));
  ASSERT_TRUE(poll_until(in_, [&] {
    for (Batch& b : all)
      if (s.takes(b)) s.step(b, 1 + rng_() % 100'000);
    EXPECT_TRUE(read());
    return std::all_of(all.begin(), all.end(), [&](Batch& b) { return b.posted() && !b.outstanding && flows_->complete(layer_note(b)); });
  }, kSoonMs));
  for (Batch& b : all)
    for (const KvSegment& g : b.segments) ASSERT_EQ(memcmp(to_.data() + g.dst, from_.data() + g.src, g.bytes), 0);
}

TEST_F(TcpStream, OneThatIsGivenUpInTheMiddleLeavesTheNextWhole) {
  TcpStreamSender s = sender();
  for (int i = 0; i < 20; ++i) {
    KvMoves other = moves_;
    flows_->allow(100 + i, 1, &other);
    Batch lost = batch(i % kLayers, 100 + i);
    ASSERT_TRUE(s.takes(lost));
    for (int k = 0; k < 1 + i % 3; ++k) s.step(lost, 1 + rng_() % (2u << 20));
    if (i % 2) flows_->revoke(1);
    s.stop(lost);
    EXPECT_EQ(lost.outstanding, 0u) << "its memory is the caller's again";
    lost.src = nullptr;
    ASSERT_TRUE(read());
    flows_->revoke(1);
    flows_->allow(kGeneration, 0, &moves_); // anew
    Batch b = batch(i % kLayers);
    std::fill(to_.begin(), to_.end(), uint8_t(0));
    ASSERT_TRUE(poll_until(in_, [&] { return s.flush(), read() && s.takes(b); }));
    move(s, b);
    if (HasFatalFailure()) return;
  }
}

TEST_F(TcpStream, WhatIsNotItsOwnGoesAnotherWay) {
  TcpStreamSender s = sender();
  Batch b = batch(0);
  b.stripe = true;
  EXPECT_FALSE(s.takes(b));
  b = batch(0);
  const KvSegment large[] = {{0, 0, 1u << 20}, {2u << 20, 2u << 20, 1u << 20}};
  b.segments = large;
  b.bytes = 2u << 20;
  EXPECT_FALSE(s.takes(b));
  TcpStreamSender nobody;
  ASSERT_OK(nobody.start({{"address", "127.0.0.1:1"}, {"token", std::string(64, '0')}}, 128 << 10));
  b = batch(0);
  EXPECT_FALSE(poll_until(in_, [&] { return nobody.takes(b); }, 50));
  EXPECT_FALSE(TcpStreamSender().start({{"address", "127.0.0.1:1"}, {"token", "00"}}, 128 << 10).ok());
}

TEST_F(TcpStream, StrangersAreLeftOutside) {
  std::vector<Fd> strangers;
  for (int i = 0; i < 20; ++i) strangers.push_back(must(tcp_connect(landing_->offer()["address"])));
  Fd wrong = raw(false);
  const Note n = chunk(0, 4096);
  EXPECT_EQ(send(wrong.get(), &n, sizeof n, MSG_NOSIGNAL), ssize_t(sizeof n));
  EXPECT_EQ(send(wrong.get(), from_.data(), 4096, MSG_NOSIGNAL), 4096);
  char c;
  EXPECT_TRUE(poll_until(in_, [&] {
    EXPECT_TRUE(read());
    const ssize_t r = recv(wrong.get(), &c, 1, MSG_DONTWAIT);
    return r == 0 || (r < 0 && errno != EAGAIN);
  })) << "it is still connected";
  EXPECT_TRUE(untouched());
  TcpStreamSender s = sender();
  Batch b = batch(0);
  move(s, b);
}

TEST_F(TcpStream, AChunkBeyondItsLayerIsRefused) { expect_broken(chunk(moves_.parts[0][0].bytes(0) - 100, 4096), "a chunk that the plan does not have"); }
TEST_F(TcpStream, AChunkThatIsTooLargeIsRefused) { expect_broken(chunk(0, (1u << 20) + 1), "a chunk that the plan does not have"); }
TEST_F(TcpStream, AChunkBeforeItsTurnIsRefused) { expect_broken(chunk(4096, 4096), "a chunk before its turn"); }
TEST_F(TcpStream, ALayerThatIsNotThereIsRefused) {
  Note n = chunk(0, 4096);
  n.layer = kLayers;
  expect_broken(n, "a chunk that the plan does not have");
}
TEST_F(TcpStream, ANoteOfAnotherKindIsRefused) {
  Note n = chunk(0, 4096);
  n.kind = Note::Kind::layer;
  expect_broken(n, "a chunk that the plan does not have");
}

TEST_F(TcpStream, OfARequestThatHasEndedNothingIsKept) {
  flows_->revoke(0);
  Fd fd = raw();
  const Note n = chunk(0, 4096);
  EXPECT_EQ(send(fd.get(), &n, sizeof n, 0), ssize_t(sizeof n));
  EXPECT_EQ(send(fd.get(), from_.data(), 4096, 0), 4096);
  uint32_t worked = 0;
  ASSERT_TRUE(poll_until(in_, [&] { return landing_->poll(worked), worked >= 3; }, kSoonMs));
  EXPECT_TRUE(untouched());
}

TEST_F(TcpStream, AnEndWithinAChunkIsALostPeer) {
  {
    Fd fd = raw();
    const Note n = chunk(0, 8192);
    EXPECT_EQ(send(fd.get(), &n, sizeof n, 0), ssize_t(sizeof n));
    EXPECT_EQ(send(fd.get(), from_.data(), 4096, 0), 4096);
  }
  EXPECT_TRUE(poll_until(in_, [&] { return !read(); }, kSoonMs));
  ASSERT_TRUE(landing_->cause());
  EXPECT_EQ(landing_->cause()->code, BATON_PEER_LOST);
}

TEST_F(TcpStream, AnEndBetweenChunksIsNone) {
  {
    TcpStreamSender s = sender();
    Batch b = batch(0);
    move(s, b);
  }
  TcpStreamSender again = sender();
  Batch b = batch(1);
  move(again, b);
}

}  // namespace
}  // namespace baton::transport
