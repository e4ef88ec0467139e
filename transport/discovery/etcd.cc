// The back end that speaks etcd's v3 API by its JSON gateway (etcd.io/docs/v3.4/dev-guide/api_grpc_gateway: /v3/kv, /v3/watch, /v3/lease, /v3/auth).
//
// Three things go on at once, each begun again after a pause when it fails: the token (with a user), the registration (grant, put, keep alive), and the
// view (a range of all workers, then a watch from that revision on). 64-bit numbers are strings in that JSON, zeros are left away.
#include "hal/json_depth.hpp"
#include "transport/crypto.hpp"
#include "transport/discovery/directory.hpp"
#include "transport/discovery/http.hpp"
#include "transport/socket.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

namespace baton::transport {
namespace {

using nlohmann::json;

constexpr uint64_t kLeastPauseNs = 100'000'000, kMostPauseNs = 2'000'000'000, kCallNs = 5'000'000'000;
constexpr size_t kMaxLine = 8u << 20; // of the watch: events of one revision
constexpr size_t kMaxPassword = 1024;

std::string base64(std::string_view s) {
  std::string out(sodium_base64_encoded_len(s.size(), sodium_base64_VARIANT_ORIGINAL), 0);
  sodium_bin2base64(out.data(), out.size(), reinterpret_cast<const uint8_t*>(s.data()), s.size(), sodium_base64_VARIANT_ORIGINAL);
  out.pop_back();
  return out;
}

std::optional<std::string> from_base64(const json& j, const char* name) {
  const auto it = j.find(name);
  if (it == j.end()) return std::string();
  if (!it->is_string()) return std::nullopt;
  const std::string& s = it->get_ref<const std::string&>();
  std::string out(s.size(), 0);
  size_t n = 0;
  if (sodium_base642bin(reinterpret_cast<uint8_t*>(out.data()), out.size(), s.data(), s.size(), nullptr, &n, nullptr, sodium_base64_VARIANT_ORIGINAL)) return std::nullopt;
  out.resize(n);
  return out;
}

// 0: absent, or no number.
int64_t number(const json& j, const char* name) {
  const auto it = j.is_object() ? j.find(name) : j.end();
  if (!j.is_object() || it == j.end()) return 0;
  if (it->is_number_integer()) return it->get<int64_t>();
  if (!it->is_string()) return 0;
  const std::string& s = it->get_ref<const std::string&>();
  int64_t v = 0;
  const auto r = std::from_chars(s.data(), s.data() + s.size(), v);
  return r.ec == std::errc() && r.ptr == s.data() + s.size() ? v : 0;
}

const json& at(const json& j, const char* name) {
  static const json none;
  if (!j.is_object()) return none;
  const auto it = j.find(name);
  return it == j.end() ? none : *it;
}

json parse(std::string_view text) { return json_too_deep(text) ? json(json::value_t::discarded) : json::parse(text, nullptr, false); }

// The first key after all that begin with `prefix`.
std::string end_of(std::string prefix) {
  while (!prefix.empty() && uint8_t(prefix.back()) == 0xff) prefix.pop_back();
  if (prefix.empty()) return std::string(1, '\0');
  prefix.back() = char(uint8_t(prefix.back()) + 1);
  return prefix;
}

class Etcd final : public Directory {
 public:
  Etcd(const DiscoveryOptions& o, WorkerTable& t) : options_(o), table_(t) {}
  Status start(int epoll);

  uint32_t poll(uint64_t now) override {
    const uint32_t n = http_->poll(now);
    advance(now_ns());
    return n;
  }
  uint64_t due() const override {
    uint64_t least = std::min(http_->due(), probe_.at);
    for (const Step* s : {&auth_, &lease_, &view_})
      if (!s->call && !s->idle) least = std::min(least, s->at);
    return least;
  }
  Status announce(const Worker& w) override {
    if (mine_ && mine_->id != w.id) return Error(BATON_BUSY, fmt::format("this Discovery has {} registered", mine_->id), "withdraw it first, or open another Discovery");
    mine_ = w;
    withdrawing_ = false;
    put_ = false;
    lease_.idle = false;
    lease_.at = 0;
    lease_.error.reset();
    return {};
  }
  Status withdraw() override {
    if (mine_) withdrawing_ = true;
    lease_.at = 0;
    return {};
  }
  bool announced() const override { return mine_ && put_ && !withdrawing_; }
  bool withdrawn() const override { return !mine_; }
  Status status() const override {
    for (const Step* s : {&auth_, &lease_, &view_, &probe_})
      if (s->error) return *s->error;
    return {};
  }
  bool complete() const override { return complete_; }

 private:
  // One of the things that go on: a call in flight, or the time of the next.
  struct Step {
    uint64_t call = 0, at = 0, pause = kLeastPauseNs;
    bool idle = false; // nothing to do until something changes
    size_t asked = 0;  // which of the URLs
    std::optional<Error> error;
  };
  void advance(uint64_t now);
  void authenticate();
  void registration(uint64_t now);
  void grant();
  void put_first();
  void put_again();
  void is_put(const json& answer, const Worker& sent);
  void is_gone(int64_t revision);
  void keep_alive();
  void revoke();
  void look();
  void watch();
  bool watch_bytes(std::string_view);
  bool watch_line(std::string_view);
  void probe();
  void entry(const json& kv, bool gone);
  // Sends; `then` gets the parsed answer of a call that went well, and says what went wrong with it, if so.
  void ask(Step&, const char* path, const json& body, std::function<std::optional<Error>(const json&)> then);
  void failed(Step&, Error);
  void well(Step& s) { s.error.reset(), s.pause = kLeastPauseNs; }
  std::string url(const char* path) const { return urls_[current_] + path; }
  std::string key() const { return options_.prefix + mine_->id; }
  json put_request() const { return {{"key", base64(key())}, {"value", base64(worker_json(*mine_).dump())}, {"lease", std::to_string(lease_id_)}}; }
  std::vector<std::string> headers() const {
    if (token_.empty()) return {};
    return {"Authorization: " + token_};
  }
  json all_keys() const { return {{"key", base64(options_.prefix)}, {"range_end", base64(end_of(options_.prefix))}}; }

  DiscoveryOptions options_;
  WorkerTable& table_;
  std::vector<std::string> urls_;
  size_t current_ = 0;
  std::unique_ptr<Http> http_;
  std::string token_;
  Step auth_, lease_, view_, probe_;
  std::optional<Worker> mine_;
  bool put_ = false, withdrawing_ = false, complete_ = false;
  int64_t lease_id_ = 0, revision_ = 0;
  int64_t put_revision_ = 0, gone_revision_ = 0; // when this worker's entry was put, and when it was last seen to be away: their answers may cross
  std::string line_;
  std::optional<Error> watch_error_;
};

Status Etcd::start(int epoll) {
  BATON_TRY(crypto_ready());
  std::string_view rest = options_.source;
  while (!rest.empty()) {
    std::string one(rest.substr(0, rest.find(',')));
    rest.remove_prefix(std::min(one.size() + 1, rest.size()));
    while (!one.empty() && one.back() == '/') one.pop_back();
    const size_t scheme = one.starts_with("https://") ? 8 : one.starts_with("http://") ? 7 : 0;
    if (!scheme || !parse_host_port(one.substr(scheme)).ok()) return Error(BATON_INVALID_ARGUMENT, fmt::format("'{}' is not the URL of an etcd", one), "as in http://127.0.0.1:2379,https://etcd-2:2379");
    const std::string host = parse_host_port(one.substr(scheme))->host;
    if (scheme == 7 && !options_.user.empty() && !host.starts_with("127.") && host != "::1")
      return Error(BATON_INVALID_ARGUMENT, fmt::format("a password would go to {} unencrypted", one), "use https://, with a ca file");
    urls_.push_back(std::move(one));
  }
  if (options_.prefix.empty() || options_.prefix.size() > 256) return Error(BATON_INVALID_ARGUMENT, "a prefix of 1 to 256 bytes", "as in /baton/workers/");
  if (options_.lease_ns < 2'000'000'000) return Error(BATON_INVALID_ARGUMENT, fmt::format("a lease of {} ms in etcd", options_.lease_ns / 1'000'000), "2 s is the least");
  for (const std::string* f : {&options_.ca, &options_.cert, &options_.key, &options_.password_file})
    if (!f->empty() && access(f->c_str(), R_OK)) return Error(errno == ENOENT ? BATON_NOT_FOUND : BATON_PERMISSION, fmt::format("{}: {}", *f, strerror(errno)), "give a file that is there and may be read");
  if (options_.user.empty() != options_.password_file.empty()) return Error(BATON_INVALID_ARGUMENT, "a user of etcd and a password file go together", "give both or none");
  BATON_ASSIGN(http_, Http::open(epoll, {options_.ca, options_.cert, options_.key}));
  auth_.idle = options_.user.empty();
  lease_.idle = true;
  probe_.at = UINT64_MAX;
  return {};
}

void Etcd::failed(Step& s, Error e) {
  s.error = std::move(e);
  s.at = now_ns() + s.pause;
  s.pause = std::min(s.pause * 2, kMostPauseNs);
  if (s.asked == current_) current_ = (current_ + 1) % urls_.size(); // several steps fail at once when one etcd does: the next is taken once
}

void Etcd::ask(Step& s, const char* path, const json& body, std::function<std::optional<Error>(const json&)> then) {
  s.asked = current_;
  s.call = http_->post(url(path), body.dump(), headers(), now_ns() + kCallNs, [this, &s, path, then = std::move(then)](Http::Answer a) {
    s.call = 0;
    if (a.error) return failed(s, *a.error);
    const json j = parse(a.body);
    if (a.status == 200 && j.is_object() && !j.contains("error")) {
      auto e = then(j);
      if (e) failed(s, *e);
      else if (!s.call) well(s);
      return;
    }
    // What etcd says is shown cut and without what a terminal would obey; it names no password and no token.
    std::string says = j.is_object() && j.contains("error") ? (j["error"].is_string() ? j["error"].get<std::string>() : at(j["error"], "message").is_string() ? j["error"]["message"].get<std::string>() : "") : "";
    for (char& c : says) c = c < ' ' || c > '~' ? '?' : c;
    if (says.find("lease not found") != std::string::npos) lease_id_ = 0, put_ = false; // a new one is granted
    const bool token = says.find("token") != std::string::npos || a.status == 401;
    if (token && !options_.user.empty()) token_.clear(), auth_.idle = false, auth_.at = 0;
    const bool denied = token || a.status == 403 || says.find("permission") != std::string::npos || says.find("authentication") != std::string::npos || says.find("user name") != std::string::npos;
    failed(s, Error(denied ? BATON_PERMISSION : BATON_IO, fmt::format("{}{} answered {}: {}", urls_[s.asked], path, a.status, says.substr(0, 160)),
                    denied ? "check the user, its password and its roles in etcd" : "look into etcd's log; it is tried again"));
  });
}

void Etcd::advance(uint64_t now) {
  if (!auth_.idle) {
    if (!auth_.call && now >= auth_.at) authenticate();
    return; // nothing else is asked without a token
  }
  if (mine_ && !lease_.call && now >= lease_.at) registration(now);
  if (!view_.call && now >= view_.at) look();
  if (!probe_.call && now >= probe_.at) probe();
}

void Etcd::authenticate() {
  Fd fd(::open(options_.password_file.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  struct stat st {};
  if (!fd || fstat(fd.get(), &st)) return failed(auth_, Error(BATON_IO, fmt::format("password file {}: {}", options_.password_file, strerror(errno)), "give a file with the password"));
  if (st.st_mode & 077)
    return failed(auth_, Error(BATON_PERMISSION, fmt::format("password file {} has mode {:04o}: others may read it", options_.password_file, st.st_mode & 07777u), fmt::format("chmod 600 {}", options_.password_file)));
  std::string password(kMaxPassword, 0);
  const ssize_t n = ::read(fd.get(), password.data(), password.size());
  size_t length = size_t(std::max<ssize_t>(n, 0));
  while (length && (password[length - 1] == '\n' || password[length - 1] == '\r')) --length;
  json body{{"name", options_.user}, {"password", password.substr(0, length)}};
  ask(auth_, "/v3/auth/authenticate", body, [this](const json& j) -> std::optional<Error> {
    if (!at(j, "token").is_string()) return Error(BATON_IO, fmt::format("{} gave no token", urls_[auth_.asked]), "is this an etcd?");
    token_ = j["token"].get<std::string>();
    if (token_.find_first_of("\r\n") != std::string::npos || token_.size() > 4096) return token_.clear(), Error(BATON_IO, fmt::format("{} gave a token that is none", urls_[auth_.asked]), "is this an etcd?");
    auth_.idle = true;
    return std::nullopt;
  });
  auto& kept = body["password"].get_ref<std::string&>();
  sodium_memzero(kept.data(), kept.size());
  sodium_memzero(password.data(), password.size());
}

// ---- the registration ----

void Etcd::registration(uint64_t) {
  if (withdrawing_) return lease_id_ ? revoke() : (void)(mine_.reset(), withdrawing_ = false, lease_.idle = true);
  if (!lease_id_) return grant();
  if (!put_) return put_first();
  keep_alive();
}

void Etcd::grant() {
  ask(lease_, "/v3/lease/grant", {{"TTL", std::to_string(options_.lease_ns / 1'000'000'000)}}, [this](const json& j) -> std::optional<Error> {
    lease_id_ = number(j, "ID");
    put_revision_ = gone_revision_ = 0; // an etcd that lost its data counts anew
    if (!lease_id_) return Error(BATON_IO, fmt::format("{} granted no lease", urls_[lease_.asked]), "is this an etcd?");
    lease_.at = 0;
    return std::nullopt;
  });
}

// Puts the entry if nobody has one of this id, or if it is of this worker.
void Etcd::put_first() {
  const json put{{"request_put", put_request()}}, get{{"request_range", {{"key", base64(key())}}}};
  const json absent{{"key", base64(key())}, {"target", "VERSION"}, {"result", "EQUAL"}, {"version", "0"}};
  const Worker sent = *mine_;
  ask(lease_, "/v3/kv/txn", {{"compare", json::array({absent})}, {"success", json::array({put})}, {"failure", json::array({get})}}, [this, sent](const json& j) -> std::optional<Error> {
    const auto& ok = at(j, "succeeded");
    if (ok.is_boolean() && ok.get<bool>()) return is_put(j, sent), std::nullopt;
    const auto& responses = at(j, "responses");
    const auto& kvs = responses.is_array() && !responses.empty() ? at(at(responses[0], "response_range"), "kvs") : at(j, "");
    if (!kvs.is_array() || kvs.empty()) return lease_.at = 0, std::nullopt; // it went meanwhile
    const auto value = from_base64(kvs[0], "value");
    const char* why = nullptr;
    const auto holder = value ? parse_worker(sent.id, *value, why) : std::nullopt;
    if (holder && holder->address != sent.address)
      return Error(BATON_BUSY, fmt::format("{} is registered by the {} worker at {}", sent.id, holder->role, holder->address), "give this worker another id, or wait for the end of that one's lease");
    put_again();
    return std::nullopt;
  });
}

// An entry of this worker, or of no worker at all, is replaced.
void Etcd::put_again() {
  const Worker sent = *mine_;
  ask(lease_, "/v3/kv/put", put_request(), [this, sent](const json& j) -> std::optional<Error> { return is_put(j, sent), std::nullopt; });
}

void Etcd::is_put(const json& answer, const Worker& sent) {
  put_revision_ = number(at(answer, "header"), "revision");
  put_ = mine_ && *mine_ == sent && put_revision_ > gone_revision_;
  lease_.at = put_ ? now_ns() + options_.lease_ns / 3 : 0;
}

// The entry was not there at that revision: somebody took it away while its lease lives, unless it was put later.
void Etcd::is_gone(int64_t revision) {
  gone_revision_ = std::max(gone_revision_, revision);
  if (!put_ || withdrawing_ || gone_revision_ < put_revision_) return;
  put_ = false;
  lease_.at = 0;
}

void Etcd::keep_alive() {
  ask(lease_, "/v3/lease/keepalive", {{"ID", std::to_string(lease_id_)}}, [this](const json& j) -> std::optional<Error> {
    if (number(at(j, "result"), "TTL") <= 0) { // it is lost: a new one, and the entry under it
      lease_id_ = 0;
      put_ = false;
      lease_.at = 0;
    } else if (lease_.at <= now_ns()) {
      lease_.at = put_ ? now_ns() + options_.lease_ns / 3 : 0;
    }
    return std::nullopt;
  });
}

void Etcd::revoke() {
  const int64_t id = lease_id_;
  ask(lease_, "/v3/lease/revoke", {{"ID", std::to_string(id)}}, [this](const json&) -> std::optional<Error> {
    lease_id_ = 0;
    put_ = false;
    lease_.at = 0; // registration() ends it, or, announced anew meanwhile, begins it again
    return std::nullopt;
  });
}

// ---- the view ----

void Etcd::entry(const json& kv, bool gone) {
  const auto k = from_base64(kv, "key");
  if (!k || !k->starts_with(options_.prefix)) return table_.skip("key");
  const std::string id = k->substr(options_.prefix.size());
  if (gone) {
    table_.erase(id);
    if (mine_ && id == mine_->id) is_gone(number(kv, "mod_revision"));
    return;
  }
  const auto v = from_base64(kv, "value");
  if (v) table_.set(id, std::string_view(*v));
  else table_.skip("value");
}

void Etcd::look() {
  ask(view_, "/v3/kv/range", all_keys(), [this](const json& j) -> std::optional<Error> {
    revision_ = number(at(j, "header"), "revision");
    const auto& kvs = at(j, "kvs");
    if (!revision_ || !(kvs.is_null() || kvs.is_array())) return Error(BATON_IO, fmt::format("{} listed no keys", urls_[view_.asked]), "is this an etcd?");
    table_.begin_snapshot();
    for (const auto& kv : kvs)
      if (kv.is_object()) entry(kv, false);
    table_.end_snapshot();
    if (mine_ && !table_.workers().contains(mine_->id)) is_gone(revision_);
    complete_ = true;
    watch();
    return std::nullopt;
  });
}

void Etcd::watch() {
  line_.clear();
  watch_error_.reset();
  json create = all_keys();
  create["start_revision"] = std::to_string(revision_ + 1);
  view_.asked = current_;
  view_.call = http_->post(
      url("/v3/watch"), json{{"create_request", create}}.dump(), headers(), BATON_NO_DEADLINE,
      [this](Http::Answer a) {
        view_.call = 0;
        probe_.at = UINT64_MAX;
        if (probe_.call) http_->cancel(std::exchange(probe_.call, 0));
        failed(view_, watch_error_ ? *watch_error_ : a.error ? *a.error : Error(BATON_IO, fmt::format("{} ended the watch with {}", urls_[view_.asked], a.status), "it is begun again"));
      },
      [this](std::string_view bytes) { return watch_bytes(bytes); });
  well(view_);
  probe_.at = now_ns() + options_.lease_ns / 3;
}

bool Etcd::watch_bytes(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    line_.append(bytes.substr(0, end));
    if (line_.size() > kMaxLine) return watch_error_ = Error(BATON_CAPACITY, fmt::format("{}: an event of more than {} bytes", urls_[view_.asked], kMaxLine), "are these keys those of workers alone?"), false;
    if (end == std::string_view::npos) return true;
    bytes.remove_prefix(end + 1);
    const std::string line = std::exchange(line_, {});
    if (!line.empty() && !watch_line(line)) return false;
  }
  return true;
}

// False: this watch is over, and the view is taken anew.
bool Etcd::watch_line(std::string_view text) {
  const json j = parse(text);
  const json& result = at(j, "result");
  const auto& canceled = at(result, "canceled");
  if (!result.is_object() || (canceled.is_boolean() && canceled.get<bool>())) {
    const int64_t compacted = number(result, "compact_revision");
    watch_error_ = Error(BATON_IO, compacted ? fmt::format("{}: revisions before {} are gone", urls_[view_.asked], compacted) : fmt::format("{} ended the watch", urls_[view_.asked]), "it is begun again");
    return false;
  }
  const auto& events = at(result, "events");
  if (!events.is_array()) return true;
  for (const auto& e : events) {
    const auto& type = at(e, "type");
    if (at(e, "kv").is_object()) entry(e["kv"], type.is_string() && type == "DELETE");
    else table_.skip("event");
  }
  return true;
}

// An etcd whose host is gone ends no connection: as long as a watch is quiet, a small question finds out.
void Etcd::probe() {
  probe_.at = UINT64_MAX;
  json one = all_keys();
  one["limit"] = "1";
  one["keys_only"] = true;
  probe_.asked = current_;
  probe_.call = http_->post(url("/v3/kv/range"), one.dump(), headers(), now_ns() + kCallNs, [this](Http::Answer a) {
    probe_.call = 0;
    if (!a.error && a.status == 200) return (void)(probe_.at = now_ns() + options_.lease_ns / 3);
    if (view_.call) http_->cancel(std::exchange(view_.call, 0));
    failed(view_, a.error ? *a.error : Error(BATON_IO, fmt::format("{} answered {}", urls_[probe_.asked], a.status), "it is tried again"));
  });
}

}  // namespace

Result<std::unique_ptr<Directory>> open_etcd(const DiscoveryOptions& o, WorkerTable& t, int epoll) {
  auto d = std::make_unique<Etcd>(o, t);
  BATON_TRY(d->start(epoll));
  return std::unique_ptr<Directory>(std::move(d));
}

}  // namespace baton::transport
