#include "transport/discovery/worker.hpp"

#include "hal/json_depth.hpp"
#include "transport/socket.hpp"

#include <algorithm>

namespace baton::transport {
namespace {

constexpr uint64_t kMaxCount = 1ull << 53; // what every reader of JSON keeps exactly

bool all_of(std::string_view s, auto f) { return std::all_of(s.begin(), s.end(), f); }
bool alnum(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool hex_digit(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }
bool visible(char c) { return c > ' ' && c < 0x7f && c != '"' && c != '\\'; }

bool plain_id(std::string_view s) {
  return !s.empty() && s.size() <= 64 && all_of(s, [](char c) { return alnum(c) || std::string_view("._-:@").find(c) != std::string_view::npos; });
}

// Absent: "". False: it is there and is not text that `fits`.
bool text(const nlohmann::json& j, const char* name, size_t most, std::string& to, auto fits) {
  const auto it = j.find(name);
  if (it == j.end()) return true;
  if (!it->is_string()) return false;
  to = it->get_ref<const std::string&>();
  return to.size() <= most && all_of(to, fits);
}

// Absent: 0. False: it is there and is no count.
bool count(const nlohmann::json& j, const char* name, uint64_t& to) {
  const auto it = j.find(name);
  if (it == j.end()) return true;
  if (!it->is_number_unsigned() || it->get<uint64_t>() > kMaxCount) return false;
  to = it->get<uint64_t>();
  return true;
}

}  // namespace

const char* state_name(WorkerState s) { return s == WorkerState::draining ? "draining" : "ready"; }

std::optional<Worker> worker_from(std::string_view id, const nlohmann::json& j, const char*& reason) {
  auto no = [&](const char* why) {
    reason = why;
    return std::nullopt;
  };
  if (!plain_id(id)) return no("id");
  if (!j.is_object()) return no("json");
  Worker w;
  w.id = id;
  std::string state = "ready";
  if (!text(j, "role", 16, w.role, alnum) || (w.role != "prefill" && w.role != "decode")) return no("role");
  if (!text(j, "address", 255, w.address, visible) || !parse_host_port(w.address).ok()) return no("address");
  if (!text(j, "device", 63, w.device, visible)) return no("device");
  if (!text(j, "model", 128, w.model, visible)) return no("model");
  if (!text(j, "layout", 64, w.layout, hex_digit)) return no("layout");
  if (!text(j, "fingerprint", 39, w.fingerprint, [](char c) { return hex_digit(c) || c == '-'; })) return no("fingerprint");
  if (!text(j, "epoch", 32, w.epoch, hex_digit)) return no("epoch");
  if (!text(j, "state", 16, state, alnum) || (state != "ready" && state != "draining")) return no("state");
  if (state == "draining") w.state = WorkerState::draining;
  if (!count(j, "capacity", w.capacity)) return no("capacity");
  if (!count(j, "requests", w.requests)) return no("requests");
  return w;
}

std::optional<Worker> parse_worker(std::string_view id, std::string_view json, const char*& reason) {
  reason = "size";
  if (json.size() > kMaxEntryBytes) return std::nullopt;
  reason = "json";
  if (json_too_deep(json)) return std::nullopt;
  const auto j = nlohmann::json::parse(json, nullptr, false);
  return j.is_discarded() ? std::nullopt : worker_from(id, j, reason);
}

nlohmann::json worker_json(const Worker& w) {
  nlohmann::json j{{"role", w.role}, {"address", w.address}, {"state", state_name(w.state)}};
  for (auto& [name, value] : {std::pair{"device", &w.device}, {"model", &w.model}, {"layout", &w.layout}, {"fingerprint", &w.fingerprint}, {"epoch", &w.epoch}})
    if (!value->empty()) j[name] = *value;
  if (w.capacity) j["capacity"] = w.capacity;
  if (w.requests) j["requests"] = w.requests;
  return j;
}

void WorkerTable::put(std::optional<Worker> w, std::string_view id, const char* reason) {
  if (w && workers_.size() >= kMaxWorkers && !workers_.contains(w->id)) w.reset(), reason = "too many";
  if (!w) {
    skip(reason);
    return erase(id); // what it was before, it is no longer
  }
  if (snapshot_) seen_.insert(w->id);
  dirty_.insert(w->id);
  workers_[w->id] = std::move(*w);
}

void WorkerTable::set(std::string_view id, std::string_view json) {
  const char* reason = "";
  auto w = parse_worker(id, json, reason);
  put(std::move(w), id, reason);
}

void WorkerTable::set_json(std::string_view id, const nlohmann::json& j) {
  const char* reason = "";
  auto w = worker_from(id, j, reason);
  put(std::move(w), id, reason);
}

void WorkerTable::erase(std::string_view id) {
  const auto it = workers_.find(std::string(id));
  if (it == workers_.end()) return;
  dirty_.insert(it->first);
  workers_.erase(it);
}

void WorkerTable::begin_snapshot() {
  seen_.clear();
  snapshot_ = true;
}

void WorkerTable::end_snapshot() {
  snapshot_ = false;
  for (auto it = workers_.begin(); it != workers_.end();) {
    if (seen_.contains(it->first)) {
      ++it;
      continue;
    }
    dirty_.insert(it->first);
    it = workers_.erase(it);
  }
}

std::optional<WorkerEvent> WorkerTable::next() {
  using Kind = WorkerEvent::Kind;
  while (!dirty_.empty()) {
    const std::string id = std::move(dirty_.extract(dirty_.begin()).value());
    const auto now = workers_.find(id), was = told_.find(id);
    if (now == workers_.end()) {
      if (was == told_.end()) continue;
      WorkerEvent e{Kind::left, std::move(was->second)};
      told_.erase(was);
      return e;
    }
    if (was == told_.end()) {
      told_[id] = now->second;
      return WorkerEvent{Kind::joined, now->second};
    }
    if (was->second == now->second) continue;
    was->second = now->second;
    return WorkerEvent{Kind::changed, now->second};
  }
  return std::nullopt;
}

}  // namespace baton::transport
