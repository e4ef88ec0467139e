// transport_child.hpp: the other process of a test: transport_peer in one of its roles, killed with the object; and a fixture with one.
#pragma once

#include "transport_test.hpp"

#include "transport/crypto.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

namespace baton::transport {

inline const uint64_t kLeaseMs = (kSanitized ? 40'000 : 20'000) * lease_slow(); // long for a loaded machine: a death is heard of by the end of a stream
inline const uint64_t kSilentMs = (kSanitized ? 6'000 : 2'500) * lease_slow();   // of the tests that sit one out

class Child {
 public:
  // `before` runs in the child before it becomes the peer.
  Child(const std::string& role, const Key& key, const std::string& address, uint64_t lease_ms = kLeaseMs, const std::function<void()>& before = {}) {
    int out[2];
    EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
    // All that allocates comes before fork(): ThreadSanitizer's allocator may be locked by another thread in that moment, and is so in the child for ever.
    const std::string lease = std::to_string(lease_ms), k = hex(key);
    pid_ = fork();
    EXPECT_GE(pid_, 0) << strerror(errno);
    if (pid_ == 0) {
      dup2(out[1], 1);
      if (before) before();
      execl(BATON_BUILD_DIR "/tests/transport_peer", "transport_peer", role.c_str(), k.c_str(), address.c_str(), lease.c_str(), nullptr);
      _exit(127);
    }
    close(out[1]);
    out_ = Fd(out[0]);
  }
  ~Child() {
    if (pid_ > 1) kill(SIGKILL);
  }
  pid_t pid() const { return pid_; }
  std::string line() {
    std::string s;
    char c;
    for (pollfd p{out_.get(), POLLIN, 0}; poll(&p, 1, int(kSoonMs)) == 1 && read(out_.get(), &c, 1) == 1 && c != '\n';) s += c;
    return s; // "": it says nothing
  }
  void kill(int signal) {
    ASSERT_GT(pid_, 1) << "no child to signal; -1 would mean every process"; // fork failed, or it was reaped
    ::kill(pid_, signal);
    if (signal == SIGKILL) waitpid(std::exchange(pid_, -1), nullptr, 0);
  }

 private:
  pid_t pid_ = -1;
  Fd out_;
};

struct Far : testing::Test {
  explicit Far(uint64_t lease = kLeaseMs, bool = true) : lease_ms(lease) {} // the second for those who must do something before the endpoint listens
  const uint64_t lease_ms;
  Instance in = must(Instance::create());
  Key key = random_key();
  Endpoint ep = must(Endpoint::open(in, {test_listen(), key, "decode", lease_ms * 1'000'000}));
  std::optional<Child> child;
  std::unique_ptr<Session> session;

  void start() {
    session.reset();
    child.emplace("source", key, ep.address(), lease_ms);
    ASSERT_TRUE(poll_until(in, [&] { return (session = ep.accept()) != nullptr; }, kSoonMs));
  }
  void ask(const char* what, const char* answer, nlohmann::json body = nlohmann::json::object()) {
    ASSERT_OK(session->send({what, std::move(body), {}}));
    std::optional<Message> m;
    ASSERT_TRUE(poll_until(in, [&] { return (m = session->receive()).has_value(); }, kSoonMs));
    EXPECT_EQ(m->type, answer);
  }
  // The peer has just fallen silent: `mirror` is poisoned by the lease, neither at once nor much later.
  void expect_silent(const Timeline& mirror, uint64_t value) const {
    const uint64_t start_ns = now_ns();
    const auto s = mirror.wait_until(value, deadline_in_ms(kSoonMs));
    const uint64_t took = now_ns() - start_ns;
    ASSERT_FALSE(s.ok());
    EXPECT_EQ(s.error().code, BATON_PEER_LOST);
    EXPECT_THAT(s.error().what, testing::HasSubstr("silent"));
    EXPECT_THAT(s.error().hop, testing::HasSubstr("decode > source process"));
    EXPECT_GT(took, lease_ms * 1'000'000 / 2);
    EXPECT_LT(took, lease_ms * 1'000'000 * 3);
  }
};
struct FarSilent : Far {
  FarSilent() : Far(kSilentMs) {}
};

}  // namespace baton::transport
