// http.hpp (internal): POSTs over libcurl's multi interface, driven from outside: answers whole or as they come.
//
// Owner    one Http, its calls within it; a callback may start and cancel calls, but a chunk's callback may not.   Threads  one; libcurl's resolver has
//          its own where a host is given by name.   Cost  a call: a connection that is kept, a request.
// Errors   a call ends with an Error (IO, PERMISSION for certificates, CAPACITY) or a status and a body; it is up to the caller what a status means.
//
//     uint64_t id = http.post(url, body, {}, deadline, [](Http::Answer a) { ... });
#pragma once

#include "hal/baton.hpp"

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace baton::transport {

struct HttpOptions {
  std::string ca, cert, key;
  size_t most_bytes = 256u << 20; // of an answer that is kept whole
};

class Http {
 public:
  struct Answer {
    std::optional<Error> error; // no answer: why
    long status = 0;
    std::string body;
  };
  using Done = std::function<void(Answer)>;
  using Chunk = std::function<bool(std::string_view)>; // false: ends the call

  static Result<std::unique_ptr<Http>> open(int epoll, HttpOptions);
  ~Http();
  // Without `chunk` the body is kept whole. deadline_ns of CLOCK_MONOTONIC; BATON_NO_DEADLINE for an answer that never ends.
  uint64_t post(const std::string& url, std::string body, const std::vector<std::string>& headers, uint64_t deadline_ns, Done, Chunk = {});
  void cancel(uint64_t call); // its Done is not called
  uint32_t poll(uint64_t now);
  uint64_t due() const;
  struct Impl;

 private:
  explicit Http(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::transport
