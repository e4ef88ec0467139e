// fabric ping, fabric serve: what a message takes over each fabric, between two processes of this host, or to a devctl on another one.
#include "tools/devctl/fabric_ping.h"
#include "tools/devctl/progress.h"
#include "tools/devctl/verbs.h"
#include "transport/fabrics.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <memory>
#include <optional>

namespace baton::devctl {
namespace {

constexpr uint64_t kSizes[] = {64, 512, 4 << 10, 32 << 10, 256 << 10, 1 << 20, 16 << 20};
constexpr uint64_t kLeaseNs = 10'000'000'000;

Result<transport::EndpointOptions> who_we_are(const SessionKeys& k, const char* name) {
  transport::EndpointOptions o{.name = name, .lease_ns = kLeaseNs};
  o.identity = k.identity, o.known_peers = k.known_peers;
  if (k.key_file.empty() && k.identity.empty())
    return Error(BATON_INVALID_ARGUMENT, "a session needs a key that both sides hold, or identities", "--key FILE of 'baton keygen FILE', or --identity and --known-peers of 'devctl key new'");
  if (!k.key_file.empty()) { BATON_ASSIGN(o.key, transport::read_key_file(k.key_file)); }
  return o;
}

// The fabrics to try: of this machine, those that are there.
Result<std::vector<std::string>> fabrics(const std::string& asked) {
  std::vector<std::string> usable, known;
  for (auto& f : transport::list_fabrics()) {
    if (f.available) usable.push_back(f.name);
    known.push_back(f.name);
    if (f.name == asked && !f.available) return Error(BATON_UNSUPPORTED, fmt::format("fabric '{}' is not available here: {}", f.name, f.reason), "devctl fabric");
  }
  if (asked == "all") return usable;
  if (std::find(known.begin(), known.end(), asked) == known.end())
    return Error(BATON_INVALID_ARGUMENT, fmt::format("no fabric is called '{}'; there is {}", clean(asked).substr(0, 60), fmt::join(known, ", ")), "devctl fabric lists them");
  return std::vector<std::string>{asked};
}

// A process that answers, on this host; it is forked before this one has a session.
class Answerer {
 public:
  Result<std::unique_ptr<transport::Session>> start(const Instance& in, std::optional<transport::Endpoint>& ep) {
    const transport::Key key = transport::random_key();
    int way[2];
    if (pipe(way)) return Error(BATON_IO, fmt::format("pipe: {}", std::strerror(errno)), "raise the limit of open files");
    pid_ = fork();
    if (pid_ < 0) return Error(BATON_IO, fmt::format("fork: {}", std::strerror(errno)), "raise the limit of processes");
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close(way[1]);
      char address[64] = {};
      _exit(read(way[0], address, sizeof address - 1) > 0 && answer(address, key) ? 0 : 1);
    }
    close(way[0]);
    auto session = connected(in, ep, key, way[1]);
    close(way[1]);
    return session;
  }
  ~Answerer() {
    if (pid_ <= 0) return;
    const uint64_t until = deadline_in_ms(5000);  // it has been told, or its session is gone
    while (waitpid(pid_, nullptr, WNOHANG) == 0) {
      if (now_ns() > until) kill(pid_, SIGKILL);
      usleep(1000);
    }
  }

 private:
  static bool answer(const char* address, const transport::Key& key) {
    auto in = Instance::create();
    if (!in) return false;
    auto ep = transport::Endpoint::open(*in, {.key = key, .name = "devctl fabric ping, the other process", .lease_ns = kLeaseNs});
    if (!ep) return false;
    auto s = ep->connect(address, deadline_in_ms(10'000));
    return s && pong(*in, *ep, **s).ok();
  }
  static Result<std::unique_ptr<transport::Session>> connected(const Instance& in, std::optional<transport::Endpoint>& ep, const transport::Key& key, int way) {
    BATON_ASSIGN(auto made, transport::Endpoint::open(in, {.listen = "127.0.0.1:0", .key = key, .name = "devctl fabric ping", .lease_ns = kLeaseNs}));
    ep.emplace(std::move(made));
    if (write(way, ep->address().data(), ep->address().size()) < 0) return Error(BATON_IO, "the other process has ended", "");
    std::unique_ptr<transport::Session> s;
    for (const uint64_t until = deadline_in_ms(10'000); !(s = ep->accept()); in.poll_wait(deadline_in_ms(10)))
      if (now_ns() > until || interrupted()) return Error(BATON_DEADLINE, "the other process did not connect within 10 s", "run it on a quieter machine");
    return s;
  }
  pid_t pid_ = -1;
};

double memcpy_rate(uint64_t bytes) {
  std::vector<uint8_t> from(bytes, 1), to(bytes, 2);
  const uint32_t rounds = uint32_t(std::max<uint64_t>(2, (64 << 20) / bytes));
  const uint64_t start = now_ns();
  for (uint32_t i = 0; i < rounds; ++i) {
    std::memcpy(to.data(), from.data(), bytes);
    asm volatile("" ::"r"(to.data()) : "memory");
  }
  return double(bytes) * rounds / double(std::max<uint64_t>(now_ns() - start, 1)) * 1e9;
}

double quantile(std::vector<double> v, double q) {
  if (v.empty()) return 0;
  std::sort(v.begin(), v.end());
  return v[std::min(v.size() - 1, size_t(q * double(v.size())))];
}

json row_json(const PingRow& r) {
  return {{"fabric", r.fabric}, {"bytes", r.bytes}, {"count", r.one_way_ns.size()}, {"one_way_p50_ns", quantile(r.one_way_ns, 0.5)}, {"one_way_p99_ns", quantile(r.one_way_ns, 0.99)},
          {"bytes_per_s", r.bytes_per_s}, {"memcpy_bytes_per_s", memcpy_rate(r.bytes)}, {"bytes_wrong", r.wrong}};
}

std::string text(const Context& c, const json& doc) {
  Table t({"FABRIC", "MESSAGE", "ONE WAY, P50", "P99", "MANY AT ONCE", "MEMCPY"});
  for (size_t i = 1; i < 6; ++i) t.right(i);
  for (auto& r : doc.at("rows")) {
    if (r.contains("skipped")) t.row({r.at("fabric"), clean(r.at("skipped").get<std::string>())});
    else t.row({r.at("fabric"), bytes_text(r.at("bytes")), ns_text(r.at("one_way_p50_ns")), ns_text(r.at("one_way_p99_ns")), rate_text(r.at("bytes_per_s")), rate_text(r.at("memcpy_bytes_per_s"))});
  }
  const bool here = doc.at("address").is_null();
  return fmt::format("{}{}\n", here ? std::string("two processes of this host") : fmt::format("to {} at {}", clean(doc.at("peer").get<std::string>()), clean(doc.at("address").get<std::string>())),
                     doc.at("complete") ? "" : "; interrupted, this is what was done") + t.text() +
         c.out.dim("wall time; half of a round trip, both sides polling; every byte compared; memcpy: one thread, here, again and again the same bytes\n");
}

struct Outcome {
  json rows = json::array();
  bool complete = true, skipped = false;
  uint64_t wrong = 0;
};

// Every size over every fabric; one that the two sides cannot use together is a row that says why.
Status measure(const Instance& in, transport::Endpoint& ep, transport::Session& s, const std::vector<std::string>& names, uint32_t count, Outcome& o) {
  Progress bar(names.size() * std::size(kSizes));
  for (auto& name : names)
    for (uint64_t bytes : kSizes) {
      bar.step(fmt::format("{} {}", name, bytes_text(bytes)));
      // Large ones take long enough to be few.
      const uint32_t n = std::max(uint32_t(std::min<uint64_t>(count, (uint64_t(count) << 16) / bytes)), 8u);
      auto r = ping(in, ep, s, {.fabric = name, .bytes = bytes, .count = n});
      if (interrupted()) return o.complete = false, Status();
      if (!r && s.alive().ok() && bytes == kSizes[0]) {
        o.skipped = true;
        o.rows.push_back({{"fabric", name}, {"skipped", fmt::format("{}", r.error().what)}});
        break;
      }
      if (!r) return r.error();
      o.wrong += r->wrong;
      o.rows.push_back(row_json(*r));
    }
  return ping_end(s);
}

}  // namespace

int fabric_ping(const Context& c, const PingCall& call) {
  if (c.from) return c.out.fail(kUsage, "devctl fabric ping measures: --from is not for it", "devctl --from FILE fabric");
  auto names = fabrics(call.fabric);
  if (!names) return c.out.fail(names.error());
  const Instance& in = c.devices.instance();
  Answerer other;  // ends last
  std::optional<transport::Endpoint> ep;
  auto session = [&]() -> Result<std::unique_ptr<transport::Session>> {
    if (call.address.empty()) return other.start(in, ep);
    BATON_ASSIGN(auto options, who_we_are(call.keys, "devctl fabric ping"));
    BATON_ASSIGN(auto made, transport::Endpoint::open(in, std::move(options)));
    ep.emplace(std::move(made));
    return ep->connect(call.address, deadline_in_ms(10'000));
  }();
  if (!session) return c.out.fail(session.error());
  Outcome o;
  const Status s = measure(in, *ep, **session, *names, call.count, o);
  if (!s.ok()) return c.out.fail(s.error());
  if (o.rows.empty()) return kInterrupted;
  const json doc = {{"address", call.address.empty() ? json(nullptr) : json(call.address)}, {"peer", (*session)->peer_name()}, {"complete", o.complete}, {"rows", o.rows}};
  c.out.show("fabric.ping", doc, [&](const json& d) { return text(c, d); });
  if (o.wrong) return c.out.fail(kFinding, fmt::format("{} bytes arrived wrong", o.wrong), "run it again, with --fabric of each; a wrong byte is a bug of the fabric, or of a machine");
  return !o.complete ? kInterrupted : o.skipped ? kPartly : kOk;
}

int fabric_serve(const Context& c, const ServeCall& call) {
  if (c.from) return c.out.fail(kUsage, "devctl fabric serve answers: --from is not for it", "devctl --from FILE fabric");
  const Instance& in = c.devices.instance();
  auto ep = [&]() -> Result<transport::Endpoint> {
    BATON_ASSIGN(auto options, who_we_are(call.keys, "devctl fabric serve"));
    options.listen = call.address;
    return transport::Endpoint::open(in, std::move(options));
  }();
  if (!ep) return c.out.fail(ep.error());
  c.out.show("fabric.serve", json{{"address", ep->address()}}, [](const json& d) {
    return fmt::format("answers at {}\nnext: devctl fabric ping {} --key FILE, there; ctrl-C ends this\n", d.at("address").get<std::string>(), d.at("address").get<std::string>());
  });
  std::fflush(stdout);
  for (uint64_t refused = 0; !interrupted();) {
    auto s = ep->accept();
    if (!s) {
      if (ep->rejected() != refused) {
        refused = ep->rejected();
        if (auto why = ep->last_rejection()) c.out.note("devctl: a peer was refused: " + clean(why->text()));
      }
      in.poll_wait(deadline_in_ms(200));
      continue;
    }
    c.out.note(fmt::format("devctl: {} from {}", clean(s->peer_name()), clean(s->peer_address())));
    if (Status st = pong(in, *ep, *s); !st.ok()) c.out.note("devctl: " + clean(st.error().text()));
    if (call.once) break;
  }
  return interrupted() ? kInterrupted : kOk;
}

}  // namespace baton::devctl
