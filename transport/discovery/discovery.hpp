// discovery.hpp: which workers there are. A worker announces itself; whoever needs one watches them come, change and go.
//
// Two back ends behind one interface, chosen by the source:
//   PATH            a JSON file that somebody keeps: {"workers": [{"id": "decode-1", "role": "decode", "address": "10.0.0.5:7001", ...}]}. It is looked
//                   at each `look_ns` and read again when it has changed; one that cannot be read leaves what was known. Nothing is written to it:
//                   announce() only checks that the worker stands in it.
//   http[s]://H:P   etcd 3.4 or later, by its JSON gateway; several, with commas. A worker's entry is PREFIX + its id, under a lease: when the worker
//                   dies, the entry goes with the lease. A lease or an entry that is lost is made anew, and so is a connection; while etcd is
//                   away, what was known stays. An id that a worker of another address holds is BUSY, and is taken once that one's lease ends.
//
// To leave: announce the worker with the state draining, finish what runs, withdraw().
//
// Owner    the caller; destroyed before the Instance. The destructor does not withdraw: the lease ends by itself.
// Threads  as the Instance, whose poll drives it; none of its own (libcurl resolves a host's name in one: give numeric addresses to have none).
// Cost     a poll with nothing to do: one comparison; a look at the file or a heartbeat: one system call, one small request.
// Errors   INVALID_ARGUMENT, NOT_FOUND, CORRUPT (the file); from status(): IO, PERMISSION, BUSY, as they are. Entries that are wrong: skipped().
//
//     BATON_ASSIGN(auto d, Discovery::open(in, {.source = "http://10.0.0.9:2379"}));
//     BATON_TRY(d.announce({.id = "decode-1", .role = "decode", .address = ep.address()}, deadline_in_ms(5000)));
//     while (auto e = d.next()) if (e->kind == WorkerEvent::Kind::joined) connect(e->worker.address);
#pragma once

#include "transport/discovery/worker.hpp"

#include <memory>

namespace baton::transport {

struct DiscoveryOptions {
  std::string source;
  uint64_t look_ns = 500'000'000;      // the file
  std::string prefix = "/baton/workers/"; // etcd, all below
  uint64_t lease_ns = 10'000'000'000;  // whole seconds, 2 at least; heartbeats every third of it
  std::string ca, cert, key;           // TLS: the authorities to believe, a client's certificate and its key; PEM files, "": the system's, none
  std::string user, password_file;     // the file is refused where others may read it
};

class Discovery {
 public:
  static Result<Discovery> open(const Instance&, DiscoveryOptions);
  Discovery(Discovery&&) noexcept;
  Discovery& operator=(Discovery&&) noexcept;
  ~Discovery();
  // Registers, or changes what is registered. With a deadline it polls the instance until that is done; with 0 it returns at once.
  Status announce(const Worker&, uint64_t deadline_ns = 0);
  Status withdraw(uint64_t deadline_ns);       // gone for everybody when it returns
  bool announced() const;                      // what was announced last is registered, as far as is known
  std::optional<WorkerEvent> next();           // since the last one
  const std::map<std::string, Worker>& workers() const;
  const std::map<std::string, uint64_t>& skipped() const; // entries that were wrong, by reason
  Status status() const;                       // of the source: what fails now
  bool complete() const;                       // the source has been read whole at least once
  struct Impl;

 private:
  explicit Discovery(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::transport
