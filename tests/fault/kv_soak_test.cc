// Requests without end between two processes, over every fabric, with cancels at any moment and a fabric that corrupts, repeats, reorders and cuts:
// what lands and is sealed is right to the last byte, what does not ends with its cause, and every block is free again.
//
// BATON_SOAK_SECONDS=600 BATON_TEST_SEED=N: longer, or again.
#include "transport_child.hpp"

#include <cstdlib>
#include <map>

namespace baton::transport {
namespace {

constexpr const char* kFabrics[] = {"mapped", "shm", "tcp"};
constexpr uint32_t kSlots = 6, kBlocks = 32, kTokens = kBlocks * 16 - 5;

uint32_t number(const char* name, uint32_t otherwise) {
  const char* v = getenv(name);
  return v ? uint32_t(std::strtoul(v, nullptr, 10)) : otherwise;
}

struct Live {
  std::optional<Incoming> in;
  std::string fabric;
  uint32_t salt = 0;
  uint64_t cancel_ns = 0; // 0: not
};

TEST(KvSoak, NothingWrongIsDecoded) {
  const uint32_t seconds = number("BATON_SOAK_SECONDS", kSanitized ? 6 : 10), seed = number("BATON_TEST_SEED", 1);
  setenv("BATON_FABRIC_FAULTS", ("seed=" + std::to_string(seed) + ",corrupt=20000,repeat=50000,reorder=100000,cut=2000").c_str(), 1);
  Instance in = must(Instance::create());
  Device host = must(in.open("host://"));
  const Key key = random_key();
  Endpoint ep = must(Endpoint::open(in, {.listen = "127.0.0.1:0", .key = key, .name = "decode", .lease_ns = kLeaseMs * 5'000'000}));
  Child child("source", key, ep.address());
  std::unique_ptr<Session> s;
  ASSERT_TRUE(poll_until(in, [&] { return (s = ep.accept()) != nullptr; }, kSoonMs));
  KvLayout layout = small_layout(KvOrder::token_major, 16, kBlocks * kSlots);
  layout.head_dim = 64;
  Buffer landing = must(host.alloc(layout.bytes()));
  std::memset(must(landing.map()), 0xee, landing.bytes());
  KvSink sink = must(KvSink::create(in, ep, landing, layout, "m"));
  auto table = [](uint32_t slot) {
    std::vector<int32_t> t(kBlocks);
    std::iota(t.begin(), t.end(), int32_t(slot * kBlocks));
    return t;
  };
  std::mt19937 rng(seed);
  std::vector<Live> live(kSlots);
  std::map<std::string, uint32_t> counts;
  uint32_t salt = 0;
  const uint64_t end = now_ns() + seconds * 1'000'000'000ull;
  auto begin = [&](uint32_t i) {
    Live& x = live[i];
    x.in.emplace(must(sink.expect(table(i), kTokens), "the blocks of a request that ended are not free"));
    x.fabric = kFabrics[rng() % std::size(kFabrics)];
    x.salt = ++salt;
    x.cancel_ns = rng() % 4 ? 0 : now_ns() + rng() % 30'000'000;
    ASSERT_OK(s->send({"go", {{"ticket", x.in->ticket()}, {"tokens", kTokens}, {"salt", x.salt}, {"fabric", x.fabric}, {"head_dim", 64}, {"blocks", kBlocks}, {"checksum", true}}, {}}));
  };
  // True: the slot is free for the next one.
  auto judge = [&](uint32_t i) {
    Live& x = live[i];
    SCOPED_TRACE(testing::Message() << "request " << x.salt << " over " << x.fabric << "; BATON_TEST_SEED=" << seed);
    if (x.cancel_ns && now_ns() > x.cancel_ns) {
      x.in->cancel(Error(BATON_CANCELLED, "the soak changed its mind", "-"));
      x.cancel_ns = 0;
    }
    const auto landed = x.in->landed().value();
    if (landed.ok()) {
      if (!x.in->sealed()) return false;
      EXPECT_EQ(*landed, layout.layers);
      EXPECT_EQ(wrong_kv(landing, layout, table(i), kTokens, x.salt), 0u);
      ++counts["right"];
    } else {
      if (!x.in->quiesced()) return false;
      const int32_t code = landed.error().code;
      EXPECT_TRUE(code == BATON_CORRUPT || code == BATON_CANCELLED || code == BATON_PEER_LOST) << landed.error().text();
      ++counts[code == BATON_CORRUPT ? "corrupt" : code == BATON_CANCELLED ? "cancelled" : "cut"];
    }
    x.in.reset();
    return true;
  };
  for (uint32_t i = 0; i < kSlots; ++i) begin(i);
  uint64_t moved_ns = now_ns();
  while (s->alive().ok() && !testing::Test::HasFailure()) {
    in.poll_wait(now_ns() + 1'000'000);
    while (s->receive()) {
    }
    bool left = false;
    for (uint32_t i = 0; i < kSlots; ++i) {
      if (live[i].in && judge(i)) moved_ns = now_ns();
      if (!live[i].in && now_ns() < end) begin(i);
      left |= live[i].in.has_value();
    }
    if (!left) break;
    ASSERT_LT(now_ns() - moved_ns, kSoonMs * 1'000'000) << "nothing ends any more; BATON_TEST_SEED=" << seed;
  }
  EXPECT_OK(s->alive());
  printf("soak of %u s, seed %u: %u right, %u cancelled, %u corrupt and refused, %u cut\n", seconds, seed, counts["right"], counts["cancelled"], counts["corrupt"], counts["cut"]);
  EXPECT_GT(counts["right"], 0u);
  EXPECT_GT(counts["corrupt"], 0u) << "the faults do not come through";
  EXPECT_GT(counts["cancelled"], 0u);
}

}  // namespace
}  // namespace baton::transport
