// Whatever is thrown at the daemon, it goes on serving others; whatever a daemon says, the client reports and does not follow it.
#include "drivers/cs3/link/segment.h"
#include "tests/unit/cs3_test.hpp"

#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <random>
#include <thread>

namespace baton::cs3::test {
namespace {

using ::testing::HasSubstr;

class Hostile : public ::testing::Test {
 protected:
  // The daemon lives, an honest client is served, and nothing stays behind.
  void still_serves() {
    RawClient c(daemon);
    c.open_stream();
    Submission s = c.make(Op::alloc);
    s.bytes = 1 << 20;
    EXPECT_EQ(c.call(s).code, BATON_OK);
    EXPECT_TRUE(eventually([&] { return c.info().sram_used == 1 << 20 && c.info().sessions == 1; })) << c.info().sram_used << " " << c.info().sessions;
  }
  Welcome say_hello(int fd, Hello hello) {
    Welcome w{};
    EXPECT_TRUE(write_exact(fd, &hello, sizeof hello, soon()).ok());
    (void)read_exact(fd, &w, sizeof w, soon()).ok();
    return w;
  }
  // The segment and bells of a session on the unix socket, in the test's hands.
  struct Session {
    Fd socket, to_daemon;
    std::unique_ptr<Segment> segment;
  };
  Session steal() {
    const auto at = daemon.address();
    const Fd tcp = must(connect_tcp(at.host, at.port, soon()));
    const Welcome w = say_hello(tcp.get(), make_hello(CarrierKind::tcp));
    Session s;
    s.socket = must(connect_abstract(w.unix_name));
    const Hello h = make_hello(CarrierKind::shm);
    must(write_exact(s.socket.get(), &h, sizeof h, soon()));
    must(await(s.socket.get(), POLLIN, soon()));
    Welcome u{};
    Fd fds[kMaxFds];
    size_t count = 0;
    EXPECT_EQ(receive_with_fds(s.socket.get(), &u, sizeof u, fds, &count), ssize_t(sizeof u));
    EXPECT_EQ(count, 3u);
    s.segment = std::make_unique<Segment>(must(Segment::open(std::move(fds[0]))));
    s.to_daemon = std::move(fds[1]);
    return s;
  }
  std::vector<uint8_t> garbage(size_t bytes) {
    std::vector<uint8_t> v(bytes);
    for (auto& b : v) b = uint8_t(random());
    return v;
  }
  std::mt19937 random{11};
  DaemonProcess daemon;
};

TEST_F(Hostile, NoiseOnThePort) {
  const auto at = daemon.address();
  for (int i = 0; i < 60; ++i) {
    const Fd fd = must(connect_tcp(at.host, at.port, soon()));
    auto bytes = garbage(1 + random() % 2000);
    const Hello hello = make_hello(CarrierKind::tcp);
    if (i % 3 == 1) bytes.insert(bytes.begin(), kMagic, kMagic + sizeof kMagic);
    if (i % 3 == 2) bytes.insert(bytes.begin(), reinterpret_cast<const uint8_t*>(&hello), reinterpret_cast<const uint8_t*>(&hello + 1));
    (void)write_exact(fd.get(), bytes.data(), bytes.size(), soon()).ok();  // it may have hung up already
  }
  still_serves();
}

TEST_F(Hostile, NoiseOnTheUnixSocket) {
  const auto at = daemon.address();
  const Fd tcp = must(connect_tcp(at.host, at.port, soon()));
  const Welcome w = say_hello(tcp.get(), make_hello(CarrierKind::tcp));
  for (int i = 0; i < 40; ++i) {
    const Fd fd = must(connect_abstract(w.unix_name));
    auto bytes = garbage(1 + random() % 500);
    const Hello hello = make_hello(CarrierKind::shm);
    if (i % 2) bytes.insert(bytes.begin(), reinterpret_cast<const uint8_t*>(&hello), reinterpret_cast<const uint8_t*>(&hello + 1));
    const int fds[] = {0, fd.get(), 0};
    send_with_fds(fd.get(), bytes.data(), bytes.size(), std::span(fds, random() % 4));
  }
}

// Entries that are well formed at first sight, with random fields, on TCP.
TEST_F(Hostile, RandomCommands) {
  const auto at = daemon.address();
  for (int round = 0; round < 80; ++round) {
    const Fd fd = must(connect_tcp(at.host, at.port, soon()));
    say_hello(fd.get(), make_hello(CarrierKind::tcp));
    for (const Op op : {Op::load, Op::run}) {
      Submission run{};
      run.id = 1;
      run.op = uint16_t(op);
      (void)write_exact(fd.get(), &run, sizeof run, soon()).ok();
    }
    for (int i = 0; i < 20; ++i) {
      Submission s{};
      const auto odd = [&]() -> uint64_t {
        switch (random() % 4) {
          case 0: return random() % 8;
          case 1: return random();
          case 2: return uint64_t(random()) << 32 | random();
          default: return UINT64_MAX - random() % 4;
        }
      };
      s.id = 2 + uint64_t(i);
      const uint16_t ops[] = {1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 32, 33, 34, 35, 36, 37, 38, 39};
      s.op = ops[random() % std::size(ops)];
      s.mem = uint32_t(random() % 3);
      s.program = uint32_t(random() % 3);
      s.address = odd();
      s.bytes = odd();
      s.total = random() % 2 ? s.bytes : odd();
      s.region = uint32_t(random() % 20);
      s.arg0 = odd();
      s.symbol = uint16_t(random() % 4);
      if (random() % 2) {
        s.x = uint16_t(random() % 4), s.y = uint16_t(odd()), s.w = uint16_t(random() % 4), s.h = uint16_t(odd());
        s.elements_per_pe = uint32_t(odd());
        s.flags = uint16_t(random() % 16);
      }
      s.arg1 = random() % 2 ? 1u << random() % 3 : odd();
      s.src_mem = uint32_t(random() % 3);
      s.src_address = odd();
      if (random() % 2) {
        s.where = 1;
        s.payload_bytes = uint32_t(random() % 300);
        if (random() % 2) s.bytes = s.total = s.payload_bytes;
        s.payload_offset = random() % 2 ? 0 : odd();
      }
      (void)write_exact(fd.get(), &s, sizeof s, soon()).ok();
      const auto payload = garbage(inline_bytes(s));
      (void)write_exact(fd.get(), payload.data(), payload.size(), soon()).ok();
    }
  }
  still_serves();
}

TEST_F(Hostile, RandomEntriesInTheRing) {
  for (int round = 0; round < 60; ++round) {
    Session s = steal();
    SegmentLayout& l = s.segment->layout();
    const auto bytes = garbage(sizeof l.submissions);
    std::memcpy(static_cast<void*>(l.submissions), bytes.data(), bytes.size());
    for (Submission& e : l.submissions) {
      if (round % 3 == 0) continue;  // noise throughout
      e.op = uint16_t(1 + random() % 39);
      e.zero0 = 0;
      e.zero1 = 0, e.zero = 0;
      e.where = uint8_t(random() % 3);
      e.payload_bytes %= kMaxPayload;
      e.payload_offset %= kArenaBytes;
      e.arg1 = 1;
      e.element_bits = 0;
      e.order = 0;
      e.channels = 0;
    }
    l.cq.head.store(uint32_t(random()));
    l.sq.tail.store(round % 4 == 3 ? uint32_t(random()) : uint32_t(1 + random() % kSqEntries));
    ring(s.to_daemon.get());
    if (round % 2) ::usleep(500);
  }
  still_serves();
}

// The client writes into the arena and the ring while the daemon reads them.
TEST_F(Hostile, TheClientWritesMeanwhile) {
  Session s = steal();
  SegmentLayout& l = s.segment->layout();
  std::atomic<bool> end{false};
  std::thread scribbler([&] {
    std::mt19937 r(5);
    while (!end.load()) {
      auto* words = reinterpret_cast<std::atomic<uint32_t>*>(l.arena);
      for (int i = 0; i < 64; ++i) words[i].store(uint32_t(r()), std::memory_order_relaxed);
    }
  });
  for (uint32_t i = 0; i < 400; ++i) {
    Submission e{};
    e.id = i + 1;
    const Op ops[] = {Op::run, Op::launch, Op::load_begin, Op::load_program, Op::load_constant, Op::load_chunk, Op::get_id};
    e.op = uint16_t(i == 0 ? Op::load : i == 1 ? Op::run : ops[i % std::size(ops)]);
    e.where = 1;
    e.payload_bytes = 200;
    e.program = 1;
    e.bytes = 200;
    l.submissions[i % kSqEntries] = e;
    l.sq.tail.store(i + 1);
    if (i % 16 == 0) {
      l.cq.head.store(l.cq.tail.load());
      ring(s.to_daemon.get());
      ::usleep(200);
    }
  }
  ::usleep(5000);
  end = true;
  scribbler.join();
  s = Session();
  still_serves();
}

// A registered memory file is truncated while the daemon copies from it: an error, no fault.
TEST_F(Hostile, MemoryThatShrinks) {
  constexpr uint64_t kBytes = 64u << 20;
  RawClient c(daemon, CarrierKind::shm);
  c.open_stream();
  Submission a = c.make(Op::alloc);
  a.bytes = kBytes;
  const Completion mem = c.call(a);
  const Fd file(::memfd_create("t", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), kBytes), 0);
  ASSERT_TRUE(c.link.carrier->pass_fd(file.get(), 1));
  Submission add = c.make(Op::region_add);
  add.region = 1;
  EXPECT_EQ(c.call(add).code, BATON_OK);
  Submission copy = c.make(Op::memcpy_h2d);
  copy.mem = mem.handle;
  copy.address = mem.address;
  copy.bytes = copy.total = kBytes;
  copy.where = uint8_t(Where::region);
  copy.region = 1;
  EXPECT_EQ(c.call(copy).code, BATON_OK);
  c.send(copy);
  ASSERT_EQ(::ftruncate(file.get(), 4096), 0);
  Completion late{};
  EXPECT_TRUE(c.next(late));
  std::string text;
  EXPECT_EQ(c.call(copy, {}, 0, &text).code, BATON_INVALID_ARGUMENT);
  EXPECT_THAT(text, HasSubstr("ends at 4096"));
  // Pipes, sockets and disks are refused: they could block.
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  for (const int fd : {pipe[0], 0}) {
    ASSERT_TRUE(c.link.carrier->pass_fd(fd, 2));
    add.region = 2;
    EXPECT_EQ(c.call(add).code, BATON_UNSUPPORTED);
  }
  ::close(pipe[0]);
  ::close(pipe[1]);
  add.region = 3;
  EXPECT_EQ(c.call(add, {}, 0, &text).code, BATON_INVALID_ARGUMENT) << "no descriptor was passed";
}

TEST_F(Hostile, CommandsOutOfTurnGetTheirError) {
  RawClient c(daemon);
  std::string text;
  EXPECT_EQ(c.call(c.make(Op::nop), {}, 0, &text).code, BATON_INVALID_ARGUMENT);
  EXPECT_THAT(text, HasSubstr("not running: SdkRuntime must be running"));
  c.open_stream();
  EXPECT_EQ(c.call(c.make(Op::nop)).code, BATON_OK);
  const std::string name = "sram", other = "A";
  EXPECT_EQ(c.call(c.make(Op::get_id), {reinterpret_cast<const uint8_t*>(name.data()), name.size()}).handle, 1u);
  EXPECT_EQ(c.call(c.make(Op::get_id), {reinterpret_cast<const uint8_t*>(other.data()), other.size()}).code, BATON_NOT_FOUND);
  Submission a = c.make(Op::alloc);
  a.bytes = 4096;
  const Completion mem = c.call(a);
  Submission copy = c.make(Op::memcpy_h2d);
  copy.mem = mem.handle;
  copy.address = mem.address;
  copy.bytes = copy.total = 16;
  const std::vector<uint8_t> bytes(16);
  EXPECT_EQ(c.call(copy, bytes).code, BATON_OK);
  copy.w = copy.h = 2;
  copy.elements_per_pe = 4;
  EXPECT_EQ(c.call(copy, bytes, 0, &text).code, BATON_INVALID_ARGUMENT);
  EXPECT_THAT(text, HasSubstr("linearly"));
  copy.w = copy.h = 0;
  copy.elements_per_pe = 0;
  copy.address += 4090;
  EXPECT_EQ(c.call(copy, bytes).code, BATON_INVALID_ARGUMENT);
  RawClient thief(daemon);
  thief.open_stream();
  copy.address = mem.address;
  EXPECT_EQ(thief.call(copy, bytes).code, BATON_INVALID_ARGUMENT) << "another client's memory";
  Submission fr = c.make(Op::free);
  fr.mem = mem.handle;
  EXPECT_EQ(thief.call(fr).code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(c.call(fr).code, BATON_OK);
  EXPECT_EQ(c.call(fr).code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(c.call(c.make(Op::stop)).code, BATON_OK);
  EXPECT_EQ(c.call(c.make(Op::nop)).code, BATON_INVALID_ARGUMENT);
}

TEST_F(Hostile, VersionSkewIsRefusedNamingBoth) {
  const auto at = daemon.address();
  const Fd fd = must(connect_tcp(at.host, at.port, soon()));
  Hello h = make_hello(CarrierKind::tcp);
  h.major = 7;
  h.minor = 3;
  const Welcome w = say_hello(fd.get(), h);
  EXPECT_EQ(w.code, BATON_VERSION);
  EXPECT_THAT(w.text, HasSubstr("the client speaks wafer link 7.3, this side 1.2"));
  EXPECT_THAT(w.text, HasSubstr("\ninstall"));
  still_serves();
}

// A port whose queue of connections is full: what connects there hears nothing.
class DeafPort {
 public:
  DeafPort() : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof a;
    if (::bind(listener_.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) || ::listen(listener_.get(), 0) || ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&a), &bytes)) std::abort();
    port_ = ntohs(a.sin_port);
    for (bool taken = true; taken && waiting_.size() < 64;) {
      waiting_.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      (void)!::connect(waiting_.back().get(), reinterpret_cast<sockaddr*>(&a), sizeof a);
      taken = await(waiting_.back().get(), POLLOUT, deadline_in_ms(300)).ok();
    }
  }
  std::string where() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  Fd listener_;
  std::vector<Fd> waiting_;
  uint16_t port_ = 0;
};

uint64_t open_peer(RawClient& c, const std::string& where) {
  Submission s = c.make(Op::peer_open);
  s.arg0 = 1;
  std::vector<uint8_t> payload(16, 'k');
  payload.insert(payload.end(), where.begin(), where.end());
  return c.send(s, payload);
}

// While one client's stage looks for another daemon that does not answer, all are served, that client too.
TEST_F(Hostile, ADaemonThatDoesNotAnswerKeepsNobodyWaiting) {
  const DeafPort deaf;
  RawClient a(daemon), b(daemon);
  const uint64_t opening = open_peer(a, deaf.where());
  EXPECT_GE(b.info().sessions, 2u);
  Completion c{};
  const uint64_t info = a.send(a.make(Op::info), {}, sizeof(InfoReply));
  ASSERT_TRUE(a.next(c));
  EXPECT_EQ(c.id, info) << "before the peer_open that came first";
  std::string text;
  ASSERT_TRUE(a.next(c, &text));
  EXPECT_EQ(c.id, opening);
  EXPECT_EQ(c.code, BATON_PEER_LOST);
  EXPECT_THAT(text, HasSubstr("no answer in 2 s"));
  // One that nobody listens at fails at once, with the address.
  uint16_t port = 0;
  std::string where;
  {
    const Fd gone = must(listen_tcp("127.0.0.1", "0", &port));
    where = "127.0.0.1:" + std::to_string(port);
  }
  open_peer(a, where);
  ASSERT_TRUE(a.next(c, &text));
  EXPECT_EQ(c.code, BATON_PEER_LOST);
  EXPECT_THAT(text, HasSubstr(where));
}

TEST_F(Hostile, AnOpeningIsAnsweredOnceWhateverEndsIt) {
  const DeafPort deaf;
  Completion c{};
  {
    RawClient a(daemon);
    a.open_stream();
    const uint64_t first = open_peer(a, deaf.where()), second = open_peer(a, deaf.where());
    ASSERT_TRUE(a.next(c));
    EXPECT_EQ(c.id, first) << "its number is taken by another one";
    EXPECT_EQ(c.code, BATON_CANCELLED);
    const uint64_t stop = a.send(a.make(Op::stop));
    ASSERT_TRUE(a.next(c));
    EXPECT_EQ(c.id, second);
    EXPECT_EQ(c.code, BATON_CANCELLED);
    ASSERT_TRUE(a.next(c));
    EXPECT_EQ(c.id, stop);
    open_peer(a, deaf.where());  // and the client goes
  }
  still_serves();
}

// A listener that answers every connection with the same bytes.
class FakeDaemon {
 public:
  explicit FakeDaemon(std::vector<uint8_t> answer) : answer_(std::move(answer)) {
    listener_ = must(listen_tcp("127.0.0.1", "0", &port_));
    thread_ = std::thread([this] {
      while (await(listener_.get(), POLLIN, end_).ok()) {
        const Fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        Hello h;
        if (!fd || !read_exact(fd.get(), &h, sizeof h, end_).ok()) continue;
        (void)write_exact(fd.get(), answer_.data(), answer_.size(), end_).ok();
        (void)await(fd.get(), POLLIN, now_ns() + 20'000'000).ok();
        return;
      }
    });
  }
  ~FakeDaemon() { thread_.join(); }
  std::string uri() const { return "cs3://127.0.0.1:" + std::to_string(port_); }

 private:
  std::vector<uint8_t> answer_;
  const uint64_t end_ = deadline_in_ms(5000);
  uint16_t port_ = 0;
  Fd listener_;
  std::thread thread_;
};

std::vector<uint8_t> bytes_of(const Welcome& w) {
  return {reinterpret_cast<const uint8_t*>(&w), reinterpret_cast<const uint8_t*>(&w + 1)};
}

TEST(HostileDaemon, IsReportedNotFollowed) {
  auto in = make_instance();
  Welcome good{};
  std::memcpy(good.magic, kMagic, sizeof kMagic);
  good.major = kVersionMajor;
  {
    Welcome old = good;
    old.major = 9;
    FakeDaemon f(bytes_of(old));
    auto d = in.open(f.uri());
    ASSERT_FALSE(d.ok());
    EXPECT_EQ(d.error().code, BATON_VERSION);
    EXPECT_THAT(d.error().what, HasSubstr("the daemon speaks wafer link 9.0, this side 1.2"));
  }
  {
    FakeDaemon f(std::vector<uint8_t>(600, 'x'));
    auto d = in.open(f.uri());
    ASSERT_FALSE(d.ok());
    EXPECT_EQ(d.error().code, BATON_MISMATCH);
  }
  {
    Welcome endless = good;
    std::memset(endless.text, 'x', sizeof endless.text);
    FakeDaemon f(bytes_of(endless));
    EXPECT_FALSE(in.open(f.uri()).ok());
  }
  std::mt19937 random(2);
  for (int i = 0; i < 20; ++i) {  // a right welcome, then noise for completions
    auto bytes = bytes_of(good);
    for (int k = 0; k < 300; ++k) bytes.push_back(uint8_t(random()));
    FakeDaemon f(bytes);
    auto d = in.open(f.uri() + "?carrier=tcp");
    ASSERT_FALSE(d.ok());
    EXPECT_THAT(d.error().what, HasSubstr("broke the protocol"));
  }
}

// A daemon of 1.0 knows no load: the driver sends it run and get_id, and nothing that came later.
TEST(OlderDaemon, IsSentWhatItKnows) {
  uint16_t port = 0;
  const Fd listener = must(listen_tcp("127.0.0.1", "0", &port));
  std::vector<uint16_t> seen;
  std::thread daemon([&] {
    must(await(listener.get(), POLLIN, soon()));
    const Fd c(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    Hello h{};
    must(read_exact(c.get(), &h, sizeof h, soon()));
    Welcome w{};
    std::memcpy(w.magic, kMagic, sizeof kMagic);
    w.major = kVersionMajor;
    must(write_exact(c.get(), &w, sizeof w, soon()));
    for (Submission s; read_exact(c.get(), &s, sizeof s, soon()).ok();) {
      seen.push_back(s.op);
      std::vector<uint8_t> payload(inline_bytes(s));
      if (!payload.empty()) must(read_exact(c.get(), payload.data(), payload.size(), soon()));
      Completion done{};
      done.id = s.id;
      done.kind = uint8_t(Kind::done);
      if (!write_exact(c.get(), &done, sizeof done, soon()).ok()) break;
    }
  });
  {
    auto in = make_instance();
    auto d = must(in.open("cs3://127.0.0.1:" + std::to_string(port)));
    must(d.reset_device());
  }
  daemon.join();
  EXPECT_THAT(seen, ::testing::Contains(uint16_t(Op::run)).Times(2)) << "at open and after the reset";
  EXPECT_THAT(seen, ::testing::Each(::testing::Le(uint16_t(Op::cancel))));
}

}  // namespace
}  // namespace baton::cs3::test
