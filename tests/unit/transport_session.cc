// Sessions: the handshake, its refusals, messages, liveness; all in one process.
#include "transport_test.hpp"

#include "transport/endpoint.hpp"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace baton::transport {
namespace {

using testing::HasSubstr;

struct TempDir {
  TempDir() {
    char t[] = "/tmp/baton-test-XXXXXX";
    path = mkdtemp(t);
  }
  ~TempDir() {
    (void)!system(("rm -rf " + path).c_str());
  }
  std::string path;
};

// A plain client that is not Baton.
struct Raw {
  explicit Raw(const std::string& address) {
    fd = must(tcp_connect(address));
    usleep(1000);
  }
  void send(const std::string& bytes) { EXPECT_EQ(::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), ssize_t(bytes.size())); }
  std::string receive(size_t max = 4096) {
    std::string s(max, 0);
    const ssize_t n = recv(fd.get(), s.data(), max, MSG_DONTWAIT);
    s.resize(n > 0 ? size_t(n) : 0);
    return s;
  }
  bool closed() {
    char c;
    const ssize_t n = recv(fd.get(), &c, 1, MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN);
  }
  Fd fd;
};

TEST(KeyFile, IsPrivateAndNeverOverwritten) {
  TempDir dir;
  const std::string path = dir.path + "/key";
  ASSERT_OK(write_key_file(path));
  struct stat st {};
  ASSERT_EQ(stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
  const auto key = read_key_file(path);
  ASSERT_OK(key);
  EXPECT_NE(*key, Key{});
  const auto again = write_key_file(path);
  ASSERT_FALSE(again.ok());
  EXPECT_EQ(again.error().code, BATON_BUSY);
  EXPECT_EQ(*read_key_file(path), *key);
}

TEST(KeyFile, RefusesWhatOthersMayReadOrWhatIsNoKey) {
  TempDir dir;
  const std::string path = dir.path + "/key";
  ASSERT_OK(write_key_file(path));
  for (mode_t m : {0640u, 0604u, 0660u, 0666u}) {
    chmod(path.c_str(), m);
    const auto k = read_key_file(path);
    ASSERT_FALSE(k.ok());
    EXPECT_EQ(k.error().code, BATON_PERMISSION);
    EXPECT_THAT(k.error().next, HasSubstr("chmod 600"));
  }
  EXPECT_EQ(read_key_file(dir.path + "/none").error().code, BATON_NOT_FOUND);
  for (const std::string& text : {std::string(), std::string("00"), std::string("zz"), std::string(62, 'a'), std::string(66, 'a'), std::string(64, 'a') + " x"}) {
    std::ofstream(path, std::ios::trunc) << text;
    chmod(path.c_str(), 0600);
    EXPECT_EQ(read_key_file(path).error().code, BATON_CORRUPT) << text;
  }
  chmod(dir.path.c_str(), 0700);
  EXPECT_EQ(read_key_file(dir.path).error().code == BATON_OK, false);
}

TEST(Session, CarriesMessagesBothWays) {
  TwoEnds e;
  EXPECT_EQ(e.at_prefill->peer_name(), "decode");
  EXPECT_EQ(e.at_decode->peer_name(), "prefill");
  EXPECT_TRUE(e.at_prefill->same_host());
  EXPECT_OK(e.at_prefill->alive());
  std::vector<uint8_t> bytes(3'000'000);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = uint8_t(i * 7);
  ASSERT_OK(e.at_prefill->send({"hello", {{"model", "tiny"}, {"n", 7}}, {}}));
  ASSERT_OK(e.at_prefill->send({"bulk", nlohmann::json::object(), bytes}));
  std::vector<Message> got;
  ASSERT_TRUE(poll_until(e.in, [&] {
    while (auto m = e.at_decode->receive()) got.push_back(std::move(*m));
    return got.size() == 2;
  }));
  EXPECT_EQ(got[0].type, "hello");
  EXPECT_EQ(got[0].body["n"], 7);
  EXPECT_EQ(got[1].bytes, bytes);
  ASSERT_OK(e.at_decode->send({"back", {}, {}}));
  EXPECT_TRUE(poll_until(e.in, [&] { return e.at_prefill->receive().has_value(); }));
  EXPECT_FALSE(e.at_prefill->receive().has_value());
}

TEST(Session, RefusesAMessageAboveTheLimit) {
  TwoEnds e;
  const Status s = e.at_prefill->send({"big", nlohmann::json::object(), std::vector<uint8_t>(kMaxMessageBytes + 1)});
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_INVALID_ARGUMENT);
  EXPECT_OK(e.at_prefill->alive());
}

TEST(Session, WrongKeyIsRefusedOnBothSides) {
  TwoEnds e;
  Endpoint stranger = must(Endpoint::open(e.in, {"", random_key(), "stranger"}));
  auto s = stranger.connect(e.decode.address(), deadline_in_ms(3000));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_PERMISSION) << s.error().text();
  EXPECT_THAT(s.error().what, HasSubstr("does not hold the same key"));
  ASSERT_TRUE(poll_until(e.in, [&] { return e.decode.rejected() == 1; }));
  EXPECT_EQ(e.decode.last_rejection()->code, BATON_PERMISSION) << e.decode.last_rejection()->text();
  EXPECT_EQ(e.decode.accept(), nullptr);
}

TEST(Session, OtherVersionIsRefusedAndNamed) {
  TwoEnds e;
  Raw raw(e.decode.address());
  std::string hello("BATONSES", 8);
  hello += std::string("\x63\0\0\0\0\0\0\0", 8) + std::string(32, 'k');
  raw.send(hello);
  ASSERT_TRUE(poll_until(e.in, [&] { return e.decode.rejected() == 1; }));
  EXPECT_EQ(e.decode.last_rejection()->code, BATON_VERSION);
  EXPECT_THAT(e.decode.last_rejection()->what, HasSubstr("protocol 99, this side 2"));
  const std::string answer = raw.receive();
  ASSERT_EQ(answer.size(), 64u) << "only the hello: nothing else is told before the key is proved";
  EXPECT_EQ(answer[8], 2);
  EXPECT_EQ(answer[12], 1);
}

TEST(Session, ClientNamesTheServersVersion) {
  Instance in = must(Instance::create());
  Endpoint ep = must(Endpoint::open(in, {"", random_key(), "client"}));
  Fd l = must(tcp_listen("127.0.0.1:0"));
  Fd peer;
  std::string reply("BATONSES", 8);
  reply += std::string("\1\0\0\0\1\0\0\0", 8) + std::string(32, 0); // as the first version answers
  // The fake server answers from within the same loop: a pending connection is accepted as soon as it is there.
  struct Fake : Service {
    uint32_t on_poll(uint64_t) override {
      if (!*peer) *peer = Fd(accept(l, nullptr, nullptr));
      if (*peer && !sent) sent = ::send(peer->get(), reply->data(), reply->size(), MSG_NOSIGNAL) > 0;
      return 0;
    }
    Fd* peer;
    int l;
    bool sent = false;
    std::string* reply;
  } fake;
  fake.peer = &peer, fake.l = l.get(), fake.reply = &reply;
  ep.impl().add(&fake);
  auto s = ep.connect(local_address(l.get()), deadline_in_ms(3000));
  ep.impl().remove(&fake);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_VERSION) << s.error().text();
  EXPECT_THAT(s.error().what, HasSubstr("protocol 1, this side 2"));
}

TEST(Session, GarbageOnThePortIsDroppedAndTellsNothing) {
  TwoEnds e;
  std::mt19937 rng(3);
  for (int i = 0; i < 20; ++i) {
    Raw raw(e.decode.address());
    std::string junk(1 + rng() % 400, 0);
    for (char& c : junk) c = char(rng());
    if (i == 0) junk = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    raw.send(junk);
    ASSERT_TRUE(poll_until(e.in, [&] { return e.decode.rejected() == uint64_t(i + 1); }));
    EXPECT_EQ(raw.receive(), "");
  }
  EXPECT_EQ(e.decode.last_rejection()->code, BATON_CORRUPT);
  ASSERT_OK(e.at_prefill->send({"still", {}, {}}));
  EXPECT_TRUE(poll_until(e.in, [&] { return e.at_decode->receive().has_value(); }));
}

TEST(Session, AGoodHelloWithABadProofIsRefused) {
  TwoEnds e;
  Raw raw(e.decode.address());
  const Key other = random_key();
  const Handshake hand(Role::client, &other, nullptr, {});
  raw.send(std::string(reinterpret_cast<const char*>(&hand.hello()), sizeof(Hello)));
  std::string answer;
  ASSERT_TRUE(poll_until(e.in, [&] { return (answer += raw.receive()).size() >= 96; }));
  EXPECT_EQ(answer.size(), 96u);
  raw.send('\0' + std::string(56, 'x'));
  ASSERT_TRUE(poll_until(e.in, [&] { return e.decode.rejected() == 1; }));
  EXPECT_EQ(e.decode.last_rejection()->code, BATON_PERMISSION);
  EXPECT_EQ(raw.receive(), "");
}

TEST(Session, ASilentHandshakeTimesOut) {
  TwoEnds e;
  Raw raw(e.decode.address());
  raw.send("BATON");
  const uint64_t start = now_ns();
  ASSERT_TRUE(poll_until(e.in, [&] { return e.decode.rejected() == 1; }, 8000));
  EXPECT_GE(now_ns() - start, kHandshakeNs / 2);
  EXPECT_EQ(e.decode.last_rejection()->code, BATON_DEADLINE);
  EXPECT_TRUE(raw.closed());
}

TEST(Session, HandshakesAtOnceAreLimited) {
  // Until one is too many. On a loaded machine the first ones have timed out by then (2 s), and make room: so it may take more than the limit and one.
  TwoEnds e;
  std::vector<std::unique_ptr<Raw>> all;
  auto busy = [&] { return e.decode.last_rejection() && e.decode.last_rejection()->code == BATON_BUSY; };
  while (!busy() && all.size() < 8 * kMaxHandshakes) {
    all.push_back(std::make_unique<Raw>(e.decode.address()));
    e.in.poll();
  }
  EXPECT_TRUE(busy()) << all.size() << " handshakes at once";
  EXPECT_GT(all.size(), kMaxHandshakes);
}

TEST(Session, ConnectErrorsAreClear) {
  TwoEnds e;
  Endpoint& p = e.prefill;
  auto refused = p.connect("127.0.0.1:1", deadline_in_ms(2000));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, BATON_PEER_LOST);
  EXPECT_THAT(refused.error().next, HasSubstr("nothing listens there"));
  for (const char* bad : {"", "127.0.0.1", "127.0.0.1:", ":7", "127.0.0.1:70000", "127.0.0.1:7x"})
    EXPECT_EQ(p.connect(bad, deadline_in_ms(100)).error().code, BATON_INVALID_ARGUMENT) << bad;
  Fd mute = must(tcp_listen("127.0.0.1:0")); // accepts, says nothing
  auto late = p.connect(local_address(mute.get()), deadline_in_ms(100));
  ASSERT_FALSE(late.ok());
  EXPECT_EQ(late.error().code, BATON_DEADLINE);
}

TEST(Session, PortInUseIsBusy) {
  TwoEnds e;
  auto second = Endpoint::open(e.in, {e.decode.address(), e.key, "second"});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, BATON_BUSY);
  EXPECT_THAT(second.error().what, HasSubstr(e.decode.address()));
}

TEST(Session, ClosingIsHeardAtOnceAndNamesTheHop) {
  TwoEnds e;
  e.at_prefill.reset();
  const uint64_t start = now_ns();
  ASSERT_TRUE(poll_until(e.in, [&] { return !e.at_decode->alive().ok(); }));
  EXPECT_LT(now_ns() - start, 1'000'000'000u);
  const Error err = e.at_decode->alive().error();
  EXPECT_EQ(err.code, BATON_PEER_LOST);
  EXPECT_THAT(err.hop, HasSubstr("decode > prefill (127.0.0.1:"));
  EXPECT_FALSE(e.at_decode->send({"x", {}, {}}).ok());
  e.connect(); // and a new one works
  EXPECT_OK(e.at_decode->alive());
}

TEST(Session, AnIdleSessionOutlivesItsLeaseByHeartbeats) {
  TwoEnds e(1'500'000'000); // not less: a loaded machine may keep this process from running for a good part of it
  const uint64_t until = now_ns() + 3'500'000'000;
  poll_until(e.in, [&] { return now_ns() > until; });
  EXPECT_OK(e.at_prefill->alive());
  EXPECT_OK(e.at_decode->alive());
}

TEST(Session, EndpointMayGoBeforeItsSessions) {
  auto e = std::make_unique<TwoEnds>();
  auto s = std::move(e->at_prefill);
  {
    Endpoint gone = std::move(e->prefill);
  }
  EXPECT_EQ(s->alive().error().code, BATON_CANCELLED);
  s.reset();
}

TEST(Session, TamperedBytesLoseTheSession) {
  // A relay that flips one bit after the handshake.
  Instance in = must(Instance::create());
  const Key key = random_key();
  Endpoint server = must(Endpoint::open(in, {"127.0.0.1:0", key, "server"}));
  Endpoint client = must(Endpoint::open(in, {"", key, "client"}));
  Fd front = must(tcp_listen("127.0.0.1:0"));
  struct Relay : Service {
    static void pump(int from, int to, bool flip) {
      char b[4096];
      const ssize_t n = recv(from, b, sizeof b, MSG_DONTWAIT);
      if (n <= 0) return;
      if (flip) b[n - 1] ^= 1;
      (void)!::send(to, b, size_t(n), MSG_NOSIGNAL);
    }
    uint32_t on_poll(uint64_t) override {
      if (!a) {
        a = Fd(accept4(l, nullptr, nullptr, SOCK_NONBLOCK));
        if (a) b = must(tcp_connect(target));
      }
      if (a) pump(a.get(), b.get(), flip), pump(b.get(), a.get(), false);
      return 0;
    }
    Fd a, b;
    int l = -1;
    std::string target;
    bool flip = false;
  } relay;
  relay.l = front.get();
  relay.target = server.address();
  server.impl().add(&relay);
  auto s = must(client.connect(local_address(front.get()), deadline_in_ms(3000)));
  std::unique_ptr<Session> far;
  ASSERT_TRUE(poll_until(in, [&] { return (far = server.accept()) != nullptr; }));
  relay.flip = true;
  ASSERT_OK(s->send({"x", {}, {}}));
  EXPECT_TRUE(poll_until(in, [&] { return !far->alive().ok(); }));
  EXPECT_EQ(far->alive().error().code, BATON_CORRUPT);
  server.impl().remove(&relay);
}

TEST(Session, RepeatsLeakNothing) {
  TwoEnds e;
  auto once = [&] {
    e.at_prefill.reset();
    e.at_decode.reset();
    e.connect();
  };
  once();
  const size_t fds = open_fds();
  for (int i = 0; i < 100; ++i) once();
  EXPECT_EQ(open_fds(), fds);
}

}  // namespace
}  // namespace baton::transport
