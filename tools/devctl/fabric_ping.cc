#include "tools/devctl/fabric_ping.h"

#include "tools/devctl/verbs.h"

#include <fmt/format.h>

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <optional>

namespace baton::devctl {
namespace {

using namespace transport;

constexpr uint64_t kMemory = 64 << 20, kMaxMessage = 16 << 20;
constexpr uint32_t kMaxLayers = 32;  // of one transfer: on a machine where the other side has to wait for a core, a message takes many ms
constexpr uint64_t kPatienceNs = 30'000'000'000;
constexpr uint32_t kPolls = 1024;                  // some 100 us
constexpr uint64_t kEnoughNs = 1'000'000'000;      // of one run: no transfer is begun after that
constexpr char kModel[] = "devctl fabric ping";

// Polls without sleeping until `done` says so. After a while it offers its core: where there are fewer cores than processes, the other side may want it.
template <class F>
Status spin(const Instance& in, const Session& s, const char* what, F done) {
  uint64_t until = 0;
  for (uint32_t i = 1; !done(); ++i) {
    in.poll();
    if (i >= kPolls && i % 16 == 0) sched_yield();
    if (i % 1024) continue;
    BATON_TRY(s.alive());
    if (interrupted()) return Error(BATON_CANCELLED, "interrupted", "");
    if (!until) until = now_ns() + kPatienceNs;
    if (now_ns() > until) return Error(BATON_DEADLINE, fmt::format("{} did not come within {} s", what, kPatienceNs / 1'000'000'000), "devctl fabric; look at the other side");
  }
  return {};
}

// The next message of this run; those of one that failed are late.
Result<Message> hear(const Instance& in, Session& s, uint64_t run, const char* what) {
  std::optional<Message> m;
  BATON_TRY(spin(in, s, what, [&] {
    m = s.receive();
    if (m && m->body.value("run", uint64_t(0)) != run) m.reset();
    return m.has_value();
  }));
  if (m->type == "failed") return Error(m->body.value("code", int32_t(BATON_FAILED)), m->body.value("what", ""), m->body.value("next", ""));
  return std::move(*m);
}

Status tell(Session& s, uint64_t run, const Error& e) { return s.send({"failed", {{"run", run}, {"code", e.code}, {"what", e.what}, {"next", e.next}}, {}}); }

uint32_t layers_of(uint64_t bytes) { return uint32_t(std::clamp<uint64_t>(kMemory / bytes, 1, kMaxLayers)); }

KvLayout layout_of(uint64_t bytes, uint32_t layers) {  // one block of one token: a layer is K and V beside each other, `bytes` in one piece
  KvLayout l;
  l.layers = layers;
  l.kv_heads = l.head_count = l.block_tokens = l.blocks = 1;
  l.head_dim = uint32_t(bytes / 4);
  return l;
}

void pattern(uint8_t* at, uint64_t bytes, uint64_t salt) {
  for (uint64_t i = 0; i < bytes; i += 8) {
    const uint64_t word = (i + salt) * 0xbf58476d1ce4e5b9;
    std::memcpy(at + i, &word, 8);
  }
}

uint64_t differing(const uint8_t* at, uint64_t bytes, uint64_t salt) {
  uint64_t bad = 0;
  for (uint64_t i = 0; i < bytes; i += 8) {
    const uint64_t word = (i + salt) * 0xbf58476d1ce4e5b9;
    if (!std::memcmp(at + i, &word, 8)) continue;
    for (uint64_t k = 0; k < 8; ++k) bad += at[i + k] != uint8_t(word >> 8 * k);
  }
  return bad;
}

struct Memory {
  Buffer buffer;
  uint8_t* at = nullptr;
  static Result<Memory> of(const Device& host, uint64_t bytes) {
    Memory m;
    BATON_ASSIGN(m.buffer, host.alloc(bytes));
    BATON_ASSIGN(void* p, m.buffer.map());
    m.at = static_cast<uint8_t*>(p);
    std::memset(m.at, 0, bytes);
    return m;
  }
};

// One side's half: what it sends from and what lands here. Layers go both ways for a ping-pong; for a burst one comes back.
struct Half {
  KvLayout out, in;
  Memory source, sink_memory;
  std::optional<KvSink> sink;
  std::optional<Incoming> incoming;
  std::optional<KvTransfer> transfer;

  static Result<Half> make(const Instance& instance, Endpoint& ep, KvLayout out, KvLayout in) {
    Half h;
    h.out = out, h.in = in;
    BATON_ASSIGN(Device host, instance.open("host://"));
    BATON_ASSIGN(h.source, Memory::of(host, out.bytes()));
    BATON_ASSIGN(h.sink_memory, Memory::of(host, in.bytes()));
    BATON_ASSIGN(KvSink sink, KvSink::create(instance, ep, h.sink_memory.buffer, in, kModel));
    h.sink.emplace(std::move(sink));
    return h;
  }
  Result<std::string> expect(uint64_t salt) {
    transfer.reset();
    pattern(source.at, out.bytes(), salt);
    std::memset(sink_memory.at, 0, in.bytes());
    BATON_ASSIGN(Incoming made, sink->expect({0}, 1));
    incoming.emplace(std::move(made));
    return incoming->ticket();
  }
  Status open(const Instance& instance, Session& s, const std::string& ticket, const std::string& fabric) {
    BATON_ASSIGN(KvTransfer t, KvTransfer::open(instance, s, ticket, {{&source.buffer, out, {0}}}, 1, {.fabric = fabric, .model = kModel}, now_ns() + kPatienceNs));
    transfer.emplace(std::move(t));
    return {};
  }
  Status send(uint32_t layer) { return transfer->queue().submit(transfer->copy(0, layer)); }
  Status landed(const Instance& instance, const Session& s, uint32_t layers) {
    bool lost = false;
    uint32_t looks = 0;
    uint64_t seen = 0;
    BATON_TRY(spin(instance, s, "a message", [&] {
      lost = baton_timeline_query(incoming->landed().get(), &seen, nullptr) != 0 || (++looks % 256 == 0 && !transfer->alive().ok());
      return lost || seen >= layers;
    }));
    if (!lost || seen >= layers) return {};
    BATON_TRY(incoming->landed().value());
    return transfer->alive();
  }
  // After the last message of both: how many bytes of what came are wrong.
  Result<uint64_t> end(const Instance& instance, Session& s, uint64_t salt) {
    BATON_TRY(transfer->seal({"end", nlohmann::json::object(), {}}, now_ns() + kPatienceNs));
    BATON_TRY(spin(instance, s, "the end", [&] { return incoming->sealed().has_value(); }));
    return differing(sink_memory.at, in.bytes(), salt);
  }
};

struct Run {
  std::string fabric;
  uint64_t bytes;
  uint32_t layers, back;  // messages there; messages back: as many, or one
  uint64_t id;            // in every message of it

  nlohmann::json json() const { return {{"run", id}, {"fabric", fabric}, {"bytes", bytes}, {"layers", layers}, {"back", back}}; }
  KvLayout there() const { return layout_of(bytes, layers); }
  KvLayout home() const { return layout_of(back == layers ? bytes : 64, back); }
};

// The ponger's side of one run: as many transfers as the pinger asks for.
Status answer(const Instance& in, Endpoint& ep, Session& s, const nlohmann::json& asked) {
  const Run r{asked.value("fabric", ""), asked.value("bytes", uint64_t(0)), asked.value("layers", 0u), asked.value("back", 0u), asked.value("run", uint64_t(0))};
  if (r.bytes < 64 || r.bytes % 64 || r.bytes > kMaxMessage || !r.layers || r.layers > layers_of(r.bytes) || (r.back != 1 && r.back != r.layers))
    return Error(BATON_INVALID_ARGUMENT, "a ping of another shape than this devctl's", "run the same Baton version on both sides");
  BATON_ASSIGN(Half h, Half::make(in, ep, r.home(), r.there()));
  for (;;) {
    BATON_ASSIGN(Message m, hear(in, s, r.id, "the next ping"));
    if (m.type != "next") return {};
    const uint64_t salt = m.body.value("salt", uint64_t(0));
    BATON_ASSIGN(std::string ticket, h.expect(salt + 1));
    BATON_TRY(s.send({"ticket", {{"run", r.id}, {"ticket", ticket}}, {}}));
    BATON_TRY(h.open(in, s, m.body.value("ticket", ""), r.fabric));
    for (uint32_t i = 0; i < r.back; ++i) {
      BATON_TRY(h.landed(in, s, r.back == r.layers ? i + 1 : r.layers));
      BATON_TRY(h.send(i));
    }
    BATON_ASSIGN(uint64_t wrong, h.end(in, s, salt));
    BATON_TRY(s.send({"ended", {{"run", r.id}, {"wrong", wrong}}, {}}));
  }
}

// The pinger's: `count` messages, in as many transfers as they take. `each` is given every round trip, or the time of a whole burst.
template <class F>
Status drive(const Instance& in, Endpoint& ep, Session& s, const Run& r, uint32_t count, PingRow& row, F each) {
  BATON_TRY(s.send({"ping", r.json(), {}}));
  BATON_ASSIGN(Half h, Half::make(in, ep, r.there(), r.home()));
  const uint64_t enough = now_ns() + kEnoughNs;
  for (uint64_t done = 0, salt = r.bytes; done < count && (done < (r.back == r.layers ? 1 : 2) * r.layers || now_ns() < enough); done += r.layers, salt += 2) {
    BATON_ASSIGN(std::string ticket, h.expect(salt));
    BATON_TRY(s.send({"next", {{"run", r.id}, {"ticket", ticket}, {"salt", salt}}, {}}));
    BATON_ASSIGN(Message m, hear(in, s, r.id, "the other side's ticket"));
    BATON_TRY(h.open(in, s, m.body.value("ticket", ""), r.fabric));
    row.fabric = h.transfer->stats().fabric;
    if (r.back == r.layers) {
      for (uint32_t i = 0; i < r.layers; ++i) {
        const uint64_t start = now_ns();
        BATON_TRY(h.send(i));
        BATON_TRY(h.landed(in, s, i + 1));
        each(double(now_ns() - start));
      }
    } else {
      const uint64_t start = now_ns();
      for (uint32_t i = 0; i < r.layers; ++i) BATON_TRY(h.send(i));
      BATON_TRY(h.landed(in, s, 1));
      each(double(now_ns() - start));
    }
    BATON_ASSIGN(uint64_t wrong, h.end(in, s, salt + 1));
    BATON_ASSIGN(Message ended, hear(in, s, r.id, "the comparison"));
    row.wrong += wrong + ended.body.value("wrong", uint64_t(1));
  }
  return s.send({"done", {{"run", r.id}}, {}});
}

}  // namespace

Result<PingRow> ping(const Instance& in, Endpoint& ep, Session& s, const PingOptions& o) {
  PingRow row;
  row.bytes = o.bytes;
  const uint32_t layers = std::min(layers_of(o.bytes), std::max(2u, o.count));
  uint64_t id = now_ns();  // another in each run of a session
  auto all = [&]() -> Status {
    std::vector<double> trips, bursts;
    BATON_TRY(drive(in, ep, s, {o.fabric, o.bytes, layers, layers, id}, o.count + layers / 2, row, [&](double ns) { trips.push_back(ns / 2); }));
    trips.erase(trips.begin(), trips.begin() + layers / 2);  // those that warm up
    row.one_way_ns = std::move(trips);
    BATON_TRY(drive(in, ep, s, {o.fabric, o.bytes, layers, 1, ++id}, std::max(o.count, 4 * layers), row, [&](double ns) { bursts.push_back(ns); }));
    bursts.erase(bursts.begin());
    std::sort(bursts.begin(), bursts.end());
    row.bytes_per_s = double(o.bytes) * layers / bursts[bursts.size() / 2] * 1e9;
    return {};
  };
  if (Status st = all(); !st.ok()) {
    (void)tell(s, id, st.error());  // it waits for what will not come
    if (st.error().code != BATON_CANCELLED || interrupted()) return st.error();
    auto why = hear(in, s, id, "the reason");  // it has ended this
    return why ? st.error() : why.error();
  }
  return row;
}

Status pong(const Instance& in, Endpoint& ep, Session& s) {
  while (s.alive().ok() && !interrupted()) {
    std::optional<Message> m = s.receive();
    if (!m) {
      in.poll_wait(deadline_in_ms(100));
      continue;
    }
    if (m->type == "end") return {};
    if (m->type != "ping") continue;  // of a run that has failed
    if (Status st = answer(in, ep, s, m->body); !st.ok() && s.alive().ok()) (void)tell(s, m->body.value("run", uint64_t(0)), st.error());
  }
  return {};
}

Status ping_end(Session& s) { return s.send({"end", nlohmann::json::object(), {}}); }

}  // namespace baton::devctl
