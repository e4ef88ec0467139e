// transport_test.hpp: what the transport's tests share: two endpoints of one instance, KV buffers with known contents, leak counts.
#pragma once

#include "transport_kv_data.hpp"

#include "transport/fabric.hpp"
#include "transport/fabrics.hpp"
#include "transport/kv_link.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <dirent.h>
#include <fcntl.h>
#include <net/if.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <random>
#include <sstream>

namespace baton::transport {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// What tests/vm sets in its guest; unset elsewhere.
// BATON_TEST_FABRICS=verbs,ofi-verbs  the suites over fabrics run on these, and not on those of every machine.
inline std::vector<std::string> fabrics_under_test(std::vector<std::string> usual) {
  const char* text = getenv("BATON_TEST_FABRICS");
  if (!text) return usual;
  std::vector<std::string> all;
  std::stringstream s(text);
  for (std::string f; std::getline(s, f, ',');) all.push_back(f);
  return all;
}
inline std::string fabric_label(const testing::TestParamInfo<std::string>& i) { // GoogleTest takes letters, digits and _
  std::string s = i.param;
  std::replace(s.begin(), s.end(), '-', '_');
  return s;
}
// BATON_TEST_LISTEN=10.77.0.1  the address to listen on: that of an RDMA port.
inline std::string test_listen() {
  const char* host = getenv("BATON_TEST_LISTEN");
  return std::string(host ? host : "127.0.0.1") + ":0";
}
// BATON_TEST_NETDEV=dummy0  the network device that may be taken down for a while.
inline const char* test_netdev() { return getenv("BATON_TEST_NETDEV"); }
inline bool set_test_netdev(bool up) {
  if (!test_netdev()) return false;
  Fd s(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq r{};
  std::strncpy(r.ifr_name, test_netdev(), sizeof r.ifr_name - 1);
  if (ioctl(s.get(), SIOCGIFFLAGS, &r)) return false;
  r.ifr_flags = short(up ? r.ifr_flags | IFF_UP : r.ifr_flags & ~IFF_UP);
  return ioctl(s.get(), SIOCSIFFLAGS, &r) == 0;
}
// BATON_TEST_RAILS=127.0.0.1,127.0.0.2  the rails of both ends.
inline std::string test_rails() {
  const char* rails = getenv("BATON_TEST_RAILS");
  return rails ? rails : "";
}
// BATON_TEST_SLOW=16  this machine may take so many times as long (software emulation). Leases are a part of that longer: tests sit them out.
inline uint64_t test_slow() {
  const char* n = getenv("BATON_TEST_SLOW");
  return n ? std::max<uint64_t>(1, std::strtoull(n, nullptr, 10)) : 1;
}
inline uint64_t lease_slow() { return 1 + (test_slow() - 1) / 4; }
// How long a test waits for what must come.
inline const uint64_t kSoonMs = 60'000 * test_slow(); // only a broken test waits for so long

#define ASSERT_OK(expr)                                                  \
  do {                                                                   \
    const auto& s_ = (expr);                                             \
    ASSERT_TRUE(s_.ok()) << s_.error().text() << " | " << s_.error().next; \
  } while (0)
#define EXPECT_OK(expr)                                                  \
  do {                                                                   \
    const auto& s_ = (expr);                                             \
    EXPECT_TRUE(s_.ok()) << s_.error().text() << " | " << s_.error().next; \
  } while (0)

template <class T>
T must(Result<T> r, const char* what = "") {
  if (!r.ok()) {
    ADD_FAILURE() << what << ": " << r.error().text() << " | " << r.error().next;
    abort();
  }
  return std::move(*r);
}

template <class F>
bool poll_until(const Instance& in, F done, uint64_t ms = 5000 * test_slow()) {
  const uint64_t until = deadline_in_ms(ms);
  while (!done()) {
    if (now_ns() > until) return false;
    in.poll_wait(now_ns() + 2'000'000);
  }
  return true;
}

// A decode endpoint and a prefill endpoint in one process.
struct TwoEnds {
  Instance in = must(Instance::create(), "instance");
  Device host = must(in.open("host://"), "host://");
  Key key = random_key();
  Endpoint decode, prefill;
  std::unique_ptr<Session> at_prefill, at_decode;

  explicit TwoEnds(uint64_t lease_ns = 1'500'000'000 * lease_slow())
      : decode(must(Endpoint::open(in, {.listen = test_listen(), .key = key, .name = "decode", .lease_ns = lease_ns, .rails = test_rails()}))),
        prefill(must(Endpoint::open(in, {.key = key, .name = "prefill", .lease_ns = lease_ns, .rails = test_rails()}))) {
    connect();
  }
  void connect() {
    at_prefill = must(prefill.connect(decode.address(), deadline_in_ms(5000 * test_slow())), "connect");
    EXPECT_TRUE(poll_until(in, [&] { return (at_decode = decode.accept()) != nullptr; }));
  }
};

inline KvLayout small_layout(KvOrder order, uint32_t block_tokens, uint32_t blocks, uint32_t head_begin = 0, uint32_t head_count = 2) {
  KvLayout l;
  l.layers = 4, l.kv_heads = 2, l.head_dim = 16;
  l.order = order, l.block_tokens = block_tokens, l.blocks = blocks;
  l.head_begin = head_begin, l.head_count = head_count;
  return l;
}

inline std::vector<int32_t> shuffled_blocks(std::mt19937& rng, const KvLayout& l, uint64_t tokens) {
  std::vector<int32_t> b(l.blocks);
  std::iota(b.begin(), b.end(), 0);
  std::shuffle(b.begin(), b.end(), rng);
  b.resize((tokens + l.block_tokens - 1) / l.block_tokens);
  return b;
}

inline size_t count_dir(const char* path, const char* prefix = "") {
  size_t n = 0;
  if (DIR* d = opendir(path)) {
    while (dirent* e = readdir(d)) n += e->d_name[0] != '.' && !strncmp(e->d_name, prefix, strlen(prefix));
    closedir(d);
  }
  return n;
}
inline size_t open_fds() { return count_dir("/proc/self/fd"); }
// What they are, for a message.
inline std::string fds_text() {
  std::string text;
  for (int fd = 0; fd < 1024; ++fd) {
    char to[256];
    const ssize_t n = readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), to, sizeof to);
    if (n > 0) text += "\n  " + std::to_string(fd) + " " + std::string(to, size_t(n));
  }
  return text;
}
// Files in /dev/shm that this process or a dead one left behind. Other tests of this machine have theirs, which are theirs as long as they hold the lock.
inline size_t shm_files() {
  size_t n = 0;
  DIR* d = opendir("/dev/shm");
  if (!d) return 0;
  std::ifstream maps("/proc/self/maps");
  const std::string mine((std::istreambuf_iterator<char>(maps)), {});
  while (dirent* e = readdir(d)) {
    if (strncmp(e->d_name, "baton-", 6)) continue;
    const std::string path = std::string("/dev/shm/") + e->d_name;
    Fd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
    n += mine.find(path) != std::string::npos || (fd && flock(fd.get(), LOCK_EX | LOCK_NB) == 0);
  }
  closedir(d);
  return n;
}
// Of what stays: a process that has just begun has not locked its file yet.
inline bool no_more_shm_files(Instance& in, size_t n) {
  return poll_until(in, [&] { return shm_files() <= n; }, 1000);
}
inline size_t memfd_mappings() {
  std::ifstream maps("/proc/self/maps");
  size_t n = 0;
  for (std::string line; std::getline(maps, line);) n += line.find("memfd:") != std::string::npos || line.find("/dev/shm") != std::string::npos;
  return n;
}

}  // namespace baton::transport
