#include "emulators/neuron/site.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <utility>

namespace baton::neuron_emu {
namespace {

Error io(const std::string& path) { return Error(BATON_IO, path + ": " + std::strerror(errno), "name a folder that exists and is writable"); }

// "1234 python3 since 2026-11-26T17:05:00Z"
std::string myself() {
  char comm[32] = "?", when[32] = "?";
  if (int fd = open("/proc/self/comm", O_RDONLY | O_CLOEXEC); fd >= 0) {
    ssize_t n = read(fd, comm, sizeof comm - 1);
    close(fd);
    comm[n > 0 ? n - 1 : 0] = 0;  // it ends in a newline
  }
  time_t now = std::time(nullptr);
  tm utc{};
  if (gmtime_r(&now, &utc)) std::strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return std::to_string(getpid()) + " " + comm + " since " + when;
}

// A folder that only this user can have made.
Result<std::string> private_folder(const std::string& path) {
  struct stat st {};
  if (mkdir(path.c_str(), 0700) && errno != EEXIST) return io(path);
  if (lstat(path.c_str(), &st)) return io(path);
  if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 0022)
    return Error(BATON_PERMISSION, path + " is not a folder of this user alone", "set XDG_RUNTIME_DIR, or name the machine by the path of a folder");
  return path;
}

Result<std::string> named_folder(const std::string& name, const std::string& runtime) {
  BATON_ASSIGN(std::string base, private_folder(runtime.starts_with('/') ? runtime + "/baton-neuron" : "/dev/shm/baton-neuron-" + std::to_string(geteuid())));
  return base + "/" + name;
}

}  // namespace

HeldCore::~HeldCore() {
  if (fd_ < 0) return;
  (void)!ftruncate(fd_, 0);  // nobody holds it
  close(fd_);
}

void HeldCore::forget() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

Result<Site> Site::open(const std::string& machine, const std::string& runtime) {
  if (machine.empty()) return Site("");
  std::string folder = machine;
  if (machine.find('/') == std::string::npos) {
    if (machine[0] == '.') return Error(BATON_INVALID_ARGUMENT, "folder=" + machine + " is no name", "use letters and digits, or the path of a folder");
    BATON_ASSIGN(folder, named_folder(machine, runtime));
  }
  if (mkdir(folder.c_str(), 0700) && errno != EEXIST) return io(folder);
  return Site(std::move(folder));
}

Result<HeldCore> Site::taking() const {
  std::string path = folder_ + "/taking";
  int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return io(path);
  while (flock(fd, LOCK_EX)) {
    if (errno == EINTR) continue;
    Error e = io(path);
    close(fd);
    return e;
  }
  return HeldCore(0, fd);
}

// The core, with this process written down as its holder.
Result<HeldCore> Site::hold(uint32_t core) const {
  std::string path = folder_ + "/core" + std::to_string(core);
  int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return io(path);
  if (flock(fd, LOCK_EX | LOCK_NB)) {
    char holder[96] = {};
    (void)!pread(fd, holder, sizeof holder - 1, 0);
    close(fd);
    return Error(BATON_BUSY, "logical core " + std::to_string(core) + " is held by process " + (holder[0] ? holder : "(starting)"),
                 "end it, or take other cores with NEURON_RT_VISIBLE_CORES or NEURON_RT_NUM_CORES");
  }
  const std::string me = myself();
  (void)!ftruncate(fd, 0);
  (void)!pwrite(fd, me.data(), me.size(), 0);
  return HeldCore(core, fd);
}

Result<std::vector<HeldCore>> Site::take(const std::vector<uint32_t>& logical) const {
  std::vector<HeldCore> held;
  if (folder_.empty()) {
    for (uint32_t core : logical) held.emplace_back(core, -1);
    return held;
  }
  BATON_ASSIGN(HeldCore guard, taking());
  for (uint32_t core : logical) {
    BATON_ASSIGN(HeldCore one, hold(core));
    held.push_back(std::move(one));
  }
  return held;
}

Result<std::vector<HeldCore>> Site::take_free(uint32_t count, uint32_t of) const {
  std::vector<HeldCore> held;
  if (folder_.empty()) {
    for (uint32_t core = 0; core < count; ++core) held.emplace_back(core, -1);
    return held;
  }
  BATON_ASSIGN(HeldCore guard, taking());
  Error busy;
  for (uint32_t core = 0; core < of && held.size() < count; ++core) {
    auto one = hold(core);
    if (one.ok())
      held.push_back(std::move(*one));
    else if (one.error().code == BATON_BUSY)
      busy = one.error();
    else
      return one.error();
  }
  if (held.size() == count) return held;
  return Error(BATON_BUSY, "NEURON_RT_NUM_CORES=" + std::to_string(count) + ", " + std::to_string(held.size()) + " of " + std::to_string(of) +
                               " are free; " + std::string(busy.what), busy.next);
}

}  // namespace baton::neuron_emu
