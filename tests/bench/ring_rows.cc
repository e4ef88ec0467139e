// The wafer link's rings between two processes: an entry there and its completion back, both sides polling, and both asleep on their bells.
#include "drivers/cs3/link/ring.h"
#include "drivers/cs3/link/segment.h"
#include "tests/bench/groups.h"

#include <fmt/format.h>

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <optional>

namespace baton::bench {
namespace {

using namespace cs3;

constexpr uint64_t kPatienceNs = 20'000'000'000;

// One side's way to wait: spin, or sleep on the bell as the daemon and the driver do (arm, look again, poll).
template <class Ring, class Entry>
Pop wait_for(Ring& rx, Entry& e, int bell, bool asleep, uint64_t& slept) {
  for (const uint64_t end = now_ns() + kPatienceNs;;) {
    const Pop p = rx.pop(e);
    if (p != Pop::none) return p;
    if (!asleep) {
      __builtin_ia32_pause();
    } else {
      drain(bell);
      if (!rx.arm()) continue;
      pollfd fd{bell, POLLIN, 0};
      slept += ::poll(&fd, 1, 1000) == 1;
      rx.disarm();
    }
    if (now_ns() > end) return Pop::none;
  }
}

class Echo {
 public:
  static Result<std::unique_ptr<Echo>> start(bool asleep) {
    BATON_ASSIGN(Segment segment, Segment::create());
    Fd there(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), back(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!there || !back) return io_error("eventfd", errno);
    std::unique_ptr<Echo> e(new Echo(std::move(segment), std::move(there), std::move(back), asleep));
    e->pid_ = ::fork();
    if (e->pid_ < 0) return io_error("fork", errno);
    if (e->pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      e->answer();
      ::_exit(0);
    }
    return e;
  }
  ~Echo() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  // us of a round trip: the median of `rounds`. Negative: the other process is gone, or hardly ever were both asleep.
  double once(uint32_t rounds) {
    std::optional<Pin> pin;
    if (!asleep_) pin.emplace(0);
    std::vector<double> us;
    uint64_t slept = 0, near_before = 0, far_before = 0;
    for (uint32_t i = 0; i < rounds; ++i) {
      Submission s{};
      s.id = ++id_;
      s.op = uint16_t(cs3::Op::nop);
      const uint64_t start = now_ns();
      if (!tx_.push(s)) return -1;
      if (tx_.bell()) ring(there_.get());
      Completion c{};
      if (wait_for(rx_, c, back_.get(), asleep_, slept) != Pop::got || c.id != s.id) return -1;
      const double took = double(now_ns() - start) / 1e3;
      // Asleep: only rounds in which a bell woke both sides count.
      const uint64_t far = far_slept().load();
      if (!asleep_ || (slept > near_before && far > far_before)) us.push_back(took);
      near_before = slept, far_before = far;
    }
    if (us.size() < rounds / 10) return -1;
    return summarize(std::move(us)).median;
  }

 private:
  Echo(Segment segment, Fd there, Fd back, bool asleep) : segment_(std::move(segment)), there_(std::move(there)), back_(std::move(back)), asleep_(asleep) {}
  std::atomic<uint64_t>& far_slept() { return *reinterpret_cast<std::atomic<uint64_t>*>(page_.data()); }
  void answer() {
    std::optional<Pin> pin;
    if (!asleep_) pin.emplace(1);
    uint64_t slept = 0;
    SegmentLayout& l = segment_.layout();
    Consumer<Submission, kSqEntries> rx(&l.sq, l.submissions);
    Producer<Completion, kCqEntries> tx(&l.cq, l.completions);
    for (Submission s; wait_for(rx, s, there_.get(), asleep_, slept) == Pop::got && !check(s);) {
      Completion c{};
      c.id = s.id;
      c.kind = uint8_t(Kind::done);
      far_slept().store(slept);
      if (!tx.push(c)) return;
      if (tx.bell()) ring(back_.get());
    }
  }

  Area page_{4096, true};
  Segment segment_;
  Fd there_, back_;
  bool asleep_;
  pid_t pid_ = -1;
  uint64_t id_ = 0;
  Producer<Submission, kSqEntries> tx_{&segment_.layout().sq, segment_.layout().submissions};
  Consumer<Completion, kCqEntries> rx_{&segment_.layout().cq, segment_.layout().completions};
};

// The other process lives for one measurement: one that spins may not outlast it.
double round_trip_us(bool asleep, uint32_t rounds) {
  auto echo = Echo::start(asleep);
  return echo ? (*echo)->once(rounds) : -1;
}

}  // namespace

Status ring_rows(const Settings& s, Report& report) {
  progress("ring: an entry of the wafer link there and back, two processes");
  ShmPingPong lines;
  if (lines.once(200) == 0) return Error(BATON_UNSUPPORTED, "two processes that poll need two cores", "allow this process a second core");
  auto p = interleave(s.repeats(15), [&] { return round_trip_us(false, 2000); }, [&] { return lines.once(5000) / 1e3; });
  EventfdPingPong threads;
  auto z = interleave(s.repeats(15), [&] { return round_trip_us(true, 500); }, [&] { return threads.once(200) / 1e3; });
  if (p.figure.min < 0 || z.figure.min < 0) return Error(BATON_FAILED, "an entry of the ring did not come back", "run on a less busy machine");
  report.add({.group = "ring", .figure = "entry and completion, both poll", .unit = "us", .value = p.figure, .yardstick = "two cache lines, two processes", .against = p.yardstick,
              .ratio = p.ratio.median, .aim_on = AimOn::value_below, .aim = 5, .note = "checked and copied as the daemon does; medians of 2000 round trips each"});
  report.add({.group = "ring", .figure = "entry and completion, both asleep", .unit = "us", .value = z.figure, .yardstick = "eventfd, two threads", .against = z.yardstick,
              .ratio = z.ratio.median, .aim_on = AimOn::value_below, .aim = 25, .note = "each side sleeps in poll() on its bell, where the scheduler puts it; medians of 500 round trips each"});
  return {};
}

}  // namespace baton::bench
