// Identities: their files, the handshake with and without them, refusals that both sides understand, epochs, replays.
#include "transport_identity.hpp"

#include <sys/socket.h>

namespace baton::transport {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr uint64_t kSoon = 20000; // ms; a loaded machine

TEST(IdentityFile, IsPrivateNeverOverwrittenAndItsPublicHalfIsTold) {
  Folder dir;
  const std::string path = dir.file("me.id");
  const PublicKey pk = must(write_identity_file(path));
  struct stat st {};
  ASSERT_EQ(stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
  EXPECT_EQ(must(identity_public_key(path)), pk);
  EXPECT_EQ(write_identity_file(path).error().code, BATON_BUSY);
  EXPECT_EQ(must(identity_public_key(path)), pk);
  EXPECT_NE(must(write_identity_file(dir.file("other.id"))), pk);
  for (mode_t m : {0640u, 0604u, 0622u}) {
    chmod(path.c_str(), m);
    const auto r = identity_public_key(path);
    ASSERT_FALSE(r.ok());
    EXPECT_EQ(r.error().code, BATON_PERMISSION);
    EXPECT_THAT(r.error().next, HasSubstr("chmod 600"));
  }
  EXPECT_EQ(identity_public_key(dir.file("none")).error().code, BATON_NOT_FOUND);
  for (const std::string& text : {std::string(), std::string(64, 'a') + "\n", "baton-identity/1 " + std::string(62, 'a'), "baton-identity/1 " + std::string(66, 'a'), std::string("baton-identity zz\n")})
    EXPECT_EQ(identity_public_key(dir.write("bad", text)).error().code, BATON_CORRUPT) << text;
  // The two kinds of file are not mistaken for each other.
  ASSERT_OK(write_key_file(dir.file("key")));
  EXPECT_THAT(identity_public_key(dir.file("key")).error().next, HasSubstr("devctl key new"));
  chmod(path.c_str(), 0600);
  EXPECT_EQ(read_key_file(path).error().code, BATON_CORRUPT);
}

TEST(IdentityFile, PublicKeysReadInHexAndBase64) {
  PublicKey k;
  for (size_t i = 0; i < k.size(); ++i) k[i] = uint8_t(i * 37 + 251);
  EXPECT_EQ(parse_public_key(public_key_text(k)), k);
  for (int variant : {sodium_base64_VARIANT_ORIGINAL, sodium_base64_VARIANT_ORIGINAL_NO_PADDING, sodium_base64_VARIANT_URLSAFE, sodium_base64_VARIANT_URLSAFE_NO_PADDING}) {
    char text[64];
    sodium_bin2base64(text, sizeof text, k.data(), k.size(), variant);
    EXPECT_EQ(parse_public_key(text), k) << text;
  }
  for (const char* bad : {"", "a", "zz"}) EXPECT_FALSE(parse_public_key(bad));
  EXPECT_FALSE(parse_public_key(std::string(63, 'a')));
  EXPECT_FALSE(parse_public_key(std::string(64, 'g')));
  EXPECT_EQ(fingerprint(k).size(), 39u);
}

TEST(KnownPeersFile, ErrorsNameFileAndLine) {
  const std::string a(64, 'a'), b(64, 'b');
  const auto peers = must(parse_known_peers("# us\n\n one " + a + " roles=prefill,client # left\r\n two\t" + b + "\n", "f"));
  ASSERT_EQ(peers.size(), 2u);
  EXPECT_EQ(peers[0].name, "one");
  EXPECT_EQ(peers[0].roles, (std::vector<std::string>{"prefill", "client"}));
  EXPECT_EQ(peers[1].line, 4u);
  const std::pair<std::string, const char*> wrong[] = {
      {"one " + a + "\ntwo\n", "f:2: there is no public key"},
      {"one xyz\n", "f:1: the public key is neither"},
      {"o/ne " + a, "f:1: the name has other characters"},
      {std::string(65, 'n') + " " + a, "f:1: the name has"},
      {"one " + a + " rolls=x", "f:1: what follows the key"},
      {"one " + a + " roles=", "f:1: roles= is not"},
      {"one " + a + " roles=a,,b", "f:1: roles= is not"},
      {"one " + a + "\n\ntwo " + b + "\nthree " + a, "f:4: the same key as in line 1"},
  };
  for (auto& [text, what] : wrong) {
    const auto r = parse_known_peers(text, "f");
    ASSERT_FALSE(r.ok()) << text;
    EXPECT_EQ(r.error().code, BATON_CORRUPT);
    EXPECT_THAT(r.error().what, HasSubstr(what));
  }
  Folder dir;
  EXPECT_EQ(KnownPeers::open(dir.file("none")).error().code, BATON_NOT_FOUND);
  EXPECT_EQ(KnownPeers::open(dir.write("loose", "", 0660)).error().code, BATON_PERMISSION);
  if (geteuid() == 0 && chown(dir.write("theirs", "").c_str(), 12345, 0) == 0) { EXPECT_EQ(KnownPeers::open(dir.file("theirs")).error().code, BATON_PERMISSION); }
  EXPECT_THAT(KnownPeers::open(dir.write("bad", "x\n")).error().what, HasSubstr(dir.file("bad") + ":1:"));
}

TEST(KnownPeersFile, IsReadAgainWhenItHasChanged) {
  Folder dir;
  const std::string a(64, 'a'), b(64, 'b'), path = dir.write("f", "one " + a + "\n");
  KnownPeers k = must(KnownPeers::open(path));
  EXPECT_TRUE(k.find(*parse_public_key(a)));
  dir.write("f", "one " + b + "\n"); // the same size, within the same tick of the clock, perhaps
  ASSERT_OK(k.refresh());
  EXPECT_FALSE(k.find(*parse_public_key(a)));
  EXPECT_TRUE(k.find(*parse_public_key(b)));
  // A stamp that is old is believed, and a change moves it.
  const timespec old[2] = {{1000, 0}, {1000, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), old, 0), 0);
  ASSERT_OK(k.refresh());
  dir.write("f", "nonsense\n");
  EXPECT_FALSE(k.refresh().ok());
  EXPECT_TRUE(k.all().empty()) << "what cannot be read knows nobody";
  dir.write("f", "one " + a + "\n");
  ASSERT_OK(k.refresh());
  EXPECT_TRUE(k.find(*parse_public_key(a)));
}

TEST(Identities, TwoThatKnowEachOtherTalk) {
  Acquainted a;
  Endpoint decode = a.open(a.decode_options()), prefill = a.open(a.prefill_options());
  auto s = must(prefill.connect(decode.address(), deadline_in_ms(kSoon), {.peer = "decode-1", .role = "decode"}));
  auto t = a.accept(decode);
  ASSERT_TRUE(s->peer_identity() && t->peer_identity());
  EXPECT_EQ(s->peer_identity()->name, "decode-1");
  EXPECT_EQ(s->peer_identity()->key, a.decode_pk);
  EXPECT_EQ(s->peer_identity()->fingerprint, decode.fingerprint());
  EXPECT_EQ(t->peer_identity()->name, "prefill-1");
  EXPECT_EQ(t->peer_identity()->fingerprint, fingerprint(a.prefill_pk));
  EXPECT_EQ(s->impl().id, t->impl().id);
  EXPECT_EQ(s->impl().bulk_tx(), t->impl().bulk_rx());
  EXPECT_EQ(s->impl().bulk_rx(), t->impl().bulk_tx());
  EXPECT_NE(s->impl().bulk_rx(), s->impl().bulk_tx());
  ASSERT_OK(s->send({"hi", {{"n", 1}}, {}}));
  ASSERT_TRUE(poll_until(a.in, [&] { return t->receive().has_value(); }, kSoon));
}

TEST(Identities, ASharedKeyBesideIsAskedForToo) {
  Acquainted a;
  const Key key = random_key();
  auto d = a.decode_options(), p = a.prefill_options();
  d.key = p.key = key;
  Endpoint decode = a.open(d), prefill = a.open(p);
  EXPECT_TRUE(prefill.connect(decode.address(), deadline_in_ms(kSoon)).ok());
  p.key = random_key();
  Endpoint stranger = a.open(p);
  const auto s = stranger.connect(decode.address(), deadline_in_ms(kSoon));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_PERMISSION);
  EXPECT_THAT(s.error().what, HasSubstr("does not hold the same key"));
  ASSERT_TRUE(a.rejects(decode, 1));
  EXPECT_THAT(decode.last_rejection()->what, HasSubstr("does not hold the same key"));
}

TEST(Identities, WhatOneSideLacksBothSay) {
  Acquainted a;
  auto d = a.decode_options(), p = a.prefill_options();
  Endpoint decode = a.open(d);
  const Key key = random_key();
  p.key = key;
  struct Case { EndpointOptions o; const char* says; };
  const Case cases[] = {{p, "proves itself by identities, this side by identities and a shared key"},
                        {{.key = key, .name = "old"}, "proves itself by identities, this side by a shared key"}};
  uint64_t n = 0;
  for (const Case& c : cases) {
    Endpoint e = a.open(c.o);
    const auto s = e.connect(decode.address(), deadline_in_ms(kSoon));
    ASSERT_FALSE(s.ok());
    EXPECT_EQ(s.error().code, BATON_PERMISSION);
    EXPECT_THAT(s.error().what, HasSubstr(c.says));
    ASSERT_TRUE(a.rejects(decode, ++n));
    EXPECT_EQ(decode.last_rejection()->code, BATON_PERMISSION);
    EXPECT_THAT(decode.last_rejection()->what, HasSubstr("this side by identities"));
  }
  EXPECT_EQ(Endpoint::open(a.in, {.name = "none"}).error().code, BATON_INVALID_ARGUMENT) << "an endpoint without any key";
  EXPECT_EQ(Endpoint::open(a.in, {.name = "half", .identity = a.dir.file("decode.id")}).error().code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(Endpoint::open(a.in, {.name = "half", .known_peers = a.decode_knows}).error().code, BATON_INVALID_ARGUMENT);
  Endpoint plain = a.open({.key = key, .name = "plain"});
  EXPECT_EQ(plain.connect(decode.address(), deadline_in_ms(kSoon), {.role = "decode"}).error().code, BATON_INVALID_ARGUMENT);
}

TEST(Identities, AnUnknownClientIsRefusedAndBothSidesNameItsKey) {
  Acquainted a;
  Endpoint decode = a.open(a.decode_options());
  const PublicKey pk = must(write_identity_file(a.dir.file("new.id")));
  auto o = a.prefill_options();
  o.identity = a.dir.file("new.id");
  Endpoint unknown = a.open(o);
  const auto s = unknown.connect(decode.address(), deadline_in_ms(kSoon));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_PERMISSION);
  EXPECT_THAT(s.error().what, HasSubstr("does not know this side's key, fingerprint " + fingerprint(pk)));
  EXPECT_THAT(s.error().next, HasSubstr("NAME " + public_key_text(pk)));
  ASSERT_TRUE(a.rejects(decode, 1));
  const Error e = *decode.last_rejection();
  EXPECT_EQ(e.code, BATON_PERMISSION);
  EXPECT_THAT(e.what, HasSubstr(fingerprint(pk)));
  EXPECT_THAT(e.what, HasSubstr(a.decode_knows));
  EXPECT_THAT(e.next, HasSubstr("add this line to that file: NAME " + public_key_text(pk)));
  EXPECT_EQ(decode.accept(), nullptr);
  // The next step as it was told: the line is added while the endpoint runs.
  a.dir.write("decode.known", "new " + public_key_text(pk) + "\n");
  EXPECT_TRUE(unknown.connect(decode.address(), deadline_in_ms(kSoon)).ok());
}

TEST(Identities, AClientTellsAnUnknownServerNothingButThat) {
  Acquainted a;
  a.dir.write("prefill.known", "someone " + std::string(64, 'a') + "\n");
  Endpoint decode = a.open(a.decode_options()), prefill = a.open(a.prefill_options());
  const auto s = prefill.connect(decode.address(), deadline_in_ms(kSoon));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_PERMISSION);
  EXPECT_THAT(s.error().what, HasSubstr("fingerprint " + fingerprint(a.decode_pk)));
  EXPECT_THAT(s.error().what, HasSubstr(a.prefill_knows));
  ASSERT_TRUE(a.rejects(decode, 1));
  const Error e = *decode.last_rejection();
  EXPECT_EQ(e.code, BATON_PERMISSION);
  EXPECT_THAT(e.what, HasSubstr("does not know this endpoint's key, fingerprint " + fingerprint(a.decode_pk)));
  EXPECT_THAT(std::string(e.what) + e.next, Not(HasSubstr(fingerprint(a.prefill_pk)))) << "the client's key was disclosed";
}

TEST(Identities, NamesAndRolesAreHeldTo) {
  Acquainted a;
  auto d = a.decode_options();
  d.accept_roles = {"client", "prefill"};
  Endpoint decode = a.open(d), prefill = a.open(a.prefill_options());
  EXPECT_TRUE(prefill.connect(decode.address(), deadline_in_ms(kSoon)).ok()) << "a line without roles may have any";
  auto other = prefill.connect(decode.address(), deadline_in_ms(kSoon), {.peer = "decode-2"});
  ASSERT_FALSE(other.ok());
  EXPECT_THAT(other.error().what, HasSubstr("is decode-1, not decode-2"));
  auto role = prefill.connect(decode.address(), deadline_in_ms(kSoon), {.role = "prefill"});
  ASSERT_FALSE(role.ok());
  EXPECT_THAT(role.error().what, HasSubstr("does not give the role prefill"));
  a.dir.write("decode.known", "prefill-1 " + public_key_text(a.prefill_pk) + " roles=metrics\n");
  auto refused = prefill.connect(decode.address(), deadline_in_ms(kSoon));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, BATON_PERMISSION);
  EXPECT_THAT(refused.error().what, HasSubstr("its roles may not connect there"));
}

TEST(Identities, ARemovedPeerIsRefusedAndItsOpenSessionsCanBeDropped) {
  Acquainted a;
  Endpoint decode = a.open(a.decode_options()), prefill = a.open(a.prefill_options());
  auto s = must(prefill.connect(decode.address(), deadline_in_ms(kSoon)));
  auto t = a.accept(decode);
  EXPECT_EQ(decode.drop_unknown_peers(), 0u);
  a.dir.write("decode.known", "# nobody\n");
  EXPECT_FALSE(prefill.connect(decode.address(), deadline_in_ms(kSoon)).ok());
  EXPECT_OK(t->alive()); // an open session stays until it is dropped
  EXPECT_EQ(decode.drop_unknown_peers(), 1u);
  EXPECT_EQ(t->alive().error().code, BATON_PERMISSION);
  EXPECT_THAT(t->alive().error().what, HasSubstr("prefill-1"));
  ASSERT_TRUE(poll_until(a.in, [&] { return !s->alive().ok(); }, kSoon));
  EXPECT_EQ(s->alive().error().code, BATON_PERMISSION);
  EXPECT_THAT(s->alive().error().what, HasSubstr("any more"));
}

TEST(Identities, RecheckDropsByItself) {
  Acquainted a;
  auto d = a.decode_options();
  d.recheck_peers_ns = 1'000'000;
  d.lease_ns = 600'000'000;
  Endpoint decode = a.open(d), prefill = a.open(a.prefill_options());
  auto s = must(prefill.connect(decode.address(), deadline_in_ms(kSoon)));
  auto t = a.accept(decode);
  std::filesystem::remove(a.decode_knows); // what cannot be read knows nobody
  ASSERT_TRUE(poll_until(a.in, [&] { return !s->alive().ok(); }, kSoon));
  EXPECT_EQ(s->alive().error().code, BATON_PERMISSION) << s->alive().error().text();
}

TEST(Epochs, ARestartedPeerIsAnother) {
  Acquainted a;
  auto d = a.decode_options();
  std::optional<Endpoint> decode = a.open(d);
  Endpoint prefill = a.open(a.prefill_options());
  auto first = must(prefill.connect(decode->address(), deadline_in_ms(kSoon)));
  auto again = must(prefill.connect(decode->address(), deadline_in_ms(kSoon)));
  auto t = a.accept(*decode);
  EXPECT_EQ(first->peer_epoch(), decode->epoch());
  EXPECT_EQ(again->peer_epoch(), first->peer_epoch()) << "another session of the same life";
  EXPECT_EQ(t->peer_epoch(), prefill.epoch());
  EXPECT_NE(first->impl().id, again->impl().id);
  d.listen = decode->address();
  const std::string old = decode->epoch();
  decode.reset();
  decode = a.open(d);
  auto restarted = must(prefill.connect(decode->address(), deadline_in_ms(kSoon)));
  EXPECT_NE(restarted->peer_epoch(), old);
  EXPECT_EQ(restarted->peer_epoch(), decode->epoch());
}

// What a client sent and was sent, byte for byte.
struct Tape : Service {
  uint32_t on_poll(uint64_t) override {
    if (!a) {
      a = Fd(accept4(l, nullptr, nullptr, SOCK_NONBLOCK));
      if (a) b = must(tcp_connect(target));
    }
    if (a) pump(a.get(), b.get(), sent), pump(b.get(), a.get(), received);
    return 0;
  }
  void pump(int from, int to, std::string& kept) {
    char buf[4096];
    const ssize_t n = recv(from, buf, sizeof buf, MSG_DONTWAIT);
    if (n == 0) shutdown(to, SHUT_WR);
    if (n <= 0) return;
    if (change && &kept == &sent && kept.size() <= at && at < kept.size() + size_t(n)) buf[at - kept.size()] ^= 1;
    if (change && &kept == &received && kept.size() <= back_at && back_at < kept.size() + size_t(n)) buf[back_at - kept.size()] ^= 1;
    kept.append(buf, size_t(n));
    (void)!::send(to, buf, size_t(n), MSG_NOSIGNAL);
  }
  Fd a, b;
  int l = -1;
  std::string target, sent, received;
  bool change = false;
  size_t at = SIZE_MAX, back_at = SIZE_MAX; // the byte of each direction that is changed
};

TEST(Epochs, AReplayedHandshakeFails) {
  Acquainted a;
  Endpoint decode = a.open(a.decode_options()), prefill = a.open(a.prefill_options());
  Fd front = must(tcp_listen("127.0.0.1:0"));
  Tape tape;
  tape.l = front.get(), tape.target = decode.address();
  decode.impl().add(&tape);
  auto s = must(prefill.connect(local_address(front.get()), deadline_in_ms(kSoon)));
  auto t = a.accept(decode);
  decode.impl().remove(&tape);
  ASSERT_GT(tape.sent.size(), sizeof(Hello) + 1 + Handshake::kBoxBytes + Handshake::kMacBytes + Sealer::kHeaderBytes);
  const std::string pk(reinterpret_cast<const char*>(a.prefill_pk.data()), 32), server(reinterpret_cast<const char*>(a.decode_pk.data()), 32);
  for (const std::string& wire : {tape.sent, tape.received})
    for (const std::string& hidden : {pk, server, std::string("prefill"), std::string("decode"), std::string("lease")})
      EXPECT_EQ(wire.find(hidden), std::string::npos) << "an identity is readable on the wire";
  // The whole of it again, to the same endpoint and to its next life.
  Endpoint next = a.open(a.decode_options());
  for (Endpoint* e : {&decode, &next}) {
    const uint64_t before = e->rejected();
    Fd again = must(tcp_connect(e->address()));
    a.in.poll_wait(now_ns() + 1'000'000);
    ASSERT_EQ(::send(again.get(), tape.sent.data(), tape.sent.size(), MSG_NOSIGNAL), ssize_t(tape.sent.size()));
    ASSERT_TRUE(a.rejects(*e, before + 1));
    EXPECT_EQ(e->last_rejection()->code, BATON_PERMISSION) << e->last_rejection()->text();
    EXPECT_EQ(e->accept(), nullptr);
  }
}

TEST(Epochs, AnyAlteredByteOfTheHandshakeEndsIt) {
  Acquainted a;
  Endpoint decode = a.open(a.decode_options()), prefill = a.open(a.prefill_options());
  const size_t proof = Handshake::kBoxBytes + Handshake::kMacBytes, client = sizeof(Hello) + 1 + proof + Sealer::kHeaderBytes, server = sizeof(Hello) + proof + Sealer::kHeaderBytes;
  for (bool back : {false, true})
    for (size_t at = 0; at < (back ? server : client); at += 1 + at % 5) {
      Fd front = must(tcp_listen("127.0.0.1:0"));
      Tape tape;
      tape.l = front.get(), tape.target = decode.address(), tape.change = true;
      (back ? tape.back_at : tape.at) = at;
      prefill.impl().add(&tape);
      std::unique_ptr<Session> far;
      auto s = prefill.connect(local_address(front.get()), deadline_in_ms(kSoon));
      // The last byte of the server's header is seen by the client alone, that of the client's by the server alone: one of the two has no session.
      if (s.ok()) poll_until(a.in, [&] { return !(*s)->alive().ok() || (far = decode.accept()); }, kSoon);
      EXPECT_FALSE(s.ok() && (*s)->alive().ok() && far) << "byte " << at << (back ? " of the server's" : " of the client's");
      while (decode.accept()) {}
      prefill.impl().remove(&tape);
    }
}

}  // namespace
}  // namespace baton::transport
