// EndpointOptions::seal_bulk: what leaves a process cannot be read on the way, and the sink's memory is not disclosed.
#include "transport_kv_request.hpp"

#include "transport/endpoint.hpp"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace baton::transport {
namespace {

constexpr uint64_t kPatienceMs = kSanitized ? 60'000 : 20'000;

// Everything that passes on this namespace's loopback.
class Wire {
 public:
  Wire() : fd_(socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_ALL))) {
    sockaddr_ll a{};
    a.sll_family = AF_PACKET;
    a.sll_protocol = htons(ETH_P_ALL);
    a.sll_ifindex = int(if_nametoindex("lo"));
    const int bytes = 64 << 20;
    setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
    if (fd_ && bind(fd_.get(), reinterpret_cast<sockaddr*>(&a), sizeof a)) fd_.reset();
  }
  explicit operator bool() const { return bool(fd_); }
  void read() {
    std::vector<uint8_t> packet(1 << 17);
    for (ssize_t n; (n = recv(fd_.get(), packet.data(), packet.size(), 0)) > 0;) seen_.insert(seen_.end(), packet.begin(), packet.begin() + n);
  }
  size_t bytes() const { return seen_.size(); }
  bool has(std::span<const uint8_t> what) const { return std::search(seen_.begin(), seen_.end(), what.begin(), what.end()) != seen_.end(); }

 private:
  Fd fd_;
  std::vector<uint8_t> seen_;
};

bool own_network() {
  if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET)) return false;
  Fd s(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq r{};
  std::strcpy(r.ifr_name, "lo");
  if (ioctl(s.get(), SIOCGIFFLAGS, &r)) return false;
  r.ifr_flags |= IFF_UP;
  return ioctl(s.get(), SIOCSIFFLAGS, &r) == 0;
}

enum class Who { nobody, decode, prefill };

class Seal : public testing::TestWithParam<Who> {};
INSTANTIATE_TEST_SUITE_P(All, Seal, testing::Values(Who::nobody, Who::decode, Who::prefill),
                         [](const auto& i) { return i.param == Who::nobody ? "nobody" : i.param == Who::decode ? "decode" : "prefill"; });

TEST_P(Seal, WhatIsOnTheWireIsNotTheCache) {
  static const bool mine = own_network();
  if (!mine) GTEST_SKIP() << "may not make a network namespace: " << strerror(errno);
  Wire wire;
  if (!wire) GTEST_SKIP() << "no packet socket here: " << strerror(errno);
  const bool sealed = GetParam() != Who::nobody;
  Instance in = must(Instance::create());
  Device host = must(in.open("host://"));
  const Key key = random_key();
  Endpoint decode = must(Endpoint::open(in, {.listen = "127.0.0.1:0", .key = key, .name = "decode", .lease_ns = 20'000'000'000, .seal_bulk = GetParam() == Who::decode}));
  Endpoint prefill = must(Endpoint::open(in, {.listen = "", .key = key, .name = "prefill", .lease_ns = 20'000'000'000, .seal_bulk = GetParam() == Who::prefill}));
  std::unique_ptr<Session> there = must(prefill.connect(decode.address(), deadline_in_ms(kPatienceMs))), here;
  ASSERT_TRUE(poll_until(in, [&] { return (here = decode.accept()) != nullptr; }, kPatienceMs));

  // Large segments and small ones: the one kind would be written in place, the other is streamed anyway.
  for (const auto order : {KvOrder::token_major, KvOrder::head_major}) {
    KvLayout from = small_layout(order, 16, 40), to = small_layout(KvOrder::token_major, 16, 40);
    from.head_dim = to.head_dim = 256;
    Buffer source = must(host.alloc(from.bytes())), landing = must(host.alloc(to.bytes()));
    std::vector<int32_t> blocks(40);
    std::iota(blocks.begin(), blocks.end(), 0);
    fill_kv(source, from, blocks, 630, 9);
    KvSink sink = must(KvSink::create(in, decode, landing, to, "m"));
    for (int round = 0; round < 3; ++round) {
      std::memset(must(landing.map()), 0xee, landing.bytes());
      Incoming x = must(sink.expect(blocks, 630));
      auto t = KvTransfer::open(in, *there, x.ticket(), {{&source, from, blocks}}, 630, {.fabric = "tcp", .model = "m"}, deadline_in_ms(kPatienceMs));
      ASSERT_OK(t);
      if (round == 1) { // one that is cancelled in the middle does not end the stream for the others
        ASSERT_OK(t->queue().submit(t->copy(0, 0)));
        x.cancel(Error(BATON_CANCELLED, "test", "-"));
        ASSERT_TRUE(poll_until(in, [&] { return x.quiesced(); }, kPatienceMs));
        continue;
      }
      for (uint32_t l = 0; l < 4; ++l) ASSERT_OK(t->queue().submit(t->copy(0, l)));
      ASSERT_TRUE(poll_until(in, [&] {
        wire.read();
        const auto v = x.landed().value();
        return !v.ok() || *v == 4;
      }, kPatienceMs));
      ASSERT_OK(x.landed().wait_until(4, deadline_in_ms(kPatienceMs)));
      EXPECT_EQ(wrong_kv(landing, to, blocks, 630, 9), 0u);
      ASSERT_OK(t->seal({"end", nlohmann::json::object(), {}}, deadline_in_ms(kPatienceMs)));
      ASSERT_TRUE(poll_until(in, [&] { return x.sealed().has_value(); }, kPatienceMs));
    }
    wire.read();
    EXPECT_GT(wire.bytes(), 2 * from.bytes() / 2) << "the wire was not listened to";
    EXPECT_EQ(wire.has({static_cast<uint8_t*>(must(source.map())) + 4096, 64}), !sealed);
  }
}

class SealedOn : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, SealedOn, testing::ValuesIn(fabrics_under_test({"tcp"})), fabric_label);

struct SealedEnds : TwoEnds {
  SealedEnds() {
    at_prefill.reset(), at_decode.reset();
    decode = must(Endpoint::open(in, {.listen = test_listen(), .key = key, .name = "decode", .lease_ns = 1'500'000'000 * lease_slow(), .seal_bulk = true}));
    connect();
  }
};

TEST_P(SealedOn, TheOfferDoesNotTellOfTheMemory) {
  SealedEnds e;
  if (auto why = fabric_unusable(GetParam(), e.at_prefill->impl())) GTEST_SKIP() << *why;
  std::vector<uint8_t> memory(1 << 20);
  auto landing = must(make_landing(GetParam(), e.at_decode->impl(), {"id", memory.data(), memory.size(), -1, 0}));
  const auto offer = must(landing->offer());
  EXPECT_EQ(offer["base"], 0);
  EXPECT_EQ(offer["key"], 0);
  EXPECT_EQ(offer.dump().find(std::to_string(reinterpret_cast<uint64_t>(memory.data()))), std::string::npos);
}

TEST_P(SealedOn, EveryByteArrivesAlsoWhenSendersChange) {
  SealedEnds e;
  for (const auto order : {KvOrder::token_major, KvOrder::head_major}) {
    KvLayout l = small_layout(order, 16, 64);
    l.head_dim = 64; // 256 KiB a layer
    Request r(e, small_layout(KvOrder::token_major, 16, 64), {small_layout(order, 16, 64)}, 1000);
    for (int i = 0; i < 2; ++i) move_once(r, GetParam());
    Request large(e, l, {l}, 1000);
    for (int i = 0; i < 2; ++i) move_once(large, GetParam());
    e.at_prefill.reset();
    e.connect(); // a new sender, and its own cipher
  }
}

}  // namespace
}  // namespace baton::transport
