#include "transport/bench/kv_move.hpp"

#include "transport/fabrics.hpp"
#include "transport/kv_link.hpp"
#include "transport/socket.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <numeric>
#include <random>

namespace baton::transport {
namespace {

constexpr uint64_t kMoved = 64u << 20, kPool = 128u << 20;
constexpr uint64_t kStepNs = 30'000'000'000;

struct Shape {
  const char* name;
  uint32_t head_dim; // of one head, 16 tokens, bf16, k and v: the bytes of a block
  bool random;
  uint64_t block_bytes() const { return 2ull * 16 * head_dim * 2; }
};
constexpr Shape kShapes[] = {{"1x64MiB", 256, false}, {"4096x16KiB", 256, true}, {"16384x4KiB", 64, true}};

// One layer, blocks whole: [block][k|v][token][d]. A block is one segment, and neighbours merge.
KvLayout layout_of(const Shape& s) {
  KvLayout l;
  l.layers = l.kv_heads = l.head_count = 1;
  l.head_dim = s.head_dim;
  l.order = KvOrder::block_major;
  l.blocks = uint32_t(kPool / s.block_bytes());
  return l;
}

uint64_t tokens_of(const Shape& s) { return kMoved / s.block_bytes() * 16; }

std::vector<int32_t> table_of(const Shape& s, std::mt19937& rng) {
  std::vector<int32_t> all(kPool / s.block_bytes());
  std::iota(all.begin(), all.end(), 0);
  if (s.random) std::shuffle(all.begin(), all.end(), rng);
  all.resize(kMoved / s.block_bytes());
  return all;
}

// A word that says where it belongs: (iteration, position in the request).
void fill(uint8_t* pool, const Shape& s, const std::vector<int32_t>& table, uint64_t salt) {
  const uint64_t words = s.block_bytes() / 8;
  for (size_t i = 0; i < table.size(); ++i) {
    auto* w = reinterpret_cast<uint64_t*>(pool + uint64_t(table[i]) * s.block_bytes());
    for (uint64_t k = 0; k < words; ++k) w[k] = salt * 0x9e3779b97f4a7c15ull + i * words + k;
  }
}

uint64_t wrong(const uint8_t* pool, const Shape& s, const std::vector<int32_t>& table, uint64_t salt) {
  const uint64_t words = s.block_bytes() / 8;
  uint64_t bad = 0;
  for (size_t i = 0; i < table.size(); ++i) {
    auto* w = reinterpret_cast<const uint64_t*>(pool + uint64_t(table[i]) * s.block_bytes());
    for (uint64_t k = 0; k < words; ++k) bad += w[k] != salt * 0x9e3779b97f4a7c15ull + i * words + k;
  }
  return bad;
}

template <class F>
Status wait_for(const Instance& in, F done, const char* what) {
  const uint64_t until = now_ns() + kStepNs;
  while (!done()) {
    if (now_ns() > until) return Error(BATON_DEADLINE, fmt::format("kv_move: {} took longer than {} s", what, kStepNs / 1'000'000'000), "run it on a quieter machine");
    in.poll_wait(now_ns() + 10'000'000);
  }
  return {};
}

Result<Message> hear(const Instance& in, Session& s, const char* what) {
  std::optional<Message> m;
  BATON_TRY(wait_for(in, [&] { return (m = s.receive()) || !s.alive().ok(); }, what));
  if (!m) return s.alive().error();
  return std::move(*m);
}

// The child: for each "shape" a sink; for each "next" a ticket, then an acknowledgement when everything has landed.
Status decode(const std::string& address, const Key& key) {
  BATON_ASSIGN(Instance in, Instance::create());
  BATON_ASSIGN(Device host, in.open("host://"));
  BATON_ASSIGN(Buffer pool, host.alloc(kPool));
  BATON_ASSIGN(void* p, pool.map());
  std::memset(p, 1, kPool);
  BATON_ASSIGN(Endpoint ep, Endpoint::open(in, {"", key, "kv_move decode", 10'000'000'000}));
  BATON_ASSIGN(auto s, ep.connect(address, deadline_in_ms(10'000)));
  std::optional<KvSink> sink;
  const Shape* shape = nullptr;
  std::mt19937 rng(7);
  for (;;) {
    BATON_ASSIGN(Message m, hear(in, *s, "waiting for the next shape"));
    if (m.type == "shape") {
      sink.reset();
      shape = &kShapes[m.body.value("index", 0u) % std::size(kShapes)];
      BATON_ASSIGN(KvSink made, KvSink::create(in, ep, pool, layout_of(*shape), "kv_move"));
      sink.emplace(std::move(made));
      continue;
    }
    if (m.type != "next" || !sink) return {};
    const auto table = table_of(*shape, rng);
    BATON_ASSIGN(Incoming incoming, sink->expect(table, tokens_of(*shape)));
    BATON_TRY(s->send({"ticket", {{"ticket", incoming.ticket()}}, {}}));
    const uint64_t salt = m.body.value("salt", uint64_t(0));
    BATON_TRY(incoming.landed().wait_until(1, now_ns() + kStepNs));
    BATON_TRY(s->send({"ack", nlohmann::json::object(), {}}));
    const bool check = m.body.value("verify", false);
    BATON_TRY(wait_for(in, [&] { return incoming.sealed().has_value() || !s->alive().ok(); }, "the seal"));
    BATON_TRY(s->send({"done", {{"wrong", check ? wrong(static_cast<uint8_t*>(p), *shape, table, salt) : 0}}, {}}));
  }
}

struct Pools { // the yardstick's
  std::vector<uint8_t> from = std::vector<uint8_t>(kPool, 1), to = std::vector<uint8_t>(kPool, 1);
};

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + ptrdiff_t(v.size() / 2), v.end());
  return v[v.size() / 2];
}

double memcpy_ms(Pools& pools, const Shape& s, std::mt19937& rng) {
  const KvLayout l = layout_of(s);
  auto plan = KvPlan::compile(l, l);
  auto move = plan->instantiate(table_of(s, rng), table_of(s, rng), 0, tokens_of(s));
  const uint64_t start = now_ns();
  for (const KvSegment& g : move->layer(0)) std::memcpy(&pools.to[g.dst], &pools.from[g.src], g.bytes);
  return double(now_ns() - start) / 1e6;
}

struct Prefill {
  const Instance& in;
  Session& session;
  Buffer pool;
  uint8_t* base;
  Pools yard;
  std::mt19937 rng{11};

  Result<KvMoveRow> row(const std::string& fabric, size_t index, uint32_t iterations) {
    const Shape& shape = kShapes[index];
    const KvLayout l = layout_of(shape);
    KvMoveRow r;
    r.fabric = fabric;
    r.shape = shape.name;
    r.name = fmt::format("kv_move/{}/{}", fabric, shape.name);
    BATON_TRY(session.send({"shape", {{"index", index}}, {}}));
    BATON_ASSIGN(Timeline made, in.timeline("made"));
    std::vector<double> moved, plain, opened;
    for (uint32_t i = 0; i <= iterations; ++i) { // the first one warms up and is verified
      const auto table = table_of(shape, rng);
      if (i == 0) fill(base, shape, table, index + 1);
      BATON_TRY(session.send({"next", {{"salt", index + 1}, {"verify", i == 0}}, {}}));
      BATON_ASSIGN(Message ticket, hear(in, session, "a ticket"));
      const uint64_t before = now_ns();
      BATON_ASSIGN(KvTransfer t, KvTransfer::open(in, session, ticket.body.value("ticket", ""), {{&pool, l, table}}, tokens_of(shape),
                                                  {.fabric = fabric, .model = "kv_move"}, now_ns() + kStepNs));
      const uint64_t start = now_ns();
      BATON_TRY(t.queue().submit(t.copy(0, 0)));
      BATON_ASSIGN(Message ack, hear(in, session, "the acknowledgement"));
      const double ms = double(now_ns() - start) / 1e6;
      BATON_TRY(t.seal({"end", nlohmann::json::object(), {}}, now_ns() + kStepNs));
      BATON_ASSIGN(Message done, hear(in, session, "the verification"));
      if (done.body.value("wrong", uint64_t(1)) != 0) return Error(BATON_CORRUPT, fmt::format("{}: {} words arrived wrong", r.name, done.body.value("wrong", uint64_t(0))), "report this");
      r.bytes = t.stats().bytes;
      r.segments = t.stats().segments;
      const double yard_ms = memcpy_ms(yard, shape, rng);
      if (i == 0) continue;
      moved.push_back(ms);
      plain.push_back(yard_ms);
      opened.push_back(double(start - before) / 1e6);
    }
    r.median_ms = median(moved);
    r.yardstick_ms = median(plain);
    r.open_ms = median(opened);
    r.ratio = r.yardstick_ms / r.median_ms;
    return r;
  }
};

Result<std::vector<KvMoveRow>> prefill(const Instance& in, Endpoint& ep, const KvMoveOptions& o) {
  std::unique_ptr<Session> session;
  BATON_TRY(wait_for(in, [&] { return (session = ep.accept()) != nullptr; }, "the other process"));
  BATON_ASSIGN(Device host, in.open("host://"));
  BATON_ASSIGN(Buffer pool, host.alloc(kPool));
  BATON_ASSIGN(void* base, pool.map());
  std::memset(base, 1, kPool);
  Prefill p{in, *session, std::move(pool), static_cast<uint8_t*>(base), {}};
  std::vector<KvMoveRow> rows;
  const auto known = list_fabrics();
  for (const std::string& f : o.fabrics) {
    const auto it = std::find_if(known.begin(), known.end(), [&](const FabricInfo& k) { return k.name == f; });
    if (it == known.end() || !it->available) {
      KvMoveRow r;
      r.name = "kv_move/" + f;
      r.fabric = f;
      r.skipped = it == known.end() ? "unknown fabric" : it->reason;
      rows.push_back(std::move(r));
      continue;
    }
    for (size_t i = 0; i < std::size(kShapes); ++i) {
      BATON_ASSIGN(KvMoveRow r, p.row(f, i, std::max(o.iterations, 1u)));
      rows.push_back(std::move(r));
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
    const Status s = decode(address, key);
    if (!s.ok()) fmt::print(stderr, "kv_move decode process: {}\n", s.error().text());
    _exit(s.ok() ? 0 : 1);
  }
  auto run = [&]() -> Result<std::vector<KvMoveRow>> {
    BATON_ASSIGN(Instance in, Instance::create());
    BATON_ASSIGN(Endpoint ep, Endpoint::open(in, {"127.0.0.1:0", key, "kv_move prefill", 10'000'000'000}));
    if (write(write_end.get(), ep.address().data(), ep.address().size()) < 0) return io_error("write", errno);
    return prefill(in, ep, o);
  };
  auto rows = run();
  if (!rows.ok()) kill(pid, SIGKILL);
  write_end.reset();
  waitpid(pid, nullptr, 0);
  return rows;
}

}  // namespace baton::transport
