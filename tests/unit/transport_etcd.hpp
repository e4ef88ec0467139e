// transport_etcd.hpp: an etcd of a test: a process on loopback with a folder of its own, killed and started again at will; and plain questions to it.
//
// Owner  the test; the process dies with it, also when the test is killed.   Threads  one.   Cost  a start is a second or so.
// Errors  as failures of the test; Etcd::missing() says why there can be none.
//
//     EtcdServer etcd;   etcd.start();   Discovery::open(in, {.source = etcd.url()});   etcd.kill();   etcd.start();
#pragma once

#include "transport_test.hpp"

#include "tests/support/process.h"
#include "transport/discovery/discovery.hpp"
#include "transport/discovery/http.hpp"

#include <sodium.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

namespace baton::transport {

inline constexpr uint64_t kSoon = 60000; // ms; a loaded machine, and etcd syncs to the disk

class EtcdServer {
 public:
  static bool missing() { return std::system("command -v etcd >/dev/null 2>&1") != 0; }
  explicit EtcdServer(std::vector<std::string> more = {}, std::string scheme = "http") : more_(std::move(more)), scheme_(std::move(scheme)) {}
  // Starts it on the same ports and data as before; the first time on free ports.
  void start() {
    for (int attempt = 0; attempt < 5; ++attempt) {
      const bool first = client_.empty();
      if (first) client_ = scheme_ + "://127.0.0.1:" + free_port(), peer_ = "http://127.0.0.1:" + free_port();
      std::string command = "exec setpriv --pdeathsig KILL etcd --name t --data-dir " + dir_.path() + "/data --listen-client-urls " + client_ + " --advertise-client-urls " + client_ +
                            " --listen-peer-urls " + peer_ + " --initial-advertise-peer-urls " + peer_ + " --initial-cluster t=" + peer_;
      for (const auto& m : more_) command += " " + m;
      process_.emplace(std::vector<std::string>{"/bin/sh", "-c", command + " >>" + dir_.path() + "/log 2>&1"});
      const uint64_t until = deadline_in_ms(kSoon);
      while (now_ns() < until) {
        if (process_->wait(1).ended) break;
        if (ready()) return;
        usleep(20'000);
      }
      process_.reset();
      if (first) client_.clear(); // another took the port
    }
    ADD_FAILURE() << "etcd did not start: " << log();
  }
  void kill() {
    process_->kill(SIGKILL);
    process_->wait(int(kSoon));
    process_.reset();
  }
  void forget() { std::filesystem::remove_all(dir_.path() + "/data"); }
  const std::string& url() const { return client_; }
  const std::string& folder() const { return dir_.path(); }
  std::string log() const {
    std::ifstream f(dir_.path() + "/log");
    std::string all((std::istreambuf_iterator<char>(f)), {});
    return all.substr(all.size() > 2000 ? all.size() - 2000 : 0);
  }
  nlohmann::json ask(const std::string& path, const nlohmann::json& body, const std::string& token = "") const {
    Fd epoll = must(epoll_new());
    auto http = must(Http::open(epoll.get(), tls));
    std::optional<Http::Answer> answer;
    std::vector<std::string> headers;
    if (!token.empty()) headers.push_back("Authorization: " + token);
    http->post(client_ + path, body.dump(), headers, deadline_in_ms(kSoon), [&](Http::Answer a) { answer = std::move(a); });
    while (!answer) {
      http->poll(now_ns());
      usleep(200);
    }
    return answer->error ? nlohmann::json() : nlohmann::json::parse(answer->body, nullptr, false);
  }
  void put(const std::string& key, const std::string& value) const { ask("/v3/kv/put", {{"key", base64(key)}, {"value", base64(value)}}); }
  static std::string base64(const std::string& s) {
    std::string out(sodium_base64_encoded_len(s.size(), sodium_base64_VARIANT_ORIGINAL), 0);
    sodium_bin2base64(out.data(), out.size(), reinterpret_cast<const uint8_t*>(s.data()), s.size(), sodium_base64_VARIANT_ORIGINAL);
    out.pop_back();
    return out;
  }
  HttpOptions tls;

 private:
  static std::string free_port() {
    const std::string a = local_address(must(tcp_listen("127.0.0.1:0")).get());
    return a.substr(a.rfind(':') + 1);
  }
  bool ready() const {
    const auto j = ask("/v3/kv/range", {{"key", base64("x")}, {"limit", "1"}});
    return j.is_object();
  }
  baton::test::TempDir dir_;
  std::vector<std::string> more_;
  std::string scheme_, client_, peer_;
  std::optional<baton::test::Process> process_;
};

inline Worker worker(const std::string& id, const std::string& address, const std::string& role = "decode") {
  Worker w;
  w.id = id, w.role = role, w.address = address;
  w.device = "emu+cs3://0", w.model = "tiny/bf16", w.layout = "0123abcd", w.capacity = 4096;
  return w;
}

}  // namespace baton::transport
