// A point signalled in one process and waited on in another: how long until the waiter runs, and until it learns that the other was killed.
#include "tests/bench/groups.h"
#include "transport/remote_timeline.hpp"

#include <fmt/format.h>

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>

namespace baton::bench {
namespace {

using namespace transport;

constexpr uint64_t kPatienceMs = 20'000;

// What the waiter says: when it woke, of which value. CLOCK_MONOTONIC is one clock for both processes.
struct Page {
  std::atomic<uint64_t> woke_ns, value;
};

// The other process: imports "made" and waits for one value after the other.
Status wait_there(const std::string& address, const Key& key, Page& page) {
  BATON_ASSIGN(Instance in, Instance::create());
  BATON_ASSIGN(Endpoint ep, Endpoint::open(in, {"", key, "waiter"}));
  BATON_ASSIGN(auto s, ep.connect(address, deadline_in_ms(kPatienceMs)));
  BATON_ASSIGN(Timeline alive, in.timeline("alive"));
  BATON_ASSIGN(auto exported, ExportedTimeline::open(in, ep, alive, "alive"));
  BATON_ASSIGN(auto made, RemoteTimeline::import(in, *s, "made", deadline_in_ms(kPatienceMs)));
  for (uint64_t v = 1;; ++v) {
    BATON_TRY(made.timeline().wait_until(v));
    page.woke_ns.store(now_ns(), std::memory_order_relaxed);
    page.value.store(v, std::memory_order_release);
  }
}

class Far {
 public:
  static Result<std::unique_ptr<Far>> open() {
    std::unique_ptr<Far> f(new Far);
    new (f->area_.data()) Page{};
    int way[2]; // the child learns the address through it; it is forked before this process has endpoints
    if (pipe(way)) return Error(BATON_IO, fmt::format("pipe: {}", strerror(errno)));
    const Key key = random_key();
    f->pid_ = fork();
    if (f->pid_ < 0) return Error(BATON_IO, fmt::format("fork: {}", strerror(errno)));
    if (f->pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close(way[1]);
      char address[64] = {};
      if (read(way[0], address, sizeof address - 1) > 0) (void)wait_there(address, key, f->page());
      _exit(0);
    }
    close(way[0]);
    Status s = f->connect(way[1], key);
    close(way[1]);
    if (!s.ok()) return s.error();
    return f;
  }
  ~Far() { kill(); }

  // us from signalling here to running there; `nap_us` before: the waiter spins for 30 us, then sleeps.
  double once(uint32_t rounds, uint32_t nap_us) {
    std::vector<double> us;
    for (uint32_t i = 0; i < rounds; ++i) {
      if (nap_us) usleep(nap_us);
      const uint64_t start = now_ns();
      made_.signal(++value_);
      while (page().value.load(std::memory_order_acquire) < value_) {
        in_.poll();
        if (now_ns() - start > kPatienceMs * 1'000'000) return -1;
      }
      us.push_back(double(page().woke_ns.load(std::memory_order_relaxed) - start) / 1e3);
    }
    return summarize(std::move(us)).median;
  }
  // ms from the kill to the poison, asleep and with nothing in flight.
  Result<double> killed_ms() {
    BATON_ASSIGN(auto alive, RemoteTimeline::import(in_, *session_, "alive", deadline_in_ms(kPatienceMs)));
    usleep(1000);
    const uint64_t start = now_ns();
    ::kill(pid_, SIGKILL);
    Status s = alive.timeline().wait_until(1, deadline_in_ms(kPatienceMs));
    const double ms = double(now_ns() - start) / 1e6;
    if (s.ok() || s.error().code != BATON_PEER_LOST) return Error(BATON_FAILED, "a killed peer was not lost", "report this");
    return ms;
  }

 private:
  Far() = default;
  Page& page() { return *reinterpret_cast<Page*>(area_.data()); }
  Status connect(int way, const Key& key) {
    BATON_ASSIGN(in_, Instance::create());
    BATON_ASSIGN(Endpoint ep, Endpoint::open(in_, {"127.0.0.1:0", key, "signaller"}));
    endpoint_.emplace(std::move(ep));
    BATON_ASSIGN(made_, in_.timeline("made"));
    BATON_ASSIGN(auto x, ExportedTimeline::open(in_, *endpoint_, made_, "made"));
    exported_.emplace(std::move(x));
    if (write(way, endpoint_->address().data(), endpoint_->address().size()) < 0) return Error(BATON_IO, "the other process is gone");
    for (const uint64_t until = deadline_in_ms(kPatienceMs); !session_ || !exported_->importers();) {
      if (now_ns() > until) return Error(BATON_DEADLINE, "the other process did not import the timeline", "run on a less busy machine");
      in_.poll_wait(now_ns() + 1'000'000);
      if (!session_) session_ = endpoint_->accept();
    }
    return {};
  }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    waitpid(std::exchange(pid_, -1), nullptr, 0);
  }

  Area area_{4096, true};
  pid_t pid_ = -1;
  uint64_t value_ = 0;
  Instance in_;
  Timeline made_;
  std::optional<Endpoint> endpoint_;
  std::optional<ExportedTimeline> exported_;
  std::unique_ptr<Session> session_;
};

}  // namespace

Status remote_rows(const Settings& s, Report& report) {
  progress("remote: a point signalled here, waited on in another process");
  BATON_ASSIGN(auto far, Far::open());
  ShmPingPong memory;
  EventfdPingPong threads;
  far->once(100, 0);
  auto polled = interleave(s.repeats(15), [&] { return far->once(1000, 0); }, [&] { return memory.once(5000) / 2e3; });
  auto asleep = interleave(s.repeats(15), [&] { return far->once(100, 300); }, [&] { return threads.once(500) / 2e3; });
  if (polled.figure.min < 0 || asleep.figure.min < 0) return Error(BATON_DEADLINE, "the waiter did not wake", "run on a less busy machine");
  report.add({.group = "remote", .figure = "signal to remote wake, both poll", .unit = "us", .value = polled.figure, .yardstick = "shared memory, two processes, one way",
              .against = polled.yardstick, .ratio = polled.ratio.median});
  report.add({.group = "remote", .figure = "signal to remote wake, asleep", .unit = "us", .value = asleep.figure, .yardstick = "eventfd, one way", .against = asleep.yardstick,
              .ratio = asleep.ratio.median});
  std::vector<double> ms;
  for (uint32_t i = 0, n = s.repeats(7); i < n; ++i) {
    BATON_ASSIGN(auto victim, Far::open());
    BATON_ASSIGN(double took, victim->killed_ms());
    ms.push_back(took);
  }
  report.add({.group = "remote", .figure = "kill -9 of the owner to PEER_LOST", .unit = "ms", .value = summarize(std::move(ms)), .aim_on = AimOn::value_below, .aim = 50});
  return {};
}

}  // namespace baton::bench
