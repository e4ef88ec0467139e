// KvSink, Incoming, KvTransfer on every fabric of this machine, both sides in one process; byte for byte.
#include "transport_kv_request.hpp"

#include "transport/endpoint.hpp"
#include "transport/kv_wire.hpp"

namespace baton::transport {
namespace {

using testing::HasSubstr;

class OnFabric : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, OnFabric, testing::ValuesIn(fabrics_under_test({"mapped", "shm", "tcp", "auto"})), fabric_label);

TEST_P(OnFabric, MovesEveryByteFromShardedRanksAndOtherBlockSizes) {
  TwoEnds e;
  for (uint32_t tp : {1u, 2u, 4u, 8u})
    for (auto [sb, db] : {std::pair{16u, 16u}, {16u, 64u}, {64u, 16u}})
      for (auto order : {KvOrder::token_major, KvOrder::head_major, KvOrder::block_major}) {
        if (tp > 2 && (sb != db || order == KvOrder::block_major)) continue;
        SCOPED_TRACE(testing::Message() << "tp " << tp << " blocks " << sb << " > " << db << " order " << order_name(order));
        std::vector<KvLayout> ranks;
        for (uint32_t r = 0; r < tp; ++r) { // a model of two heads: ranks 4 and 8 hold replicas
          const uint32_t count = tp == 1 ? 2 : 1;
          ranks.push_back(small_layout(order, sb, 12, tp == 1 ? 0 : r * 2 / tp, count));
        }
        Request req(e, small_layout(KvOrder::token_major, db, 12), ranks, 100);
        move_once(req, GetParam());
        if (HasFatalFailure() || HasNonfatalFailure()) return;
      }
}

// Four layers of two heads over pipeline stages and ranks, to wafers that hold layers [0,1) and [1,4).
TEST_P(OnFabric, LayersOfSeveralStagesGoToTheWafersThatHoldThem) {
  TwoEnds e;
  auto part = [](KvLayout l, KvPairing pairing, uint32_t layer_begin, uint32_t layer_count) {
    l.pairing = pairing, l.layer_begin = layer_begin, l.layer_count = layer_count;
    return l;
  };
  for (auto [first, count] : {std::pair{0u, 1u}, {1u, 3u}}) {
    SCOPED_TRACE(first);
    std::vector<KvLayout> from{part(small_layout(KvOrder::token_major, 16, 12, 0, 1), KvPairing::apart, 0, 2), part(small_layout(KvOrder::head_major, 16, 12), KvPairing::token, 0, 3),
                               part(small_layout(KvOrder::token_major, 16, 12), KvPairing::block, 2, 2)};
    Request r(e, part(small_layout(KvOrder::block_major, 64, 3), KvPairing::token, first, count), from, 100);
    move_once(r, GetParam());
  }
}

TEST_P(OnFabric, LatentRowsComeFromOneRank) {
  TwoEnds e;
  KvLayout l = small_layout(KvOrder::token_major, 16, 12, 0, 1);
  l.kv_heads = 1, l.head_dim = 36, l.rope_dim = 4, l.pairing = KvPairing::latent;
  KvLayout to = l;
  to.order = KvOrder::block_major, to.block_tokens = 64;
  Request r(e, to, {l, l}, 100);
  move_once(r, GetParam());
}

TEST_P(OnFabric, TokensOfEveryAwkwardCount) {
  TwoEnds e;
  for (uint64_t tokens : {1, 15, 16, 17, 64, 191, 192}) {
    SCOPED_TRACE(tokens);
    Request r(e, small_layout(KvOrder::head_major, 64, 3), {small_layout(KvOrder::token_major, 16, 12)}, tokens);
    move_once(r, GetParam());
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
}

TEST_P(OnFabric, LargeLayersGoInPieces) {
  TwoEnds e;
  KvLayout l = small_layout(KvOrder::token_major, 16, 512);
  l.layers = 2, l.head_dim = 256; // 8 MiB a layer
  Request r(e, l, {l}, 512 * 16);
  move_once(r, GetParam());
}

TEST_P(OnFabric, LandedRisesOverTheContiguousPrefixOnly) {
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12, 0, 1), small_layout(KvOrder::token_major, 16, 12, 1, 1)}, 50);
  Incoming in = r.expect();
  auto t = r.open(in.ticket(), GetParam());
  ASSERT_OK(t);
  Timeline sent = must(e.in.timeline("sent"));
  ASSERT_OK(t->queue().submit({t->copy(0, 1), t->copy(1, 1), Op(t->copy(0, 0)).signal(sent, 1)}));
  ASSERT_OK(sent.wait_until(1, deadline_in_ms(kSoonMs)));
  poll_until(e.in, [] { return false; }, 20);
  EXPECT_EQ(*in.landed().value(), 0u) << "layer 0 lacks rank 1";
  ASSERT_OK(t->queue().submit(t->copy(1, 0)));
  ASSERT_OK(in.landed().wait_until(2, deadline_in_ms(kSoonMs)));
  EXPECT_EQ(*in.landed().value(), 2u);
  ASSERT_OK(t->queue().submit({t->copy(0, 3), t->copy(1, 3), t->copy(0, 2), t->copy(1, 2)}));
  ASSERT_OK(in.landed().wait_until(4, deadline_in_ms(kSoonMs)));
  EXPECT_EQ(r.wrong(), 0u);
}

TEST_P(OnFabric, OpsWaitForTheirTimelines) {
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 50);
  Incoming in = r.expect();
  auto t = r.open(in.ticket(), GetParam());
  ASSERT_OK(t);
  Timeline made = must(e.in.timeline("made"));
  for (uint32_t l = 0; l < 4; ++l) ASSERT_OK(t->queue().submit(Op(t->copy(0, l)).wait(made, l + 1)));
  poll_until(e.in, [] { return false; }, 10);
  EXPECT_EQ(*in.landed().value(), 0u);
  made.signal(2);
  ASSERT_OK(in.landed().wait_until(2, deadline_in_ms(kSoonMs)));
  EXPECT_EQ(*in.landed().value(), 2u);
  made.signal(4);
  ASSERT_OK(in.landed().wait_until(4, deadline_in_ms(kSoonMs)));
  EXPECT_EQ(r.wrong(), 0u);
}

TEST_P(OnFabric, ModelledTimeTravelsWithTheLayers) {
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 50);
  Incoming in = r.expect();
  auto t = r.open(in.ticket(), GetParam());
  ASSERT_OK(t);
  Timeline made = must(e.in.timeline("made")), sent = must(e.in.timeline("sent"));
  for (uint32_t l = 0; l < 4; ++l) ASSERT_OK(t->queue().submit(Op(t->copy(0, l)).wait(made, l + 1).signal(sent, l + 1)));
  for (uint32_t l = 0; l < 4; ++l) made.signal(l + 1, (l + 1) * 1'000'000);
  ASSERT_OK(in.landed().wait_until(4, deadline_in_ms(kSoonMs)));
  ASSERT_OK(sent.wait_until(4, deadline_in_ms(kSoonMs)));
  const LinkModel m = must(link_model("efa-trn2"));
  for (uint32_t l = 0; l < 4; ++l) {
    const uint64_t want = (l + 1) * 1'000'000 + uint64_t(std::llround(m.cost_ns(50 * 2 * 2 * 16 * 2, t->stats().segments / 4)));
    EXPECT_EQ(in.landed().modelled_ns(l + 1), want);
    EXPECT_EQ(in.stats().landed_modelled_ns[l], want);
    EXPECT_EQ(sent.modelled_ns(l + 1), want);
  }
}

// What does not connect is replaced within the request; where nothing else is left, the request says so, and its blocks are free.
TEST(KvLink, AnotherFabricTakesThePlaceOfOneThatDoesNotConnect) {
  std::map<std::string, int> outcomes;
  for (int seed = 1; seed <= 24; ++seed) {
    SCOPED_TRACE(seed);
    setenv("BATON_FABRIC_FAULTS", ("seed=" + std::to_string(seed) + ",connect=500000").c_str(), 1);
    TwoEnds e;
    const KvLayout l = small_layout(KvOrder::token_major, 16, 12);
    Request r(e, l, {l}, 50);
    Incoming in = r.expect();
    auto t = r.open(in.ticket(), "auto");
    if (!t.ok()) {
      ++outcomes["none"];
      EXPECT_EQ(t.error().code, BATON_PEER_LOST) << t.error().text();
      EXPECT_THAT(t.error().text(), HasSubstr("did not connect"));
      EXPECT_TRUE(poll_until(e.in, [&] { return !in.landed().value().ok() && in.quiesced(); }, kSoonMs));
    } else {
      ++outcomes[t->stats().fabric];
      EXPECT_EQ(in.stats().fabric, t->stats().fabric);
      Timeline sent = must(e.in.timeline("sent"));
      submit_all(r, *t, sent);
      EXPECT_OK(in.landed().wait_until(4, deadline_in_ms(kSoonMs)));
      EXPECT_EQ(r.wrong(), 0u);
      EXPECT_OK(t->seal({"first", {}, {}}, deadline_in_ms(kSoonMs)));
      EXPECT_TRUE(poll_until(e.in, [&] { return in.sealed().has_value() && in.quiesced(); }, kSoonMs));
    }
    unsetenv("BATON_FABRIC_FAULTS");
    if (HasFailure()) return;
  }
  EXPECT_GT(outcomes["mapped"], 0);
  EXPECT_GT(outcomes["tcp"], 0);
  EXPECT_GT(outcomes["none"], 0);
}

TEST_P(OnFabric, CancelInFlightPoisonsBothAndQuiesces) {
  TwoEnds e;
  KvLayout l = small_layout(KvOrder::token_major, 16, 512);
  l.layers = 4, l.head_dim = 64; // 4 MiB a layer
  Request r(e, l, {l}, 512 * 16);
  Incoming in = r.expect();
  auto t = r.open(in.ticket(), GetParam());
  ASSERT_OK(t);
  Timeline sent = must(e.in.timeline("sent"));
  submit_all(r, *t, sent);
  ASSERT_TRUE(poll_until(e.in, [&] { return t->stats().spans[0].begin_ns != 0; }));
  e.in.poll();
  in.cancel(Error(BATON_CANCELLED, "the user went away", "nothing"));
  EXPECT_EQ(in.landed().value().error().code, BATON_CANCELLED);
  const auto s = sent.wait_until(1, deadline_in_ms(kSoonMs));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_CANCELLED) << s.error().text();
  ASSERT_TRUE(poll_until(e.in, [&] { return in.quiesced(); }, kSoonMs));
  // Quiet is quiet: nothing changes in the blocks any more.
  auto* p = static_cast<uint8_t*>(must(r.landing.map()));
  std::vector<uint8_t> before(p, p + r.landing.bytes());
  poll_until(e.in, [] { return false; }, 30);
  EXPECT_EQ(std::memcmp(before.data(), p, before.size()), 0);
  // The transfer refuses more, and the session serves the next request.
  const auto again = t->seal({"x", {}, {}}, deadline_in_ms(100));
  EXPECT_EQ(again.error().code, BATON_CANCELLED);
  move_once(r, GetParam());
}

TEST_P(OnFabric, ADroppedTransferPoisonsTheSink) {
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 50);
  Incoming in = r.expect();
  {
    auto t = r.open(in.ticket(), GetParam());
    ASSERT_OK(t);
    ASSERT_OK(t->queue().submit(t->copy(0, 0)));
    ASSERT_OK(in.landed().wait_until(1, deadline_in_ms(kSoonMs)));
  }
  const auto s = in.landed().wait_until(4, deadline_in_ms(kSoonMs));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_CANCELLED);
  EXPECT_THAT(s.error().hop, HasSubstr("prefill"));
  EXPECT_TRUE(in.quiesced());
}

TEST_P(OnFabric, AnAbortCarriesItsCause) {
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 50);
  Incoming in = r.expect();
  auto t = r.open(in.ticket(), GetParam());
  ASSERT_OK(t);
  t->abort(Error(BATON_DEVICE_LOST, "neuron core 3 is gone", "reset it", "neuron://0"));
  const auto s = in.landed().wait_until(1, deadline_in_ms(kSoonMs));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_DEVICE_LOST);
  EXPECT_THAT(s.error().what, HasSubstr("neuron core 3 is gone"));
  EXPECT_EQ(t->queue().submit(t->copy(0, 0)).ok(), true) << "taken, and failed through its signals";
}

TEST_P(OnFabric, ALostSessionPoisonsBoth) {
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 50);
  Incoming in = r.expect();
  auto t = r.open(in.ticket(), GetParam());
  ASSERT_OK(t);
  Timeline made = must(e.in.timeline("made")), sent = must(e.in.timeline("sent"));
  ASSERT_OK(t->queue().submit(Op(t->copy(0, 0)).wait(made, 1).signal(sent, 1)));
  e.at_decode.reset();
  ASSERT_TRUE(poll_until(e.in, [&] { return !in.landed().value().ok() && !e.at_prefill->alive().ok(); }));
  made.signal(1);
  const auto s = sent.wait_until(1, deadline_in_ms(kSoonMs));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_PEER_LOST);
  EXPECT_THAT(s.error().hop, HasSubstr("prefill > decode"));
  EXPECT_TRUE(poll_until(e.in, [&] { return in.quiesced(); }));
}

TEST_P(OnFabric, SealAfterEverythingOutlivesTheSession) {
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 50);
  Incoming in = r.expect();
  {
    auto t = r.open(in.ticket(), GetParam());
    ASSERT_OK(t);
    Timeline sent = must(e.in.timeline("sent"));
    submit_all(r, *t, sent);
    ASSERT_OK(t->seal({"first", {}, {}}, deadline_in_ms(kSoonMs)));
  }
  e.at_prefill.reset();
  ASSERT_TRUE(poll_until(e.in, [&] { return !e.at_decode->alive().ok(); }));
  EXPECT_TRUE(in.sealed().has_value());
  EXPECT_OK(in.landed().value());
  EXPECT_EQ(r.wrong(), 0u);
}

TEST_P(OnFabric, RepeatsLeakNothing) {
  TwoEnds e;
  auto once = [&](int i) {
    Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::head_major, 16, 12)}, 50);
    if (i % 3) return move_once(r, GetParam());
    Incoming in = r.expect();
    auto t = r.open(in.ticket(), GetParam());
    ASSERT_OK(t);
    ASSERT_OK(t->queue().submit(t->copy(0, 0)));
    in.cancel(Error(BATON_CANCELLED, "test", "-"));
    ASSERT_TRUE(poll_until(e.in, [&] { return in.quiesced(); }));
  };
  auto settle = [&] { poll_until(e.in, [] { return false; }, 20); };
  for (int i = 0; i < 3; ++i) once(i);
  settle();
  const size_t fds = open_fds(), maps = memfd_mappings(), files = shm_files();
  for (int i = 0; i < (kSanitized ? 21 : 102); ++i) once(i);
  settle();
  EXPECT_EQ(open_fds(), fds);
  EXPECT_EQ(memfd_mappings(), maps);
  EXPECT_TRUE(no_more_shm_files(e.in, files)) << shm_files() << " files in /dev/shm, not " << files;
}

TEST_P(OnFabric, ManyRequestsAtOnceOverOneSession) {
  TwoEnds e;
  const KvLayout d = small_layout(KvOrder::token_major, 16, 64), s = small_layout(KvOrder::head_major, 16, 64);
  Buffer landing = must(e.host.alloc(d.bytes())), source = must(e.host.alloc(s.bytes()));
  KvSink sink = must(KvSink::create(e.in, e.decode, landing, d, "m"));
  std::vector<Incoming> in;
  std::vector<KvTransfer> t;
  for (int32_t i = 0; i < 8; ++i) {
    const std::vector<int32_t> blocks{i * 8, i * 8 + 3, i * 8 + 1};
    fill_kv(source, s, blocks, 40, uint32_t(i));
    in.push_back(must(sink.expect(blocks, 40)));
    t.push_back(must(KvTransfer::open(e.in, *e.at_prefill, in.back().ticket(), {{&source, s, blocks}}, 40, {.fabric = GetParam(), .model = "m"}, deadline_in_ms(kSoonMs))));
  }
  for (uint32_t l = 0; l < 4; ++l)
    for (auto& x : t) ASSERT_OK(x.queue().submit(x.copy(0, l)));
  for (int32_t i = 0; i < 8; ++i) {
    ASSERT_OK(in[size_t(i)].landed().wait_until(4, deadline_in_ms(kSoonMs)));
    EXPECT_EQ(wrong_kv(landing, d, {i * 8, i * 8 + 3, i * 8 + 1}, 40, uint32_t(i)), 0u);
  }
}

// A request is sealed as soon as its sender is done; what the sink has not unpacked by then must not be taken for the next one's.
TEST_P(OnFabric, RequestsOneBehindTheOtherKeepWhatIsTheirs) {
  TwoEnds e;
  KvLayout l = small_layout(KvOrder::head_major, 16, 512);
  l.head_dim = 128; // blocks of 4 KiB a head: pieces, where the fabric has them; 8 MiB a request
  Buffer landing = must(e.host.alloc(l.bytes())), source = must(e.host.alloc(l.bytes()));
  KvSink sink = must(KvSink::create(e.in, e.decode, landing, l, "m"));
  std::vector<Incoming> in;
  constexpr int32_t kEach = 64;
  auto blocks_of = [](int32_t i) {
    std::vector<int32_t> b(kEach);
    std::iota(b.rbegin(), b.rend(), i * kEach);
    return b;
  };
  for (int32_t i = 0; i < 8; ++i) {
    fill_kv(source, l, blocks_of(i), kEach * 16, uint32_t(i));
    in.push_back(must(sink.expect(blocks_of(i), kEach * 16)));
    KvTransfer t = must(KvTransfer::open(e.in, *e.at_prefill, in.back().ticket(), {{&source, l, blocks_of(i)}}, kEach * 16, {.fabric = GetParam(), .model = "m"}, deadline_in_ms(kSoonMs)));
    for (uint32_t y = 0; y < 4; ++y) ASSERT_OK(t.queue().submit(t.copy(0, y)));
    ASSERT_OK(t.seal({"x", {}, {}}, deadline_in_ms(kSoonMs)));
  }
  for (int32_t i = 0; i < 8; ++i) {
    SCOPED_TRACE(i);
    ASSERT_OK(in[size_t(i)].landed().wait_until(4, deadline_in_ms(kSoonMs)));
    EXPECT_EQ(wrong_kv(landing, l, blocks_of(i), kEach * 16, uint32_t(i)), 0u) << i;
  }
}

// ---- refusals: the fabric does not matter ----

TEST(KvLink, MismatchesAreRefusedWithTheFirstDifferenceOnBothSides) {
  TwoEnds e;
  const KvLayout good = small_layout(KvOrder::token_major, 16, 12);
  auto attempt = [&](KvLayout src, const std::string& model, uint64_t tokens, const char* expected) {
    Request r(e, good, {src}, 50);
    Incoming in = r.expect();
    r.tokens = tokens;
    auto t = r.open(in.ticket(), "mapped", model);
    ASSERT_FALSE(t.ok()) << expected;
    EXPECT_EQ(t.error().code, BATON_MISMATCH) << t.error().text();
    EXPECT_THAT(t.error().what, HasSubstr(expected));
    const auto s = in.landed().wait_until(1, deadline_in_ms(kSoonMs));
    ASSERT_FALSE(s.ok());
    EXPECT_EQ(s.error().code, BATON_MISMATCH);
    EXPECT_THAT(s.error().what, HasSubstr(expected));
  };
  attempt(good, "model-b", 50, "models differ: prefill has model-b, decode has model-a");
  attempt(good, "model-a", 49, "brings 49 tokens, the ticket is for 50");
  KvLayout l = good;
  l.layers = 5;
  attempt(l, "model-a", 50, "layers: source 5, destination 4");
  l = good, l.head_dim = 8;
  attempt(l, "model-a", 50, "head_dim: source 8, destination 16");
  l = good, l.dtype = program::DType::i32;
  attempt(l, "model-a", 50, "dtype, and there is no conversion: source i32, destination bf16");
  attempt(small_layout(KvOrder::token_major, 16, 12, 1, 1), "model-a", 50, "no source holds head 0");
}

TEST(KvLink, TicketsAreUnknownOnceUsed) {
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 50);
  Incoming in = r.expect();
  EXPECT_EQ(in.ticket().size(), 32u);
  auto bad = r.open(std::string(32, '0'), "mapped");
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.error().code, BATON_PERMISSION) << bad.error().text();
  auto t = r.open(in.ticket(), "mapped");
  ASSERT_OK(t);
  auto twice = r.open(in.ticket(), "mapped");
  ASSERT_FALSE(twice.ok());
  EXPECT_EQ(twice.error().code, BATON_PERMISSION);
  EXPECT_OK(in.landed().value());
}

TEST(KvLink, FabricsThatCannotBeAreRefusedWithTheReason) {
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 50);
  Incoming in = r.expect();
  auto t = r.open(in.ticket(), "carrier-pigeon");
  ASSERT_FALSE(t.ok());
  EXPECT_EQ(t.error().code, BATON_UNSUPPORTED);
  EXPECT_THAT(t.error().what, HasSubstr("no fabric 'carrier-pigeon'"));
  EXPECT_OK(in.landed().value()); // refused before the ticket was shown
  for (const auto& f : list_fabrics()) {
    EXPECT_FALSE(f.reason.empty());
    if (f.available) continue;
    Incoming other = r.expect();
    auto u = r.open(other.ticket(), f.name);
    ASSERT_FALSE(u.ok());
    EXPECT_EQ(u.error().code, BATON_UNSUPPORTED) << u.error().text();
  }
}

TEST(KvLink, ListsFabricsWithReasons) {
  std::map<std::string, FabricInfo> by;
  for (auto& f : list_fabrics()) by[f.name] = f;
  for (const char* f : {"mapped", "shm", "tcp"}) EXPECT_TRUE(by[f].available) << by[f].reason;
  EXPECT_EQ(by.size(), 6u);
}

TEST(KvLink, ExpectChecksBlocks) {
  TwoEnds e;
  const KvLayout l = small_layout(KvOrder::token_major, 16, 4);
  Buffer b = must(e.host.alloc(l.bytes()));
  KvSink sink = must(KvSink::create(e.in, e.decode, b, l, "m"));
  EXPECT_THAT(sink.expect({0}, 17).error().what, HasSubstr("17 tokens need 2 blocks"));
  EXPECT_THAT(sink.expect({0, 4}, 17).error().what, HasSubstr("block 4: the buffer has 0..3"));
  EXPECT_THAT(sink.expect({1, 1}, 17).error().what, HasSubstr("given twice"));
  EXPECT_FALSE(sink.expect({}, 0).ok());
  Buffer little = must(e.host.alloc(l.bytes() - 1));
  EXPECT_EQ(KvSink::create(e.in, e.decode, little, l, "m").error().code, BATON_INVALID_ARGUMENT);
}

TEST(KvLink, TheQueueTakesEachCopyOnceAndNothingElse) {
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 50);
  Incoming in = r.expect();
  auto t = must(r.open(in.ticket(), "mapped"));
  Timeline a = must(e.in.timeline("a")), b = must(e.in.timeline("b")), c = must(e.in.timeline("c"));
  ASSERT_OK(t.queue().submit({Op(t.copy(0, 0)).signal(a, 1), Op(t.copy(0, 0)).signal(b, 1), Op(t.copy(3, 0)).signal(c, 1)}));
  EXPECT_OK(a.wait_until(1, deadline_in_ms(kSoonMs)));
  EXPECT_EQ(b.wait_until(1, deadline_in_ms(kSoonMs)).error().code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(c.wait_until(1, deadline_in_ms(kSoonMs)).error().code, BATON_INVALID_ARGUMENT);
}

TEST(KvLink, SealWithLayersMissingIsADeadline) {
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 50);
  Incoming in = r.expect();
  auto t = must(r.open(in.ticket(), "mapped"));
  ASSERT_OK(t.queue().submit(t.copy(0, 0)));
  const auto s = t.seal({"x", {}, {}}, deadline_in_ms(50));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_DEADLINE);
  EXPECT_THAT(s.error().what, HasSubstr("3 of 4 layers"));
}

TEST(KvLink, LateAndForgedNotesAreDropped) {
  // Two requests over one landing; a note with the generation of the cancelled one must count for neither.
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 50);
  Incoming first = r.expect();
  auto t1 = must(r.open(first.ticket(), "mapped"));
  ASSERT_OK(t1.queue().submit(t1.copy(0, 0)));
  first.cancel(Error(BATON_CANCELLED, "test", "-"));
  Incoming second = r.expect();
  auto t2 = must(r.open(second.ticket(), "mapped"));
  Sender* sender = nullptr;
  for (auto& [key, a] : e.at_prefill->impl().attached)
    if (key.rfind("sender:", 0) == 0) sender = static_cast<Sender*>(a.get());
  ASSERT_NE(sender, nullptr);
  for (uint32_t layer : {0u, 1u, 99u}) {
    Note forged{};
    forged.generation = 12345;
    forged.layer = layer;
    ASSERT_TRUE(sender->notify(forged));
  }
  poll_until(e.in, [] { return false; }, 20);
  EXPECT_EQ(*second.landed().value(), 0u);
}

TEST(KvLink, BlocksOfAStoppedSenderAreRefusedUntilQuiet) {
  // tcp: until the sender has answered the cancel, its writes may be in flight.
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 50);
  Incoming in = r.expect();
  auto t = must(r.open(in.ticket(), "tcp"));
  in.cancel(Error(BATON_CANCELLED, "test", "-"));
  EXPECT_FALSE(in.quiesced());
  auto again = r.sink.expect(r.dst_blocks, 50);
  ASSERT_FALSE(again.ok());
  EXPECT_EQ(again.error().code, BATON_BUSY);
  ASSERT_TRUE(poll_until(e.in, [&] { return in.quiesced(); }));
  EXPECT_OK(r.sink.expect(r.dst_blocks, 50));
}

TEST(KvLink, MalformedRequestsFromAPeerAreAnsweredNotCrashedOn) {
  TwoEnds e;
  Request r(e, small_layout(KvOrder::token_major, 16, 12), {small_layout(KvOrder::token_major, 16, 12)}, 50);
  const nlohmann::json layout = to_json(r.src[0]);
  nlohmann::json whole{{"id", 7}, {"model", "model-a"}, {"tokens", 50}, {"fabrics", {"mapped"}}, {"sources", {layout}}};
  std::vector<nlohmann::json> bodies{nlohmann::json::array(), nullptr, 5, nlohmann::json::object()};
  for (auto& [key, _] : whole.items()) {
    for (nlohmann::json bad : {nlohmann::json(nullptr), nlohmann::json(-1), nlohmann::json("x"), nlohmann::json::array(), nlohmann::json::object(), nlohmann::json(1e300)}) {
      auto b = whole;
      b[key] = bad;
      bodies.push_back(b);
    }
  }
  for (auto& [key, _] : layout.items()) {
    auto b = whole;
    b["sources"][0][key] = 4'000'000'000'000;
    bodies.push_back(b);
    b["sources"][0].erase(key);
    bodies.push_back(b);
  }
  std::vector<Incoming> in;
  for (auto& b : bodies) {
    in.push_back(r.expect());
    if (b.is_object()) b["ticket"] = in.back().ticket();
    ASSERT_OK(send_transport(e.at_prefill->impl(), "kv.open", b));
    for (const char* other : {"kv.seal", "kv.abort", "kv.accept", "kv.cancel", "kv.refuse", "kv.gone", "what"}) ASSERT_OK(send_transport(e.at_prefill->impl(), other, b));
    e.in.poll();
  }
  poll_until(e.in, [] { return false; }, 50);
  EXPECT_OK(e.at_decode->alive());
  in.clear();
  move_once(r, "mapped");
}

TEST(LinkModel, KnowsItsLinks) {
  const LinkModel m = must(link_model(""));
  EXPECT_EQ(m.name, "efa-trn2");
  EXPECT_DOUBLE_EQ(m.cost_ns(0, 0), 0);
  EXPECT_NEAR(m.cost_ns(18'000'000, 10), 15000 + 1'000'000, 1);
  EXPECT_GT(m.cost_ns(1000, 10000), m.cost_ns(1000, 1));
  EXPECT_DOUBLE_EQ(must(link_model("none")).cost_ns(1 << 20, 100), 0);
  const auto bad = link_model("string-and-cans");
  ASSERT_FALSE(bad.ok());
  EXPECT_THAT(bad.error().next, HasSubstr("efa-trn2"));
}

}  // namespace
}  // namespace baton::transport
