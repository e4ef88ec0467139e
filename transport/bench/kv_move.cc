#include "transport/bench/kv_move.hpp"

#include "transport/bench/kv_place.hpp"
#include "transport/bench/raw_ofi.hpp"
#include "transport/fabrics.hpp"
#include "transport/kv_lend.hpp"
#include "transport/kv_link.hpp"
#include "transport/socket.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <random>

namespace baton::transport {
namespace {

constexpr uint64_t kStepNs = 30'000'000'000;
constexpr uint32_t kPolls = 32768; // some ms: longer than waking the other side takes
constexpr uint64_t kLeaseNs = 60'000'000'000; // a side that touches its pools does not poll meanwhile, and on a busy machine that takes long

template <class F>
Status wait_for(const Instance& in, F done, const char* what) {
  const uint64_t until = now_ns() + kStepNs;
  while (!done()) {
    if (now_ns() > until) return Error(BATON_DEADLINE, fmt::format("kv_move: {} took longer than {} s", what, kStepNs / 1'000'000'000), "run it on a quieter machine");
    in.poll_wait(now_ns() + 10'000'000);
  }
  return {};
}

// Waits as the sides of a row do: polling without end, or asleep until woken.
template <class F>
Status receive_until(const Instance& in, bool awake, F done, const char* what) {
  if (!awake) return wait_for(in, done, what);
  const uint64_t until = now_ns() + kStepNs;
  for (uint32_t i = 0; !done(); ++i) {
    in.poll();
    if (i >= kPolls && i % 16 == 0) sched_yield(); // the other side may want this core
    if (i % 1024 == 0 && now_ns() > until) return Error(BATON_DEADLINE, fmt::format("kv_move: {} took longer than {} s", what, kStepNs / 1'000'000'000), "run it on a quieter machine");
  }
  return {};
}

Result<Message> hear(const Instance& in, Session& s, const char* what, bool awake = false) {
  std::optional<Message> m;
  BATON_TRY(receive_until(in, awake, [&] { return (m = s.receive()) || !s.alive().ok(); }, what));
  if (!m) return s.alive().error();
  if (m->type == "failed") return Error(m->body.value("code", int32_t(BATON_FAILED)), m->body.value("what", ""), m->body.value("next", ""), m->body.value("device", ""));
  return std::move(*m);
}

// The other process: for each "shape" a sink or a borrower; for each "next" a ticket, then an acknowledgement when everything has landed.
class Decode {
 public:
  static Status run(const std::string& address, const Key& key, const std::string& uri) {
    BATON_ASSIGN(Instance in, Instance::create());
    BATON_ASSIGN(Endpoint ep, Endpoint::open(in, {.key = key, .name = "kv_move decode", .lease_ns = kLeaseNs}));
    BATON_ASSIGN(auto s, ep.connect(address, deadline_in_ms(10'000)));
    const Status served = serve(in, ep, *s, uri);
    if (served.ok() || !s->alive().ok()) return served;
    const Error& e = served.error(); // the other process says it
    BATON_TRY(s->send({"failed", {{"code", e.code}, {"device", e.device}, {"what", e.what}, {"next", e.next}}, {}}));
    while (s->alive().ok()) in.poll_wait(deadline_in_ms(10));
    return {};
  }

 private:
  static Status serve(const Instance& in, Endpoint& ep, Session& s, const std::string& uri) {
    BATON_ASSIGN(KvPlace place, KvPlace::open(in, uri));
    BATON_TRY(s.send({"ready", {{"modelled", place.modelled()}}, {}}));
    Decode d{in, ep, s, place};
    for (;;) {
      BATON_ASSIGN(Message m, hear(in, s, "waiting for the next shape"));
      if (m.type == "shape") BATON_TRY(d.shape(m.body));
      else if (m.type == "next") BATON_TRY(d.next(m.body));
      else if (m.type == "loans") BATON_TRY(d.loans(m.body));
      else if (m.type == "raw") BATON_TRY(d.raw(m.body));
      else return {};
    }
  }

  const Instance& in;
  Endpoint& ep;
  Session& session;
  KvPlace& place;

  Status shape(const nlohmann::json& b) {
    sink_.reset();
    borrower_.reset();
    shape_ = &shapes()[b.value("index", 0u) % shapes().size()];
    awake_ = b.value("awake", false);
    if (b.value("lend", false)) {
      BATON_ASSIGN(KvBorrower made, KvBorrower::create(in, session, place.device(), shape_->layout(), {.model = "kv_move"}));
      borrower_.emplace(std::move(made));
    } else {
      BATON_ASSIGN(KvSink made, KvSink::create(in, ep, place.reach(), shape_->layout(), "kv_move"));
      sink_.emplace(std::move(made));
    }
    return {};
  }

  Status next(const nlohmann::json& b) {
    if (!sink_) return Error(BATON_INVALID_ARGUMENT, "kv_move: no shape", "report this");
    const auto table = shape_->table(rng_);
    BATON_ASSIGN(Incoming incoming, sink_->expect(table, shape_->tokens()));
    BATON_TRY(session.send({"ticket", {{"ticket", incoming.ticket()}}, {}}));
    if (awake_) BATON_TRY(receive_until(in, true, [&] {
      const auto v = incoming.landed().value();
      return !v.ok() || *v >= 1;
    }, "the layer"));
    else BATON_TRY(incoming.landed().wait_until(1, now_ns() + kStepNs));
    BATON_TRY(place.to_device(*shape_, table, &incoming.landed()));
    BATON_TRY(session.send({"ack", {{"modelled_ns", double(incoming.stats().landed_modelled_ns[0]) + place.copied_modelled_ns()}}, {}}));
    BATON_TRY(wait_for(in, [&] { return incoming.sealed().has_value() || !session.alive().ok(); }, "the seal"));
    uint64_t bad = 0;
    if (b.value("verify", false)) { BATON_ASSIGN(bad, place.wrong(*shape_, table, b.value("salt", uint64_t(0)))); }
    return session.send({"done", {{"wrong", bad}}, {}});
  }

  // Takes as many loans as are coming and gives each back; the first is verified.
  Status loans(const nlohmann::json& b) {
    const uint64_t count = b.value("count", uint64_t(1));
    KvLoan loan;
    uint64_t bad = 0;
    for (uint64_t i = 0; i < count; ++i) {
      BATON_TRY(receive_until(in, awake_, [&] { return borrower_->take(loan) || !session.alive().ok(); }, "a loan"));
      if (i == 0 && b.value("verify", false)) {
        BATON_ASSIGN(void* p, borrower_->memory().map());
        bad = wrong(static_cast<uint8_t*>(p), *shape_, loan.blocks, b.value("salt", uint64_t(0)));
      }
      BATON_TRY(borrower_->check(loan));
      borrower_->give_back(loan);
    }
    return session.send({"done", {{"wrong", bad}}, {}});
  }

  Status raw(const nlohmann::json& b) {
    const Shape& shape = shapes()[b.value("index", 0u) % shapes().size()];
    BATON_ASSIGN(auto target, RawOfi::open(b.value("provider", "").c_str(), place.base(), kPool));
    BATON_ASSIGN(nlohmann::json way, target->way());
    const auto table = shape.table(rng_); // one for all: the writer has the addresses
    BATON_TRY(session.send({"way", {{"way", way}, {"table", table}}, {}}));
    for (uint64_t i = 0, count = b.value("count", uint64_t(1)); i < count; ++i) {
      const uint64_t until = now_ns() + kStepNs;
      while (!target->heard()) {
        if (now_ns() > until) return Error(BATON_DEADLINE, "kv_move: raw libfabric was not heard", "run it on a quieter machine");
        in.poll(1);
      }
      BATON_TRY(session.send({"ack", nlohmann::json::object(), {}}));
    }
    return session.send({"done", {{"wrong", wrong(place.base(), shape, table, b.value("salt", uint64_t(0)))}}, {}});
  }

  std::optional<KvSink> sink_;
  std::optional<KvBorrower> borrower_;
  const Shape* shape_ = nullptr;
  bool awake_ = false;
  std::mt19937 rng_{7};

 public:
  Decode(const Instance& i, Endpoint& e, Session& s, KvPlace& p) : in(i), ep(e), session(s), place(p) {}
};

void tally(KvMoveRow& r, const Message& done) {
  ++r.verified;
  r.wrong += done.body.value("wrong", uint64_t(1));
}

double p99(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[(v.size() * 99 + 99) / 100 - 1];
}

struct Prefill {
  const Instance& in;
  Session& session;
  KvPlace place;
  const KvMoveOptions& options;
  size_t transfers = 0; // of all rows
  bool modelled = false; // one of the two devices is
  Floor floor{};
  std::mt19937 rng{11};

  uint64_t salts = 0;

  bool go(const KvMoveRow& r) const { return !options.step || options.step(r.name, transfers); }
  KvMoveRow begin(const std::string& way, const Shape& shape) {
    KvMoveRow r;
    r.fabric = way;
    r.shape = shape.name;
    r.name = fmt::format("kv_move/{}/{}", way, shape.name);
    return r;
  }

  struct Floors {
    std::vector<double> plain, one, two;
    void add(Floor& f, const Shape& s, std::mt19937& rng) {
      plain.push_back(f.memcpy_ms(s, rng));
      one.push_back(f.streamed_ms(s, rng, 1));
      two.push_back(f.streamed_ms(s, rng, 2));
    }
    void put(KvMoveRow& r) const {
      r.yardstick_ms = median(plain);
      r.streamed_ms = median(one);
      r.streamed2_ms = median(two);
    }
  };

  Result<KvMoveRow> move(const std::string& way, size_t index, uint32_t iterations) {
    const Shape& shape = shapes()[index];
    const KvLayout l = shape.layout();
    const bool asleep = way == "mapped asleep";
    const bool checked = way == "mapped checked";
    const std::string fabric = asleep || checked ? "mapped" : way;
    KvMoveRow r = begin(way, shape);
    BATON_TRY(session.send({"shape", {{"index", index}, {"awake", !asleep}}, {}}));
    std::vector<double> moved, opened;
    Floors floors;
    for (uint32_t i = 0; i <= iterations && go(r); ++i) { // the first one warms up and is verified
      const auto table = shape.table(rng);
      const bool verify = i == 0 || options.verify_all;
      const uint64_t salt = ++salts;
      if (verify) BATON_TRY(place.fill(shape, table, salt));
      BATON_TRY(session.send({"next", {{"salt", salt}, {"verify", verify}}, {}}));
      BATON_ASSIGN(Message ticket, hear(in, session, "a ticket"));
      if (asleep) usleep(2000);
      const uint64_t before = now_ns();
      BATON_TRY(place.to_stage(shape, table));
      const double staged_ns = place.copied_modelled_ns();
      BATON_ASSIGN(KvTransfer t, KvTransfer::open(in, session, ticket.body.value("ticket", ""), {{&place.reach(), l, table}}, shape.tokens(),
                                                  {.fabric = fabric, .model = "kv_move", .checksum = checked}, now_ns() + kStepNs));
      const uint64_t start = now_ns();
      BATON_TRY(t.queue().submit(t.copy(0, 0)));
      BATON_ASSIGN(Message ack, hear(in, session, "the acknowledgement", !asleep));
      const uint64_t end = now_ns();
      BATON_TRY(t.seal({"end", nlohmann::json::object(), {}}, now_ns() + kStepNs));
      BATON_ASSIGN(Message done, hear(in, session, "the verification"));
      if (verify) tally(r, done);
      if (modelled) r.modelled_ms = (staged_ns + ack.body.value("modelled_ns", 0.0)) / 1e6;
      r.bytes = t.stats().bytes;
      r.segments = t.stats().segments;
      Floors once;
      once.add(floor, shape, rng);
      if (i == 0) continue;
      floors.plain.push_back(once.plain[0]), floors.one.push_back(once.one[0]), floors.two.push_back(once.two[0]);
      moved.push_back(double(end - before) / 1e6);
      opened.push_back(double(start - before) / 1e6);
    }
    r.count = uint32_t(moved.size());
    if (moved.empty()) return r; // interrupted
    r.median_ms = median(moved);
    r.p99_ms = p99(moved);
    r.open_ms = median(opened);
    floors.put(r);
    r.ratio = r.yardstick_ms / r.median_ms;
    return r;
  }

  // libfabric itself: an fi_write for each block, from lists of blocks to the acknowledgement.
  Result<double> raw(const char* provider, size_t index, uint32_t iterations) {
    const Shape& shape = shapes()[index];
    const KvLayout l = shape.layout();
    BATON_TRY(session.send({"raw", {{"provider", provider}, {"index", index}, {"count", iterations + 1}, {"salt", index + 1}}, {}}));
    BATON_ASSIGN(Message m, hear(in, session, "the way to raw memory"));
    BATON_ASSIGN(auto source, RawOfi::open(provider, place.base(), kPool));
    BATON_TRY(source->connect(m.body["way"]));
    BATON_ASSIGN(KvPlan plan, KvPlan::compile(l, l));
    const auto to = m.body["table"].get<std::vector<int32_t>>();
    const auto from = shape.table(rng); // one for all as well: what arrived last is verified
    BATON_TRY(place.fill(shape, from, index + 1));
    std::vector<double> ms;
    for (uint32_t i = 0; i <= iterations; ++i) {
      floor.cool(shape, rng); // as much memory is touched between two rounds as between two moves
      const uint64_t start = now_ns();
      BATON_ASSIGN(KvMove move, plan.instantiate(from, to, 0, shape.tokens()));
      BATON_TRY(source->move(move.layer(0), now_ns() + kStepNs));
      BATON_ASSIGN(Message ack, hear(in, session, "the acknowledgement", true));
      if (i) ms.push_back(double(now_ns() - start) / 1e6);
    }
    BATON_ASSIGN(Message done, hear(in, session, "the verification"));
    if (const uint64_t bad = done.body.value("wrong", uint64_t(1))) return Error(BATON_CORRUPT, fmt::format("raw {}: {} words arrived wrong", provider, bad), "report this");
    return median(ms);
  }

  // From the list of blocks to the receipt that the other process gave.
  Result<KvMoveRow> lend(size_t index, uint32_t iterations, bool notifications) {
    const Shape& shape = shapes()[index];
    KvMoveRow r = begin("lend", shape);
    r.bytes = kMoved;
    auto rounds = [&](bool awake, uint64_t count, const std::vector<int32_t>* one) -> Result<std::vector<double>> {
      BATON_TRY(session.send({"shape", {{"index", index}, {"awake", awake}, {"lend", true}}, {}}));
      BATON_ASSIGN(KvLender lender, KvLender::open(in, session, place.pool(), shape.layout(), {.model = "kv_move"}, now_ns() + kStepNs));
      auto table = one ? *one : shape.table(rng);
      const bool verify = !one;
      if (verify) BATON_TRY(place.fill(shape, table, index + 1));
      BATON_TRY(session.send({"loans", {{"count", count}, {"verify", verify}, {"salt", index + 1}}, {}}));
      std::vector<double> us;
      std::vector<uint64_t> back;
      for (uint64_t i = 0; i < count; ++i) {
        if (i && !one) table = shape.table(rng);
        if (!awake) usleep(1000);
        back.clear();
        const uint64_t start = now_ns();
        BATON_ASSIGN(uint64_t id, lender.lend(table, {.tokens = one ? 1 : shape.tokens()}));
        (void)id;
        BATON_TRY(receive_until(in, true, [&] { return lender.returned(back), !back.empty() || !lender.alive().ok(); }, "a loan's return"));
        if (back.empty()) return lender.alive().error();
        if (i) us.push_back(double(now_ns() - start) / 1e3);
      }
      BATON_ASSIGN(Message done, hear(in, session, "the verification"));
      if (verify) tally(r, done);
      return us;
    };
    if (!go(r)) return r;
    BATON_ASSIGN(std::vector<double> us, rounds(true, iterations * 5 + 1, nullptr));
    r.count = uint32_t(us.size());
    r.median_ms = median(us) / 1e3;
    r.p99_ms = p99(us) / 1e3;
    r.segments = kMoved / shape.block_bytes();
    Floors floors;
    for (uint32_t i = 0; i < 3; ++i) floors.add(floor, shape, rng);
    floors.put(r);
    r.ratio = r.yardstick_ms / r.median_ms;
    if (notifications) {
      const std::vector<int32_t> block{0};
      BATON_ASSIGN(auto there_and_back, rounds(true, std::min(20'000u, 2000 * iterations) + 1, &block));
      r.notify_ns = median(there_and_back) * 500;
      BATON_ASSIGN(auto asleep, rounds(false, std::min(300u, 30 * iterations) + 1, &block));
      r.notify_asleep_ns = median(asleep) * 1000;
      r.wake_ns = wake_ns(std::min(300u, 30 * iterations));
    }
    return r;
  }
};

// The ways that a fabric is measured in.
std::vector<std::string> ways_of(const std::string& fabric, bool hosts) {
  if (fabric != "mapped") return {fabric};
  std::vector<std::string> ways{"mapped", "mapped asleep", "mapped checked"};
  if (hosts) ways.push_back("lend");
  return ways;
}

Result<std::vector<KvMoveRow>> prefill(const Instance& in, Endpoint& ep, const KvMoveOptions& o) {
  const uint32_t iterations = std::max(o.iterations, 1u);
  const bool hosts = o.from.starts_with("host://") && o.to.starts_with("host://");
  std::unique_ptr<Session> session;
  BATON_TRY(wait_for(in, [&] { return (session = ep.accept()) != nullptr; }, "the other process"));
  BATON_ASSIGN(KvPlace place, KvPlace::open(in, o.from));
  BATON_ASSIGN(Message ready, hear(in, *session, "the other process's device"));
  Prefill p{in, *session, std::move(place), o};
  p.modelled = p.place.modelled() || ready.body.value("modelled", false);
  std::vector<KvMoveRow> rows;
  const auto known = list_fabrics();
  std::vector<std::string> ways;
  for (const std::string& f : o.fabrics) {
    const auto it = std::find_if(known.begin(), known.end(), [&](const FabricInfo& k) { return k.name == f; });
    if (it != known.end() && it->available) {
      for (const std::string& way : ways_of(f, hosts)) ways.push_back(way);
      continue;
    }
    KvMoveRow r;
    r.name = "kv_move/" + f;
    r.fabric = f;
    r.skipped = it == known.end() ? "unknown fabric" : it->reason;
    rows.push_back(std::move(r));
  }
  for (const std::string& way : ways) p.transfers += shapes().size() * (way == "lend" ? 1 : iterations + 1);
  for (const std::string& way : ways)
    for (size_t i = 0; i < shapes().size(); ++i) {
      BATON_ASSIGN(KvMoveRow r, way == "lend" ? p.lend(i, iterations, i + 1 == shapes().size()) : p.move(way, i, iterations));
      if (o.raw && (way == "shm" || way == "tcp")) {
        BATON_ASSIGN(r.raw_ms, p.raw(way == "shm" ? "shm" : "tcp;ofi_rxm", i, iterations));
      }
      const bool whole = r.count >= iterations;
      if (r.count) rows.push_back(std::move(r));
      if (!whole) { // interrupted
        (void)session->send({"end", nlohmann::json::object(), {}});
        return rows;
      }
    }
  (void)session->send({"end", nlohmann::json::object(), {}});
  return rows;
}

}  // namespace

Result<std::vector<KvMoveRow>> kv_move(const KvMoveOptions& o) {
  const Key key = random_key();
  int way[2]; // the child learns the address through it; it is forked before this process owns anything
  if (pipe2(way, O_CLOEXEC)) return io_error("pipe2", errno);
  Fd read_end(way[0]), write_end(way[1]);
  const pid_t pid = fork();
  if (pid < 0) return io_error("fork", errno);
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    write_end.reset();
    char address[64] = {};
    if (read(read_end.get(), address, sizeof address - 1) <= 0) _exit(1);
    const Status s = Decode::run(address, key, o.to);
    if (!s.ok() && s.error().code != BATON_PEER_LOST) fmt::print(stderr, "kv_move decode process: {}\n", s.error().text());
    _exit(s.ok() ? 0 : 1);
  }
  auto run = [&]() -> Result<std::vector<KvMoveRow>> {
    BATON_ASSIGN(Instance in, Instance::create());
    BATON_ASSIGN(Endpoint ep, Endpoint::open(in, {.listen = "127.0.0.1:0", .key = key, .name = "kv_move prefill", .lease_ns = kLeaseNs}));
    if (write(write_end.get(), ep.address().data(), ep.address().size()) < 0) return io_error("write", errno);
    return prefill(in, ep, o);
  };
  auto rows = run();
  write_end.reset();
  const uint64_t until = deadline_in_ms(5000); // the session is gone: it ends by itself, and its emulator with it
  while (waitpid(pid, nullptr, WNOHANG) == 0) {
    if (now_ns() > until) kill(pid, SIGKILL);
    usleep(1000);
  }
  return rows;
}

}  // namespace baton::transport
