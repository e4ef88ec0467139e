// What an authenticated peer may send: identity, user messages, signals, timelines (tl.*) and hand-overs (kv.*), in each role that this side can
// have. The peer holds the key and is not trusted to be right: whatever it says, this side's timelines only rise or fail, and a lost session has a cause.
//
// An input is a byte (0: exports a timeline and expects a hand-over, 1: imports a timeline, 2: opens a hand-over), then frames: a byte (kind; 0x80: raw
// plain text), u16 length of JSON, JSON, u16 length of bytes, bytes. In the JSON, TICKET stands for the ticket that is expected and ID for the
// transfer's number, which no mutation could know.
#include "tests/fuzz/session_peer.h"
#include "transport/kv_link.hpp"
#include "transport/remote_timeline.hpp"

#include <sys/epoll.h>

using namespace baton;
using namespace baton::transport;

namespace {

const Key kKey{1, 2, 3};

KvLayout layout() {
  KvLayout l;
  l.layers = 2, l.kv_heads = 2, l.head_dim = 8, l.block_tokens = 4, l.blocks = 4, l.head_count = 2;
  return l;
}

struct Side {
  Instance in;
  Device host;
  Buffer memory;
};

// Once for the process: an instance, the host driver, and memory for a KV-cache.
const Side& side() {
  static const Side s = [] {
    ::setenv("FI_PROVIDER", "none", 1);  // libfabric is not what is tested: it finds no fabric, and only `mapped` is there
    auto in = Instance::create();
    FUZZ_CHECK(in.ok());
    auto host = in->open("host://");
    FUZZ_CHECK(host.ok());
    auto memory = host->alloc(layout().bytes());
    FUZZ_CHECK(memory.ok());
    return Side{std::move(*in), std::move(*host), std::move(*memory)};
  }();
  return s;
}

void replace(std::string& s, std::string_view what, const std::string& with) {
  for (size_t at = 0; (at = s.find(what, at)) != std::string::npos; at += with.size()) s.replace(at, what.size(), with);
}

// The far end. As a service it answers while this side waits inside of a call.
class Script : public Service {
 public:
  Script(Session::Impl& s, fuzz::Peer& peer, fuzz::Input in) : s_(s), peer_(peer), in_(in) {}
  std::string ticket = "none", id = "0";

  bool one() {
    if (in_.empty() || s_.state == Session::Impl::State::lost) return false;
    const uint8_t kind = in_.number();
    const auto text = in_.bytes(in_.number<uint16_t>());
    std::string json(text.begin(), text.end());
    replace(json, "TICKET", ticket);
    replace(json, "ID", id);
    const auto bytes = in_.bytes(in_.number<uint16_t>());
    if (kind & 0x80 && bytes.size() >= 5) peer_.sealed(bytes);
    else peer_.frame(kind, json, bytes);
    s_.ready(EPOLLIN);
    return true;
  }
  uint32_t on_poll(uint64_t) override {
    while (!asked_) {
      const auto json = peer_.next_json();
      if (!json) return 0;
      asked_ = json->find("\"kv.open\"") != std::string::npos || json->find("\"tl.import\"") != std::string::npos;
      const size_t at = json->find("\"id\":");
      if (at != std::string::npos) id = json->substr(at + 5, json->find_first_not_of("0123456789", at + 5) - at - 5);
    }
    if (one()) return 1;
    if (s_.state != Session::Impl::State::lost) s_.lose(Error(BATON_PEER_LOST, "the script has ended"));
    return 0;
  }

 private:
  Session::Impl& s_;
  fuzz::Peer& peer_;
  fuzz::Input in_;
  bool asked_ = false;  // this side has sent what the script answers
};

void exports(Endpoint& ep, Script& script) {
  auto made = side().in.timeline("made");
  FUZZ_CHECK(made.ok());
  auto exported = ExportedTimeline::open(side().in, ep, *made, "made", {.peer_may_signal = true});
  auto sink = KvSink::create(side().in, ep, side().memory, layout(), "model");
  FUZZ_CHECK(exported.ok() && sink.ok());
  auto incoming = sink->expect({0, 1}, 6);
  FUZZ_CHECK(incoming.ok());
  script.ticket = incoming->ticket();
  uint64_t before = 0;
  while (script.one()) {
    side().in.poll();
    Error e;
    uint64_t now = 0;
    if (baton_timeline_query(made->get(), &now, &e) != BATON_OK) break;
    FUZZ_CHECK(now >= before);
    before = now;
  }
}

void imports(Endpoint& ep, Script& script, Session& session) {
  ep.impl().add(&script);
  auto far = RemoteTimeline::import(side().in, session, "made", deadline_in_ms(1000), {.signal = true});
  if (!far) fuzz::sound(far);
  while (far && script.one()) side().in.poll();
  ep.impl().remove(&script);
}

void opens(Endpoint& ep, Script& script, Session& session) {
  ep.impl().add(&script);
  auto t = KvTransfer::open(side().in, session, "ticket", {{&side().memory, layout(), {0, 1}}}, 6, {.fabric = "mapped", .model = "model"}, deadline_in_ms(1000));
  if (!t) fuzz::sound(t);
  while (t && script.one()) side().in.poll();
  ep.impl().remove(&script);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Side& mine = side();
  fuzz::Input in(data, size);
  const uint8_t role = in.number() % 3;
  auto ep = Endpoint::open(mine.in, {.listen = "", .key = kKey, .name = "fuzz"});
  FUZZ_CHECK(ep.ok());
  fuzz::SocketPair pair;
  fuzz::Peer peer(pair.far, kKey);
  // Driven by hand, so that each frame is taken before the next is sent.
  auto impl = std::make_unique<Session::Impl>(&ep->impl(), Role::server, Fd(pair.near), "peer");
  Session::Impl& s = *impl;
  peer.hello();
  s.ready(EPOLLIN);
  peer.prove();
  s.ready(EPOLLIN);
  FUZZ_CHECK(s.state == Session::Impl::State::identity);
  Script script(s, peer, in);
  if (role == 0) {
    exports(*ep, script);
  } else if (script.one(); s.state == Session::Impl::State::up) {
    const std::unique_ptr<Session> session = ep->impl().wrap(std::move(impl));
    if (role == 1) imports(*ep, script, *session);
    else opens(*ep, script, *session);
    if (s.state == Session::Impl::State::lost) fuzz::sound(*s.cause);
    return 0;
  }
  if (s.state == Session::Impl::State::lost) fuzz::sound(*s.cause);
  return 0;
}
