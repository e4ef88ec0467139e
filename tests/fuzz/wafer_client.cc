// What a daemon sends to the driver's end of the wafer link: a welcome, then completions, over TCP framing or through the shared rings. Nothing that
// it says is used as an address, answers stay in the room that their command has, and a link that breaks says why.
//
// An input is a byte (0: TCP, 1: rings), a Welcome, a byte (how many commands are in flight), and completions, each with text and payload.
#include "drivers/cs3/link/connect.h"
#include "drivers/cs3/link/shm_carrier.h"
#include "drivers/cs3/link/tcp_carrier.h"
#include "tests/fuzz/fuzz.h"

#include <sys/eventfd.h>
#include <unistd.h>

using namespace baton;
using namespace baton::cs3;

namespace {

constexpr uint32_t kRoom[] = {0, 64, kSmallBytes, kSmallBytes + 1};

void send_commands(Carrier& c, uint8_t count) {
  for (uint8_t i = 0; i < count; ++i) {
    const uint32_t bytes = kRoom[i % std::size(kRoom)];
    Ticket* t = c.begin(bytes);
    if (!t) return;
    if (bytes) std::memset(t->payload, i, bytes);
    Submission s{};
    s.op = uint16_t(bytes ? cs3::Op::memcpy_d2h : cs3::Op::nop);
    s.bytes = s.total = bytes;
    c.push(*t, s);
    FUZZ_CHECK(!check(t->s));
  }
}

void take_all(Carrier& c) {
  Event ev;
  Pop p;
  while ((p = c.pop(ev)) == Pop::got) {
    FUZZ_CHECK(ev.text.size() <= kTextBytes && ev.c.payload_bytes <= kMaxPayload);
    FUZZ_CHECK((ev.ticket == nullptr) == (ev.c.kind == uint8_t(Kind::lost)));
    if (!ev.text.empty()) (void)std::string(ev.text);
    if (!ev.last) continue;
    for (uint32_t i = 0; i < ev.ticket->payload_bytes; i += 4096) (void)*const_cast<volatile uint8_t*>(ev.ticket->payload + i);
    c.end(*ev.ticket);
  }
  if (p == Pop::broken) fuzz::sound(c.broken());
}

void by_tcp(fuzz::Input in) {
  fuzz::SocketPair pair;
  TcpCarrier c(Fd(pair.near), std::make_unique_for_overwrite<uint8_t[]>(kArenaBytes));
  send_commands(c, in.number());
  const std::string_view stream = in.text();
  (void)!::send(pair.far, stream.data(), stream.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  take_all(c);
  ::close(pair.far);
  take_all(c);
  FUZZ_CHECK(c.is_broken());
}

void by_rings(fuzz::Input in) {
  fuzz::SocketPair pair;
  auto daemon = Segment::create();
  FUZZ_CHECK(daemon.ok());
  auto mine = Segment::open(Fd(::dup(daemon->fd())));
  FUZZ_CHECK(mine.ok());
  SegmentLayout& l = daemon->layout();
  ShmCarrier c(Fd(pair.near), std::move(*mine), Fd(::eventfd(0, EFD_NONBLOCK)), Fd(::eventfd(0, EFD_NONBLOCK)));
  for (uint32_t tail = 0; !in.empty();) {
    send_commands(c, in.number() % 8);
    const Completion done = in.number<Completion>();
    const auto text = in.bytes(done.text_bytes % kTextBytes);
    if (!text.empty()) std::memcpy(l.texts[tail % kCqEntries], text.data(), text.size());
    l.completions[tail % kCqEntries] = done;
    // A kind that does not exist stands for a daemon that scribbles on the indices.
    if (done.kind == 0xff) l.cq.tail.store(uint32_t(done.value)), l.sq.head.store(done.handle);
    else l.cq.tail.store(++tail);
    take_all(c);
  }
  ::close(pair.far);
  c.check_alive();
  FUZZ_CHECK(c.is_broken());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  const uint8_t carrier = in.number();
  const Welcome w = in.number<Welcome>();
  fuzz::sound(judge(w, "127.0.0.1:9000"));
  if (carrier % 2) by_rings(in);
  else by_tcp(in);
  return 0;
}
