// directory.hpp (internal): what a back end of discovery is. It feeds the table, and keeps one worker registered.
//
// Owner    Discovery.   Threads  as the Instance.   Cost  poll() is called at each deadline that due() names, and when a descriptor in `epoll` is ready.
// Errors   status() is what fails now; a back end goes on trying.
//
//     auto d = open_etcd(options, table, epoll.get());
#pragma once

#include "transport/discovery/discovery.hpp"

namespace baton::transport {

class Directory {
 public:
  virtual ~Directory() = default;
  virtual uint32_t poll(uint64_t now) = 0;  // how much it handled
  virtual uint64_t due() const = 0;         // when poll() is wanted at the latest
  virtual Status announce(const Worker&) = 0;
  virtual Status withdraw() = 0;            // begins it
  virtual bool announced() const = 0;
  virtual bool withdrawn() const = 0;
  virtual Status status() const = 0;
  virtual bool complete() const = 0;
};

Result<std::unique_ptr<Directory>> open_file(const DiscoveryOptions&, WorkerTable&);
Result<std::unique_ptr<Directory>> open_etcd(const DiscoveryOptions&, WorkerTable&, int epoll);

}  // namespace baton::transport
