// worker.hpp: what a worker tells of itself to those that look for one, and the table of those that are there.
//
// An entry is written by whoever may write to the file or to etcd, and is not trusted: sizes, characters and types are checked, and an entry that is not
// right is skipped and counted under its reason. What it says of a key is a hint: the session proves it (identity.hpp).
//
// Owner    values.   Threads  one.   Cost  microseconds an entry.   Errors  a reason of few words, static: "json", "address", ...
//
//     const char* why = nullptr;
//     auto w = parse_worker("decode-1", R"({"role":"decode","address":"10.0.0.5:7001"})", why);
#pragma once

#include "hal/baton.hpp"

#include <nlohmann/json.hpp>

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace baton::transport {

enum class WorkerState : uint8_t { ready, draining }; // draining: takes no new requests, and goes when its last one is done
const char* state_name(WorkerState);

struct Worker {
  std::string id;          // 1 to 64 of letters, digits and . _ - : @
  std::string role;        // "prefill" or "decode"
  std::string address;     // HOST:PORT of its endpoint
  std::string device;      // URI, for people
  std::string model;       // identity of the model, as sinks and transfers compare it
  std::string layout;      // hash of its KV layout, hex
  std::string fingerprint; // of its public key, "" without one
  std::string epoch;       // of its endpoint: another after a restart
  uint64_t capacity = 0;   // tokens of KV-cache, 0: not told
  uint64_t requests = 0;   // that it serves, as it told last; 0: none, or not told
  WorkerState state = WorkerState::ready;
  bool operator==(const Worker&) const = default;
};

inline constexpr size_t kMaxEntryBytes = 4096, kMaxWorkers = 65536;

std::optional<Worker> parse_worker(std::string_view id, std::string_view json, const char*& reason);
std::optional<Worker> worker_from(std::string_view id, const nlohmann::json&, const char*& reason);
nlohmann::json worker_json(const Worker&); // without the id, which is the entry's key

struct WorkerEvent {
  enum class Kind : uint8_t { joined, changed, left } kind;
  Worker worker; // left: as it last was
};

// Entries in, workers and events out. Events are of what differs from what was told last: a worker that came and went unheard is never told of.
class WorkerTable {
 public:
  void set(std::string_view id, std::string_view json);
  void set_json(std::string_view id, const nlohmann::json&);
  void erase(std::string_view id);
  void begin_snapshot();
  void end_snapshot(); // what was not set since the beginning has left
  std::optional<WorkerEvent> next();
  const std::map<std::string, Worker>& workers() const { return workers_; }
  const std::map<std::string, uint64_t>& skipped() const { return skipped_; } // by reason
  void skip(const char* reason) { ++skipped_[reason]; }

 private:
  void put(std::optional<Worker>, std::string_view id, const char* reason);
  std::map<std::string, Worker> workers_, told_;
  std::set<std::string> dirty_;
  std::set<std::string> seen_; // of the snapshot that is being taken
  bool snapshot_ = false;
  std::map<std::string, uint64_t> skipped_;
};

}  // namespace baton::transport
