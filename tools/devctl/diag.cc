// diag: tests of this machine, from what takes a moment to a soak. Higher levels include the lower ones, and disturb more.
#include "tools/devctl/care.h"
#include "tools/devctl/progress.h"
#include "transport/bench/kv_move.hpp"
#include "transport/fabrics.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <functional>

namespace baton::devctl {
namespace {

constexpr uint64_t kPatienceMs = 60'000;
constexpr uint64_t kBytes = 1 << 20;
constexpr uint32_t kOps = 1000;

struct Kind {
  uint32_t level;
  const char *name, *takes, *disturbs, *what;
};
constexpr Kind kKinds[] = {
    {1, "drivers", "a moment", "nobody", "each installed driver loads and fits this libbaton"},
    {1, "emulators", "a second", "nobody", "each installed emulator starts and answers"},
    {1, "health", "a moment", "nobody", "what devctl health looks at"},
    {2, "memory", "a moment a device", "takes the device's cores; 2 MiB of it", "a pattern to the device and back, compared"},
    {2, "queue", "a moment a device", "takes the device's cores", "1000 ops on a lane, in their order"},
    {3, "copy", "a moment a pair", "takes both devices' cores; 2 MiB of each", "bytes from each device to each other, compared"},
    {3, "fabric", "a second a fabric", "the host's memory and cores", "KV-cache between two processes by each fabric that is there"},
    {4, "soak", "--seconds", "as levels 2 and 3, all the time", "memory, queue and copy again and again"},
};

struct Outcome {
  std::string test, subject, outcome, what;  // outcome: "ok", "failed", "skipped"
  uint64_t ns = 0;
};

struct Run {
  std::string test, subject;
  std::function<Status()> call;
};

// `bytes` of `from` through `queue` into `to`, and compared: pattern is a sequence that no shift or repetition keeps.
void fill_pattern(void* at, uint64_t bytes, uint32_t seed) {
  auto* words = static_cast<uint32_t*>(at);
  for (uint64_t i = 0; i < bytes / 4; ++i) words[i] = uint32_t(i * 2654435761u) ^ seed;
}

Status same(const void* a, const void* b, uint64_t bytes, const std::string& where) {
  const auto *x = static_cast<const uint8_t*>(a), *y = static_cast<const uint8_t*>(b);
  for (uint64_t i = 0; i < bytes; ++i)
    if (x[i] != y[i]) return Error(BATON_CORRUPT, fmt::format("{}: byte {} of {} is {:#04x}, and {:#04x} was sent", where, i, bytes, y[i], x[i]), "run it again; if the byte is the same each time, that memory is bad");
  return {};
}

// From host memory over `stations` back to host memory.
Status round_trip(const Instance& in, const std::vector<const Device*>& stations, const std::string& where) {
  BATON_ASSIGN(Device host, in.open("host://"));
  BATON_ASSIGN(Buffer sent, host.alloc(kBytes));
  BATON_ASSIGN(Buffer back, host.alloc(kBytes));
  BATON_ASSIGN(void* out, sent.map());
  BATON_ASSIGN(void* home, back.map());
  fill_pattern(out, kBytes, uint32_t(now_ns()));
  BATON_ASSIGN(Timeline done, in.timeline("diag"));
  std::vector<Buffer> there;
  std::vector<Queue> links;
  uint64_t value = 0;
  const Device* at = &host;
  const Buffer* from = &sent;
  there.reserve(stations.size());
  for (size_t i = 0; i <= stations.size(); ++i) {
    const Device* to = i < stations.size() ? stations[i] : &host;
    if (i < stations.size()) {
      BATON_ASSIGN(Buffer b, to->alloc(kBytes));
      there.push_back(std::move(b));
    }
    const Buffer* target = i < stations.size() ? &there.back() : &back;
    BATON_ASSIGN(Queue link, at == to ? at->queue(0) : in.link(*at, *to));
    BATON_TRY(link.submit(copy(*from, 0, *target, 0, kBytes).wait(done, value).signal(done, value + 1)));
    links.push_back(std::move(link));
    ++value;
    at = to;
    from = target;
  }
  BATON_TRY(done.wait_until(value, deadline_in_ms(kPatienceMs)));
  return same(out, home, kBytes, where);
}

Status queue_test(const Instance& in, const Device& d) {
  BATON_ASSIGN(Queue q, d.queue(0));
  BATON_ASSIGN(Timeline t, in.timeline("diag queue"));
  BATON_ASSIGN(Buffer b, d.alloc(4096));
  for (uint32_t i = 0; i < kOps; ++i) BATON_TRY(q.submit(fill(b, 0, 4096, i & 0xff).wait(t, i).signal(t, i + 1)));
  return t.wait_until(kOps, deadline_in_ms(kPatienceMs));
}

class Diagnosis {
 public:
  Diagnosis(const Context& c, const DiagCall& call) : c_(c), call_(call) {}

  Status plan() {
    auto wanted = [&](const char* name) { return call_.tests.empty() || std::find(call_.tests.begin(), call_.tests.end(), name) != call_.tests.end(); };
    if (wanted("drivers"))
      for (auto& scheme : c_.devices.options().drivers) add("drivers", scheme, [this, scheme] { return driver(scheme); });
    if (wanted("emulators"))
      for (auto& uri : c_.devices.startable()) add("emulators", uri, [this, uri] { return opened(uri); });
    if (wanted("health")) add("health", "host", [this] { return healthy(); });
    if (call_.level < 2) return {};
    BATON_TRY(find_devices());
    for (auto& name : names_) {
      if (wanted("memory")) add("memory", name, [this, name] { return with(name, [&](const Device& d) { return round_trip(c_.devices.instance(), {&d}, name); }); });
      if (wanted("queue")) add("queue", name, [this, name] { return with(name, [&](const Device& d) { return queue_test(c_.devices.instance(), d); }); });
    }
    if (call_.level < 3) return {};
    for (auto& a : names_)
      for (auto& b : names_)
        if (a != b && wanted("copy")) add("copy", a + " -> " + b, [this, a, b] { return pair(a, b); });
    if (wanted("fabric"))
      for (auto& f : transport::list_fabrics())
        if (f.available) add("fabric", f.name, [name = f.name] { return moved(name); });
    return {};
  }

  // Once through, then the soak. False: it was interrupted.
  bool run() {
    Progress bar(runs_.size());
    for (auto& r : runs_) {
      if (interrupted()) return false;
      bar.step(r.test + " " + r.subject);
      outcomes.push_back(once(r));
    }
    if (call_.level < 4 || interrupted()) return !interrupted();
    const uint64_t start = now_ns(), until = start + uint64_t(call_.soak_s) * 1'000'000'000;
    uint64_t rounds = 0;
    Outcome soak{"soak", fmt::format("{} devices", names_.size()), "ok", "", 0};
    while (now_ns() < until && !interrupted() && soak.outcome == "ok")
      for (auto& r : runs_) {
        if (r.test != "memory" && r.test != "queue" && r.test != "copy") continue;
        if (now_ns() >= until || interrupted()) break;
        bar.step(fmt::format("soak {} {}", r.test, r.subject));
        const Outcome o = once(r);
        ++rounds;
        if (o.outcome != "failed") continue;
        soak.outcome = "failed";
        soak.what = fmt::format("{} {}: {}", r.test, r.subject, o.what);
        break;
      }
    soak.ns = now_ns() - start;
    if (soak.outcome == "ok") soak.what = fmt::format("{} tests", rounds);
    outcomes.push_back(soak);
    return !interrupted();
  }

  std::vector<Outcome> outcomes;
  size_t planned() const { return runs_.size() + (call_.level >= 4); }

 private:
  void add(const char* test, const std::string& subject, std::function<Status()> call) { runs_.push_back({test, subject, std::move(call)}); }

  Outcome once(const Run& r) const {
    const uint64_t start = now_ns();
    Status s = r.call();
    const uint64_t ns = now_ns() - start;
    if (s.ok()) return {r.test, r.subject, "ok", "", ns};
    const bool cannot = s.error().code == BATON_UNSUPPORTED;
    return {r.test, r.subject, cannot ? "skipped" : "failed", fmt::format("{}{}{}", s.error().what, s.error().next[0] ? "; next: " : "", s.error().next), ns};
  }

  Status find_devices() {
    for (auto& selector : call_.devices.empty() ? std::vector<std::string>{"all"} : call_.devices) {
      if (const std::string uri = c_.devices.meant(selector); is_uri(uri)) {
        names_.push_back(uri);
        continue;
      }
      BATON_ASSIGN(auto found, c_.devices.select(selector));
      for (auto& d : found) names_.push_back(label(d));
    }
    return {};
  }

  Status with(const std::string& name, const std::function<Status(const Device&)>& call) const {
    BATON_ASSIGN(Device d, c_.devices.open(name));
    return call(d);
  }

  Status pair(const std::string& a, const std::string& b) const {
    return with(a, [&](const Device& x) { return with(b, [&](const Device& y) { return round_trip(c_.devices.instance(), {&x, &y}, a + " -> " + b); }); });
  }

  // A driver that loads refuses an address that cannot be; one that does not load says so.
  Status driver(const std::string& scheme) const {
    auto d = c_.devices.instance().open(scheme + "://devctl-diag-no-such-device");
    if (d) return {};
    const int32_t code = d.error().code;
    return code == BATON_FAILED || code == BATON_VERSION || code == BATON_MISMATCH || code == BATON_INTERNAL ? Status(d.error()) : Status();
  }

  Status opened(const std::string& uri) const {
    return with(uri, [](const Device& d) -> Status {
      BATON_ASSIGN(DeviceInfo info, d.info());
      return info.lanes ? Status() : Status(Error(BATON_FAILED, "it has no lane", ""));
    });
  }

  Status healthy() const {
    BATON_ASSIGN(json doc, health_document(c_));
    if (doc.at("healthy")) return {};
    const json& first = doc.at("findings").at(0);
    return Error(BATON_FAILED, fmt::format("{} findings, the first: {}: {}", doc.at("findings").size(), first.at("subject").get<std::string>(), first.at("what").get<std::string>()), "devctl health");
  }

  static Status moved(const std::string& fabric) {
    BATON_ASSIGN(auto rows, transport::kv_move({.fabrics = {fabric}, .iterations = 1}));
    for (auto& r : rows) {
      if (!r.skipped.empty()) return Error(BATON_FAILED, r.skipped, "devctl fabric");
      if (r.wrong) return Error(BATON_CORRUPT, fmt::format("{}, {}: {} words arrived wrong", r.fabric, r.shape, r.wrong), "devctl bench kv host0 host0 --check");
    }
    return {};
  }

  const Context& c_;
  const DiagCall& call_;
  std::vector<std::string> names_;
  std::vector<Run> runs_;
};

int list_tests(const Context& c) {
  json rows = json::array();
  for (auto& k : kKinds) rows.push_back({{"level", k.level}, {"test", k.name}, {"takes", k.takes}, {"disturbs", k.disturbs}, {"what", k.what}});
  return c.out.show("diag.list", json{{"tests", rows}}, [](const json& doc) {
    Table t({"LEVEL", "TEST", "TAKES", "DISTURBS", "WHAT"});
    for (auto& r : doc.at("tests")) t.row({std::to_string(r.at("level").get<uint32_t>()), r.at("test"), r.at("takes"), r.at("disturbs"), r.at("what")});
    return t.text();
  });
}

}  // namespace

int diag(const Context& c, const DiagCall& given) {
  DiagCall call = given;
  for (auto& name : call.tests) {
    auto k = std::find_if(std::begin(kKinds), std::end(kKinds), [&](auto& x) { return name == x.name; });
    if (k == std::end(kKinds)) return c.out.fail(kUsage, fmt::format("no test is called '{}'", clean(name).substr(0, 60)), "devctl diag --list");
    call.level = std::max(call.level, k->level);
  }
  if (call.list) return list_tests(c);
  Diagnosis d(c, call);
  if (Status s = d.plan(); !s.ok()) return c.out.fail(s.error());
  const bool whole = d.run();
  json rows = json::array();
  size_t failed = 0;
  for (auto& o : d.outcomes) {
    failed += o.outcome == "failed";
    rows.push_back({{"test", o.test}, {"subject", o.subject}, {"outcome", o.outcome}, {"what", o.what}, {"wall_ns", o.ns}});
  }
  const int code = c.out.show("diag", json{{"level", call.level}, {"complete", whole}, {"planned", d.planned()}, {"failed", failed}, {"tests", rows}}, [&](const json& doc) {
    Table t({"TEST", "SUBJECT", "OUTCOME", "TIME", ""});
    t.right(3);
    for (auto& r : doc.at("tests"))
      t.row({r.at("test"), clean(r.at("subject").get<std::string>()), r.at("outcome"), ns_text(r.at("wall_ns")), clean(r.at("what").get<std::string>())});
    return t.text() + (whole ? failed ? fmt::format("{} of {} failed\n", failed, rows.size()) : fmt::format("{} tests, none failed\n", rows.size())
                             : fmt::format("interrupted: {} of {} were done\n", rows.size(), d.planned()));
  });
  return !whole ? int(kInterrupted) : code == kOk && failed ? int(kFinding) : code;
}

}  // namespace baton::devctl
