// The back end that reads a JSON file.
#include "hal/json_depth.hpp"
#include "transport/discovery/directory.hpp"
#include "transport/socket.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <tuple>

namespace baton::transport {
namespace {

constexpr size_t kMaxFileBytes = 32u << 20;
constexpr uint64_t kYoungNs = 2'000'000'000; // a file that has just changed may change again within the clock's grain

class FileDirectory final : public Directory {
 public:
  FileDirectory(const DiscoveryOptions& o, WorkerTable& t) : options_(o), table_(t) {}
  uint32_t poll(uint64_t now) override {
    if (now < due_) return 0;
    due_ = now + options_.look_ns;
    return look() ? 1 : 0;
  }
  uint64_t due() const override { return due_; }
  Status announce(const Worker& w) override {
    look();
    const auto it = table_.workers().find(w.id);
    if (it == table_.workers().end())
      return Error(BATON_NOT_FOUND, fmt::format("{} is not a worker of {}", w.id, options_.source), "add it to that file; this back end writes nothing");
    if (it->second.role != w.role || it->second.address != w.address)
      return Error(BATON_MISMATCH, fmt::format("{} says that {} is a {} worker at {}; it is a {} worker at {}", options_.source, w.id, it->second.role, it->second.address, w.role, w.address),
                   "make the file and the worker's --listen agree");
    return {};
  }
  Status withdraw() override { return {}; }
  bool announced() const override { return true; }
  bool withdrawn() const override { return true; }
  Status status() const override {
    if (error_) return *error_;
    return {};
  }
  bool complete() const override { return complete_; }

  bool look() {
    Status s = read();
    error_.reset();
    if (!s.ok()) error_ = s.error();
    return changed_;
  }

 private:
  using Stamp = std::tuple<uint64_t, uint64_t, int64_t, int64_t>;
  Status read() {
    changed_ = false;
    struct stat st {};
    Fd fd(::open(options_.source.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!fd || fstat(fd.get(), &st))
      return Error(errno == ENOENT ? BATON_NOT_FOUND : errno == EACCES ? BATON_PERMISSION : BATON_IO, fmt::format("workers' file {}: {}", options_.source, strerror(errno)),
                   "make it: {\"workers\": [{\"id\": ..., \"role\": ..., \"address\": ...}]}");
    const Stamp stamp{st.st_ino, uint64_t(st.st_size), st.st_mtim.tv_sec * 1'000'000'000 + st.st_mtim.tv_nsec, st.st_ctim.tv_sec * 1'000'000'000 + st.st_ctim.tv_nsec};
    const uint64_t now = now_ns();
    if (stamp == stamp_ && now - changed_ns_ > kYoungNs) {
      if (error_) return *error_; // it is as bad as it was
      return {};
    }
    if (stamp != stamp_) changed_ns_ = now;
    stamp_ = stamp;
    if (!S_ISREG(st.st_mode)) return Error(BATON_INVALID_ARGUMENT, fmt::format("{} is not a regular file", options_.source), "give a JSON file of workers, or an etcd URL");
    if (size_t(st.st_size) > kMaxFileBytes) return Error(BATON_CORRUPT, fmt::format("{} has {} bytes, more than {}", options_.source, st.st_size, kMaxFileBytes), "keep the workers of one cluster in it");
    std::string text(size_t(st.st_size), 0);
    size_t got = 0;
    for (ssize_t n; got < text.size() && (n = ::read(fd.get(), text.data() + got, text.size() - got)) != 0;) {
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return io_error(options_.source, errno);
      got += size_t(n);
    }
    text.resize(got);
    if (text == text_) return {};
    const auto j = json_too_deep(text) ? nlohmann::json(nlohmann::json::value_t::discarded) : nlohmann::json::parse(text, nullptr, false);
    if (!j.is_object() || !j.contains("workers") || !j["workers"].is_array())
      return Error(BATON_CORRUPT, fmt::format("{} is not a JSON object with an array \"workers\"", options_.source), "what was known before stays until it is right; write a new file and rename it into place");
    text_ = std::move(text);
    table_.begin_snapshot();
    for (const auto& w : j["workers"]) {
      if (w.is_object() && w.contains("id") && w["id"].is_string()) table_.set_json(w["id"].get_ref<const std::string&>(), w);
      else table_.skip("id");
    }
    table_.end_snapshot();
    return complete_ = changed_ = true, Status();
  }

  DiscoveryOptions options_;
  WorkerTable& table_;
  uint64_t due_ = 0, changed_ns_ = 0;
  Stamp stamp_{};
  std::string text_;
  std::optional<Error> error_;
  bool complete_ = false, changed_ = false;
};

}  // namespace

Result<std::unique_ptr<Directory>> open_file(const DiscoveryOptions& o, WorkerTable& t) {
  auto d = std::make_unique<FileDirectory>(o, t);
  d->look();
  if (Status s = d->status(); !s.ok()) return s.error();
  return std::unique_ptr<Directory>(std::move(d));
}

}  // namespace baton::transport
