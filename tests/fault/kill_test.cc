// A request whose decode worker, prefill worker or wafer daemon is killed ends within 2 s with an error that names the hop and the cause;
// the survivors serve the next request once the dead one is back, and hold no more than before.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>

#include "tests/support/process.h"

using baton::test::Exit;
using baton::test::Process;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kSlow = 5; // deadlines that are not the subject
constexpr int kRepeats = 5;
#else
constexpr int kSlow = 1;
constexpr int kRepeats = 34; // x 3 kinds of death: over 100 kills
#endif

const char* kLeaseMs = "15000"; // a death shows by the end of a stream; a busy machine is no death
const char* kPrompt = "It is a truth universally acknowledged, that a single man";

int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The text after `marker` up to white space: addresses in ready lines.
std::string word_after(const std::string& text, const std::string& marker) {
  size_t at = text.find(marker);
  if (at == std::string::npos) return "";
  return text.substr(at, text.find_first_of(" \n\t,;", at + marker.size()) - at);
}

// A wafer daemon, a decode worker on it, a prefill worker, and requests through both.
class Cluster {
 public:
  Cluster() : key_(dir_.path() + "/key") {
    Process keygen({baton::test::tool("baton"), "keygen", key_});
    EXPECT_EQ(keygen.wait(10000 * kSlow).code, 0) << keygen.err();
    start_daemon("127.0.0.1:0");
    start_decode("127.0.0.1:0");
    start_prefill("127.0.0.1:0");
  }

  void start_daemon(const std::string& listen) {
    // The portable path is the slowest: a request lasts long enough to be killed in its middle.
    daemon_.reset();
    daemon_ = std::make_unique<Process>(
        std::vector<std::string>{baton::test::plugin("baton-emu-cs3"), "--listen", listen, "--isa", "scalar"});
    ASSERT_TRUE(daemon_->wait_out("cs3://", 10000 * kSlow)) << daemon_->err();
    ASSERT_TRUE(daemon_->wait_out("\n", 1000));
    daemon_uri_ = word_after(daemon_->out(), "cs3://");
  }
  void start_decode(const std::string& listen) { start_worker(decode_, decode_address_, "decode", daemon_uri_, listen); }
  void start_prefill(const std::string& listen) {
    start_worker(prefill_, prefill_address_, "prefill", "emu+neuron://0?isa=scalar", listen);
  }
  void restart_daemon() { start_daemon(daemon_uri_.substr(6)); }
  void restart_decode() { start_decode(decode_address_.substr(8)); }
  void restart_prefill() { start_prefill(prefill_address_.substr(8)); }

  Process request(int max_tokens, const std::string& prompt = kPrompt) {
    return Process({baton::test::tool("baton"), "generate", "--prefill", prefill_address_, "--decode", decode_address_, "--key-file", key_, "--lease-ms", kLeaseMs,
                    "--max-tokens", std::to_string(max_tokens), "--ignore-eos", prompt});
  }
  std::string answer(int max_tokens = 8) {
    Process p = request(max_tokens);
    Exit e = p.wait(20000 * kSlow);
    EXPECT_TRUE(e.ended);
    EXPECT_EQ(e.code, 0) << p.err() << workers();
    return p.out();
  }
  // Kills `victim` once the request has begun to answer; returns how it ended.
  void kill_during(Process& victim, const char* what) {
    Process p = request(450);
    ASSERT_TRUE(p.wait_out_bytes(1, 20000 * kSlow)) << what << ": " << p.err() << workers();
    victim.kill(SIGKILL);
    expect_loss(p, what);
  }
  void kill_in_prefill(const char* what) {
    std::string longest;
    for (int i = 0; i < 25; i++) longest += std::string(kPrompt) + " ";
    Process p = request(16, longest);
    ASSERT_TRUE(prefill_->wait_err("prefill", 20000 * kSlow));
    prefill_->kill(SIGKILL);
    expect_loss(p, what);
  }
  void expect_loss(Process& p, const char* what) {
    int64_t killed = now_ms();
    Exit e = p.wait(20000 * kSlow);
    int64_t took = now_ms() - killed;
    ASSERT_TRUE(e.ended) << what << ": the request hangs";
    EXPECT_LE(took, 2000 * kSlow) << what;
    if (e.code == 0) return; // it had finished first
    ++losses_;
    EXPECT_EQ(e.code, 7) << what << ": " << p.err();
    EXPECT_NE(p.err().find("_LOST"), std::string::npos) << what << ": " << p.err();
    EXPECT_NE(p.err().find("next:"), std::string::npos) << what << ": " << p.err();
  }

  baton::test::TempDir dir_;
  std::string key_, daemon_uri_, decode_address_, prefill_address_;
  std::unique_ptr<Process> daemon_, decode_, prefill_;

  int losses_ = 0; // requests that were still under way when their victim died

  std::string workers() { return "\ndecode worker" + state(*decode_) + "\nprefill worker" + state(*prefill_); }

 private:
  static std::string state(Process& p) {
    Exit e = p.wait(100);
    return (e.ended ? " (ended with " + std::to_string(e.code) + ")" : std::string(" (running)")) + ": " + p.err();
  }
  void start_worker(std::unique_ptr<Process>& slot, std::string& address, const char* role, const std::string& device,
                    const std::string& listen) {
    slot.reset();
    slot = std::make_unique<Process>(std::vector<std::string>{baton::test::tool("baton"), "worker", "--role", role, "--device", device,
                                                              "--listen", listen, "--key-file", key_, "--lease-ms", kLeaseMs});
    ASSERT_TRUE(slot->wait_out("baton://", 20000 * kSlow)) << role << ": " << slot->err();
    ASSERT_TRUE(slot->wait_out("\n", 1000));
    address = word_after(slot->out(), "baton://");
  }
};

TEST(Kill, DecodeWorker) {
  Cluster c;
  std::string want = c.answer();
  c.kill_during(*c.decode_, "decode worker");
  c.restart_decode();
  EXPECT_EQ(c.answer(), want);
}

TEST(Kill, WaferDaemon) {
  Cluster c;
  std::string want = c.answer();
  Process p = c.request(450);
  ASSERT_TRUE(p.wait_out_bytes(1, 20000 * kSlow)) << p.err();
  c.daemon_->kill(SIGKILL);
  c.expect_loss(p, "wafer daemon");
  EXPECT_NE(p.err().find("cs3://"), std::string::npos) << "names the wafer: " << p.err();
  c.restart_daemon();
  EXPECT_EQ(c.answer(), want);
}

TEST(Kill, PrefillWorker) {
  Cluster c;
  std::string want = c.answer();
  c.kill_in_prefill("prefill worker");
  c.restart_prefill();
  EXPECT_EQ(c.answer(), want);
}

TEST(Kill, ClientGoneFreesTheWorkers) {
  Cluster c;
  std::string want = c.answer();
  for (int i = 0; i < 5; i++) {
    Process p = c.request(450);
    ASSERT_TRUE(p.wait_out_bytes(1, 20000 * kSlow)) << p.err() << c.workers();
    p.kill(SIGKILL);
    p.wait(5000);
  }
  EXPECT_EQ(c.answer(), want);
}

// What `pid` holds, once it has had time to see that its peers are gone.
baton::test::Holdings settled(pid_t pid, const std::optional<baton::test::Holdings>& before) {
  auto h = baton::test::holdings(pid);
  for (int64_t end = now_ms() + 2000 * kSlow; before && h.fds > before->fds && now_ms() < end; h = baton::test::holdings(pid)) usleep(20000);
  return h;
}

// Over a hundred deaths; what the survivors hold after the first round is what they hold after the last.
TEST(Kill, NothingLeaks) {
  Cluster c;
  std::string want = c.answer();
  int shm = baton::test::dev_shm_entries();
  std::optional<baton::test::Holdings> decode_before, prefill_before;
  for (int i = 0; i < kRepeats; i++) {
    c.kill_during(*c.daemon_, "wafer daemon");
    c.restart_daemon();
    ASSERT_EQ(c.answer(), want) << "round " << i;
    c.kill_in_prefill("prefill worker");
    c.restart_prefill();
    ASSERT_EQ(c.answer(), want) << "round " << i;
    auto d = settled(c.decode_->pid(), decode_before);  // survivor of both
    if (i == 1) decode_before = d;
    if (decode_before) {
      EXPECT_LE(d.fds, decode_before->fds) << "round " << i;
      EXPECT_LE(d.shared_mappings, decode_before->shared_mappings) << "round " << i;
      EXPECT_LE(d.rss_bytes, decode_before->rss_bytes + (48u << 20)) << "round " << i;
    }
  }
  for (int i = 0; i < kRepeats; i++) {
    c.kill_during(*c.decode_, "decode worker");
    c.restart_decode();
    ASSERT_EQ(c.answer(), want) << "round " << i;
    auto p = settled(c.prefill_->pid(), prefill_before);
    if (i == 1) prefill_before = p;
    if (prefill_before) {
      EXPECT_LE(p.fds, prefill_before->fds) << "round " << i;
      EXPECT_LE(p.shared_mappings, prefill_before->shared_mappings) << "round " << i;
      EXPECT_LE(p.rss_bytes, prefill_before->rss_bytes + (48u << 20)) << "round " << i;
    }
  }
  EXPECT_LE(baton::test::dev_shm_entries(), shm);
  EXPECT_GE(c.losses_, 3 * kRepeats * 9 / 10) << "most deaths must meet a request under way";
}

}  // namespace
