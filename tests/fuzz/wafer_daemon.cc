// What a client sends to the wafer daemon: a hello, then commands with their payloads, over TCP framing or through the shared rings. Each
// command that is taken is answered once, by completions that the driver's own check accepts; an error has a text.
//
// An input is a byte (0: TCP, 1: rings), and what would follow on the connection. Through the rings a command of kind `scribble` (no command's
// number) writes where the client of a hostile process could: `arg0` into the submission ring's tail, or the completion ring's head.
#include "drivers/cs3/link/connect.h"
#include "emulators/cs3/session.h"
#include "emulators/cs3/shm_port.h"
#include "emulators/cs3/tcp_port.h"
#include "tests/fuzz/fuzz.h"

#include <unistd.h>

#include <map>

using namespace baton;
using namespace baton::cs3;

namespace {

constexpr uint64_t kSramBytes = 64ull << 20;
constexpr uint16_t kScribble = 0xffff;
constexpr int kMostSteps = 4096;

using Pending = std::map<uint64_t, int>;  // answers that are due, by id

void take(const Completion& c, std::string_view text, Pending& due) {
  FUZZ_CHECK(!check(c));
  if (c.kind == uint8_t(Kind::progress)) FUZZ_CHECK(due[c.id] > 0);
  if (c.kind != uint8_t(Kind::done)) return;
  FUZZ_CHECK(due[c.id]-- > 0);
  FUZZ_CHECK(c.code == BATON_OK || !text.empty());
}

// Serves and steps until nothing moves; `drain` takes the answers.
template <class F>
void run(Session& s, F drain) {
  int steps = 0;
  for (bool busy = true; busy && !s.over() && steps < kMostSteps;) {
    busy = s.serve();
    drain();
    while (s.runnable() && !s.over() && steps++ < kMostSteps) {
      s.step();
      busy = true;
      drain();
    }
  }
}

// While it lives, its daemon finds the session by any key that begins so: its stages send to each other.
struct Found {
  Found(Host& h, Session& s) : host(h) {
    host.find = [&s](const SessionKey& key) { return key[0] == 's' ? &s : nullptr; };
  }
  ~Found() {
    host.find = [](const SessionKey&) { return nullptr; };
  }
  Host& host;
};

void by_tcp(Host& host, std::string_view stream) {
  fuzz::SocketPair pair;
  Session s(16, host, std::make_unique<TcpPort>(Fd(pair.near)));
  const Found found(host, s);
  Pending due;
  for (fuzz::Input in(reinterpret_cast<const uint8_t*>(stream.data()), stream.size()); !in.empty();) {
    const Submission c = in.number<Submission>();
    ++due[c.id];
    in.bytes(inline_bytes(c));
  }
  std::string answers;
  const auto drain = [&] {
    char buffer[65536];
    for (ssize_t n; (n = ::recv(pair.far, buffer, sizeof buffer, MSG_DONTWAIT)) > 0;) answers.append(buffer, size_t(n));
    for (Completion c; answers.size() >= sizeof c;) {
      std::memcpy(&c, answers.data(), sizeof c);
      const size_t whole = sizeof c + c.text_bytes + c.payload_bytes;
      if (answers.size() < whole) return;
      take(c, std::string_view(answers).substr(sizeof c, c.text_bytes), due);
      answers.erase(0, whole);
    }
  };
  while (!stream.empty() && !s.over()) {
    const ssize_t n = ::send(pair.far, stream.data(), std::min<size_t>(stream.size(), 32768), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n <= 0) break;
    stream.remove_prefix(size_t(n));
    s.port().on_event(1 /* EPOLLIN */);
    run(s, drain);
  }
  ::close(pair.far);
}

void by_rings(Host& host, fuzz::Input in) {
  fuzz::SocketPair pair;
  auto port = ShmPort::create(Fd(pair.near));
  FUZZ_CHECK(port.ok());
  auto client = Segment::open(Fd(::dup((*port)->descriptors()[0])));
  FUZZ_CHECK(client.ok());
  SegmentLayout& l = client->layout();
  Consumer<Completion, kCqEntries> answers(&l.cq, l.completions);
  Session s(16, host, std::move(*port));
  const Found found(host, s);
  Pending due;
  bool honest = true;  // nothing has been scribbled
  const auto drain = [&] {
    if (!honest) return;
    for (Completion c;;) {
      const uint32_t slot = answers.slot();
      if (answers.pop(c) != Pop::got) return;
      FUZZ_CHECK(c.text_bytes <= kTextBytes);
      take(c, std::string_view(l.texts[slot], c.text_bytes), due);
    }
  };
  for (uint32_t tail = 0; !in.empty() && !s.over();) {
    const Submission c = in.number<Submission>();
    if (c.op == kScribble) {
      honest = false;
      (c.arg1 & 1 ? l.sq.tail : l.cq.head).store(uint32_t(c.arg0));
    } else {
      const auto payload = in.bytes(c.payload_bytes % kMaxPayload);
      const uint64_t at = c.payload_offset % (kArenaBytes - kMaxPayload);
      if (!payload.empty()) std::memcpy(l.arena + at, payload.data(), payload.size());
      l.submissions[tail % kSqEntries] = c;
      if (!check(c)) ++due[c.id];
      l.sq.tail.store(++tail);
    }
    s.port().on_event(1 /* EPOLLIN */);
    run(s, drain);
  }
  ::close(pair.far);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto wafer = Wafer::create(kSramBytes, nullptr);
  FUZZ_CHECK(wafer.ok());
  Host host{*wafer, engine::Options{.isa = engine::Isa::scalar}, "fuzz", [&](uint64_t) { wafer->next_epoch(); }, [] { return 1u; }};
  host.die = [] {};  // a fault plan may come by the link, too
  host.find = [](const SessionKey&) { return nullptr; };
  host.open_peer = [](const HostPort&, const SessionKey&) { return Error(BATON_PEER_LOST, "there is no other daemon here"); };
  fuzz::Input in(data, size);
  const uint8_t carrier = in.number();
  const Hello hello = in.number<Hello>();
  (void)check(hello);
  if (carrier % 2) by_rings(host, in);
  else by_tcp(host, in.text());
  FUZZ_CHECK(wafer->used() == 0);  // the session is over: all that it held is free
  return 0;
}
