// transport_kv_request.hpp: a KV request over two ends of one process, filled, moved once and compared byte for byte.
//
// Owner  the test.   Threads  one.   Cost  -   Errors  as failures of the test.
//
//     Request r(ends, sink_layout, {source_layout}, tokens);
//     move_once(r, "mapped");
#pragma once

#include "transport_test.hpp"

namespace baton::transport {

// A request over two ends: one sink buffer, a source for each rank.
struct Request {
  TwoEnds& e;
  KvLayout dst;
  std::vector<KvLayout> src;
  uint64_t tokens;
  std::mt19937 rng{42};
  Buffer landing;
  KvSink sink;
  std::vector<Buffer> sources;
  uint32_t salt = 0;
  std::vector<int32_t> dst_blocks;
  std::vector<std::vector<int32_t>> src_blocks;

  Request(TwoEnds& ends, KvLayout to, std::vector<KvLayout> from, uint64_t n)
      : e(ends), dst(to), src(std::move(from)), tokens(n), landing(must(e.host.alloc(to.bytes()))), sink(must(KvSink::create(e.in, e.decode, landing, to, "model-a"))) {
    for (auto& l : src) sources.push_back(must(e.host.alloc(l.bytes())));
  }
  Incoming expect() {
    ++salt;
    std::memset(must(landing.map()), 0xee, landing.bytes());
    dst_blocks = shuffled_blocks(rng, dst, tokens);
    src_blocks.clear();
    for (size_t i = 0; i < src.size(); ++i) {
      src_blocks.push_back(shuffled_blocks(rng, src[i], tokens));
      fill_kv(sources[i], src[i], src_blocks[i], tokens, salt);
    }
    return must(sink.expect(dst_blocks, tokens), "expect");
  }
  std::vector<KvSource> list() {
    std::vector<KvSource> all;
    for (size_t i = 0; i < src.size(); ++i) all.push_back({&sources[i], src[i], src_blocks[i]});
    return all;
  }
  Result<KvTransfer> open(const std::string& ticket, const std::string& fabric, const std::string& model = "model-a") {
    return KvTransfer::open(e.in, *e.at_prefill, ticket, list(), tokens, {.fabric = fabric, .model = model}, deadline_in_ms((kSanitized ? 20000 : 5000) * test_slow()));
  }
  uint64_t wrong() { return wrong_kv(landing, dst, dst_blocks, tokens, salt); }
};

inline void submit_all(Request& r, KvTransfer& t, const Timeline& sent, bool backwards = false) {
  std::vector<Op> ops;
  const uint32_t layers = r.dst.layers_held();
  for (uint32_t l = 0; l < layers; ++l)
    for (uint32_t s = 0; s < r.src.size(); ++s) ops.push_back(t.copy(s, backwards ? layers - 1 - l : l));
  ops.back().signal(sent, 1);
  ASSERT_OK(t.queue().submit(ops));
}

inline void move_once(Request& r, const std::string& fabric) {
  Incoming in = r.expect();
  auto t = r.open(in.ticket(), fabric);
  ASSERT_OK(t);
  Timeline sent = must(r.e.in.timeline("sent"));
  submit_all(r, *t, sent, r.salt % 2);
  ASSERT_OK(in.landed().wait_until(r.dst.layers_held(), deadline_in_ms(kSoonMs)));
  EXPECT_EQ(r.wrong(), 0u);
  ASSERT_OK(t->seal({"first", {{"token", 42}}, {1, 2, 3}}, deadline_in_ms(kSoonMs)));
  std::optional<Message> m;
  ASSERT_TRUE(poll_until(r.e.in, [&] { return (m = in.sealed()).has_value(); }));
  EXPECT_EQ(m->type, "first");
  EXPECT_EQ(m->body["token"], 42);
  EXPECT_EQ(m->bytes, (std::vector<uint8_t>{1, 2, 3}));
  EXPECT_FALSE(in.sealed().has_value());
  EXPECT_TRUE(in.quiesced());
  const uint64_t bytes = r.tokens * r.dst.halves() * r.dst.head_count * r.dst.head_dim * 2 * r.dst.layers_held();
  EXPECT_EQ(in.stats().bytes, bytes);
  EXPECT_EQ(t->stats().bytes, bytes);
  EXPECT_EQ(in.stats().segments, t->stats().segments);
  EXPECT_EQ(in.stats().fabric, fabric == "auto" ? "mapped" : fabric);
}

}  // namespace baton::transport
