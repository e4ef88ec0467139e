// Who may have a session: from the first byte to the proofs. In order, client to server (>) and back (<):
//   > hello   Hello (handshake.hpp)                                          64 bytes, plain
//   < hello   the same; status 1: the version is refused, 2: the ways of proof are, and the connection ends
//   < proof   [ box of the server's key, 48 ] mac[32]
//   > answer  u8 0, [ box of the client's key, 48 ] mac[32], stream header[24]
//          or u8 1, mac[32]: the client does not know this server             or u8 2: the proof does not verify
//   < header  stream header[24], then frames (connection.cc); of a client that is not known: one frame, a refusal
// Nothing about a side is told before the other has proved itself, but that an endpoint is there, its ways and its epoch.
#include "transport/endpoint.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace baton::transport {
namespace {

constexpr uint16_t kStatusVersion = 1, kStatusWays = 2;
enum Answer : uint8_t { kProof = 0, kUnknownServer = 1, kNotVerified = 2 };
constexpr size_t kVersionAt = 8, kVersionEnd = 12;

Error wrong_key(const std::string& who, uint16_t ways) {
  return ways & kByKey ? Error(BATON_PERMISSION, fmt::format("{} does not hold the same key", who), "use the same key file on both sides")
                       : Error(BATON_PERMISSION, fmt::format("{} could not prove its identity", who), "something between the two sides alters their bytes");
}

Error other_version(uint32_t theirs, const std::string& who) {
  return Error(BATON_VERSION, fmt::format("{} speaks session protocol {}, this side {}", who, theirs, kProtocolVersion), "run the same Baton version on both sides");
}

Error other_ways(uint16_t theirs, uint16_t mine, const std::string& who) {
  return Error(BATON_PERMISSION, fmt::format("{} proves itself by {}, this side by {}", who, ways_text(theirs), ways_text(mine)),
               "give both sides a key file, or both an identity and known peers, or both of these");
}

}  // namespace

std::string Session::Impl::name_peer() const { return (role == Role::client ? "the endpoint at " : "the client at ") + address; }

void Session::Impl::say_hello() {
  state = State::hello;
  const Hello& h = secrets_->handshake.hello();
  put({reinterpret_cast<const uint8_t*>(&h), sizeof h});
}

bool Session::Impl::same_magic() {
  const auto in = input();
  const auto& magic = secrets_->handshake.hello().magic;
  if (std::memcmp(in.data(), magic.data(), std::min(in.size(), magic.size())) == 0) return true;
  if (role == Role::server) lose(Error(BATON_CORRUPT, fmt::format("{} sent something that is not a Baton hello", address), "something else connects to this port"));
  else lose(Error(BATON_CORRUPT, fmt::format("{} does not answer as a Baton endpoint", address), "check the port"));
  return false;
}

bool Session::Impl::take_client_hello() {
  const auto in = input();
  if (!same_magic() || in.size() < kVersionEnd) return false;
  Handshake& h = secrets_->handshake;
  const Hello& mine = h.hello();
  auto refuse = [&](uint16_t status, const Error& why) {
    Hello no{mine.magic, kProtocolVersion, status, mine.ways, {}, {}};
    put({reinterpret_cast<const uint8_t*>(&no), sizeof no});
    lose(why);
    return false;
  };
  uint32_t version;
  std::memcpy(&version, &in[kVersionAt], 4);
  if (version != kProtocolVersion) return refuse(kStatusVersion, other_version(version, address));
  Hello theirs;
  if (in.size() < sizeof theirs) return false;
  std::memcpy(&theirs, in.data(), sizeof theirs);
  if (theirs.ways != mine.ways) return refuse(kStatusWays, other_ways(theirs.ways, mine.ways, name_peer()));
  if (!h.begin(theirs)) {
    lose(Error(BATON_PERMISSION, fmt::format("the public key of {} is not acceptable", name_peer()), "connect by a Baton endpoint"));
    return false;
  }
  in_at_ += sizeof theirs;
  state = State::proof;
  std::vector<uint8_t> reply(sizeof mine + h.proof_bytes());
  std::memcpy(reply.data(), &mine, sizeof mine);
  h.prove(&reply[sizeof mine]);
  put(reply);
  return state != State::lost;
}

bool Session::Impl::take_server_hello() {
  const auto in = input();
  if (!same_magic() || in.size() < kVersionEnd) return false;
  uint32_t version;
  std::memcpy(&version, &in[kVersionAt], 4);
  Hello theirs;
  if (version == kProtocolVersion && in.size() < sizeof theirs) return false;
  std::memcpy(&theirs, in.data(), std::min(in.size(), sizeof theirs));
  Handshake& h = secrets_->handshake;
  if (version != kProtocolVersion || theirs.status == kStatusVersion) lose(other_version(version, address));
  else if (theirs.status || theirs.ways != h.hello().ways) lose(other_ways(theirs.ways, h.hello().ways, name_peer()));
  else if (!h.begin(theirs)) lose(Error(BATON_PERMISSION, fmt::format("the public key of {} is not acceptable", name_peer()), "connect to a Baton endpoint"));
  else {
    in_at_ += sizeof theirs;
    state = State::proof;
    return true;
  }
  return false;
}

std::optional<Error> Session::Impl::not_admitted(const char*& why) {
  Handshake& h = secrets_->handshake;
  peer_epoch = hex(h.peer_epoch());
  if (!ep->identity) return std::nullopt;
  why = "unknown";
  known.emplace(PeerIdentity{{}, fingerprint(h.peer()), h.peer(), {}});
  if (Status read = ep->known->refresh(); !read.ok()) return read.error();
  // Whoever proves this side's own key is this side: the two ends of one tool need no line.
  const KnownPeer self{"self", h.peer(), {}, 0};
  const KnownPeer* p = h.peer() == ep->identity->public_key() ? &self : ep->known->find(h.peer());
  if (!p)
    return Error(BATON_PERMISSION, fmt::format("{} has a key that {} does not hold, fingerprint {}", name_peer(), ep->known->path(), known->fingerprint),
                 fmt::format("if it is one of yours, add this line to that file: NAME {}", public_key_text(h.peer())));
  known->name = p->name;
  known->roles = p->roles;
  if (role == Role::client && !expected.peer.empty() && p->name != expected.peer)
    return Error(BATON_PERMISSION, fmt::format("{} is {}, not {}, by {}", name_peer(), p->name, expected.peer, ep->known->path()), "check the address, and the names in that file");
  why = "role";
  auto has = [&](const std::string& r) { return p->roles.empty() || std::find(p->roles.begin(), p->roles.end(), r) != p->roles.end(); };
  if (role == Role::client && !expected.role.empty() && !has(expected.role))
    return Error(BATON_PERMISSION, fmt::format("{} is {}, which {} does not give the role {}", name_peer(), p->name, ep->known->path(), expected.role),
                 "check the address, or the roles in that file");
  const auto& roles = ep->options.accept_roles;
  if (role == Role::server && !roles.empty() && std::none_of(roles.begin(), roles.end(), has))
    return Error(BATON_PERMISSION, fmt::format("{} is {}, which {} gives none of the roles that may connect", name_peer(), p->name, ep->known->path()), "check the roles in that file");
  return std::nullopt;
}

bool Session::Impl::take_server_proof() {
  Handshake& h = secrets_->handshake;
  const auto in = input();
  if (in.size() < h.proof_bytes()) return false;
  const char* why = nullptr;
  if (!h.verify(in.first(h.proof_bytes()))) {
    const uint8_t no = kNotVerified;
    put({&no, 1}); // a server with another key then knows why this client leaves
    lose(wrong_key(name_peer(), h.hello().ways));
    return false;
  }
  in_at_ += h.proof_bytes();
  if (auto no = not_admitted(why)) {
    const Mac refusal = h.refusal();
    std::vector<uint8_t> answer(1 + refusal.size(), kUnknownServer);
    std::copy(refusal.begin(), refusal.end(), answer.begin() + 1);
    put(answer);
    lose(*no);
    return false;
  }
  std::vector<uint8_t> answer(1 + h.proof_bytes() + Sealer::kHeaderBytes, kProof);
  h.prove(&answer[1]);
  id = h.finish(secrets_->keys);
  const auto header = secrets_->sealer.start(secrets_->keys.tx);
  std::copy(header.begin(), header.end(), answer.end() - Sealer::kHeaderBytes);
  put(answer);
  if (state == State::lost) return false;
  sealed_ = true;
  state = State::header;
  return true;
}

bool Session::Impl::take_client_proof() {
  Handshake& h = secrets_->handshake;
  const auto in = input();
  if (in.empty()) return false;
  if (in[0] == kUnknownServer) {
    if (in.size() < 1 + Handshake::kMacBytes) return false;
    if (same_mac(in.subspan(1, Handshake::kMacBytes), h.refusal()))
      lose(Error(BATON_PERMISSION, fmt::format("{} does not know this endpoint's key, fingerprint {}, or expects another there", name_peer(), ep->identity ? fingerprint(ep->identity->public_key()) : "none"),
                 "add its public key to the client's known-peers file ('devctl key show' prints it)"));
    else lose(wrong_key(name_peer(), h.hello().ways));
    return false;
  }
  if (in[0] != kProof) {
    lose(wrong_key(name_peer(), h.hello().ways));
    return false;
  }
  if (in.size() < 1 + h.proof_bytes()) return false;
  if (!h.verify(in.subspan(1, h.proof_bytes()))) {
    lose(wrong_key(name_peer(), h.hello().ways));
    return false;
  }
  in_at_ += 1 + h.proof_bytes();
  const char* why = nullptr;
  const auto no = not_admitted(why);
  id = h.finish(secrets_->keys);
  const auto header = secrets_->sealer.start(secrets_->keys.tx);
  out_.insert(out_.end(), header.begin(), header.end()); // a refusal goes in the same packet
  sealed_ = true;
  if (no) {
    (void)send_frame(FrameKind::refuse, {"refuse", {{"why", why}}, {}});
    lose(*no);
    return false;
  }
  flush();
  if (state == State::lost) return false;
  state = State::header;
  return true;
}

bool Session::Impl::take_header() {
  const auto in = input();
  if (in.size() < Sealer::kHeaderBytes) return false;
  if (!secrets_->opener.start(secrets_->keys.rx, in.first<Sealer::kHeaderBytes>())) {
    lose(wrong_key(name_peer(), secrets_->handshake.hello().ways));
    return false;
  }
  in_at_ += Sealer::kHeaderBytes;
  state = State::identity;
  const Identity me = my_identity(ep->options);
  (void)send_frame(FrameKind::identity,
                   {"identity", {{"name", me.name}, {"host", me.host}, {"pids", me.pids}, {"pid", me.pid}, {"lease_ns", me.lease_ns}, {"seal", me.seal_bulk}, {"baton", BATON_VERSION_STRING}}, {}});
  return state != State::lost;
}

// Only words of this side's own: what the peer chose is which of them.
void Session::Impl::take_refusal(const nlohmann::json& b) {
  const std::string why = b.is_object() && b.contains("why") && b["why"].is_string() ? b["why"].get<std::string>() : std::string();
  const std::string mine = ep->identity ? public_key_text(ep->identity->public_key()) : "";
  const std::string print = ep->identity ? fingerprint(ep->identity->public_key()) : "none";
  if (why == "role")
    lose(Error(BATON_PERMISSION, fmt::format("{} knows this side's key, fingerprint {}, but its roles may not connect there", name_peer(), print), "check roles= of this side in its known-peers file"));
  else if (why == "removed")
    lose(Error(BATON_PERMISSION, fmt::format("{} does not know this side's key any more, fingerprint {}", name_peer(), print), fmt::format("if that was a mistake, its known-peers file needs: NAME {}", mine)));
  else
    lose(Error(BATON_PERMISSION, fmt::format("{} does not know this side's key, fingerprint {}", name_peer(), print), fmt::format("add this line to its known-peers file: NAME {}", mine)));
}

void Session::Impl::drop(const char* why) {
  (void)send_frame(FrameKind::refuse, {"refuse", {{"why", why}}, {}});
  lose(Error(BATON_PERMISSION, fmt::format("{} ({}), fingerprint {}, is not known any more", known ? known->name : "the peer", address, known ? known->fingerprint : ""),
             "its line is gone from the known-peers file, or that cannot be read"));
}

}  // namespace baton::transport
