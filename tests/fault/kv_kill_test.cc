// kill -9 of either side of a KV hand-over at seeded points, under load: no wrong byte is decoded, the survivor hears of it within the lease,
// every block is free again, and after all of it this process holds no more than before.
//
// BATON_TEST_SEED=N repeats a run; BATON_TEST_KILLS=N makes it longer.
#include "transport_child.hpp"

#include <pthread.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <thread>

namespace baton::transport {
namespace {

constexpr uint32_t kBlocks = 64, kTokens = kBlocks * 16 - 3, kHeadDim = 128, kRequests = 6; // 1 MiB a layer, 4 layers

uint32_t number(const char* name, uint32_t otherwise) {
  const char* v = getenv(name);
  return v ? uint32_t(std::strtoul(v, nullptr, 10)) : otherwise;
}

std::vector<int32_t> all_blocks() {
  std::vector<int32_t> b(kBlocks);
  std::iota(b.begin(), b.end(), 0);
  return b;
}

// A core that somebody else uses. If the test stands still it says at which kill, and has the test's thread abort, whose stack a sanitizer then prints.
class Burner {
 public:
  ~Burner() {
    stop_ = true;
    thread_.join();
  }
  void at(uint32_t kill) { at_ = kill; }

 private:
  void burn() {
    uint32_t seen = 0;
    uint64_t since = now_ns();
    for (volatile uint64_t x = 0; !stop_;) {
      x = x + 1;
      if (x % (1 << 20)) continue;
      if (const uint32_t now = at_; now != seen) {
        seen = now;
        since = now_ns();
      } else if (now_ns() - since > 2 * kSoonMs * 1'000'000) {
        fprintf(stderr, "kill %u stands still for %llu s\n", seen, static_cast<unsigned long long>(2 * kSoonMs / 1000));
        pthread_kill(test_, SIGABRT);
        return;
      }
    }
  }
  std::atomic<bool> stop_{false};
  std::atomic<uint32_t> at_{0};
  const pthread_t test_ = pthread_self();
  std::thread thread_{[this] { burn(); }};
};

class KvKill : public testing::Test {
 protected:
  Instance in = must(Instance::create());
  Device host = must(in.open("host://"));
  Key key = random_key();
  Endpoint ep = must(Endpoint::open(in, {.listen = "127.0.0.1:0", .key = key, .name = "survivor", .lease_ns = kLeaseMs * 1'000'000}));
  std::mt19937 rng;
  uint32_t completed = 0, cut = 0;

  // The decode side lives here: the source is killed `after_us` into its requests; of a first one, not before a request is through.
  void kill_the_source(const std::string& fabric, uint32_t after_us, uint32_t salt, bool first) {
    Child child("source", key, ep.address());
    std::unique_ptr<Session> s;
    ASSERT_TRUE(poll_until(in, [&] { return (s = ep.accept()) != nullptr; }, kSoonMs));
    KvLayout layout = small_layout(KvOrder::token_major, 16, kBlocks * kRequests);
    layout.head_dim = kHeadDim;
    Buffer landing = must(host.alloc(layout.bytes()));
    KvSink sink = must(KvSink::create(in, ep, landing, layout, "m"));
    std::vector<Incoming> requests;
    std::vector<std::vector<int32_t>> tables;
    for (uint32_t i = 0; i < kRequests; ++i) {
      auto& t = tables.emplace_back(all_blocks());
      for (int32_t& b : t) b += int32_t(i * kBlocks);
      requests.push_back(must(sink.expect(t, kTokens)));
      ASSERT_OK(s->send({"go", {{"ticket", requests.back().ticket()}, {"tokens", kTokens}, {"salt", salt + i}, {"fabric", fabric}, {"head_dim", kHeadDim}, {"blocks", kBlocks}}, {}}));
    }
    const uint64_t end = now_ns() + after_us * 1000ull;
    while (now_ns() < end) in.poll();
    if (first) {
      ASSERT_TRUE(poll_until(in, [&] { return requests[0].sealed().has_value(); }, kSoonMs));
    }
    child.kill(SIGKILL);
    const uint64_t killed = now_ns();
    ASSERT_TRUE(poll_until(in, [&] { return !s->alive().ok(); }, kSoonMs)) << "the survivor was not told";
    EXPECT_LT(now_ns() - killed, kLeaseMs * 1'000'000);
    for (uint32_t i = 0; i < kRequests; ++i) {
      const auto landed = requests[i].landed().value();
      if (landed.ok() && *landed == layout.layers && requests[i].sealed()) {
        ++completed;
        EXPECT_EQ(wrong_kv(landing, layout, tables[i], kTokens, salt + i), 0u) << "request " << i;
      } else if (!landed.ok()) {
        ++cut;
        EXPECT_EQ(landed.error().code, BATON_PEER_LOST) << landed.error().text();
      } else { // its turn had not come: the ticket still waits for whoever brings it
        requests[i].cancel(Error(BATON_CANCELLED, "the source died", "-"));
      }
    }
    const bool quiet = poll_until(in, [&] { return std::all_of(requests.begin(), requests.end(), [](Incoming& r) { return r.quiesced(); }); }, kLeaseMs);
    EXPECT_TRUE(quiet) << "blocks are not free within the lease";
    for (const auto& t : tables) EXPECT_OK(sink.expect(t, kTokens));
    EXPECT_LT(now_ns() - killed, 2 * kLeaseMs * 1'000'000) << "judging included";
  }

  // The prefill side lives here.
  void kill_the_sink(const std::string& fabric, uint32_t after_us, uint32_t salt, bool first) {
    Child child("sink", key, "-");
    std::unique_ptr<Session> s = must(ep.connect(child.line(), deadline_in_ms(kSoonMs)), "connect");
    KvLayout mine = small_layout(KvOrder::token_major, 16, kBlocks);
    mine.head_dim = kHeadDim;
    Buffer memory = must(host.alloc(mine.bytes()));
    fill_kv(memory, mine, all_blocks(), kTokens, salt);
    const uint64_t end = now_ns() + after_us * 1000ull;
    bool killed = false;
    uint64_t killed_ns = 0;
    auto strike = [&] {
      if (killed || first || now_ns() < end) return;
      child.kill(SIGKILL);
      killed = true;
      killed_ns = now_ns();
    };
    while (s->alive().ok()) {
      ASSERT_OK(s->send({"expect", {{"tokens", kTokens}, {"salt", salt}, {"head_dim", kHeadDim}, {"blocks", kBlocks}}, {}}));
      std::optional<Message> m;
      while (!(m = s->receive()) && s->alive().ok()) in.poll(), strike();
      if (!m) break;
      ASSERT_EQ(m->type, "ticket");
      auto t = KvTransfer::open(in, *s, m->body["ticket"], {{&memory, mine, all_blocks()}}, kTokens, {.fabric = fabric, .model = "m"}, deadline_in_ms(kSoonMs));
      strike();
      if (!t.ok()) {
        EXPECT_EQ(t.error().code, BATON_PEER_LOST) << t.error().text();
        break;
      }
      Timeline sent = must(in.timeline("sent"));
      for (uint32_t y = 0; y < mine.layers; ++y) ASSERT_OK(t->queue().submit(t->copy(0, y).signal(sent, y + 1)));
      auto v = sent.value();
      while ((v = sent.value()).ok() && *v < mine.layers) in.poll(), strike();
      if (!v.ok()) {
        ++cut;
        EXPECT_EQ(v.error().code, BATON_PEER_LOST) << v.error().text();
        break;
      }
      if (!t->seal({"first", {{"token", 7}}, {}}, deadline_in_ms(kSoonMs)).ok()) break;
      std::optional<Message> r;
      while (!(r = s->receive()) && s->alive().ok()) in.poll(), strike();
      if (!r) break;
      ASSERT_EQ(r->type, "result");
      EXPECT_EQ(r->body["wrong"], 0);
      ++completed;
      first = false;
    }
    ASSERT_TRUE(killed) << "the session was lost before anybody was killed";
    EXPECT_TRUE(poll_until(in, [&] { return !s->alive().ok(); }, kSoonMs));
    EXPECT_LT(now_ns() - killed_ns, kLeaseMs * 1'000'000);
    // The memory is this side's again at once: nobody else has it.
    fill_kv(memory, mine, all_blocks(), kTokens, salt + 1);
    EXPECT_EQ(wrong_kv(memory, mine, all_blocks(), kTokens, salt + 1), 0u);
  }
};

TEST_F(KvKill, EitherSideAtSeededPointsUnderLoad) {
  const uint32_t seed = number("BATON_TEST_SEED", 1), kills = number("BATON_TEST_KILLS", kSanitized ? 24 : 200);
  rng.seed(seed);
  const auto fabrics = fabrics_under_test({"mapped", "shm", "tcp"});
  size_t fds = 0, maps = 0, files = 0;
  std::string before;
  {
    Burner burner;
    for (uint32_t i = 0; i < kills; ++i) {
      burner.at(i);
      const std::string fabric = fabrics[i / 2 % fabrics.size()];
      const uint32_t after_us = rng() % (i % 2 ? 80'000 : 150'000) * (kSanitized ? 4 : 1);
      SCOPED_TRACE(testing::Message() << "kill " << i << " of the " << (i % 2 ? "sink" : "source") << " over " << fabric << " after " << after_us << " us; BATON_TEST_SEED=" << seed);
      const auto firsts = uint32_t(2 * fabrics.size()); // each fabric has its domain after these
      if (i % 2) kill_the_sink(fabric, after_us, i * 16 + 1, i < firsts);
      else kill_the_source(fabric, after_us, i * 16 + 1, i < firsts);
      if (HasFailure()) return;
      if (i == firsts - 1) {
        poll_until(in, [] { return false; }, 50);
        fds = open_fds(), before = fds_text(), maps = memfd_mappings(), files = shm_files();
      }
    }
  }
  printf("seed %u: %u kills, %u requests were through and right, %u were cut\n", seed, kills, completed, cut);
  EXPECT_GT(cut, kills / 10) << "the kills come too early or too late to be of use";
  EXPECT_GT(completed, 0u);
  EXPECT_TRUE(poll_until(in, [&] { return open_fds() <= fds; }, kSoonMs)) << "before:" << before << "\nnow:" << fds_text();
  EXPECT_LE(memfd_mappings(), maps);
  EXPECT_TRUE(no_more_shm_files(in, files)) << shm_files() << " files in /dev/shm, " << files << " before";
}

}  // namespace
}  // namespace baton::transport
