// bench launch: from submit to signal of a program that does next to nothing (y = 2x of 16 numbers): waited for by polling, asleep, and several in flight,
// each beside what it cannot be below in the same round: a HOST op on the same queue, or an eventfd to a sleeping thread and back.
#include "hal/program/program.hpp"
#include "tools/devctl/bench.h"
#include "tools/devctl/progress.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <thread>

namespace baton::devctl {
namespace {

constexpr int64_t kWidth = 16;
constexpr uint64_t kRow = kWidth * sizeof(float);
using Row = std::array<float, kWidth>;

Result<std::vector<uint8_t>> doubling() {
  using namespace program;
  Builder b("devctl bench launch");
  const uint32_t x = b.value("x", DType::f32, Storage::input, {1, kWidth}), y = b.value("y", DType::f32, Storage::output, {1, kWidth});
  b.program().ops.push_back({.code = OpCode::add, .in = {x, x}, .out = {y}});
  BATON_ASSIGN(program::Program p, std::move(b).finish());
  return serialize(p);
}

// Two threads, two eventfds, both asleep in read().
class Eventfds {
 public:
  Eventfds() {
    if (there_ < 0 || back_ < 0) return;
    peer_ = std::thread([this] {
      for (uint64_t n; read(there_, &n, sizeof n) == sizeof n && !over_;)
        if (write(back_, &n, sizeof n) < 0) return;
    });
  }
  ~Eventfds() {
    over_ = true;
    const uint64_t one = 1;
    if (peer_.joinable() && write(there_, &one, sizeof one) > 0) peer_.join();
    close(there_), close(back_);
  }
  Eventfds(const Eventfds&) = delete;
  Eventfds& operator=(const Eventfds&) = delete;
  bool there_and_back() {
    uint64_t n = 1;
    return peer_.joinable() && write(there_, &n, sizeof n) > 0 && read(back_, &n, sizeof n) > 0;
  }

 private:
  std::atomic<bool> over_{false};
  int there_ = eventfd(0, EFD_CLOEXEC), back_ = eventfd(0, EFD_CLOEXEC);
  std::thread peer_;
};

struct Mode {
  const char *name, *yardstick;
  uint32_t depth;
  bool asleep;
  Times wall, yard, modelled;
};

class Bench {
 public:
  Bench(const Context& c, const LaunchBench& b)
      : in_(c.devices.instance()), call_(b), modes_{{"one, polled", "HOST op, polled", 1, false, {}, {}, {}},
                                                    {"one, asleep", "eventfd, two threads", 1, true, {}, {}, {}},
                                                    {"in flight, each", "HOST ops, each", b.depth, false, {}, {}, {}}} {}

  Status open(const Devices& devices) {
    BATON_ASSIGN(device_, devices.open(call_.device));
    BATON_ASSIGN(info, device_.info());
    // Both emulators say so here: nothing is computed, so that there is no result.
    if (call_.check && info.emulated && std::strstr(info.firmware, "mode=timing"))
      return Error(BATON_UNSUPPORTED, "it emulates time alone (mode=timing): a launch leaves no result to compare", "leave out --check, or mode=timing", info.uri);
    BATON_ASSIGN(const std::vector<uint8_t> code, doubling());
    BATON_ASSIGN(program_, device_.load(code, {}));
    BATON_ASSIGN(queue_, device_.queue(0));
    BATON_ASSIGN(done_, in_.timeline("bench launch"));
    BATON_ASSIGN(Device host, in_.open("host://"));
    BATON_ASSIGN(there_, in_.link(host, device_));
    BATON_ASSIGN(back_, in_.link(device_, host));
    BATON_ASSIGN(x_, device_.alloc(kRow));
    BATON_ASSIGN(y_, device_.alloc(kRow * call_.depth));
    BATON_ASSIGN(stage_, host.alloc(kRow * call_.depth));
    BATON_ASSIGN(void* p, stage_.map());
    rows_ = static_cast<Row*>(p);
    for (int64_t i = 0; i < kWidth; ++i) rows_[0][size_t(i)] = float(i * i) - 17;
    sent_ = rows_[0];
    BATON_TRY(there_.submit(copy(stage_, 0, x_, 0, kRow).signal(done_, value_ + 1)));
    return await(done_, ++value_);
  }

  Status run() {
    Eventfds threads;
    Progress bar(modes_.size() * 16);
    for (Mode& m : modes_) {
      BATON_TRY(clear());
      for (uint32_t i = 0, step = 0; i <= call_.count && !interrupted(); ++i) {  // the first round warms up and is not counted
        if (i * 16 / (call_.count + 1) >= step) bar.step(m.name), ++step;
        BATON_TRY(round(m, threads, i > 0));
      }
      if (interrupted()) return {};
      if (call_.check) BATON_TRY(compare(m));
    }
    return {};
  }

  DeviceInfo info{};
  std::vector<Mode>& modes() { return modes_; }
  uint64_t wrong = 0, compared = 0;  // launches

 private:
  Status polled(uint64_t value) {
    uint64_t seen = 0, until = 0;
    for (uint32_t i = 1;; ++i) {
      Error e;
      in_.poll();
      if (baton_timeline_query(done_.get(), &seen, &e)) return e;
      if (seen >= value) return {};
      if (i % 4096) continue;
      if (interrupted()) return Error(BATON_CANCELLED, "interrupted", "");
      if (!until) until = deadline_in_ms(kBenchPatienceMs);
      if (now_ns() > until) return Error(BATON_DEADLINE, fmt::format("a launch took longer than {} s", kBenchPatienceMs / 1000), "devctl health");
    }
  }

  // `ops`, one after the other on the queue, each with its signal: ns until the last one's was seen.
  Result<double> timed(std::vector<Op>& ops, bool asleep) {
    for (size_t i = 0; i < ops.size(); ++i) ops[i].baton_op::signal[0] = {done_.get(), value_ + i + 1};
    const uint64_t start = now_ns();
    BATON_TRY(queue_.submit(ops));
    value_ += ops.size();
    BATON_TRY(asleep ? await(done_, value_) : polled(value_));
    return double(now_ns() - start);
  }

  Status round(Mode& m, Eventfds& threads, bool counted) {
    std::vector<Op> launches, calls(m.depth, host([](void*) {}, nullptr));
    std::vector<std::array<baton_binding, 2>> bindings(m.depth);
    for (uint32_t i = 0; i < m.depth; ++i) {
      bindings[i] = {bind("x", x_), bind("y", y_, kRow * i, kRow)};
      launches.push_back(launch(program_, bindings[i], {}).tagged(kBenchTag));
    }
    const uint64_t before = done_.modelled_ns(value_);
    BATON_ASSIGN(double wall, timed(launches, m.asleep));
    const uint64_t after = done_.modelled_ns(value_);
    double yard = 0;
    if (m.asleep) {
      const uint64_t start = now_ns();
      if (!threads.there_and_back()) return Error(BATON_IO, "no eventfd and thread for the yardstick", "raise the limit of open files or threads");
      yard = double(now_ns() - start);
    } else {
      BATON_ASSIGN(yard, timed(calls, false));
    }
    if (!counted) return {};
    m.wall.ns.push_back(wall / m.depth);
    m.yard.ns.push_back(yard / m.depth);
    m.modelled.ns.push_back(after > before ? double(after - before) / m.depth : 0);
    return {};
  }

  Status clear() {
    for (uint32_t i = 0; i < call_.depth; ++i) rows_[i].fill(-1);
    BATON_TRY(there_.submit(copy(stage_, 0, y_, 0, kRow * call_.depth).signal(done_, value_ + 1)));
    return await(done_, ++value_);
  }

  Status compare(const Mode& m) {
    std::memset(rows_, 0xff, kRow * call_.depth);
    BATON_TRY(back_.submit(copy(y_, 0, stage_, 0, kRow * m.depth).signal(done_, value_ + 1)));
    BATON_TRY(await(done_, ++value_));
    for (uint32_t i = 0; i < m.depth; ++i, ++compared)
      for (size_t k = 0; k < sent_.size(); ++k)
        if (rows_[i][k] != 2 * sent_[k]) {
          ++wrong;
          break;
        }
    return {};
  }

  const Instance& in_;
  const LaunchBench& call_;
  std::vector<Mode> modes_;
  Device device_;
  baton::Program program_;
  Queue queue_, there_, back_;
  Timeline done_;
  Buffer x_, y_, stage_;
  Row* rows_ = nullptr;
  Row sent_{};
  uint64_t value_ = 0;
};

json document(Bench& b, const LaunchBench& call) {
  json rows = json::array();
  bool complete = true;
  for (const Mode& m : b.modes()) {
    complete &= m.wall.ns.size() == call.count;
    if (m.wall.empty()) continue;
    rows.push_back({{"name", m.name}, {"depth", m.depth}, {"asleep", m.asleep}, {"count", m.wall.ns.size()}, {"wall", times_json(m.wall, 0)},
                    {"modelled", m.modelled.median() > 0 ? times_json(m.modelled, 0) : json(nullptr)}, {"yardstick", m.yardstick}, {"yardstick_wall", times_json(m.yard, 0)},
                    {"wall_over_yardstick", m.wall.median() / m.yard.median()}});
  }
  return {{"device", b.info.uri}, {"emulated", b.info.emulated != 0}, {"planned", call.count}, {"complete", complete}, {"rows", rows},
          {"check", call.check ? json{{"launches_compared", b.compared}, {"launches_wrong", b.wrong}} : json(nullptr)}};
}

std::string text(const json& doc, const std::string& device) {
  Table t({"LAUNCH", "WALL", "P99", "MODELLED", "YARDSTICK", "WALL", "P99", "OVER"});
  for (size_t i : {1u, 2u, 3u, 5u, 6u, 7u}) t.right(i);
  for (auto& r : doc.at("rows")) {
    const uint32_t depth = r.at("depth");
    t.row({depth > 1 ? fmt::format("{} {}", depth, r.at("name").get<std::string>()) : r.at("name").get<std::string>(), ns_text(r.at("wall").at("median_ns")), ns_text(r.at("wall").at("p99_ns")),
           r.at("modelled").is_null() ? "-" : ns_text(r.at("modelled").at("median_ns")), r.at("yardstick"), ns_text(r.at("yardstick_wall").at("median_ns")),
           ns_text(r.at("yardstick_wall").at("p99_ns")), fmt::format("{:.1f}", r.at("wall_over_yardstick").get<double>())});
  }
  std::string out = fmt::format("{}: y = 2x of {} numbers, {} times each way{}\n", device, kWidth, doc.at("planned").get<uint32_t>(), doc.at("complete") ? "" : "; interrupted, this is what was done") + t.text();
  if (const json& check = doc.at("check"); !check.is_null())
    out += fmt::format("check: the results of {} launches compared, {} wrong\n", check.at("launches_compared").get<uint64_t>(), check.at("launches_wrong").get<uint64_t>());
  return out;
}

}  // namespace

int bench_launch(const Context& c, const LaunchBench& call) {
  Bench b(c, call);
  Status s = b.open(c.devices);
  if (s.ok()) s = b.run();
  if (!s.ok() && !interrupted()) return c.out.fail(s.error());
  if (b.modes()[0].wall.empty()) return kInterrupted;
  const json doc = document(b, call);
  c.out.show("bench.launch", doc, [&](const json& d) { return text(d, shown(b.info)); });
  return ended(c, b.wrong ? fmt::format("{} of {} launches left another result than 2x", b.wrong, b.compared) : "");
}

}  // namespace baton::devctl
