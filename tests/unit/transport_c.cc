// baton_kv.h in one process: two endpoints that share an instance. What is refused, what ends what, what allocates nothing.
#include "transport_c.hpp"

#include "tests/support/count_calls.h"

namespace {

TEST_F(KvC, MisuseIsRefusedWithWords) {
  connect();
  baton_kv_pool *p = pool(decode, target), *q = nullptr;
  baton_kv_grant* g = nullptr;
  baton_kv_push* u = nullptr;
  EXPECT_EQ(grant(nullptr, g), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(grant(p, g, 0), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(grant(p, g, 49), BATON_INVALID_ARGUMENT);
  EXPECT_THAT(e.what, HasSubstr("need 4 blocks"));
  blocks = {1, 1, 2};
  EXPECT_EQ(grant(p, g), BATON_INVALID_ARGUMENT);
  blocks = {1, 2, 8};
  EXPECT_EQ(grant(p, g), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(push(p, "0123", u), BATON_INVALID_ARGUMENT); // of the other endpoint
  blocks = {1, 2, 3};
  baton_kv_pool* s = pool(prefill, source);
  EXPECT_EQ(push(s, "0123", u), BATON_PERMISSION);
  EXPECT_EQ(push(s, nullptr, u), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(grant(s, g), BATON_INVALID_ARGUMENT); // the session is the decode endpoint's
  ASSERT_EQ(grant(p, g), BATON_OK) << e.text();
  EXPECT_EQ(baton_kv_pull(g, to, nullptr, 0, &e), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(baton_kv_wait(decode, nullptr, 0, BATON_NO_DEADLINE), 0u);
  EXPECT_EQ(u, nullptr);
  baton_kv_pool_options o{.struct_size = sizeof o, .memory = BATON_KV_MEMORY_HOST, .base = target.data(), .bytes = target.size() - 1, .layout = &layout};
  EXPECT_EQ(baton_kv_register(decode, &o, &q, &e), BATON_INVALID_ARGUMENT);
  EXPECT_THAT(e.what, HasSubstr("its layout needs"));
  o.memory = BATON_KV_MEMORY_FD;
  o.fd = -1;
  EXPECT_EQ(baton_kv_register(decode, &o, &q, &e), BATON_IO);
  o.memory = 9;
  EXPECT_EQ(baton_kv_register(decode, &o, &q, &e), BATON_INVALID_ARGUMENT);
  baton_kv_layout odd = layout;
  odd.dtype = 256 + BATON_KV_F32; // no number that was cut down to a known one
  o = {.struct_size = sizeof o, .memory = BATON_KV_MEMORY_HOST, .base = target.data(), .bytes = target.size(), .layout = &odd};
  EXPECT_EQ(baton_kv_register(decode, &o, &q, &e), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(baton_kv_notify(to, "baton.kv.pull", nullptr, 0, &e), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(baton_kv_notify(to, "n", target.data(), uint64_t(BATON_KV_NOTE_BYTES) + 1, &e), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(baton_kv_poll(nullptr, nullptr, 0), 0u);
  baton_kv_grant_release(nullptr);
  baton_kv_push_release(nullptr);
  baton_kv_unregister(nullptr);
  baton_kv_session_close(nullptr);
  baton_kv_endpoint_close(nullptr);
}

TEST_F(KvC, AnotherKeyOrNoneIsRefused) {
  uint8_t other[32] = {9};
  baton_kv_endpoint_options o{.struct_size = sizeof o, .instance = in.get(), .key = other};
  baton_kv_endpoint* ep = nullptr;
  ASSERT_EQ(baton_kv_endpoint_open(&o, &ep, &e), BATON_OK);
  EXPECT_EQ(baton_kv_connect(ep, baton_kv_endpoint_address(decode), soon(), &to, &e), BATON_PERMISSION);
  EXPECT_EQ(baton_kv_accept(decode, 0, &from, &e), BATON_DEADLINE);
  baton_kv_endpoint_close(ep);
  o.key = nullptr;
  EXPECT_EQ(baton_kv_endpoint_open(&o, &ep, &e), BATON_INVALID_ARGUMENT);
  const uint8_t zero[32] = {};
  o.key = zero;
  EXPECT_EQ(baton_kv_endpoint_open(&o, &ep, &e), BATON_INVALID_ARGUMENT);
  o.key_file = "/nonexistent/key";
  EXPECT_NE(baton_kv_endpoint_open(&o, &ep, &e), BATON_OK);
}

TEST_F(KvC, TheFirstDifferenceIsNamed) {
  connect();
  baton_kv_pool *p = pool(decode, target, "this model"), *s = pool(prefill, source, "that model");
  baton_kv_grant* g = nullptr;
  baton_kv_push* u = nullptr;
  ASSERT_EQ(grant(p, g), BATON_OK) << e.text();
  EXPECT_EQ(push(s, baton_kv_grant_ticket(g), u), BATON_MISMATCH);
  EXPECT_THAT(e.what, HasSubstr("models differ"));
  EXPECT_EQ(until(decode, BATON_KV_EVENT_FAILED).error->code, BATON_MISMATCH);
  baton_kv_layout other = layout;
  other.head_dim = 32;
  EXPECT_EQ(baton_kv_layout_compare(&layout, &other, &e), BATON_MISMATCH);
  EXPECT_THAT(e.what, HasSubstr("head_dim"));
}

// The whole road of a layer: pushed, moved, landed, told. Over mapped: what libfabric allocates is its own.
TEST_F(KvC, LayersAllocateNothing) {
  connect();
  baton_kv_pool* s = pool(prefill, source);
  const int fd = memfd_create("kv", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(ftruncate(fd, off_t(source.size())), 0);
  baton_kv_pool_options o{.struct_size = sizeof o, .memory = BATON_KV_MEMORY_FD, .bytes = source.size(), .fd = fd, .layout = &layout, .model = "m"};
  baton_kv_pool* p = nullptr;
  ASSERT_EQ(baton_kv_register(decode, &o, &p, &e), BATON_OK) << e.text();
  close(fd);
  std::iota(source.begin(), source.end(), uint8_t(1));
  baton_kv_grant* g = nullptr;
  baton_kv_push* u = nullptr;
  uint64_t spent = 1;
  for (int round = 0; round < 4; ++round) { // the first ones warm up
    ASSERT_EQ(grant(p, g, 48, 7), BATON_OK) << e.text();
    ASSERT_EQ(push(s, baton_kv_grant_ticket(g), u, "mapped"), BATON_OK) << e.text();
    ASSERT_EQ(baton_kv_push_layers(u), kLayers);
    baton_kv_event v[8] = {};
    uint64_t landed = 0, sent = 0;
    auto before = baton::test::calls().allocations;
    for (uint32_t l = 0; l < kLayers; ++l) {
      if (l == 1) before = baton::test::calls().allocations; // the first one makes room for modelled times in its timelines
      ASSERT_EQ(baton_kv_push_layer(u, 0, l, nullptr, &e), BATON_OK) << e.text();
      for (const uint64_t end = soon(); (landed <= l || sent <= l) && baton::now_ns() < end;) {
        for (auto* ep : {decode, prefill}) {
          const uint32_t n = baton_kv_poll(ep, v, 8);
          for (uint32_t i = 0; i < n; ++i) {
            if (v[i].kind == BATON_KV_EVENT_LANDED) landed = v[i].user == 7 ? v[i].layers : 0;
            if (v[i].kind == BATON_KV_EVENT_SENT) sent = v[i].layers;
          }
        }
      }
      ASSERT_EQ(landed, l + 1);
      ASSERT_EQ(sent, l + 1);
    }
    spent = baton::test::calls().allocations - before;
    EXPECT_EQ(baton_kv_push_layer(u, 0, 3, nullptr, &e), BATON_INVALID_ARGUMENT);
    EXPECT_THAT(e.what, HasSubstr("pushed already"));
    ASSERT_EQ(baton_kv_push_seal(u, "x", 1, &e), BATON_OK);
    EXPECT_EQ(baton_kv_push_seal(u, "x", 1, &e), BATON_BUSY);
    until(prefill, BATON_KV_EVENT_COMPLETE);
    const baton_kv_event done = until(decode, BATON_KV_EVENT_COMPLETE);
    ASSERT_EQ(done.byte_count, 1u);
    EXPECT_EQ(std::memcmp(done.bytes, "x", 1), 0);
    baton_kv_push_release(u);
    baton_kv_grant_release(g);
  }
  EXPECT_EQ(spent, 0u);
  const uint64_t block = 16 * 2 * 16 * 2;
  const auto* there = static_cast<const uint8_t*>(baton_kv_pool_base(p));
  for (int32_t b : blocks) EXPECT_EQ(std::memcmp(there + uint64_t(b) * block, source.data() + uint64_t(b) * block, block), 0) << b;
}

TEST_F(KvC, ALayerWaitsForItsPoint) {
  connect();
  baton_kv_pool *p = pool(decode, target), *s = pool(prefill, source);
  baton_kv_grant* g = nullptr;
  baton_kv_push* u = nullptr;
  ASSERT_EQ(grant(p, g), BATON_OK);
  ASSERT_EQ(push(s, baton_kv_grant_ticket(g), u), BATON_OK) << e.text();
  baton::Timeline made = std::move(*in.timeline("made"));
  const baton_point at{made.get(), 1};
  ASSERT_EQ(baton_kv_push_layer(u, 0, 0, &at, &e), BATON_OK) << e.text();
  baton_kv_event v{.struct_size = sizeof v};
  EXPECT_EQ(baton_kv_wait(decode, &v, 1, baton::deadline_in_ms(20)), 0u);
  made.signal(1);
  EXPECT_EQ(until(decode, BATON_KV_EVENT_LANDED).layers, 1u);
  const baton_point never{made.get(), 2};
  ASSERT_EQ(baton_kv_push_layer(u, 0, 1, &never, &e), BATON_OK) << e.text();
  made.poison(Error(BATON_FAILED, "the prefill went wrong"));
  EXPECT_THAT(until(prefill, BATON_KV_EVENT_FAILED).error->what, HasSubstr("the prefill went wrong"));
  EXPECT_THAT(until(decode, BATON_KV_EVENT_FAILED).error->what, HasSubstr("the prefill went wrong"));
  until(decode, BATON_KV_EVENT_QUIET);
  EXPECT_EQ(baton_kv_grant_quiet(g), 1u);
  EXPECT_EQ(baton_kv_push_all(u, &e), BATON_FAILED);
}

TEST_F(KvC, WhatIsGivenBackEndsWhatStandsOnIt) {
  connect();
  baton_kv_pool *p = pool(decode, target), *s = pool(prefill, source);
  baton_kv_grant *g = nullptr, *h = nullptr;
  baton_kv_push* u = nullptr;
  ASSERT_EQ(grant(p, g), BATON_OK);
  ASSERT_EQ(push(s, baton_kv_grant_ticket(g), u), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_push_layer(u, 0, 0, nullptr, &e), BATON_OK);
  until(decode, BATON_KV_EVENT_LANDED);
  baton_kv_unregister(s); // in the middle of a push
  EXPECT_EQ(until(prefill, BATON_KV_EVENT_FAILED).error->code, BATON_CANCELLED);
  EXPECT_EQ(until(decode, BATON_KV_EVENT_FAILED).error->code, BATON_CANCELLED);
  until(decode, BATON_KV_EVENT_QUIET);
  baton_kv_stats st{.struct_size = sizeof st};
  EXPECT_EQ(baton_kv_push_stats(u, &st, &e), BATON_OK);
  EXPECT_EQ(st.layers, 1u);
  EXPECT_EQ(baton_kv_push_layer(u, 0, 1, nullptr, &e), BATON_CANCELLED);
  blocks = {4, 5, 6};
  ASSERT_EQ(grant(p, h), BATON_OK) << e.text();
  baton_kv_unregister(p); // a grant that nobody fills
  EXPECT_EQ(until(decode, BATON_KV_EVENT_FAILED).grant, h);
  baton_kv_session_close(to);
  EXPECT_EQ(until(decode, BATON_KV_EVENT_PEER_LOST).session, from);
  EXPECT_EQ(baton_kv_notify(from, "n", "x", 1, &e), BATON_PEER_LOST);
}

TEST_F(KvC, AGrantFailsWithItsSessionOrItsDeadline) {
  connect();
  baton_kv_pool* p = pool(decode, target);
  baton_kv_grant *g = nullptr, *h = nullptr;
  baton_kv_grant_options o{.struct_size = sizeof o, .blocks = blocks.data(), .block_count = 3, .tokens = 48, .deadline_ns = baton::deadline_in_ms(5), .user = 1};
  ASSERT_EQ(baton_kv_grant_blocks(p, &o, &g, &e), BATON_OK);
  EXPECT_EQ(until(decode, BATON_KV_EVENT_FAILED).error->code, BATON_DEADLINE);
  until(decode, BATON_KV_EVENT_QUIET);
  ASSERT_EQ(grant(p, h, 48, 2), BATON_OK) << e.text(); // bound to the session
  baton_kv_session_close(to);
  const baton_kv_event v = until(decode, BATON_KV_EVENT_FAILED);
  EXPECT_EQ(v.user, 2u);
  EXPECT_EQ(v.error->code, BATON_PEER_LOST);
}

// What did not fit comes with the next call, in order; and notes do not hide a grant.
TEST_F(KvC, EventsComeInPortions) {
  connect();
  baton_kv_pool* p = pool(decode, target);
  baton_kv_grant* g = nullptr;
  for (uint32_t i = 0; i < 10; ++i) ASSERT_EQ(baton_kv_notify(to, "n", &i, sizeof i, &e), BATON_OK);
  ASSERT_EQ(grant(p, g), BATON_OK);
  baton_kv_grant_cancel(g, nullptr);
  uint32_t next = 0;
  bool failed = false;
  baton_kv_event v[3] = {};
  for (const uint64_t end = soon(); (next < 10 || !failed) && baton::now_ns() < end;) {
    const uint32_t n = baton_kv_wait(decode, v, 3, end);
    ASSERT_LE(n, 3u);
    for (uint32_t i = 0; i < n; ++i) {
      failed |= v[i].kind == BATON_KV_EVENT_FAILED;
      if (v[i].kind != BATON_KV_EVENT_NOTE) continue;
      ASSERT_EQ(v[i].byte_count, sizeof next);
      EXPECT_EQ(std::memcmp(v[i].bytes, &next, sizeof next), 0);
      EXPECT_STREQ(v[i].text, "n");
      ++next;
    }
  }
  EXPECT_TRUE(failed);
  EXPECT_EQ(next, 10u);
}

// Blocks that were given to another request are neither sent nor taken for what they were.
TEST_F(KvC, BlocksThatChangeHandsAreFoundOut) {
  connect();
  baton_kv_pool *p = pool(decode, target), *s = pool(prefill, source);
  const int32_t one[] = {1}, wrong[] = {8};
  EXPECT_EQ(baton_kv_renew(s, wrong, 1, &e), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(baton_kv_renew(nullptr, one, 1, &e), BATON_INVALID_ARGUMENT);
  baton_kv_grant *g = nullptr, *h = nullptr;
  baton_kv_push* u = nullptr;
  ASSERT_EQ(grant(p, g), BATON_OK);
  ASSERT_EQ(push(s, baton_kv_grant_ticket(g), u), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_push_layer(u, 0, 0, nullptr, &e), BATON_OK);
  until(decode, BATON_KV_EVENT_LANDED);
  ASSERT_EQ(baton_kv_renew(s, one, 1, &e), BATON_OK); // in the middle of the push
  (void)baton_kv_push_all(u, &e);
  const baton_kv_event v = until(prefill, BATON_KV_EVENT_FAILED);
  EXPECT_EQ(v.error->code, BATON_CORRUPT);
  EXPECT_THAT(v.error->what, HasSubstr("block 1"));
  EXPECT_EQ(until(decode, BATON_KV_EVENT_FAILED).error->code, BATON_CORRUPT);
  until(decode, BATON_KV_EVENT_QUIET);

  ASSERT_EQ(grant(p, h), BATON_OK) << e.text();
  ASSERT_EQ(push(s, baton_kv_grant_ticket(h), u), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_push_all(u, &e), BATON_OK);
  ASSERT_EQ(baton_kv_push_seal(u, nullptr, 0, &e), BATON_OK);
  until(prefill, BATON_KV_EVENT_COMPLETE);
  until(decode, BATON_KV_EVENT_COMPLETE);
  EXPECT_EQ(baton_kv_grant_intact(h, &e), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_renew(p, one, 1, &e), BATON_OK); // before it was read
  EXPECT_EQ(baton_kv_grant_intact(h, &e), BATON_CORRUPT);
  EXPECT_THAT(e.what, HasSubstr("block 1"));
  EXPECT_EQ(baton_kv_grant_intact(nullptr, &e), BATON_INVALID_ARGUMENT);
}

TEST_F(KvC, RailsCarryAPush) {
  baton_kv_endpoint_options o{.struct_size = sizeof o, .instance = in.get(), .listen = "127.0.0.1:0", .name = "decode", .key = key, .rails = "127.0.0.1,127.0.0.2"};
  baton_kv_endpoint_close(decode);
  baton_kv_endpoint_close(prefill);
  ASSERT_EQ(baton_kv_endpoint_open(&o, &decode, &e), BATON_OK) << e.text();
  o.listen = nullptr, o.name = "prefill";
  ASSERT_EQ(baton_kv_endpoint_open(&o, &prefill, &e), BATON_OK) << e.text();
  connect();
  layout.head_dim = 2048; // 0.8 MiB a layer
  layout.layers = 4;
  baton_kv_pool *p = pool(decode, target), *s = pool(prefill, source);
  for (size_t i = 0; i < source.size(); ++i) source[i] = uint8_t(i * 7 + i / 255);
  baton_kv_grant* g = nullptr;
  baton_kv_push* u = nullptr;
  ASSERT_EQ(grant(p, g), BATON_OK);
  ASSERT_EQ(push(s, baton_kv_grant_ticket(g), u), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_push_all(u, &e), BATON_OK);
  ASSERT_EQ(baton_kv_push_seal(u, nullptr, 0, &e), BATON_OK);
  until(prefill, BATON_KV_EVENT_COMPLETE);
  until(decode, BATON_KV_EVENT_COMPLETE);
  baton_kv_stats st{.struct_size = sizeof st};
  EXPECT_EQ(baton_kv_push_stats(u, &st, &e), BATON_OK);
  EXPECT_EQ(st.rails, 2u);
  const uint64_t block = source.size() / (2 * layout.layers * layout.blocks);
  for (uint32_t half = 0; half < 2 * layout.layers; ++half)
    for (const int32_t b : blocks) EXPECT_EQ(memcmp(&target[(half * layout.blocks + uint32_t(b)) * block], &source[(half * layout.blocks + uint32_t(b)) * block], block), 0);
}

// Callers of an older version know less of a struct, of a later one more.
TEST_F(KvC, StructsOfOtherSizes) {
  connect();
  struct Later {
    baton_kv_event event;
    uint64_t more[4];
  } later[2] = {};
  later[0].event.struct_size = sizeof(Later);
  later[1].more[0] = 7;
  for (int i = 0; i < 2; ++i) ASSERT_EQ(baton_kv_notify(to, "n", "ab", 2, &e), BATON_OK);
  for (uint32_t got = 0; got < 2;) {
    ASSERT_LT(got, 2u);
    got += baton_kv_wait(decode, &later[got].event, 2 - got, soon());
    if (got == 1) later[1].event.struct_size = sizeof(Later);
  }
  EXPECT_EQ(later[1].event.byte_count, 2u);
  EXPECT_EQ(later[1].more[0], 7u);
  baton_kv_session_info small{.struct_size = 8};
  small.name[0] = '#';
  EXPECT_EQ(baton_kv_session_read(from, &small, &e), BATON_OK);
  EXPECT_EQ(small.name[0], '#');
  EXPECT_EQ(small.same_host, 1u);
  baton_error old{.struct_size = 24};
  old.what[0] = '#';
  EXPECT_EQ(baton_kv_notify(from, "baton.x", nullptr, 0, &old), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(old.code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(old.what[0], '#');
}

TEST_F(KvC, ABufferIsAPool) {
  connect();
  baton::Device host = std::move(*in.open("host://"));
  uint64_t bytes = 0;
  ASSERT_EQ(baton_kv_layout_facts(&layout, nullptr, &bytes, &e), BATON_OK);
  baton::Buffer buffer = std::move(*host.alloc(bytes));
  baton_kv_pool_options o{.struct_size = sizeof o, .memory = BATON_KV_MEMORY_BUFFER, .buffer = buffer.get(), .layout = &layout, .model = "m"};
  baton_kv_pool *p = nullptr, *s = pool(prefill, source);
  ASSERT_EQ(baton_kv_register(decode, &o, &p, &e), BATON_OK) << e.text();
  EXPECT_EQ(baton_kv_pool_base(p), *buffer.map());
  std::iota(source.begin(), source.end(), uint8_t(9));
  baton_kv_grant* g = nullptr;
  ASSERT_EQ(grant(p, g), BATON_OK);
  const baton_kv_source from_pool{s, blocks.data(), blocks.size()};
  baton_kv_push_options po{.struct_size = sizeof po, .source_count = 1, .sources = &from_pool, .ticket = baton_kv_grant_ticket(g), .tokens = 48};
  baton_kv_push* u = nullptr;
  ASSERT_EQ(baton_kv_push_open(to, &po, &u, &e), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_push_all(u, &e), BATON_OK);
  ASSERT_EQ(baton_kv_push_seal(u, nullptr, 0, &e), BATON_OK);
  until(prefill, BATON_KV_EVENT_COMPLETE);
  until(decode, BATON_KV_EVENT_COMPLETE);
  baton_kv_stats st{.struct_size = sizeof st};
  ASSERT_EQ(baton_kv_grant_stats(g, &st, &e), BATON_OK);
  EXPECT_STREQ(st.fabric, "mapped");
  const uint64_t block = 16 * 2 * 16 * 2;
  EXPECT_EQ(std::memcmp(static_cast<uint8_t*>(baton_kv_pool_base(p)) + 3 * block, source.data() + 3 * block, block), 0);
  baton_kv_unregister(p); // before its buffer
}

} // namespace
