#include "transport/discovery/http.hpp"

#include "transport/socket.hpp"

#include <curl/curl.h>
#include <fmt/format.h>
#include <sodium.h>

#include <sys/epoll.h>

#include <algorithm>
#include <optional>

namespace baton::transport {
namespace {

struct Call {
  uint64_t number = 0;
  CURL* easy = nullptr;
  curl_slist* headers = nullptr;
  std::string body, url;
  Http::Done done;
  Http::Chunk chunk;
  Http::Answer answer;
  size_t most = 0;
  bool too_large = false, stopped = false;
  char text[CURL_ERROR_SIZE] = {};
  ~Call() {
    if (easy) curl_easy_cleanup(easy);
    curl_slist_free_all(headers);
    sodium_memzero(body.data(), body.size()); // it may hold a password
  }
};

size_t on_bytes(char* data, size_t, size_t n, void* ctx) {
  Call& c = *static_cast<Call*>(ctx);
  if (c.chunk) {
    c.stopped = !c.chunk({data, n});
    return c.stopped ? 0 : n;
  }
  c.too_large = c.answer.body.size() + n > c.most;
  if (c.too_large) return 0;
  c.answer.body.append(data, n);
  return n;
}

}  // namespace

struct Http::Impl {
  Impl(int e, HttpOptions o) : epoll(e), options(std::move(o)), multi(curl_multi_init()) {}
  ~Impl() {
    for (auto& [n, c] : calls) curl_multi_remove_handle(multi, c->easy);
    calls.clear();
    curl_multi_cleanup(multi);
  }
  static int on_socket(CURL*, curl_socket_t fd, int what, void* ctx, void* known) {
    Impl& h = *static_cast<Impl*>(ctx);
    const uint32_t events = (what & CURL_POLL_IN ? uint32_t(EPOLLIN) : 0u) | (what & CURL_POLL_OUT ? uint32_t(EPOLLOUT) : 0u);
    if (what == CURL_POLL_REMOVE) epoll_remove(h.epoll, fd);
    else if (known) epoll_change(h.epoll, fd, events, uint64_t(fd));
    else {
      epoll_add(h.epoll, fd, events, uint64_t(fd));
      curl_multi_assign(h.multi, fd, &h);
    }
    return 0;
  }
  static int on_timer(CURLM*, long ms, void* ctx) {
    static_cast<Impl*>(ctx)->timer_ns = ms < 0 ? UINT64_MAX : now_ns() + uint64_t(ms) * 1'000'000;
    return 0;
  }
  uint32_t finish() {
    uint32_t n = 0;
    int left;
    while (CURLMsg* m = curl_multi_info_read(multi, &left)) {
      if (m->msg != CURLMSG_DONE) continue;
      void* p = nullptr;
      curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &p);
      const CURLcode rc = m->data.result; // m is the library's, and goes with the handle
      auto node = calls.extract(static_cast<Call*>(p)->number);
      std::unique_ptr<Call> c = std::move(node.mapped());
      curl_multi_remove_handle(multi, c->easy);
      curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &c->answer.status);
      if (rc != CURLE_OK) {
        const bool certificates = rc == CURLE_PEER_FAILED_VERIFICATION || rc == CURLE_SSL_CACERT_BADFILE || rc == CURLE_SSL_CERTPROBLEM;
        c->answer.error = c->too_large ? Error(BATON_CAPACITY, fmt::format("{}: an answer of more than {} bytes", c->url, c->most), "are these keys those of workers alone?")
                                       : Error(certificates ? BATON_PERMISSION : BATON_IO, fmt::format("{}: {}", c->url, c->text[0] ? c->text : curl_easy_strerror(rc)),
                                               certificates ? "check the authorities, the certificate and its key" : "check that etcd runs there, and the network");
      }
      c->done(std::move(c->answer));
      ++n;
    }
    return n;
  }

  int epoll;
  HttpOptions options;
  CURLM* multi;
  uint64_t next = 1, timer_ns = UINT64_MAX;
  std::map<uint64_t, std::unique_ptr<Call>> calls;
};

Http::Http(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
Http::~Http() = default;

Result<std::unique_ptr<Http>> Http::open(int epoll, HttpOptions o) {
  static const CURLcode once = curl_global_init(CURL_GLOBAL_SSL);
  if (once != CURLE_OK) return Error(BATON_INTERNAL, fmt::format("libcurl did not start: {}", curl_easy_strerror(once)), "report this");
  auto i = std::make_unique<Impl>(epoll, std::move(o));
  if (!i->multi) return Error(BATON_CAPACITY, "no memory for libcurl", "free some");
  curl_multi_setopt(i->multi, CURLMOPT_SOCKETFUNCTION, Impl::on_socket);
  curl_multi_setopt(i->multi, CURLMOPT_SOCKETDATA, i.get());
  curl_multi_setopt(i->multi, CURLMOPT_TIMERFUNCTION, Impl::on_timer);
  curl_multi_setopt(i->multi, CURLMOPT_TIMERDATA, i.get());
  return std::unique_ptr<Http>(new Http(std::move(i)));
}

uint64_t Http::post(const std::string& url, std::string body, const std::vector<std::string>& headers, uint64_t deadline_ns, Done done, Chunk chunk) {
  Impl& h = *impl_;
  auto c = std::make_unique<Call>();
  c->number = h.next++;
  c->easy = curl_easy_init();
  c->body = std::move(body);
  c->url = url;
  c->done = std::move(done);
  c->chunk = std::move(chunk);
  c->most = h.options.most_bytes;
  for (const auto& x : headers) c->headers = curl_slist_append(c->headers, x.c_str());
  c->headers = curl_slist_append(c->headers, "Content-Type: application/json");
  CURL* e = c->easy;
  curl_easy_setopt(e, CURLOPT_URL, c->url.c_str());
  curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(c->body.size()));
  curl_easy_setopt(e, CURLOPT_POSTFIELDS, c->body.data());
  curl_easy_setopt(e, CURLOPT_HTTPHEADER, c->headers);
  curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_bytes);
  curl_easy_setopt(e, CURLOPT_WRITEDATA, c.get());
  curl_easy_setopt(e, CURLOPT_PRIVATE, c.get());
  curl_easy_setopt(e, CURLOPT_ERRORBUFFER, c->text);
  curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(e, CURLOPT_PROXY, ""); // no variable of the environment decides where this goes
  curl_easy_setopt(e, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
  curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(e, CURLOPT_TCP_KEEPIDLE, 5L);
  curl_easy_setopt(e, CURLOPT_TCP_KEEPINTVL, 5L);
  if (deadline_ns != BATON_NO_DEADLINE) {
    const uint64_t now = now_ns();
    curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, long(std::clamp<uint64_t>(deadline_ns > now ? (deadline_ns - now) / 1'000'000 : 1, 1, 3'600'000)));
  }
  if (!h.options.ca.empty()) curl_easy_setopt(e, CURLOPT_CAINFO, h.options.ca.c_str());
  if (!h.options.cert.empty()) curl_easy_setopt(e, CURLOPT_SSLCERT, h.options.cert.c_str());
  if (!h.options.key.empty()) curl_easy_setopt(e, CURLOPT_SSLKEY, h.options.key.c_str());
  const uint64_t number = c->number;
  curl_multi_add_handle(h.multi, e);
  h.calls.emplace(number, std::move(c));
  h.timer_ns = std::min(h.timer_ns, now_ns());
  return number;
}

void Http::cancel(uint64_t call) {
  const auto it = impl_->calls.find(call);
  if (it == impl_->calls.end()) return;
  curl_multi_remove_handle(impl_->multi, it->second->easy);
  impl_->calls.erase(it);
}

uint32_t Http::poll(uint64_t now) {
  Impl& h = *impl_;
  int running;
  if (now >= h.timer_ns) {
    h.timer_ns = UINT64_MAX;
    curl_multi_socket_action(h.multi, CURL_SOCKET_TIMEOUT, 0, &running);
  }
  epoll_event events[16];
  const int n = epoll_wait(h.epoll, events, 16, 0);
  for (int i = 0; i < n; ++i) {
    if (events[i].data.u64 > uint64_t(INT32_MAX)) continue; // a timer of the epoll's owner
    const int mask = (events[i].events & EPOLLIN ? CURL_CSELECT_IN : 0) | (events[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                     (events[i].events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
    curl_multi_socket_action(h.multi, curl_socket_t(events[i].data.u64), mask, &running);
  }
  return h.finish();
}

uint64_t Http::due() const { return impl_->timer_ns; }

}  // namespace baton::transport
