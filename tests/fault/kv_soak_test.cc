// Requests without end between two processes, over every fabric, sealed and not, converted to FP8 and not, with checksums, with cancels at any moment and a
// fabric that corrupts, repeats, reorders and cuts: what lands and is sealed is right to the last byte, what does not ends with its cause, and every block is free again.
//
// BATON_SOAK_SECONDS=600 BATON_TEST_SEED=N: longer, or again.
#include "transport_child.hpp"

#include "transport/checksum.hpp"
#include "transport/kv_recode.hpp"

#include <cstdlib>
#include <map>

namespace baton::transport {
namespace {

constexpr const char* kFabrics[] = {"mapped", "shm", "tcp"};
constexpr uint64_t kSoakLeaseMs = 20'000; // nobody dies here: a busy machine may stop either side for a while
constexpr uint32_t kSlots = 4, kBlocks = 32, kTokens = kBlocks * 16 - 5;

uint32_t number(const char* name, uint32_t otherwise) {
  const char* v = getenv(name);
  return v ? uint32_t(std::strtoul(v, nullptr, 10)) : otherwise;
}

struct Live {
  std::optional<Incoming> in;
  std::string fabric;
  bool fp8 = false;
  uint32_t salt = 0;
  uint64_t cancel_ns = 0; // 0: not
};

// A decode side with a prefill process of its own; two pools, one of them of FP8 with scales, into which what comes is converted.
struct Pair {
  const Instance& in;
  Device& host;
  const Key key = random_key();
  Endpoint ep;
  Child child;
  std::unique_ptr<Session> session;
  KvLayout layouts[2];
  Buffer landings[2];
  std::optional<KvSink> sinks[2];
  std::vector<Live> live = std::vector<Live>(kSlots);

  Pair(const Instance& i, Device& d, bool sealed)
      : in(i), host(d), ep(must(Endpoint::open(i, {.listen = "127.0.0.1:0", .key = key, .name = "decode", .lease_ns = kSoakLeaseMs * 1'000'000, .seal_bulk = sealed}))),
        child("source", key, ep.address(), kSoakLeaseMs) {
    EXPECT_TRUE(poll_until(in, [&] { return (session = ep.accept()) != nullptr; }, kSoonMs));
    for (int fp8 = 0; fp8 < 2; ++fp8) {
      KvLayout& l = layouts[fp8];
      l = small_layout(KvOrder::token_major, 16, kBlocks * kSlots);
      l.head_dim = 64;
      if (fp8) l.dtype = program::DType::f8e4m3, l.scales = KvScales::block_head;
      landings[fp8] = must(host.alloc(l.bytes()));
      std::memset(must(landings[fp8].map()), 0xee, landings[fp8].bytes());
      sinks[fp8].emplace(must(KvSink::create(in, ep, landings[fp8], l, "m")));
    }
  }
  static std::vector<int32_t> table(uint32_t slot) {
    std::vector<int32_t> t(kBlocks);
    std::iota(t.begin(), t.end(), int32_t(slot * kBlocks));
    return t;
  }
  // What the process sends for `salt`, converted here.
  bool right(uint32_t slot) {
    const Live& x = live[slot];
    if (!x.fp8) return wrong_kv(landings[0], layouts[0], table(slot), kTokens, x.salt) == 0;
    KvLayout from = small_layout(KvOrder::head_major, 16, kBlocks); // transport_peer's
    from.head_dim = 64;
    Buffer source = must(host.alloc(from.bytes()));
    std::vector<int32_t> blocks(kBlocks);
    std::iota(blocks.rbegin(), blocks.rend(), 0);
    fill_kv(source, from, blocks, kTokens, x.salt);
    const KvPlan plan = must(KvPlan::compile(from, layouts[1]));
    const KvMove move = must(plan.instantiate(blocks, table(slot), 0, kTokens));
    const Recoder how(plan);
    Checksum want, is;
    std::vector<uint8_t> scratch, converted(layouts[1].bytes());
    for (uint32_t l = 0; l < from.layers; ++l) {
      const LayerUnits units{&how, &move, l};
      for (size_t next = 0; next < units.size();) units.step(converted.data(), static_cast<const uint8_t*>(must(source.map())), next, 1 << 20);
      units.add_landed(want, converted.data(), scratch);
      units.add_landed(is, static_cast<const uint8_t*>(must(landings[1].map())), scratch);
    }
    return want.value() == is.value();
  }
};

TEST(KvSoak, NothingWrongIsDecoded) {
  const uint32_t seconds = number("BATON_SOAK_SECONDS", kSanitized ? 6 : 10), seed = number("BATON_TEST_SEED", 1);
  setenv("BATON_FABRIC_FAULTS", ("seed=" + std::to_string(seed) + ",corrupt=20000,repeat=50000,reorder=100000,cut=2000").c_str(), 1);
  Instance in = must(Instance::create());
  Device host = must(in.open("host://"));
  Pair pairs[2] = {{in, host, false}, {in, host, true}}; // the second one seals what goes over tcp
  std::mt19937 rng(seed);
  std::map<std::string, uint32_t> counts;
  uint32_t salt = 0;
  // A slow machine does few requests in that time: it goes on until each kind of end has been met.
  constexpr const char* kKinds[] = {"right", "to FP8", "sealed", "corrupt", "cancelled"};
  const uint64_t begin_ns = now_ns(), end = begin_ns + seconds * 1'000'000'000ull, latest = end + kSoonMs * 1'000'000;
  auto more = [&] {
    const bool met = std::all_of(std::begin(kKinds), std::end(kKinds), [&](const char* some) { return counts[some] > 0; });
    return now_ns() < (met ? end : latest);
  };
  auto begin = [&](Pair& p, uint32_t i) {
    Live& x = p.live[i];
    x.fp8 = rng() % 3 == 0;
    x.in.emplace(must(p.sinks[x.fp8]->expect(Pair::table(i), kTokens), "the blocks of a request that ended are not free"));
    x.fabric = kFabrics[rng() % std::size(kFabrics)];
    x.salt = ++salt;
    x.cancel_ns = rng() % 4 ? 0 : now_ns() + rng() % 30'000'000;
    ASSERT_OK(p.session->send({"go", {{"ticket", x.in->ticket()}, {"tokens", kTokens}, {"salt", x.salt}, {"fabric", x.fabric}, {"head_dim", 64}, {"blocks", kBlocks}, {"checksum", true}}, {}}));
  };
  // True: the slot is free for the next one.
  auto judge = [&](Pair& p, uint32_t i) {
    Live& x = p.live[i];
    SCOPED_TRACE(testing::Message() << "request " << x.salt << " over " << x.fabric << (x.fp8 ? ", to FP8" : "") << (&p == &pairs[1] ? ", sealed" : "") << "; BATON_TEST_SEED=" << seed);
    if (x.cancel_ns && now_ns() > x.cancel_ns) {
      x.in->cancel(Error(BATON_CANCELLED, "the soak changed its mind", "-"));
      x.cancel_ns = 0;
    }
    const auto landed = x.in->landed().value();
    if (landed.ok()) {
      if (!x.in->sealed()) return false;
      EXPECT_EQ(*landed, p.layouts[0].layers);
      EXPECT_TRUE(p.right(i));
      ++counts["right"];
      counts["to FP8"] += x.fp8;
      counts["sealed"] += &p == &pairs[1] && x.fabric == "tcp";
    } else {
      if (!x.in->quiesced()) return false;
      const int32_t code = landed.error().code;
      EXPECT_TRUE(code == BATON_CORRUPT || code == BATON_CANCELLED || code == BATON_PEER_LOST) << landed.error().text();
      ++counts[code == BATON_CORRUPT ? "corrupt" : code == BATON_CANCELLED ? "cancelled" : "cut"];
    }
    x.in.reset();
    return true;
  };
  for (Pair& p : pairs)
    for (uint32_t i = 0; i < kSlots; ++i) begin(p, i);
  uint64_t moved_ns = now_ns();
  auto alive = [&] { return std::all_of(std::begin(pairs), std::end(pairs), [](const Pair& p) { return p.session->alive().ok(); }); };
  while (alive() && !testing::Test::HasFailure()) {
    in.poll_wait(now_ns() + 1'000'000);
    bool left = false;
    for (Pair& p : pairs) {
      while (p.session->receive()) {
      }
      for (uint32_t i = 0; i < kSlots; ++i) {
        if (p.live[i].in && judge(p, i)) moved_ns = now_ns();
        if (!p.live[i].in && more()) begin(p, i);
        left |= p.live[i].in.has_value();
      }
    }
    if (!left) break;
    ASSERT_LT(now_ns() - moved_ns, kSoonMs * 1'000'000) << "nothing ends any more; BATON_TEST_SEED=" << seed;
  }
  for (Pair& p : pairs) EXPECT_OK(p.session->alive());
  printf("soak of %.1f s, seed %u: %u right (%u to FP8, %u sealed), %u cancelled, %u corrupt and refused, %u cut\n", double(now_ns() - begin_ns) / 1e9, seed, counts["right"], counts["to FP8"], counts["sealed"],
         counts["cancelled"], counts["corrupt"], counts["cut"]);
  for (const char* some : kKinds) EXPECT_GT(counts[some], 0u) << some << ": it does not come through";
}

}  // namespace
}  // namespace baton::transport
