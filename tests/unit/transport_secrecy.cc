// Keys and tickets stay where they belong: not in an error, not in a message of a refusal, not in what a core dump would hold.
#include "transport_identity.hpp"

#include <sys/socket.h>

#include <sstream>

namespace baton::transport {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr uint64_t kSoon = 20000;

// A secret that this process keeps inverted, so that looking for it does not find the look.
struct Needle {
  template <class Bytes>
  Needle(const char* what, const Bytes& secret) : name(what) {
    for (uint8_t b : secret) inverted.push_back(uint8_t(~b));
  }
  size_t count(std::span<const uint8_t> hay) const {
    size_t n = 0;
    for (size_t at = 0; at + inverted.size() <= hay.size(); ++at) {
      const void* hit = std::memchr(hay.data() + at, uint8_t(~inverted[0]), hay.size() - inverted.size() + 1 - at);
      if (!hit) break;
      at = size_t(static_cast<const uint8_t*>(hit) - hay.data());
      size_t i = 1;
      while (i < inverted.size() && hay[at + i] == uint8_t(~inverted[i])) ++i;
      n += i == inverted.size();
    }
    return n;
  }
  const char* name;
  std::vector<uint8_t> inverted;
};

// Every mapping that may be dumped, by one read each: finds of each needle, and bytes looked at.
size_t look_through_the_dump(const std::vector<Needle>& needles, std::vector<size_t>& finds) {
  finds.assign(needles.size(), 0);
  std::ifstream smaps("/proc/self/smaps");
  const std::string all((std::istreambuf_iterator<char>(smaps)), {});
  std::istringstream lines(all);
  Fd mem(open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
  size_t looked = 0;
  uint64_t from = 0, to = 0;
  bool readable = false;
  for (std::string line; std::getline(lines, line);) {
    char flags[5];
    if (unsigned long b, e; sscanf(line.c_str(), "%lx-%lx %4s", &b, &e, flags) == 3) from = b, to = e, readable = flags[0] == 'r';
    if (!line.starts_with("VmFlags:") || !readable || line.find(" dd") != std::string::npos || line.find(" io") != std::string::npos) continue;
    std::vector<uint8_t> copy(to - from);
    const ssize_t n = pread(mem.get(), copy.data(), copy.size(), off_t(from));
    if (n <= 0) continue;
    looked += size_t(n);
    for (size_t i = 0; i < needles.size(); ++i) finds[i] += needles[i].count({copy.data(), size_t(n)});
    sodium_memzero(copy.data(), copy.size()); // the next mapping may be this copy's
  }
  return looked;
}

std::vector<uint8_t> identity_secret(const std::string& path) {
  std::ifstream f;
  f.rdbuf()->pubsetbuf(nullptr, 0);
  f.open(path);
  char text[128] = {};
  f.read(text, 17 + 64);
  std::vector<uint8_t> sk(32);
  sodium_hex2bin(sk.data(), sk.size(), text + 17, 64, nullptr, nullptr, nullptr);
  sodium_memzero(text, sizeof text);
  return sk;
}

TEST(Secrecy, ADumpHoldsNoKey) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's shadow is too large to be looked through, and it keeps what was freed";
  Acquainted a;
  ASSERT_OK(write_key_file(a.dir.file("key")));
  std::vector<Needle> needles;
  auto take = [&](const char* name, auto&& secret) {
    needles.emplace_back(name, secret);
    sodium_memzero(secret.data(), secret.size());
  };
  take("identity", identity_secret(a.dir.file("decode.id")));
  take("shared key", must(read_key_file(a.dir.file("key"))));
  auto endpoint = [&](EndpointOptions o) {
    o.key = must(read_key_file(a.dir.file("key")));
    return must(Endpoint::open(a.in, std::move(o)));
  };
  Endpoint decode = endpoint(a.decode_options()), prefill = endpoint(a.prefill_options());
  auto s = must(prefill.connect(decode.address(), deadline_in_ms(kSoon)));
  auto t = a.accept(decode);
  ASSERT_OK(s->send({"hi", {{"n", 1}}, {}}));
  ASSERT_TRUE(poll_until(a.in, [&] { return t->receive().has_value(); }, kSoon));
  needles.emplace_back("keys of the bulk, one way", s->impl().bulk_tx());
  needles.emplace_back("and the other", s->impl().bulk_rx());
  const std::array<uint8_t, 32> control = must(parse_public_key(public_key_text(a.decode_pk)) ? Result(*parse_public_key(public_key_text(a.decode_pk))) : Error(BATON_INTERNAL, "no"));
  needles.emplace_back("the public key: control", control);
  std::vector<size_t> finds;
  const size_t looked = look_through_the_dump(needles, finds);
  EXPECT_GT(looked, 1u << 20);
  for (size_t i = 0; i + 1 < needles.size(); ++i) EXPECT_EQ(finds[i], 0u) << needles[i].name;
  EXPECT_GT(finds.back(), 0u) << "what is not secret is found: the look works";
  EXPECT_OK(s->alive());
}

TEST(Secrecy, NoErrorHoldsAKeyOrATicket) {
  Acquainted a;
  ASSERT_OK(write_key_file(a.dir.file("key")));
  ASSERT_OK(write_key_file(a.dir.file("key2")));
  std::vector<std::string> texts;
  auto keep = [&](const Error& e) { texts.push_back(std::string(e.text()) + " | " + e.next); };
  auto failed = [&](auto&& r) {
    EXPECT_FALSE(r.ok()) << texts.size();
    if (!r.ok()) keep(r.error());
  };
  auto with = [&](EndpointOptions o, const char* key) {
    if (key) o.key = must(read_key_file(a.dir.file(key)));
    return must(Endpoint::open(a.in, std::move(o)));
  };
  Endpoint decode = with(a.decode_options(), "key");
  auto o = a.prefill_options();
  failed(with(o, "key2").connect(decode.address(), deadline_in_ms(kSoon)));
  failed(with(o, nullptr).connect(decode.address(), deadline_in_ms(kSoon)));
  o.identity = "";
  o.known_peers = "";
  failed(with(o, "key").connect(decode.address(), deadline_in_ms(kSoon)));
  must(write_identity_file(a.dir.file("new.id")));
  o = a.prefill_options();
  o.identity = a.dir.file("new.id");
  failed(with(o, "key").connect(decode.address(), deadline_in_ms(kSoon)));
  ASSERT_TRUE(a.rejects(decode, 4));
  keep(*decode.last_rejection());
  // A ticket that is used twice, and one that is nearly right.
  Endpoint prefill = with(a.prefill_options(), "key");
  auto s = must(prefill.connect(decode.address(), deadline_in_ms(kSoon)));
  auto t = a.accept(decode);
  Device host = must(a.in.open("host://"));
  const KvLayout l = small_layout(KvOrder::token_major, 16, 4);
  Buffer there = must(host.alloc(l.bytes())), here = must(host.alloc(l.bytes()));
  KvSink sink = must(KvSink::create(a.in, decode, there, l, "m"));
  Incoming in = must(sink.expect({0}, 16));
  const std::string ticket = in.ticket();
  auto open = [&](const std::string& k) { return KvTransfer::open(a.in, *s, k, {{&here, l, {0}}}, 16, {.fabric = "mapped", .model = "m"}, deadline_in_ms(kSoon)); };
  std::string close = ticket;
  close[31] = close[31] == '0' ? '1' : '0';
  failed(open(close));
  {
    auto first = open(ticket);
    ASSERT_OK(first);
    failed(open(ticket));
  }
  poll_until(a.in, [&] { return in.quiesced(); }, kSoon);
  if (auto v = in.landed().wait_until(1, now_ns()); !v.ok()) keep(v.error());
  a.dir.write("decode.known", "");
  decode.drop_unknown_peers();
  keep(t->alive().error());
  poll_until(a.in, [&] { return !s->alive().ok(); }, kSoon);
  keep(s->alive().error());
  // Files that are wrong.
  for (const char* name : {"key", "decode.id"}) {
    chmod(a.dir.file(name).c_str(), 0644);
    failed(read_key_file(a.dir.file(name)));
    failed(identity_public_key(a.dir.file(name)));
    chmod(a.dir.file(name).c_str(), 0600);
  }
  failed(read_key_file(a.dir.file("decode.id")));
  failed(identity_public_key(a.dir.file("key")));
  failed(KnownPeers::open(a.dir.file("decode.id"))); // the wrong file in the wrong place
  failed(KnownPeers::open(a.dir.file("key")));
  std::vector<std::string> secrets = {ticket, close};
  for (const char* name : {"key", "key2", "decode.id", "prefill.id", "new.id"}) {
    std::ifstream f(a.dir.file(name));
    std::string text;
    while (f >> text) {}
    ASSERT_EQ(text.size(), 64u);
    secrets.push_back(text);
  }
  EXPECT_GT(texts.size(), 15u);
  for (const std::string& text : texts)
    for (const std::string& secret : secrets)
      for (size_t at = 0; at + 16 <= secret.size(); at += 8) EXPECT_THAT(text, Not(HasSubstr(secret.substr(at, 16)))) << "a part of a secret in an error";
}

}  // namespace
}  // namespace baton::transport
