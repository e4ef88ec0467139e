// metrics_server.hpp: a service's Metrics over HTTP, for Prometheus: GET /metrics, and GET /healthz, which says "ok" while the service's loop turns.
//
// Owner    borrows what it asks for text.   Threads  none of its own: turn() serves what has come; libmicrohttpd does the rest.
// Cost     a look without a system call of note while nobody asks.   Errors  INVALID_ARGUMENT (address), BUSY (port), IO.
//
//     BATON_ASSIGN(auto http, MetricsServer::open("127.0.0.1:9400", [&] { return metrics.text(); }));   for (;;) http->turn();
#pragma once

#include "hal/baton.hpp"

#include <functional>
#include <memory>
#include <string>

struct MHD_Daemon;

namespace baton::runtime {

class MetricsServer {
 public:
  // "HOST:PORT", numeric or a name; port 0: any. Nobody is asked who he is: numbers are all that it tells, and it takes nothing.
  static Result<std::unique_ptr<MetricsServer>> open(const std::string& address, std::function<std::string()> text);
  ~MetricsServer();
  void turn();
  const std::string& address() const { return address_; }
  std::string text() const { return text_(); }

 private:
  explicit MetricsServer(std::function<std::string()> text) : text_(std::move(text)) {}
  const std::function<std::string()> text_;
  std::string address_;
  MHD_Daemon* daemon_ = nullptr;
};

}  // namespace baton::runtime
