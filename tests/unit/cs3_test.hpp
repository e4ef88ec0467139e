// cs3_test.hpp: the wafer daemon as a child process, a raw client of the wafer link, and a tiny decode program.
#pragma once

#include "drivers/cs3/link/connect.h"
#include "hal/baton.hpp"
#include "hal/program/program.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

namespace baton::cs3::test {

template <class T>
T must(Result<T> r) {
  if (!r) {
    ADD_FAILURE() << r.error().text() << " / " << r.error().next;
    std::abort();
  }
  return std::move(*r);
}
inline void must(const Status& s) {
  if (!s.ok()) ADD_FAILURE() << s.error().text() << " / " << s.error().next;
}

inline uint64_t soon() { return deadline_in_ms(30'000); }  // an end that only a broken test reaches

inline int count_fds(const std::string& pid = "self") {
  int n = 0;
  DIR* dir = ::opendir(("/proc/" + pid + "/fd").c_str());
  while (dir && ::readdir(dir)) ++n;
  if (dir) ::closedir(dir);
  return n;
}

inline uint64_t resident_kib(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(in, line);)
    if (line.rfind("VmRSS:", 0) == 0) return std::strtoull(line.c_str() + 6, nullptr, 10);
  return 0;
}

template <class F>
bool eventually(F f, uint64_t ms = 10'000) {
  for (const uint64_t end = deadline_in_ms(ms); now_ns() < end; ::usleep(2000))
    if (f()) return true;
  return f();
}

// Bytes whose blocks of 4 KiB differ from each other. Made block by block: byte loops are slow under sanitizers.
inline std::vector<uint8_t> noise(uint64_t bytes, uint32_t seed) {
  std::vector<uint64_t> block(512);
  std::vector<uint8_t> v(bytes);
  uint64_t x = seed;
  for (uint64_t& w : block) w = x = x * 6364136223846793005u + 1442695040888963407u;
  for (uint64_t at = 0; at < bytes; at += 4096) {
    block[at / 4096 % 512] = at ^ seed;
    std::memcpy(v.data() + at, block.data(), std::min<uint64_t>(4096, bytes - at));
  }
  return v;
}

// A daemon that ends with this object. `rest` as in emu+cs3://REST, or options of the command line.
class DaemonProcess {
 public:
  explicit DaemonProcess(std::vector<std::string> args = {"0?sram_gb=0.2"}) {
    int in[2], out[2];
    if (::pipe2(in, O_CLOEXEC) || ::pipe2(out, O_CLOEXEC)) std::abort();
    args.insert(args.begin(), BATON_BUILD_DIR "/lib/baton/baton-emu-cs3");
    std::vector<char*> argv;
    for (std::string& a : args) argv.push_back(a.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(in[0], 0);
      ::dup2(out[1], 1);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    stdin_ = Fd(in[1]);
    stdout_ = Fd(out[0]);
    char c;
    while (::read(out[0], &c, 1) == 1 && c != '\n') uri_ += c;
  }
  ~DaemonProcess() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      end();
    }
  }
  const std::string& uri() const { return uri_; }
  HostPort address() const { return must(parse_host_port(std::string_view(uri_).substr(6))); }
  pid_t pid() const { return pid_; }
  void signal(int s) const { ::kill(pid_, s); }
  void close_stdin() { stdin_.reset(); }
  // Waits for its end; the exit code, or 128 + signal.
  int end() {
    int st = 0;
    if (pid_ > 0) ::waitpid(std::exchange(pid_, -1), &st, 0);
    return WIFSIGNALED(st) ? 128 + WTERMSIG(st) : WEXITSTATUS(st);
  }
  bool ended_within(uint64_t ms, int* code = nullptr) {
    int st = 0;
    const bool ended = eventually([&] { return ::waitpid(pid_, &st, WNOHANG) == pid_; }, ms);
    if (ended) pid_ = -1;
    if (code) *code = WIFSIGNALED(st) ? 128 + WTERMSIG(st) : WEXITSTATUS(st);
    return ended;
  }
  int fds() const { return count_fds(std::to_string(pid_)); }

 private:
  pid_t pid_ = -1;
  Fd stdin_, stdout_;
  std::string uri_;
};

// Speaks the link without the driver: commands by hand, answers waited for.
class RawClient {
 public:
  explicit RawClient(const DaemonProcess& d, CarrierKind kind = CarrierKind::any) : link(must(connect(d.address(), kind, soon()))) {
    epoll = Fd(::epoll_create1(EPOLL_CLOEXEC));
    must(link.carrier->watch(epoll.get()));
  }
  Submission make(Op op) const {
    Submission s{};
    s.op = uint16_t(op);
    return s;
  }
  uint64_t send(Submission s, std::span<const uint8_t> payload = {}, uint32_t room = 0) {
    Ticket* t = link.carrier->begin(std::max(uint32_t(payload.size()), room));
    if (!t) std::abort();
    if (!payload.empty()) std::memcpy(t->payload, payload.data(), payload.size());
    link.carrier->push(*t, s);
    link.carrier->flush();
    return t->id;
  }
  // The next answer of kind done (progress is counted); false: the link broke.
  bool next(Completion& c, std::string* text = nullptr) {
    const uint64_t end = soon();
    while (now_ns() < end) {
      Event ev;
      const Pop p = link.carrier->pop(ev);
      if (p == Pop::broken) return false;
      if (p == Pop::none) {
        link.carrier->check_alive();
        continue;
      }
      if (!ev.ticket) {
        lost = true;
        continue;
      }
      if (!ev.last) {
        progress.push_back(ev.c.value);
        continue;
      }
      c = ev.c;
      if (text) *text = std::string(ev.text);
      if (ev.c.payload_bytes) answer.assign(ev.ticket->payload, ev.ticket->payload + ev.c.payload_bytes);
      link.carrier->end(*ev.ticket);
      return true;
    }
    ADD_FAILURE() << "no answer";
    return false;
  }
  Completion call(Submission s, std::span<const uint8_t> payload = {}, uint32_t room = 0, std::string* text = nullptr) {
    Completion c{};
    send(s, payload, room);
    EXPECT_TRUE(next(c, text));
    return c;
  }
  // As SdkRuntime: load once, run once.
  void open_stream() {
    EXPECT_EQ(call(make(Op::load)).code, BATON_OK);
    EXPECT_EQ(call(make(Op::run)).code, BATON_OK);
  }
  InfoReply info() {
    const Completion c = call(make(Op::info), {}, sizeof(InfoReply));
    InfoReply r{};
    if (c.payload_bytes == sizeof r) std::memcpy(&r, answer.data(), sizeof r);
    return r;
  }
  Link link;
  Fd epoll;
  std::vector<uint64_t> progress;
  std::vector<uint8_t> answer;
  bool lost = false;
};

// Decodes `steps` tokens: embed, one wide matmul (so that it takes a while), sample, mark.
struct TinyDecode {
  std::vector<uint8_t> bytes;
  std::vector<float> table, wide, head;
  std::vector<baton_constant> constants;
  static constexpr uint32_t kVocabulary = 64, kHidden = 64;
};

inline TinyDecode make_decode(uint32_t max_steps, uint32_t inner = 256) {
  using program::Arg;
  using program::DType;
  using program::Storage;
  program::Builder b("tiny decode");
  auto& p = b.program();
  p.loop = true;
  p.max_steps = max_steps;
  p.max_context = max_steps + 1;
  p.args = {Arg::steps, Arg::position};
  const int64_t v = TinyDecode::kVocabulary, h = TinyDecode::kHidden, n = inner;
  const uint32_t tokens = b.value("tokens", DType::i32, Storage::inout, {int64_t(max_steps) + 1});
  const uint32_t x = b.embed(tokens, b.constant("table", DType::f32, {v, h}));
  const uint32_t up = b.matmul(x, b.constant("wide", DType::f32, {n, h}), program::Act::f32);
  b.sample(b.matmul(up, b.constant("head", DType::f32, {v, n}), program::Act::f32), tokens, {});
  b.mark();
  TinyDecode d;
  d.bytes = program::serialize(must(std::move(b).finish()));
  uint32_t seed = 7;
  const auto fill = [&](std::vector<float>& w, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      seed = seed * 1664525u + 1013904223u;
      w.push_back(float(int32_t(seed >> 8) % 1000) / 1000.0f);
    }
  };
  fill(d.table, size_t(v * h));
  fill(d.wide, size_t(n * h));
  fill(d.head, size_t(v * n));
  d.constants = {{"table", d.table.data(), d.table.size() * 4}, {"wide", d.wide.data(), d.wide.size() * 4}, {"head", d.head.data(), d.head.size() * 4}};
  return d;
}

inline Instance make_instance() {
  static constexpr char kPlugins[] = BATON_BUILD_DIR "/lib/baton";
  baton_instance_options o{sizeof o, 0, kPlugins, kPlugins};
  return must(Instance::create(&o));
}

}  // namespace baton::cs3::test
