// The session's handshake before anything is authenticated, in both roles: without the key no bytes bring a session up, and none make this side hold
// more than a few kilobytes.
//
// An input is a byte (0: this side is the server, 1: the client), and what the other side sends, in pieces: a byte (how long), bytes.
#include "tests/fuzz/fuzz.h"
#include "transport/endpoint.hpp"

#include <sys/epoll.h>
#include <unistd.h>

using namespace baton;
using namespace baton::transport;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Instance instance = std::move(*Instance::create());
  using State = Session::Impl::State;
  fuzz::Input in(data, size);
  auto ep = Endpoint::open(instance, {.listen = "", .key = Key{1, 2, 3}, .name = "fuzz"});
  FUZZ_CHECK(ep.ok());
  const Role role = in.number() % 2 ? Role::client : Role::server;
  fuzz::SocketPair pair;
  Session::Impl s(&ep->impl(), role, Fd(pair.near), "peer");
  if (role == Role::client) s.ready(EPOLLOUT);
  while (!in.empty() && s.state != State::lost) {
    const auto piece = in.bytes(1 + in.number());
    (void)!::send(pair.far, piece.data(), piece.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    s.ready(EPOLLIN);
    FUZZ_CHECK(s.state < State::header || s.state == State::lost);
  }
  ::close(pair.far);
  if (s.state != State::lost) s.ready(EPOLLIN | EPOLLRDHUP);
  FUZZ_CHECK(s.state == State::lost && s.cause);
  return fuzz::sound(*s.cause);
}
