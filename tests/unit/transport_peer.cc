// transport_peer: the other process of transport_process.cc and transport_remote_timeline.cc.
//   transport_peer source KEY_HEX ADDRESS LEASE_MS   connects; obeys "go"
//   transport_peer sink   KEY_HEX -       LEASE_MS   listens, prints its address; obeys "expect"
//   either obeys "lend" and "borrow": requests in shared memory, both ways of kv_lend.hpp
//   either obeys "export": a timeline "made", which it raises at each "signal", and "import": follows that of this process
// Ends when its session ends, or with its parent.
#include "transport_test.hpp"

#include "transport/crypto.hpp"
#include "transport/kv_lend.hpp"
#include "transport/remote_timeline.hpp"

#include <sys/prctl.h>

#include <csignal>

using namespace baton;
using namespace baton::transport;

namespace {


Key key_from(const std::string& hex_text) {
  Key k{};
  for (size_t i = 0; i < k.size(); ++i) k[i] = uint8_t(std::stoul(hex_text.substr(2 * i, 2), nullptr, 16));
  return k;
}

KvLayout layout_for(const nlohmann::json& b) {
  KvLayout l = small_layout(KvOrder::head_major, 16, b.value("blocks", 12u));
  l.head_dim = b.value("head_dim", 16u);
  return l;
}

void serve_source(const Instance& in, Session& s, const nlohmann::json& b) {
  Device host = must(in.open("host://"));
  const KvLayout l = layout_for(b);
  const uint64_t tokens = b["tokens"];
  Buffer memory = must(host.alloc(l.bytes() + 4096));
  std::vector<int32_t> blocks(l.blocks);
  std::iota(blocks.rbegin(), blocks.rend(), 0);
  fill_kv(memory, l, blocks, tokens, b["salt"]);
  auto t = KvTransfer::open(in, s, b["ticket"], {{&memory, l, blocks}}, tokens, {.fabric = b["fabric"], .model = "m", .checksum = b.value("checksum", false)}, deadline_in_ms(kSoonMs));
  if (!t.ok()) {
    (void)s.send({"refused", {{"text", t.error().text()}}, {}});
    return;
  }
  const uint32_t layers = b.value("only", l.layers);
  const uint32_t hold = b.value("hold", 0u); // waits there for "on"
  for (uint32_t y = 0; y < layers; ++y) {
    if (hold && y == hold) {
      (void)s.send({"paused", {}, {}});
      while (s.alive().ok() && !s.receive()) in.poll_wait(deadline_in_ms(100));
    }
    (void)t->queue().submit(t->copy(0, y));
  }
  if (layers < l.layers) { // stays in the middle until something happens to it
    (void)s.send({"paused", {}, {}});
    while (s.alive().ok()) in.poll_wait(deadline_in_ms(100));
    return;
  }
  if (Status sealed = t->seal({"first", {{"token", 7}}, {}}, deadline_in_ms(kSoonMs)); !sealed.ok()) {
    (void)s.send({"failed", {{"text", sealed.error().text()}}, {}});
  } else if (b.value("rails", false)) {
    nlohmann::json rails = nlohmann::json::array();
    for (const RailUse& u : t->stats().rails) rails.push_back({{"nic", u.nic}, {"bytes", u.bytes}, {"failures", u.failures}, {"up", u.up}});
    (void)s.send({"sent", {{"rails", rails}}, {}});
  }
}

void serve_sink(const Instance& in, Endpoint& ep, Session& s, const nlohmann::json& b) {
  Device host = must(in.open("host://"));
  const KvLayout l = layout_for(b);
  const uint64_t tokens = b["tokens"];
  Buffer memory = must(host.alloc(l.bytes()));
  std::vector<int32_t> blocks(l.blocks);
  std::iota(blocks.begin(), blocks.end(), 0);
  KvSink sink = must(KvSink::create(in, ep, memory, l, "m"));
  Incoming incoming = must(sink.expect(blocks, tokens));
  (void)s.send({"ticket", {{"ticket", incoming.ticket()}}, {}});
  std::optional<Message> sealed;
  while (s.alive().ok() && !(sealed = incoming.sealed())) in.poll_wait(deadline_in_ms(100));
  if (sealed) (void)s.send({"result", {{"wrong", wrong_kv(memory, l, blocks, tokens, b["salt"])}}, {}});
}

void serve_export(const Instance& in, Endpoint& ep, Session& s, const nlohmann::json& b) {
  Timeline made = must(in.timeline("made"));
  ExportedTimeline x = must(ExportedTimeline::open(in, ep, made, "made", {.peer_may_signal = b.value("grant", false)}));
  (void)s.send({"exported", {}, {}});
  while (s.alive().ok()) {
    in.poll_wait(deadline_in_ms(1000));
    while (auto m = s.receive())
      if (m->type == "signal") made.signal(m->body["value"], m->body["modelled"]);
  }
}

// A chain of ops here: wait on the far point, answer on "back".
void serve_import(const Instance& in, Session& s) {
  Device host = must(in.open("host://"));
  Queue q = must(host.queue());
  RemoteTimeline there = must(RemoteTimeline::import(in, s, "there", deadline_in_ms(kSoonMs)));
  RemoteTimeline back = must(RemoteTimeline::import(in, s, "back", deadline_in_ms(kSoonMs), {.signal = true}));
  for (uint64_t v = 1; v <= 64; ++v) (void)q.submit(nop().wait(there.timeline(), v).signal(back.timeline(), v));
  (void)s.send({"imported", {}, {}});
  while (s.alive().ok()) in.poll_wait(deadline_in_ms(1000));
}

// One loan of the whole pool, filled with `salt`.
void serve_lend(const Instance& in, Session& s, const nlohmann::json& b) {
  Device host = must(in.open("host://"));
  const KvLayout l = layout_for(b);
  Buffer pool = must(host.alloc(l.bytes()));
  std::vector<int32_t> blocks(l.blocks);
  std::iota(blocks.rbegin(), blocks.rend(), 0);
  const uint64_t tokens = uint64_t(l.blocks) * l.block_tokens;
  fill_kv(pool, l, blocks, tokens, b["salt"]);
  KvLender lender = must(KvLender::open(in, s, pool, l, {.model = "m"}, deadline_in_ms(kSoonMs)));
  (void)must(lender.lend(blocks, {.tokens = tokens, .tag = 5}));
  std::vector<uint64_t> back;
  while (s.alive().ok() && back.empty()) {
    in.poll_wait(deadline_in_ms(100));
    lender.returned(back);
  }
  (void)s.send({"back", {{"loans", back}}, {}});
}

// Takes loans and keeps them.
void serve_borrow(const Instance& in, Session& s, const nlohmann::json& b) {
  Device host = must(in.open("host://"));
  KvBorrower borrower = must(KvBorrower::create(in, s, host, layout_for(b), {.model = "m"}));
  (void)s.send({"borrowing", {}, {}});
  KvLoan loan;
  for (bool told = false; s.alive().ok();) {
    in.poll_wait(deadline_in_ms(100));
    if (!told && borrower.take(loan)) {
      (void)s.send({"took", {{"wrong", wrong_kv(borrower.memory(), borrower.layout(), loan.blocks, loan.terms.tokens, b["salt"])}}, {}});
      told = true;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const std::string role = argv[1];
  Instance in = must(Instance::create());
  EndpointOptions o;
  o.key = key_from(argv[2]);
  o.name = role + " process";
  o.lease_ns = std::stoull(argv[4]) * 1'000'000;
  o.rails = test_rails();
  if (const char* ms = getenv("BATON_TEST_RAIL_MS")) o.rail_silence_ns = std::stoull(ms) * 1'000'000, o.rail_cooldown_ns = 200'000'000;
  if (role == "sink") o.listen = test_listen();
  Endpoint ep = must(Endpoint::open(in, o));
  std::unique_ptr<Session> s;
  if (role == "sink") {
    printf("%s\n", ep.address().c_str());
    fflush(stdout);
    while (!(s = ep.accept())) in.poll_wait(deadline_in_ms(100));
  } else {
    auto connected = ep.connect(argv[3], deadline_in_ms(kSoonMs));
    if (!connected.ok()) {
      fprintf(stderr, "transport_peer %s: %s\n", argv[3], connected.error().text().c_str());
      return 1;
    }
    s = std::move(*connected);
  }
  while (s->alive().ok()) {
    in.poll_wait(deadline_in_ms(100));
    while (auto m = s->receive()) {
      if (m->type == "go") serve_source(in, *s, m->body);
      if (m->type == "expect") serve_sink(in, ep, *s, m->body);
      if (m->type == "lend") serve_lend(in, *s, m->body);
      if (m->type == "borrow") serve_borrow(in, *s, m->body);
      if (m->type == "export") serve_export(in, ep, *s, m->body);
      if (m->type == "import") serve_import(in, *s);
    }
  }
  return 0;
}
