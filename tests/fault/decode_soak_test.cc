// Ten thousand tokens of decode over two daemons, one of them killed and started again at seeded points: no wrong token, every loss is named,
// a device that is opened again goes on, and nothing is left behind.
#include "tests/pair/decode_batch.hpp"
#include "tests/support/process.h"

#include <random>

namespace baton::runtime {
namespace {

using test::Process;

constexpr size_t kTokens = kSanitized ? 1'000 : 10'000;
constexpr uint64_t kPatience = kSanitized ? 240'000 : 60'000; // ms

class Daemon {
 public:
  Daemon() { start("127.0.0.1:0"); }
  void restart() { start(address_); }
  void kill() {
    process_->kill(SIGKILL);
    process_->wait(10'000);
  }
  const std::string& address() const { return address_; }
  pid_t pid() const { return process_->pid(); }

 private:
  void start(const std::string& listen) {
    process_.reset();
    process_ = std::make_unique<Process>(std::vector<std::string>{test::plugin("baton-emu-cs3"), "--listen", listen, "--sram-gb", "1"});
    ASSERT_TRUE(process_->wait_out("\n", int(kPatience))) << process_->err();
    const size_t at = process_->out().find("cs3://");
    ASSERT_NE(at, std::string::npos);
    address_ = process_->out().substr(at + 6, process_->out().find('\n', at) - at - 6);
  }
  std::unique_ptr<Process> process_;
  std::string address_;
};

TEST(DecodeSoak, DaemonsKilledAtSeededPointsMakeNoWrongToken) {
  std::vector<Sequence> batch;
  for (uint64_t i = 0; i < 3; ++i) batch.push_back({int32_t(40 + i), 100, {.temperature = 1.0, .seed = i}, false, false});
  const size_t whole = 3 * 100;
  const std::vector<Decoded> want = on_host(batch);
  ASSERT_EQ(want.size(), batch.size());

  Daemon a, b;
  const std::string uri = "cs3://" + a.address() + "," + b.address();
  World w;
  std::mt19937 seeded(20261126);
  const auto open = [&] { return DecodeEngine::open(*w.shelf, *w.log, uri, demo(), {.blocks = 64, .stages = 2}, nullptr); };
  auto e = open();
  ASSERT_TRUE(e.ok()) << e.error().text();

  size_t right = 0, kills = 0, losses = 0;
  std::optional<test::Holdings> before;
  const int shm = test::dev_shm_entries();
  while (right < kTokens) {
    // Two rounds of three meet a death, somewhere between the first token and the last.
    const bool deadly = seeded() % 3 != 0;
    const size_t at = seeded() % (whole - 1);
    Daemon& victim = seeded() % 2 ? a : b;
    bool dead = false;
    std::vector<Decoded> partly;
    auto got = decode_batch(w, **e, batch, deadline_in_ms(kPatience), [&](size_t tokens) {
      if (!deadly || dead || tokens < at) return;
      victim.kill();
      dead = true;
    }, &partly);
    const std::vector<Decoded>& made = got.ok() ? *got : partly;
    ASSERT_EQ(made.size(), batch.size());
    for (size_t i = 0; i < batch.size(); ++i) {
      if (got.ok()) { ASSERT_EQ(made[i].tokens.size(), want[i].tokens.size()); }
      for (size_t t = 0; t < made[i].tokens.size(); ++t, ++right)
        ASSERT_EQ(made[i].tokens[t].id, want[i].tokens[t].id) << "after " << right << " tokens, " << kills << " deaths";
    }
    if (!got.ok()) {
      ++losses;
      ASSERT_TRUE(dead) << got.error().text();
      EXPECT_TRUE(got.error().code == BATON_DEVICE_LOST || got.error().code == BATON_PEER_LOST) << got.error().text();
      EXPECT_NE(std::string(got.error().what).find(victim.address()), std::string::npos) << "names the daemon: " << got.error().text();
      EXPECT_NE(got.error().next[0], 0) << got.error().text();
    }
    if (!dead) continue;
    ++kills;
    e->reset();
    w.shelf->drop(uri);
    victim.restart();
    e = open();
    ASSERT_TRUE(e.ok()) << "after death " << kills << ": " << e.error().text();
    const test::Holdings h = test::holdings(getpid());
    if (kills == 3) before = h;
    if (!before) continue;
    EXPECT_LE(h.fds, before->fds) << "death " << kills;
    EXPECT_LE(h.shared_mappings, before->shared_mappings) << "death " << kills;
  }
  RecordProperty("deaths", int(kills));
  EXPECT_GE(kills, kTokens / whole / 2) << "deaths are what this is about";
  EXPECT_GE(losses, kills / 2) << "most must meet decode under way";
  EXPECT_LE(test::dev_shm_entries(), shm);
}

}  // namespace
}  // namespace baton::runtime
