#include "tools/baton/metrics_server.hpp"

#include "transport/socket.hpp"

#include <fmt/format.h>
#include <microhttpd.h>

#include <cstring>

namespace baton::runtime {

namespace {

constexpr unsigned kConnections = 32, kIdleSeconds = 10;

MHD_Result answer(MHD_Connection* c, unsigned code, const std::string& body, const char* type) {
  MHD_Response* r = MHD_create_response_from_buffer(body.size(), const_cast<char*>(body.data()), MHD_RESPMEM_MUST_COPY);
  if (!r) return MHD_NO;
  MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
  const MHD_Result queued = MHD_queue_response(c, code, r);
  MHD_destroy_response(r);
  return queued;
}

MHD_Result asked(void* self, MHD_Connection* c, const char* url, const char* method, const char*, const char*, size_t* upload, void**) {
  if (*upload) { // nothing is taken
    *upload = 0;
    return MHD_YES;
  }
  if (std::strcmp(method, MHD_HTTP_METHOD_GET) && std::strcmp(method, MHD_HTTP_METHOD_HEAD)) return answer(c, MHD_HTTP_METHOD_NOT_ALLOWED, "GET /metrics\n", "text/plain");
  if (!std::strcmp(url, "/metrics")) return answer(c, MHD_HTTP_OK, static_cast<MetricsServer*>(self)->text(), "text/plain; version=0.0.4");
  if (!std::strcmp(url, "/healthz")) return answer(c, MHD_HTTP_OK, "ok\n", "text/plain");
  return answer(c, MHD_HTTP_NOT_FOUND, "there is /metrics and /healthz\n", "text/plain");
}

}  // namespace

Result<std::unique_ptr<MetricsServer>> MetricsServer::open(const std::string& address, std::function<std::string()> text) {
  std::unique_ptr<MetricsServer> s(new MetricsServer(std::move(text)));
  BATON_ASSIGN(transport::Fd listening, transport::tcp_listen(address));
  s->address_ = transport::local_address(listening.get());
  const int fd = listening.release(); // the daemon closes it
  s->daemon_ = MHD_start_daemon(MHD_USE_EPOLL, 0, nullptr, nullptr, asked, s.get(), MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, kConnections,
                                MHD_OPTION_CONNECTION_TIMEOUT, kIdleSeconds, MHD_OPTION_END);
  if (!s->daemon_) {
    transport::Fd(fd).reset();
    return Error(BATON_IO, fmt::format("cannot serve metrics at {}", address), "see 'ulimit -n'");
  }
  return s;
}

MetricsServer::~MetricsServer() {
  if (daemon_) MHD_stop_daemon(daemon_);
}

void MetricsServer::turn() { (void)MHD_run(daemon_); }

}  // namespace baton::runtime
