// Several NICs as rails: in one process over two addresses of the loopback, with faults and a hostile peer; and between two network namespaces that
// three veth pairs join, of which one carries the session and two are rails that are cut.
#include "transport_child.hpp"
#include "transport_kv_request.hpp"

#include "transport/endpoint.hpp"
#include "transport/kv_wire.hpp"
#include "transport/rails.hpp"

#include <sched.h>

namespace baton::transport {
namespace {

using testing::HasSubstr;

constexpr char kTwo[] = "127.0.0.1,127.0.0.2";

// Two ends whose options are the test's.
struct Ends : TwoEnds {
  explicit Ends(EndpointOptions o = {}, const char* at_decode = kTwo, const char* at_prefill = kTwo) {
    o.key = key;
    o.rails = at_decode;
    o.listen = "127.0.0.1:0";
    o.name = "decode";
    o.lease_ns = 10'000'000'000;
    if (!o.rail_silence_ns) o.rail_silence_ns = 60'000'000'000; // silence is for those tests that ask for it: this machine is busy
    TwoEnds::at_prefill.reset(), TwoEnds::at_decode.reset();
    decode = must(Endpoint::open(in, o));
    o.listen = "";
    o.name = "prefill";
    o.rails = at_prefill;
    prefill = must(Endpoint::open(in, o));
    connect();
  }
};

KvLayout large_layout(uint32_t head_dim = 256, uint32_t block_tokens = 16) { // of 256: 4 MiB a layer, in blocks of 16 KiB of each head
  KvLayout l = small_layout(KvOrder::head_major, block_tokens, 2048 / block_tokens);
  l.head_dim = head_dim;
  return l;
}

// Moves once and gives what the rails carried.
std::vector<RailUse> move_over_rails(Request& r, const std::string& fabric = "tcp") {
  Incoming in = r.expect();
  auto t = r.open(in.ticket(), fabric);
  EXPECT_OK(t);
  if (!t.ok()) return {};
  Timeline sent = must(r.e.in.timeline("sent"));
  submit_all(r, *t, sent);
  EXPECT_OK(in.landed().wait_until(r.dst.layers_held(), deadline_in_ms(kSoonMs)));
  EXPECT_EQ(r.wrong(), 0u);
  EXPECT_OK(t->seal({"first", {}, {}}, deadline_in_ms(kSoonMs)));
  EXPECT_TRUE(poll_until(r.e.in, [&] { return in.sealed().has_value(); }, kSoonMs));
  EXPECT_TRUE(in.quiesced());
  return t->stats().rails;
}

Sender& sender_of(TwoEnds& e) {
  for (auto& [key, a] : e.at_prefill->impl().attached)
    if (key.rfind("sender:", 0) == 0) return *static_cast<Sender*>(a.get());
  abort();
}

TEST(Rails, StreamsAndWritesAndWhatIsConvertedGoOverBoth) {
  Ends e;
  KvLayout small = large_layout(16), whole = large_layout(256, 2048); // blocks of 512 bytes; segments of 1 MiB
  struct {
    const char* what;
    KvLayout to, from;
  } cases[] = {{"pieces", large_layout(), small_layout(KvOrder::token_major, 16, 128)}, {"writes", whole, whole}, {"one piece", small, small}};
  cases[0].from.head_dim = 256;
  for (auto& c : cases) {
    SCOPED_TRACE(c.what);
    Request r(e, c.to, {c.from}, 2000);
    const auto used = move_over_rails(r);
    ASSERT_EQ(used.size(), 2u);
    uint64_t bytes = 0;
    for (const RailUse& u : used) {
      EXPECT_TRUE(u.up);
      EXPECT_EQ(u.failures, 0u);
      bytes += u.bytes;
      EXPECT_TRUE(c.to.head_dim == 16 || u.bytes > 0) << u.nic;
    }
    EXPECT_EQ(bytes, 2000 * c.to.halves() * c.to.head_count * c.to.head_dim * 2 * c.to.layers_held());
  }
}

TEST(Rails, AConvertingPlanAndSealedPieces) {
  for (const bool sealed : {false, true}) {
    SCOPED_TRACE(sealed);
    Ends e({.seal_bulk = sealed});
    Request plain(e, large_layout(), {large_layout()}, 2000);
    for (int i = 0; i < 3; ++i)
      for (const RailUse& u : move_over_rails(plain)) EXPECT_GT(u.bytes, 0u) << u.nic;
    // BF16 to FP8 and back to the eye: the fabric with one rail is the reference.
    KvLayout from = large_layout(), to = large_layout();
    to.dtype = program::DType::f8e4m3;
    std::vector<uint8_t> first;
    for (const char* rails : {"", kTwo}) {
      Ends one({.seal_bulk = sealed}, rails, rails);
      Buffer landing = must(one.host.alloc(to.bytes())), source = must(one.host.alloc(from.bytes()));
      std::memset(must(landing.map()), 0, to.bytes());
      KvSink sink = must(KvSink::create(one.in, one.decode, landing, to, "m"));
      std::vector<int32_t> blocks(from.blocks);
      std::iota(blocks.begin(), blocks.end(), 0);
      auto* values = static_cast<uint16_t*>(must(source.map()));
      for (uint64_t i = 0; i < from.bytes() / 2; ++i) values[i] = uint16_t(0x3c00 + i * 2654435761u % 0x400);
      Incoming in = must(sink.expect(blocks, 2048));
      KvTransfer t = must(KvTransfer::open(one.in, *one.at_prefill, in.ticket(), {{&source, from, blocks}}, 2048, {.fabric = "tcp", .model = "m"}, deadline_in_ms(kSoonMs)));
      for (uint32_t l = 0; l < 4; ++l) ASSERT_OK(t.queue().submit(t.copy(0, l)));
      ASSERT_OK(in.landed().wait_until(4, deadline_in_ms(kSoonMs)));
      ASSERT_OK(t.seal({"x", {}, {}}, deadline_in_ms(kSoonMs)));
      EXPECT_EQ(t.stats().rails.size(), *rails ? 2u : 0u);
      auto* p = static_cast<uint8_t*>(must(landing.map()));
      if (first.empty()) first.assign(p, p + to.bytes());
      else EXPECT_EQ(std::memcmp(first.data(), p, first.size()), 0);
    }
  }
}

TEST(Rails, OneSideAloneHasNone) {
  for (auto [at_decode, at_prefill] : {std::pair{kTwo, ""}, {"", kTwo}}) {
    Ends e({}, at_decode, at_prefill);
    Request r(e, large_layout(), {large_layout()}, 500);
    EXPECT_TRUE(move_over_rails(r).empty());
  }
  Ends e({}, kTwo, "127.0.0.2");
  Request r(e, large_layout(), {large_layout()}, 500);
  EXPECT_EQ(move_over_rails(r).size(), 1u) << "the smaller number of both";
}

TEST(Rails, NamesThatAreNotThereAreRefused) {
  Ends e({}, kTwo, "no-such-nic");
  Request r(e, large_layout(), {large_layout()}, 500);
  Incoming in = r.expect();
  const auto t = r.open(in.ticket(), "tcp");
  ASSERT_FALSE(t.ok());
  EXPECT_EQ(t.error().code, BATON_INVALID_ARGUMENT) << t.error().text();
  EXPECT_THAT(t.error().what, HasSubstr("'no-such-nic'"));
  EXPECT_TRUE(poll_until(e.in, [&] { return !in.landed().value().ok(); }, kSoonMs));
  EXPECT_EQ(pick_nics("tcp", "10.255.255.254").error().code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(must(pick_nics("tcp", "lo")).size(), 1u);
  EXPECT_TRUE(in_network({"x", "10.1.2.3", 16, "", ""}, "10.1.9.9"));
  EXPECT_FALSE(in_network({"x", "10.1.2.3", 16, "", ""}, "10.2.2.3"));
  EXPECT_FALSE(in_network({"x", "10.1.2.3", 16, "", ""}, "fe80::1"));
  EXPECT_TRUE(in_network({"x", "fd00::1", 64, "", ""}, "fd00::2:3"));
}

std::string sink_of(TwoEnds& e) {
  for (auto& [key, a] : e.at_prefill->impl().attached)
    if (key.rfind("sender:", 0) == 0) return key.substr(7, key.rfind(':') - 7);
  return "";
}

// Moves until both rails are up and carry something.
bool both_again(Request& r) {
  for (const uint64_t until = deadline_in_ms(kSoonMs); now_ns() < until && !testing::Test::HasFailure();) {
    const auto used = move_over_rails(r);
    if (used.size() == 2 && used[0].up && used[1].up && used[0].bytes && used[1].bytes) return true;
  }
  return false;
}

// A rail that one side closes: what was on its way goes by the other, and it comes back.
TEST(Rails, OneThatFailsIsLeftOutUntilItsCooldownIsOver) {
  for (const bool sink_closes : {true, false})
    for (const bool pieces : {true, false}) {
      SCOPED_TRACE(testing::Message() << (sink_closes ? "the sink closes it" : "the sink says that it closed it") << (pieces ? ", pieces" : ", writes"));
      Ends e({.rail_silence_ns = 1'000'000'000, .rail_cooldown_ns = 50'000'000}); // pieces that the sink had not used when it closed: only silence tells
      const KvLayout l = pieces ? large_layout() : large_layout(256, 2048);
      Request r(e, l, {l}, 2000);
      ASSERT_TRUE(both_again(r));
      Incoming in = r.expect();
      auto t = must(r.open(in.ticket(), "tcp"));
      Timeline sent = must(e.in.timeline("sent"));
      submit_all(r, t, sent);
      ASSERT_TRUE(poll_until(e.in, [&] { return t.stats().spans[0].begin_ns != 0; }));
      e.in.poll(); // some of it is on its way
      const Error why(BATON_IO, "the cable was pulled", "plug it in");
      const nlohmann::json body{{"sink", sink_of(e)}, {"fabric", "tcp"}, {"down", 2}, {"error", to_json(why)}};
      ASSERT_OK(send_transport((sink_closes ? e.at_prefill : e.at_decode)->impl(), "kv.rail", body));
      ASSERT_OK(in.landed().wait_until(4, deadline_in_ms(kSoonMs)));
      EXPECT_EQ(r.wrong(), 0u);
      ASSERT_OK(t.seal({"first", {}, {}}, deadline_in_ms(kSoonMs)));
      EXPECT_TRUE(poll_until(e.in, [&] { return in.quiesced(); }, kSoonMs));
      ASSERT_TRUE(both_again(r));
      std::vector<RailUse> used;
      sender_of(e).rails(0, used);
      EXPECT_EQ(used[0].failures, 0u);
      EXPECT_GE(used[1].failures, 1u);
    }
}

TEST(Rails, WithoutAnyItIsThePeerThatIsLostAndTheNextRequestHasThemAgain) {
  Ends e({.rail_cooldown_ns = 3'600'000'000'000});
  Request r(e, large_layout(), {large_layout()}, 2000);
  ASSERT_TRUE(both_again(r));
  Incoming in = r.expect();
  auto t = must(r.open(in.ticket(), "tcp"));
  for (uint32_t number : {1, 2}) ASSERT_OK(send_transport(e.at_decode->impl(), "kv.rail", {{"sink", sink_of(e)}, {"fabric", "tcp"}, {"down", number}, {"error", to_json(Error(BATON_IO, "unplugged", "-"))}}));
  Timeline sent = must(e.in.timeline("sent"));
  submit_all(r, t, sent);
  const auto s = sent.wait_until(1, deadline_in_ms(kSoonMs));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_PEER_LOST);
  EXPECT_THAT(s.error().what, HasSubstr("every rail of tcp has failed; the last: unplugged"));
  EXPECT_EQ(in.landed().wait_until(4, deadline_in_ms(kSoonMs)).error().code, BATON_PEER_LOST);
  ASSERT_TRUE(poll_until(e.in, [&] { return in.quiesced(); }, kSoonMs));
  EXPECT_TRUE(both_again(r));
}

// The last note of a request may find no rail with room for it: it comes all the same, though nothing else is left to send.
TEST(Rails, ANoteThatIsOwedComesWhenAllIsSent) {
  Ends e;
  setenv("BATON_FABRIC_FAULTS", "seed=3,reorder=900000", 1);
  Request r(e, large_layout(), {large_layout()}, 500);
  for (int i = 0; i < 10; ++i) {
    Incoming in = r.expect();
    auto t = r.open(in.ticket(), "tcp");
    ASSERT_OK(t);
    Timeline sent = must(e.in.timeline("sent"));
    submit_all(r, *t, sent);
    ASSERT_OK(in.landed().wait_until(r.dst.layers_held(), deadline_in_ms(kSoonMs / 4)));
    EXPECT_EQ(r.wrong(), 0u);
    ASSERT_OK(t->seal({"first", {}, {}}, deadline_in_ms(kSoonMs)));
    ASSERT_TRUE(poll_until(e.in, [&] { return in.quiesced(); }, kSoonMs));
  }
  unsetenv("BATON_FABRIC_FAULTS");
}

// A rail that swallows what it is given: it is seen to be silent while its request waits, then it is down, and the other one carries all.
TEST(Rails, OneThatSwallowsWhatItIsGivenIsSilentThenDown) {
  setenv("BATON_FABRIC_FAULTS", "mute=127.0.0.2", 1);
  Ends e({.rail_silence_ns = 1'000'000'000});
  Request r(e, large_layout(), {large_layout()}, 2000);
  Incoming in = r.expect();
  auto t = r.open(in.ticket(), "tcp");
  unsetenv("BATON_FABRIC_FAULTS");
  ASSERT_OK(t);
  Timeline sent = must(e.in.timeline("sent"));
  submit_all(r, *t, sent);
  const auto of = [&](const std::string& address) {
    for (const RailUse& u : t->stats().rails)
      if (u.address == address) return u;
    ADD_FAILURE() << "no rail from " << address;
    return RailUse();
  };
  EXPECT_TRUE(poll_until(e.in, [&] { return of("127.0.0.2").silent_ns > 300'000'000; }, kSoonMs));
  EXPECT_EQ(of("127.0.0.2").down_ns, 0u);
  EXPECT_EQ(of("127.0.0.2").peer_address, "127.0.0.2");
  ASSERT_OK(in.landed().wait_until(r.dst.layers_held(), deadline_in_ms(kSoonMs)));
  EXPECT_EQ(r.wrong(), 0u);
  EXPECT_GT(of("127.0.0.2").down_ns, 0u) << "until it has carried something";
  EXPECT_EQ(of("127.0.0.2").bytes, 0u);
  EXPECT_GE(of("127.0.0.2").failures, 1u);
  EXPECT_EQ(of("127.0.0.1").down_ns, 0u);
  EXPECT_OK(t->seal({"first", {}, {}}, deadline_in_ms(kSoonMs)));
}

// Steps that fail as lost rails, by a seed: whatever lands is right.
TEST(Rails, CutAtRandomWhatLandsIsRight) {
  Ends e({.rail_cooldown_ns = 2'000'000});
  setenv("BATON_FABRIC_FAULTS", "seed=7,cut=4000,repeat=100000,reorder=100000", 1);
  Request r(e, large_layout(), {large_layout()}, 2000);
  uint32_t landed = 0, failures = 0;
  for (int i = 0; i < (kSanitized ? 10 : 40); ++i) {
    Incoming in = r.expect();
    auto t = r.open(in.ticket(), "tcp");
    if (!t.ok()) continue;
    Timeline sent = must(e.in.timeline("sent"));
    submit_all(r, *t, sent);
    const Status s = in.landed().wait_until(r.dst.layers_held(), deadline_in_ms(kSoonMs));
    if (s.ok() && t->seal({"first", {}, {}}, deadline_in_ms(kSoonMs)).ok()) {
      ++landed;
      EXPECT_EQ(r.wrong(), 0u);
      for (const RailUse& u : t->stats().rails) failures = std::max(failures, u.failures);
    } else if (!s.ok()) {
      EXPECT_EQ(s.error().code, BATON_PEER_LOST) << s.error().text();
    }
    EXPECT_TRUE(poll_until(e.in, [&] { return in.quiesced(); }, kSoonMs));
  }
  unsetenv("BATON_FABRIC_FAULTS");
  EXPECT_GT(landed, 0u);
  EXPECT_GT(failures, 0u) << "no rail was cut";
}

TEST(Rails, WhatAPeerSaysOfThemIsChecked) {
  Ends e;
  Request r(e, large_layout(), {large_layout()}, 500);
  ASSERT_EQ(move_over_rails(r).size(), 2u);
  Incoming in = r.expect();
  auto t = must(r.open(in.ticket(), "tcp"));
  const nlohmann::json to{{"sink", sink_of(e)}, {"fabric", "tcp"}};
  auto with = [&](nlohmann::json more) {
    more.update(to);
    return more;
  };
  // Numbers that are none, of either side's: nothing happens.
  for (const nlohmann::json& number : {nlohmann::json(99), nlohmann::json(0)}) {
    ASSERT_OK(send_transport(e.at_prefill->impl(), "kv.rail", with({{"down", number}})));
    ASSERT_OK(send_transport(e.at_prefill->impl(), "kv.rail", with({{"again", number}})));
    ASSERT_OK(send_transport(e.at_decode->impl(), "kv.rail", with({{"down", number}})));
    ASSERT_OK(send_transport(e.at_decode->impl(), "kv.credit", with({{"rail", number}, {"pieces", 0xffff}})));
  }
  ASSERT_OK(send_transport(e.at_prefill->impl(), "kv.rail", with({{"again", 1}}))); // it is up
  for (const nlohmann::json& answer : {nlohmann::json("x"), nlohmann::json(nullptr), nlohmann::json{{"rail", 1}}, nlohmann::json{{"rail", -1}, {"offer", 5}}})
    ASSERT_OK(send_transport(e.at_decode->impl(), "kv.rail", with({{"of", 1}, {"rail", answer}}))); // nobody asked
  // Notes of nobody's request.
  std::vector<uint8_t> notes(3 * sizeof(Note), 0x11);
  ASSERT_OK(send_transport(e.at_prefill->impl(), "kv.rail", to, notes));
  poll_until(e.in, [] { return false; }, 20);
  EXPECT_OK(e.at_decode->alive());
  EXPECT_EQ(*in.landed().value(), 0u);
  Timeline sent = must(e.in.timeline("sent"));
  submit_all(r, t, sent);
  ASSERT_OK(in.landed().wait_until(4, deadline_in_ms(kSoonMs)));
  EXPECT_EQ(r.wrong(), 0u);
  ASSERT_OK(t.seal({"x", {}, {}}, deadline_in_ms(kSoonMs)));
  // What cannot be read ends the session.
  notes.pop_back();
  ASSERT_OK(send_transport(e.at_prefill->impl(), "kv.rail", to, notes));
  ASSERT_TRUE(poll_until(e.in, [&] { return !e.at_decode->alive().ok(); }, kSoonMs));
  EXPECT_EQ(e.at_decode->alive().error().code, BATON_CORRUPT);
}

TEST(Rails, OffersThatMakeNoSenseAreRefused) {
  Ends e;
  const nlohmann::json rail{{"rail", 1}, {"nic", "lo"}, {"host", "127.0.0.1"}, {"offer", {{"address", "00"}}}};
  auto attempt = [&](nlohmann::json list) {
    const auto s = make_sender("tcp", e.at_prefill->impl(), {{"sink", "s"}, {"rails", std::move(list)}});
    ASSERT_FALSE(s.ok());
    EXPECT_EQ(s.error().code, BATON_CORRUPT) << s.error().text();
  };
  attempt(5);
  attempt(nlohmann::json::array());
  attempt(nlohmann::json::array({5}));
  attempt(nlohmann::json(17, rail));
  for (const char* key : {"rail", "nic", "host", "offer"}) {
    nlohmann::json bad = rail;
    bad.erase(key);
    if (key != std::string("offer")) attempt({bad}); // one without is closed
    bad[key] = nlohmann::json::object();
    attempt({bad});
  }
  EXPECT_EQ(make_sender("shm", e.at_prefill->impl(), {{"sink", "s"}, {"rails", {rail}}}).error().code, BATON_CORRUPT);
}

// Over RDMA, in tests/vm: two devices, of which the second's port goes down. verbs hears of it at once, libfabric by its retries or by the silence.
struct OverRdma : testing::Test {
  const std::vector<std::string> fabrics = fabrics_under_test({});
  const uint64_t deadline = deadline_in_ms(kSoonMs);
  void SetUp() override {
    if (fabrics.empty() || test_rails().empty() || !test_netdev()) GTEST_SKIP() << "BATON_TEST_FABRICS, BATON_TEST_RAILS and BATON_TEST_NETDEV are not set: this is for tests/vm";
  }
  // A request whose first layer has gone when `between` is called.
  template <class F>
  std::vector<RailUse> move_around(Request& r, F between) {
    Incoming in = r.expect();
    KvTransfer t = must(r.open(in.ticket(), fabrics[0]));
    EXPECT_OK(t.queue().submit(t.copy(0, 0)));
    EXPECT_OK(in.landed().wait_until(1, deadline));
    between();
    for (uint32_t layer = 1; layer < 4; ++layer) EXPECT_OK(t.queue().submit(t.copy(0, layer)));
    EXPECT_OK(in.landed().wait_until(4, deadline));
    EXPECT_EQ(r.wrong(), 0u);
    EXPECT_OK(t.seal({"x", {}, {}}, deadline));
    EXPECT_TRUE(poll_until(r.e.in, [&] { return in.quiesced(); }, kSoonMs));
    return t.stats().rails;
  }
  static KvLayout layout() { return large_layout(64, 2048); } // segments of 256 KiB
};

// See transport_verbs.cc: rdma_rxe of Linux 6.1 makes no connection any more once a message of the connection manager was sent while the port was down.
TEST_F(OverRdma, APortThatWasDownForAMomentIsReplacedAndComesBack) {
  if (fabrics[0] != "verbs") GTEST_SKIP() << "libfabric does not hear of ports";
  TwoEnds e(10'000'000'000 * lease_slow());
  Request r(e, layout(), {layout()}, 2000);
  std::vector<RailUse> used = move_over_rails(r, fabrics[0]);
  ASSERT_EQ(used.size(), 2u);
  for (const RailUse& u : used) EXPECT_GT(u.bytes, 0u) << u.nic;
  used = move_around(r, [] {
    ASSERT_TRUE(set_test_netdev(false));
    ASSERT_TRUE(set_test_netdev(true));
  });
  ASSERT_EQ(used.size(), 2u);
  EXPECT_EQ(used[0].failures, 0u);
  EXPECT_GE(used[1].failures, 1u);
  bool again = false;
  while (!again && now_ns() < deadline && !HasFailure()) {
    used = move_over_rails(r, fabrics[0]);
    again = used.size() == 2 && used[1].up && used[1].bytes;
  }
  EXPECT_TRUE(again) << "it did not come back";
}

TEST_F(OverRdma, APortThatStaysDownIsReplaced) {
  TwoEnds e(10'000'000'000 * lease_slow());
  Request r(e, layout(), {layout()}, 2000);
  std::vector<RailUse> used = move_over_rails(r, fabrics[0]);
  ASSERT_EQ(used.size(), 2u);
  for (const RailUse& u : used) EXPECT_GT(u.bytes, 0u) << u.nic;
  used = move_around(r, [] { ASSERT_TRUE(set_test_netdev(false)); });
  ASSERT_EQ(used.size(), 2u);
  EXPECT_EQ(used[0].failures, 0u);
  EXPECT_GE(used[1].failures, 1u);
}

// ---- two network namespaces ----

int run(const std::string& command) {
  const int rc = system(command.c_str());
  return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

bool enter_own_network() {
  static const bool entered = unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0;
  return entered;
}

class TwoRails : public testing::Test {
 protected:
  static constexpr uint64_t kSilenceMs = kSanitized ? 4000 : 1500;
  static constexpr uint64_t kRailLeaseMs = kSanitized ? 12'000 : 4000; // the session is heard, however busy this machine is
  Instance in = must(Instance::create());
  Device host = must(in.open("host://"));
  Key key = random_key();
  std::optional<Endpoint> ep;
  std::unique_ptr<Child> child;
  std::unique_ptr<Session> session;
  KvLayout layout = small_layout(KvOrder::head_major, 16, 128);
  std::optional<Buffer> landing;
  std::optional<KvSink> sink;
  std::vector<int32_t> blocks;
  std::optional<Incoming> incoming;
  uint32_t salt = 0;

  void SetUp() override {
    if (run("ip -V >/dev/null 2>&1") || run("nsenter -V >/dev/null 2>&1")) GTEST_SKIP() << "no ip or no nsenter: install iproute2 and util-linux";
    if (!enter_own_network() || run("ip link set lo up")) GTEST_SKIP() << "may not make a network namespace: " << strerror(errno);
    layout.head_dim = 256; // 4 MiB a layer
    blocks.resize(layout.blocks);
    std::iota(blocks.begin(), blocks.end(), 0);
    start();
  }
  void TearDown() override {
    incoming.reset();
    session.reset();
    child.reset();
    for (const char* dev : {"ctl0", "raila", "railb"}) run(std::string("ip link del ") + dev + " 2>/dev/null");
  }
  void start() {
    int ready[2], go[2];
    ASSERT_EQ(pipe2(ready, O_CLOEXEC) | pipe2(go, O_CLOEXEC), 0);
    setenv("BATON_TEST_RAILS", "raila,railb", 1);
    setenv("BATON_TEST_RAIL_MS", std::to_string(kSilenceMs).c_str(), 1);
    child = std::make_unique<Child>("source", key, "10.76.0.1:17078", kRailLeaseMs, [&] {
      char c = unshare(CLONE_NEWNET) == 0;
      (void)!write(ready[1], &c, 1);
      (void)!read(go[0], &c, 1);
    });
    unsetenv("BATON_TEST_RAILS");
    char c = 0;
    ASSERT_EQ(read(ready[0], &c, 1), 1);
    ASSERT_EQ(c, 1) << "the child may not make a network namespace";
    const std::string pid = std::to_string(child->pid()), there = "nsenter -t " + pid + " -n ";
    int net = 76;
    for (const char* dev : {"ctl0", "raila", "railb"}) {
      const std::string d = dev, n = "10." + std::to_string(net++) + ".0.";
      ASSERT_EQ(run("ip link add " + d + " type veth peer name " + d + " netns " + pid), 0) << "no veth in this kernel";
      ASSERT_EQ(run("ip addr add " + n + "1/24 dev " + d + " && ip link set " + d + " up"), 0);
      ASSERT_EQ(run(there + "ip addr add " + n + "2/24 dev " + d + " && " + there + "ip link set " + d + " up"), 0);
    }
    ep.emplace(must(Endpoint::open(in, {.listen = "10.76.0.1:17078", .key = key, .name = "decode", .lease_ns = kRailLeaseMs * 1'000'000, .rails = "raila,railb"})));
    (void)!write(go[1], &c, 1);
    for (int fd : {ready[0], ready[1], go[0], go[1]}) close(fd);
    ASSERT_TRUE(poll_until(in, [&] { return (session = ep->accept()) != nullptr; }, kSoonMs));
    landing.emplace(must(host.alloc(layout.bytes())));
    sink.emplace(must(KvSink::create(in, *ep, *landing, layout, "m")));
  }
  static uint64_t received(const std::string& dev) {
    std::ifstream f("/sys/class/net/" + dev + "/statistics/rx_bytes");
    if (uint64_t n = 0; f >> n) return n;
    // sysfs shows the namespace that it was mounted in; procfs the reader's
    std::ifstream all("/proc/self/net/dev");
    for (std::string line; std::getline(all, line);)
      if (const size_t at = line.find(dev + ":"); at != std::string::npos) return std::stoull(line.substr(at + dev.size() + 1));
    return 0;
  }
  bool link(const char* dev, bool up) { return run(std::string("ip link set ") + dev + (up ? " up" : " down")) == 0; }
  void ask(uint32_t hold = 0) {
    std::memset(must(landing->map()), 0xee, landing->bytes());
    incoming.emplace(must(sink->expect(blocks, 2000)));
    ASSERT_OK(session->send({"go", {{"ticket", incoming->ticket()}, {"tokens", 2000}, {"salt", ++salt}, {"fabric", "tcp"}, {"head_dim", 256}, {"blocks", 128}, {"hold", hold}, {"rails", true}}, {}}));
  }
  std::optional<Message> hear() {
    std::optional<Message> m;
    EXPECT_TRUE(poll_until(in, [&] { return (m = session->receive()).has_value() || !session->alive().ok(); }, kSoonMs));
    return m;
  }
  // It lands, and is right; what the rails did.
  nlohmann::json whole() {
    EXPECT_OK(incoming->landed().wait_until(layout.layers, deadline_in_ms(kSoonMs)));
    EXPECT_EQ(wrong_kv(*landing, layout, blocks, 2000, salt), 0u);
    const auto m = hear();
    EXPECT_TRUE(m && m->type == "sent") << (m ? m->body.dump() : "nothing");
    EXPECT_TRUE(poll_until(in, [&] { return incoming->sealed().has_value(); }, kSoonMs));
    EXPECT_TRUE(incoming->quiesced());
    return m ? m->body["rails"] : nlohmann::json();
  }
};

TEST_F(TwoRails, BytesGoOverBoth) {
  const uint64_t a = received("raila"), b = received("railb"), control = received("ctl0");
  ask();
  const auto rails = whole();
  const uint64_t bytes = 2000 * 4 * 2 * 2 * 256 * 2;
  EXPECT_GT(received("raila") - a, bytes / 20);
  EXPECT_GT(received("railb") - b, bytes / 20);
  EXPECT_GE(received("raila") - a + received("railb") - b, bytes);
  EXPECT_LT(received("ctl0") - control, bytes / 20);
  EXPECT_EQ(rails.size(), 2u);
}

TEST_F(TwoRails, OneThatIsCutInTheMiddleIsReplacedAndComesBack) {
  ask();
  whole();
  for (const char* dev : {"railb", "raila"}) {
    SCOPED_TRACE(dev);
    ask(2);
    auto paused = hear();
    ASSERT_TRUE(paused && paused->type == "paused");
    ASSERT_TRUE(link(dev, false)); // it is silent: no side hears of it
    ASSERT_OK(session->send({"on", {}, {}}));
    const auto rails = whole();
    ASSERT_EQ(rails.size(), 2u);
    const size_t cut = dev[4] == 'a' ? 0 : 1;
    EXPECT_GE(rails[cut]["failures"], 1);
    EXPECT_EQ(rails[1 - cut]["up"], true);
    ASSERT_TRUE(link(dev, true));
    bool again = false;
    for (const uint64_t until = deadline_in_ms(kSoonMs); !again && now_ns() < until && !HasFailure();) {
      const uint64_t before = received(dev);
      ask();
      const auto r = whole();
      ASSERT_EQ(r.size(), 2u);
      again = r[0]["up"] == true && r[1]["up"] == true && received(dev) - before > layout.bytes() / 20;
    }
    EXPECT_TRUE(again) << "it did not come back";
  }
}

TEST_F(TwoRails, ConnectionsThatAreResetAreReplacedAtOnce) {
  if (run("ss -V >/dev/null 2>&1")) GTEST_SKIP() << "no ss: install iproute2";
  ask();
  whole();
  ask(2);
  auto paused = hear();
  ASSERT_TRUE(paused && paused->type == "paused");
  if (run("ss -K dst 10.78.0.2 >/dev/null 2>&1")) GTEST_SKIP() << "this kernel closes no foreign sockets (INET_DIAG_DESTROY)";
  ASSERT_OK(session->send({"on", {}, {}}));
  const auto rails = whole();
  EXPECT_EQ(rails[0]["failures"], 0);
}

TEST_F(TwoRails, BothCutIsAPeerThatIsLostInBoundedTime) {
  ask();
  whole();
  ask(2);
  auto paused = hear();
  ASSERT_TRUE(paused && paused->type == "paused");
  for (const char* dev : {"raila", "railb"}) ASSERT_TRUE(link(dev, false));
  ASSERT_OK(session->send({"on", {}, {}}));
  const uint64_t start_ns = now_ns();
  const Status s = incoming->landed().wait_until(layout.layers, deadline_in_ms(kSoonMs));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_PEER_LOST) << s.error().text();
  EXPECT_LT(now_ns() - start_ns, kSilenceMs * 20'000'000);
  EXPECT_TRUE(poll_until(in, [&] { return incoming->quiesced(); }, kSoonMs));
  EXPECT_OK(session->alive());
  for (const char* dev : {"raila", "railb"}) ASSERT_TRUE(link(dev, true));
  (void)hear(); // "failed"
  ask();
  whole();
}

TEST_F(TwoRails, AKilledSenderPoisonsAndFreesTheBlocks) {
  ask(2);
  auto paused = hear();
  ASSERT_TRUE(paused && paused->type == "paused");
  child->kill(SIGKILL);
  const Status s = incoming->landed().wait_until(layout.layers, deadline_in_ms(kSoonMs));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_PEER_LOST);
  EXPECT_TRUE(poll_until(in, [&] { return incoming->quiesced(); }, kSoonMs));
}

}  // namespace
}  // namespace baton::transport
