// The session's handshake before anything is authenticated, in both roles: without the key no bytes bring a session up, and none make this side hold
// more than a few kilobytes.
//
// An input is a byte (1: this side is the client, else the server; 2: by identities, else by a shared key), and what the other side sends, in pieces: a byte (how long), bytes.
#include "tests/fuzz/folder.h"
#include "transport/endpoint.hpp"

#include <sys/epoll.h>
#include <unistd.h>

using namespace baton;
using namespace baton::transport;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Instance instance = std::move(*Instance::create());
  using State = Session::Impl::State;
  fuzz::Input in(data, size);
  static const fuzz::Folder folder;
  static const std::string identity = folder.write("id", "baton-identity/1 " + std::string(64, '5')), known = folder.write("known", "peer " + std::string(64, 'a'));
  const uint8_t kind = in.number();
  const Role role = kind % 2 ? Role::client : Role::server;
  EndpointOptions options{.listen = "", .name = "fuzz"};
  if (kind & 2) options.identity = identity, options.known_peers = known;
  else options.key = Key{1, 2, 3};
  auto ep = Endpoint::open(instance, options);
  FUZZ_CHECK(ep.ok());
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
