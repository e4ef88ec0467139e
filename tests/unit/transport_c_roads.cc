// baton_kv.h in one process: identities; pushes that nobody waits for; holds; loans.
#include "transport_c.hpp"

#include "hal/baton.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace {

constexpr uint64_t kBlockBytes = 16 * 2 * 16 * 2;

// Each layer and half of the blocks is over there as it is here.
void expect_same(const std::vector<uint8_t>& here, const void* there, const std::vector<int32_t>& blocks) {
  for (uint64_t part = 0; part < 2ull * kLayers; ++part)
    for (int32_t b : blocks) {
      const uint64_t at = (part * 8 + uint64_t(b)) * kBlockBytes;
      ASSERT_EQ(std::memcmp(static_cast<const uint8_t*>(there) + at, here.data() + at, kBlockBytes), 0) << "part " << part << ", block " << b;
    }
}

struct Roads : KvC {
  // A pool that another process of the host could map.
  baton_kv_pool* shared_pool(baton_kv_endpoint* ep, const char* model = "m") {
    uint64_t bytes = 0;
    EXPECT_EQ(baton_kv_layout_facts(&layout, nullptr, &bytes, &e), BATON_OK);
    const int fd = memfd_create("kv", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    EXPECT_EQ(ftruncate(fd, off_t(bytes)), 0);
    baton_kv_pool_options o{.struct_size = sizeof o, .memory = BATON_KV_MEMORY_FD, .bytes = bytes, .fd = fd, .layout = &layout, .model = model};
    baton_kv_pool* p = nullptr;
    EXPECT_EQ(baton_kv_register(ep, &o, &p, &e), BATON_OK) << e.text();
    close(fd);
    return p;
  }
  void fill(std::vector<uint8_t>& memory) {
    for (size_t i = 0; i < memory.size(); ++i) memory[i] = uint8_t(i * 131 >> 3);
  }
};

// ---- pushes that nobody waits for ----

TEST_F(Roads, APushBeginsAndIsUsedBeforeItsAnswer) {
  connect();
  baton_kv_pool *p = pool(decode, target), *s = pool(prefill, source);
  fill(source);
  for (const char* fabric : {"mapped", "tcp", "shm"}) {
    SCOPED_TRACE(fabric);
    baton_kv_pool* at = std::strcmp(fabric, "mapped") ? p : shared_pool(decode);
    baton_kv_grant* g = nullptr;
    baton_kv_push* u = nullptr;
    ASSERT_EQ(grant(at, g), BATON_OK) << e.text();
    ASSERT_EQ(push(s, baton_kv_grant_ticket(g), u, fabric, baton_kv_push_begin), BATON_OK) << e.text();
    EXPECT_EQ(baton_kv_push_layers(u), 0u) << "nobody has been polled";
    ASSERT_EQ(baton_kv_push_layer(u, 0, 2, nullptr, &e), BATON_OK) << e.text();
    EXPECT_EQ(baton_kv_push_layer(u, 0, 2, nullptr, &e), BATON_INVALID_ARGUMENT);
    EXPECT_EQ(baton_kv_push_layer(u, 1, 0, nullptr, &e), BATON_INVALID_ARGUMENT);
    ASSERT_EQ(baton_kv_push_all(u, &e), BATON_OK) << e.text();
    EXPECT_EQ(baton_kv_push_layer(u, 0, 3, nullptr, &e), BATON_INVALID_ARGUMENT);
    ASSERT_EQ(baton_kv_push_seal(u, "x", 1, &e), BATON_OK) << e.text();
    const baton_kv_event ready = until(prefill, BATON_KV_EVENT_READY);
    EXPECT_EQ(ready.push, u);
    EXPECT_EQ(ready.layers, kLayers);
    EXPECT_EQ(baton_kv_push_layers(u), kLayers);
    EXPECT_EQ(until(prefill, BATON_KV_EVENT_COMPLETE).push, u);
    EXPECT_EQ(until(decode, BATON_KV_EVENT_COMPLETE).grant, g);
    expect_same(source, baton_kv_pool_base(at), blocks);
    baton_kv_push_release(u);
    baton_kv_grant_release(g);
  }
}

TEST_F(Roads, APushThatIsNotAgreedOnFails) {
  connect();
  baton_kv_pool* s = pool(prefill, source);
  baton_kv_push* u = nullptr;
  ASSERT_EQ(push(s, "0123", u, "tcp", baton_kv_push_begin), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_push_layer(u, 0, 0, nullptr, &e), BATON_OK);
  baton_kv_event v = until(prefill, BATON_KV_EVENT_FAILED);
  EXPECT_EQ(v.push, u);
  EXPECT_EQ(v.error->code, BATON_PERMISSION);
  EXPECT_EQ(baton_kv_push_all(u, &e), BATON_PERMISSION);
  baton_kv_push_release(u);
  // The deadline of the agreement, with nobody who polls over there: another instance's.
  uint8_t own[32] = {4};
  baton_kv_endpoint_options o{.struct_size = sizeof o, .listen = "127.0.0.1:0", .key = own, .lease_ns = 60'000'000'000};
  baton_kv_endpoint *deaf = nullptr, *here = nullptr;
  ASSERT_EQ(baton_kv_endpoint_open(&o, &deaf, &e), BATON_OK) << e.text();
  o.listen = nullptr;
  o.instance = baton_kv_endpoint_instance(deaf); // only to connect: the one that listens must poll
  ASSERT_EQ(baton_kv_endpoint_open(&o, &here, &e), BATON_OK) << e.text();
  baton_kv_session* deaf_end = nullptr;
  ASSERT_EQ(baton_kv_connect(here, baton_kv_endpoint_address(deaf), soon(), &to, &e), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_accept(deaf, soon(), &deaf_end, &e), BATON_OK) << e.text();
  s = pool(here, source);
  ASSERT_EQ(push(s, "0123", u, "tcp", baton_kv_push_begin), BATON_OK) << e.text();
  baton_kv_push_cancel(u, nullptr);
  v = until(here, BATON_KV_EVENT_FAILED);
  EXPECT_EQ(v.error->code, BATON_CANCELLED);
  baton_kv_push_release(u);
  const baton_kv_source from_pool{s, blocks.data(), blocks.size()};
  baton_kv_push_options late{.struct_size = sizeof late, .source_count = 1, .sources = &from_pool, .ticket = "0123", .tokens = 48, .deadline_ns = 1};
  ASSERT_EQ(baton_kv_push_begin(to, &late, &u, &e), BATON_OK) << e.text();
  v = until(here, BATON_KV_EVENT_FAILED);
  EXPECT_TRUE(v.error->code == BATON_DEADLINE || v.error->code == BATON_PERMISSION) << v.error->what;
  EXPECT_EQ(baton_kv_push_open(to, &late, &u, &e), BATON_DEADLINE);
  baton_kv_endpoint_close(here);
  baton_kv_endpoint_close(deaf);
}

TEST_F(Roads, LayersThatTheOtherSideHasNotFailThePush) {
  connect();
  baton_kv_pool* s = pool(prefill, source);
  layout.layer_count = 4;
  baton_kv_pool* p = pool(decode, target);
  baton_kv_grant* g = nullptr;
  baton_kv_push* u = nullptr;
  ASSERT_EQ(grant(p, g), BATON_OK) << e.text();
  ASSERT_EQ(push(s, baton_kv_grant_ticket(g), u, "tcp", baton_kv_push_begin), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_push_layer(u, 0, 4, nullptr, &e), BATON_OK);
  const baton_kv_event v = until(prefill, BATON_KV_EVENT_FAILED);
  EXPECT_EQ(v.error->code, BATON_INVALID_ARGUMENT);
  EXPECT_THAT(v.error->what, HasSubstr("there are 4 layers"));
  until(decode, BATON_KV_EVENT_FAILED);
}

TEST_F(Roads, InBulkEverythingIsSentAtOnce) {
  connect();
  baton_kv_pool *p = pool(decode, target), *s = pool(prefill, source);
  fill(source);
  baton_kv_grant* g = nullptr;
  ASSERT_EQ(grant(p, g), BATON_OK) << e.text();
  const baton_kv_source from_pool{s, blocks.data(), blocks.size()};
  baton_kv_push_options o{.struct_size = sizeof o, .source_count = 1, .sources = &from_pool, .ticket = baton_kv_grant_ticket(g), .tokens = 48, .bulk = BATON_KV_BULK_ALWAYS};
  baton_kv_push* u = nullptr;
  ASSERT_EQ(baton_kv_push_open(to, &o, &u, &e), BATON_OK) << e.text();
  for (uint32_t l = 0; l + 1 < kLayers; ++l) ASSERT_EQ(baton_kv_push_layer(u, 0, l, nullptr, &e), BATON_OK);
  for (int i = 0; i < 100; ++i)
    for (auto* ep : {prefill, decode}) {
      baton_kv_event v{.struct_size = sizeof v};
      EXPECT_EQ(baton_kv_poll(ep, &v, 1), 0u) << "kind " << v.kind << " before the last layer was pushed";
    }
  ASSERT_EQ(baton_kv_push_layer(u, 0, kLayers - 1, nullptr, &e), BATON_OK);
  EXPECT_EQ(until(decode, BATON_KV_EVENT_LANDED).layers, kLayers);
  baton_kv_stats st{.struct_size = sizeof st};
  ASSERT_EQ(baton_kv_push_stats(u, &st, &e), BATON_OK);
  EXPECT_EQ(st.bulk, 1u);
  o.bulk = 3;
  EXPECT_EQ(baton_kv_push_open(to, &o, &u, &e), BATON_INVALID_ARGUMENT);
}

// Descriptors of one length and no layout, as NIXL's: rows of one latent layer, each moved to a row of its own.
TEST_F(Roads, RowsWithoutALayoutMove) {
  connect();
  layout = {.struct_size = sizeof layout, .layers = 1, .kv_heads = 1, .head_dim = 4096, .dtype = BATON_KV_F8E4M3, .pairing = BATON_KV_LATENT, .block_tokens = 1, .blocks = 40};
  baton_kv_pool *p = pool(decode, target), *s = pool(prefill, source);
  fill(source);
  const std::vector<int32_t> here = {7, 3, 39, 0, 11}, there = {1, 30, 2, 38, 5};
  baton_kv_grant_options go{.struct_size = sizeof go, .session = from, .blocks = there.data(), .block_count = there.size(), .tokens = there.size()};
  baton_kv_grant* g = nullptr;
  ASSERT_EQ(baton_kv_grant_blocks(p, &go, &g, &e), BATON_OK) << e.text();
  const baton_kv_source rows{s, here.data(), here.size()};
  baton_kv_push_options o{.struct_size = sizeof o, .source_count = 1, .sources = &rows, .ticket = baton_kv_grant_ticket(g), .tokens = here.size()};
  baton_kv_push* u = nullptr;
  ASSERT_EQ(baton_kv_push_begin(to, &o, &u, &e), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_push_all(u, &e), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_push_seal(u, "msg", 3, &e), BATON_OK) << e.text();
  until(prefill, BATON_KV_EVENT_COMPLETE);
  EXPECT_EQ(until(decode, BATON_KV_EVENT_COMPLETE).byte_count, 3u);
  for (size_t i = 0; i < here.size(); ++i)
    EXPECT_EQ(std::memcmp(target.data() + uint64_t(there[i]) * 4096, source.data() + uint64_t(here[i]) * 4096, 4096), 0) << i;
  uint64_t one = 0, many = 0;
  EXPECT_EQ(baton_kv_link_cost(nullptr, 5 * 4096, 1, &one, &e), BATON_OK);
  EXPECT_EQ(baton_kv_link_cost("efa-trn2", 5 * 4096, 5000, &many, &e), BATON_OK);
  EXPECT_GT(one, 0u);
  EXPECT_GT(many, one);
  EXPECT_EQ(baton_kv_link_cost("pigeon", 1, 1, &one, &e), BATON_NOT_FOUND) << e.text();
}

// ---- identities ----

struct Folder {
  std::string path = [] {
    std::string name = (std::filesystem::temp_directory_path() / "baton-kv-c-XXXXXX").string();
    return std::string(mkdtemp(name.data()));
  }();
  ~Folder() { std::filesystem::remove_all(path); }
  std::string operator()(const char* file) const { return path + "/" + file; }
};

TEST_F(Roads, PeersAreKnownByTheirKeysAndRoles) {
  Folder f;
  const std::string d = f("decode.id"), p = f("prefill.id"), known = f("known_peers"), key = f("key");
  baton_kv_identity di{.struct_size = sizeof di}, pi{.struct_size = sizeof pi}, again{.struct_size = sizeof again};
  ASSERT_EQ(baton_kv_identity_new(d.c_str(), &di, &e), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_identity_new(p.c_str(), &pi, &e), BATON_OK) << e.text();
  EXPECT_EQ(baton_kv_identity_new(p.c_str(), nullptr, &e), BATON_BUSY);
  ASSERT_EQ(baton_kv_identity_read(p.c_str(), &again, &e), BATON_OK);
  EXPECT_STREQ(again.public_key, pi.public_key);
  EXPECT_EQ(std::strlen(pi.public_key), 64u);
  EXPECT_EQ(baton_kv_identity_read(known.c_str(), &again, &e), BATON_NOT_FOUND);
  EXPECT_EQ(baton_kv_key_new(key.c_str(), &e), BATON_OK) << e.text();
  EXPECT_EQ(baton_kv_key_new(key.c_str(), &e), BATON_BUSY);
  auto write_known = [&](const std::string& prefill_line) {
    std::ofstream(known) << "decode-1 " << di.public_key << " roles=decode\n" << prefill_line;
    std::filesystem::permissions(known, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  };
  const std::string line = "prefill-1 " + std::string(pi.public_key) + " roles=prefill,spare\n";
  write_known(line);
  baton_kv_endpoint_options o{.struct_size = sizeof o, .instance = in.get(), .listen = "127.0.0.1:0", .name = "d", .identity = d.c_str(), .known_peers = known.c_str(),
                              .accept_roles = "other,prefill", .seal_bulk = 1};
  baton_kv_endpoint *at_decode = nullptr, *at_prefill = nullptr;
  ASSERT_EQ(baton_kv_endpoint_open(&o, &at_decode, &e), BATON_OK) << e.text();
  o.listen = nullptr, o.identity = p.c_str(), o.accept_roles = nullptr, o.seal_bulk = 0;
  ASSERT_EQ(baton_kv_endpoint_open(&o, &at_prefill, &e), BATON_OK) << e.text();

  const std::string address = baton_kv_endpoint_address(at_decode);
  baton_kv_connect_options c{.struct_size = sizeof c, .peer = "decode-2"};
  EXPECT_EQ(baton_kv_connect_to(at_prefill, address.c_str(), &c, soon(), &to, &e), BATON_PERMISSION);
  c = {.struct_size = sizeof c, .role = "prefill"};
  EXPECT_EQ(baton_kv_connect_to(at_prefill, address.c_str(), &c, soon(), &to, &e), BATON_PERMISSION);
  c = {.struct_size = sizeof c, .peer = "decode-1", .role = "decode"};
  ASSERT_EQ(baton_kv_connect_to(at_prefill, address.c_str(), &c, soon(), &to, &e), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_accept(at_decode, soon(), &from, &e), BATON_OK) << e.text();
  baton_kv_session_info info{.struct_size = sizeof info};
  ASSERT_EQ(baton_kv_session_read(from, &info, &e), BATON_OK);
  EXPECT_STREQ(info.peer, "prefill-1");
  EXPECT_STREQ(info.fingerprint, pi.fingerprint);
  EXPECT_STREQ(info.roles, "prefill,spare");
  EXPECT_EQ(std::strlen(info.epoch), 32u);
  EXPECT_EQ(info.bulk_sealed, 1u) << "one side's wish is enough";
  ASSERT_EQ(baton_kv_session_read(to, &info, &e), BATON_OK);
  EXPECT_STREQ(info.peer, "decode-1");
  EXPECT_EQ(info.bulk_sealed, 1u);

  baton_kv_pool *t = pool(at_decode, target), *s = pool(at_prefill, source); // sealed, over tcp
  fill(source);
  baton_kv_grant* g = nullptr;
  baton_kv_push* u = nullptr;
  ASSERT_EQ(grant(t, g), BATON_OK) << e.text();
  ASSERT_EQ(push(s, baton_kv_grant_ticket(g), u), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_push_all(u, &e), BATON_OK);
  ASSERT_EQ(baton_kv_push_seal(u, nullptr, 0, &e), BATON_OK);
  until(at_prefill, BATON_KV_EVENT_COMPLETE);
  until(at_decode, BATON_KV_EVENT_COMPLETE);
  expect_same(source, baton_kv_pool_base(t), blocks);

  write_known("");
  EXPECT_EQ(baton_kv_endpoint_drop_unknown_peers(at_decode), 1u);
  EXPECT_EQ(until(at_decode, BATON_KV_EVENT_PEER_LOST).error->code, BATON_PERMISSION);
  EXPECT_EQ(until(at_prefill, BATON_KV_EVENT_PEER_LOST).error->code, BATON_PERMISSION);
  write_known("prefill-1 " + std::string(pi.public_key) + " roles=spare\n");
  EXPECT_EQ(baton_kv_connect_to(at_prefill, address.c_str(), nullptr, soon(), &to, &e), BATON_PERMISSION) << "its roles are others now";
  baton_kv_endpoint_close(at_prefill);
  baton_kv_endpoint_close(at_decode);
}

// ---- holds ----

struct Held : Roads {
  baton_kv_pool *p = nullptr, *s = nullptr;
  baton_kv_hold* h = nullptr;
  void SetUp() override {
    connect();
    p = pool(decode, target), s = pool(prefill, source);
    fill(source);
  }
  int32_t hold(uint64_t lease_ns = 0, uint64_t tokens = 48) {
    const baton_kv_source one{s, blocks.data(), blocks.size()};
    baton_kv_hold_options o{.struct_size = sizeof o, .source_count = 1, .sources = &one, .fabric = "tcp", .tokens = tokens, .lease_ns = lease_ns, .user = 5};
    return baton_kv_hold_blocks(prefill, &o, &h, &e);
  }
  // One event of a kind while both sides poll: holds are served by nobody's call but poll.
  baton_kv_event both(baton_kv_endpoint* ep, uint32_t kind) {
    baton_kv_event v{};
    for (const uint64_t end = soon(); baton::now_ns() < end;)
      for (auto* one : {decode, prefill}) {
        v.struct_size = sizeof v;
        if (baton_kv_poll(one, &v, 1) && one == ep && v.kind == kind) return v;
      }
    ADD_FAILURE() << "no event " << kind;
    return {};
  }
};

TEST_F(Held, IsPulledInPartsAndConfirmed) {
  ASSERT_EQ(hold(), BATON_OK) << e.text();
  const std::string id = baton_kv_hold_id(h);
  EXPECT_EQ(id.size(), 32u);
  baton_kv_grant *g = nullptr, *rest = nullptr;
  ASSERT_EQ(grant(p, g), BATON_OK) << e.text();
  EXPECT_EQ(baton_kv_pull_hold(g, id.c_str(), &e), BATON_NOT_FOUND) << "not tracked";
  ASSERT_EQ(baton_kv_track(from, id.c_str(), &e), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_pull_hold(g, id.c_str(), &e), BATON_OK) << e.text();
  EXPECT_EQ(baton_kv_pull_hold(g, id.c_str(), &e), BATON_BUSY);
  EXPECT_EQ(both(decode, BATON_KV_EVENT_COMPLETE).grant, g);
  expect_same(source, baton_kv_pool_base(p), blocks);
  baton_kv_grant_release(g);
  // Again, without what is there already.
  baton_kv_grant_options o{.struct_size = sizeof o, .session = from, .blocks = blocks.data(), .block_count = 3, .tokens = 48, .held_tokens = 32};
  ASSERT_EQ(baton_kv_grant_blocks(p, &o, &rest, &e), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_pull_hold(rest, id.c_str(), &e), BATON_OK) << e.text();
  EXPECT_EQ(both(decode, BATON_KV_EVENT_COMPLETE).grant, rest);
  baton_kv_stats st{.struct_size = sizeof st};
  ASSERT_EQ(baton_kv_grant_stats(rest, &st, &e), BATON_OK);
  EXPECT_EQ(st.bytes, kLayers * 2 * kBlockBytes);
  baton_kv_confirm(decode, id.c_str());
  const baton_kv_event v = both(prefill, BATON_KV_EVENT_COMPLETE);
  EXPECT_EQ(v.hold, h);
  EXPECT_EQ(v.user, 5u);
  baton_kv_hold_release(h);
}

TEST_F(Held, EndsWithItsLeaseOrByItsOwner) {
  ASSERT_EQ(hold(20'000'000), BATON_OK) << e.text();
  const std::string first = baton_kv_hold_id(h);
  const baton_kv_event v = both(prefill, BATON_KV_EVENT_FAILED);
  EXPECT_EQ(v.hold, h);
  EXPECT_EQ(v.error->code, BATON_DEADLINE);
  ASSERT_EQ(baton_kv_track(from, first.c_str(), &e), BATON_OK) << e.text();
  baton_kv_event un = both(decode, BATON_KV_EVENT_UNHELD);
  EXPECT_EQ(un.session, from);
  EXPECT_EQ(un.text, first);
  EXPECT_EQ(un.error->code, BATON_NOT_FOUND);
  baton_kv_hold_release(h);

  ASSERT_EQ(hold(), BATON_OK) << e.text();
  baton_kv_hold_cancel(h);
  EXPECT_EQ(both(prefill, BATON_KV_EVENT_FAILED).error->code, BATON_CANCELLED);
  baton_kv_hold_release(h);

  ASSERT_EQ(hold(), BATON_OK) << e.text(); // given up with a pull on its way
  const std::string id = baton_kv_hold_id(h);
  baton_kv_grant* g = nullptr;
  ASSERT_EQ(grant(p, g), BATON_OK);
  ASSERT_EQ(baton_kv_track(from, id.c_str(), &e), BATON_OK);
  ASSERT_EQ(baton_kv_pull_hold(g, id.c_str(), &e), BATON_OK);
  baton_kv_event w{.struct_size = sizeof w};
  baton_kv_poll(prefill, &w, 1);
  baton_kv_hold_release(h);
  EXPECT_EQ(both(decode, BATON_KV_EVENT_FAILED).grant, g);
  both(decode, BATON_KV_EVENT_QUIET);

  ASSERT_EQ(hold(), BATON_OK) << e.text();
  baton_kv_unregister(s);
  EXPECT_EQ(both(prefill, BATON_KV_EVENT_FAILED).error->code, BATON_CANCELLED);
  baton_kv_hold_release(h);
}

TEST_F(Held, MisuseIsRefused) {
  EXPECT_EQ(hold(1), BATON_INVALID_ARGUMENT);
  EXPECT_THAT(e.what, HasSubstr("a lease of 1 ns"));
  EXPECT_EQ(hold(0, 49), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(hold(0, 0), BATON_INVALID_ARGUMENT);
  blocks = {1, 2, 99};
  EXPECT_EQ(hold(), BATON_INVALID_ARGUMENT);
  EXPECT_EQ(baton_kv_track(from, "short", &e), BATON_INVALID_ARGUMENT);
  baton_kv_confirm(decode, "nothing");
  baton_kv_untrack(decode, nullptr);
  baton_kv_hold_cancel(nullptr);
  baton_kv_hold_release(nullptr);
  EXPECT_STREQ(baton_kv_hold_id(nullptr), "");
}

// ---- loans ----

TEST_F(Roads, LoansAreReadInPlaceAndComeBack) {
  connect();
  baton_kv_pool* s = shared_pool(prefill);
  auto* memory = static_cast<uint8_t*>(baton_kv_pool_base(s));
  baton_kv_lender* l = nullptr;
  baton_kv_borrower* b = nullptr;
  uint64_t loan = 0;
  ASSERT_EQ(baton_kv_lender_open(to, s, "rank 0", 0, &l, &e), BATON_OK) << e.text(); // before there is a borrower
  EXPECT_EQ(baton_kv_lend(l, blocks.data(), 3, 48, 1, &loan, &e), BATON_BUSY);
  baton_kv_layout readable = layout;
  readable.blocks = 0;
  ASSERT_EQ(baton_kv_borrower_open(from, &readable, "m", "rank 0", &b, &e), BATON_OK) << e.text();
  EXPECT_EQ(baton_kv_borrower_memory(b, nullptr, nullptr, &e), BATON_BUSY);
  EXPECT_EQ(until(prefill, BATON_KV_EVENT_READY).lender, l);
  EXPECT_EQ(until(decode, BATON_KV_EVENT_READY).borrower, b);
  const void* base = nullptr;
  baton_kv_layout theirs{.struct_size = sizeof theirs};
  ASSERT_EQ(baton_kv_borrower_memory(b, &base, &theirs, &e), BATON_OK) << e.text();
  EXPECT_EQ(theirs.blocks, layout.blocks);
  EXPECT_NE(base, memory);
  for (uint64_t i = 1; i < 20; ++i) {
    memory[3 * kBlockBytes] = uint8_t(i);
    ASSERT_EQ(baton_kv_lend(l, blocks.data(), 3, 48, i, &loan, &e), BATON_OK) << e.text();
    const baton_kv_event v = until(decode, BATON_KV_EVENT_LOAN);
    EXPECT_EQ(v.borrower, b);
    EXPECT_EQ(v.id, loan);
    EXPECT_EQ(v.user, i);
    EXPECT_EQ(v.tokens, 48u);
    EXPECT_EQ(std::vector<int32_t>(v.blocks, v.blocks + v.block_count), blocks);
    EXPECT_EQ(static_cast<const uint8_t*>(base)[3 * kBlockBytes], uint8_t(i));
    EXPECT_EQ(baton_kv_loan_check(b, loan, &e), BATON_OK);
    baton_kv_loan_return(b, loan);
    EXPECT_EQ(baton_kv_loan_check(b, loan, &e), BATON_NOT_FOUND);
    const baton_kv_event back = until(prefill, BATON_KV_EVENT_RETURNED);
    EXPECT_EQ(back.lender, l);
    EXPECT_EQ(back.id, loan);
  }
  ASSERT_EQ(baton_kv_lend(l, blocks.data(), 3, 48, 9, &loan, &e), BATON_OK) << e.text();
  until(decode, BATON_KV_EVENT_LOAN);
  baton_kv_recall(l, loan);
  EXPECT_EQ(baton_kv_loan_check(b, loan, &e), BATON_CANCELLED);
  baton_kv_loan_return(b, loan);
  ASSERT_EQ(baton_kv_lend(l, blocks.data(), 3, 48, 9, &loan, &e), BATON_OK) << e.text();
  until(decode, BATON_KV_EVENT_LOAN);
  baton_kv_session_close(from); // the lender's peer goes: what is out comes back, and then it has failed
  EXPECT_EQ(until(prefill, BATON_KV_EVENT_RETURNED).id, loan);
  const baton_kv_event gone = until(prefill, BATON_KV_EVENT_FAILED);
  EXPECT_EQ(gone.lender, l);
  EXPECT_EQ(gone.error->code, BATON_PEER_LOST);
  EXPECT_EQ(baton_kv_loan_check(b, loan, &e), BATON_CANCELLED);
  EXPECT_EQ(baton_kv_lend(l, blocks.data(), 3, 48, 1, &loan, &e), BATON_PEER_LOST);
  baton_kv_borrower_close(b);
  baton_kv_lender_close(l);
}

TEST_F(Roads, ALenderIsRefusedOrNobodyComes) {
  connect();
  baton_kv_pool *s = shared_pool(prefill, "another model"), *plain = pool(prefill, source);
  baton_kv_lender* l = nullptr;
  baton_kv_borrower* b = nullptr;
  EXPECT_EQ(baton_kv_lender_open(to, plain, nullptr, 0, &l, &e), BATON_UNSUPPORTED);
  EXPECT_EQ(baton_kv_lender_open(from, s, nullptr, 0, &l, &e), BATON_INVALID_ARGUMENT);
  ASSERT_EQ(baton_kv_lender_open(to, s, nullptr, baton::deadline_in_ms(30), &l, &e), BATON_OK) << e.text();
  EXPECT_TRUE(until(prefill, BATON_KV_EVENT_FAILED).lender);
  baton_kv_lender_close(l);
  ASSERT_EQ(baton_kv_borrower_open(from, &layout, "m", nullptr, &b, &e), BATON_OK) << e.text();
  ASSERT_EQ(baton_kv_lender_open(to, s, nullptr, soon(), &l, &e), BATON_OK) << e.text();
  const baton_kv_event v = until(prefill, BATON_KV_EVENT_FAILED);
  EXPECT_EQ(v.error->code, BATON_MISMATCH);
  EXPECT_THAT(v.error->what, HasSubstr("models differ"));
  baton_kv_unregister(s); // under a lender that has failed
  baton_kv_lender_close(l);
  baton_kv_pool* again = shared_pool(prefill);
  ASSERT_EQ(baton_kv_lender_open(to, again, nullptr, soon(), &l, &e), BATON_OK) << e.text();
  EXPECT_EQ(until(prefill, BATON_KV_EVENT_READY).lender, l);
  baton_kv_unregister(again);
  EXPECT_EQ(until(prefill, BATON_KV_EVENT_FAILED).error->code, BATON_CANCELLED);
  EXPECT_EQ(baton_kv_borrower_open(from, nullptr, "m", nullptr, &b, &e), BATON_INVALID_ARGUMENT);
}

} // namespace
