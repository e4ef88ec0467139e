#include "tests/support/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

extern char** environ;

namespace baton::test {

namespace {

int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void close_fd(int& fd) {
  if (fd >= 0) ::close(fd);
  fd = -1;
}

// Reads what is there; false at the end of the stream.
bool drain(int& fd, std::string& to) {
  char buffer[65536];
  ssize_t n = ::read(fd, buffer, sizeof buffer);
  if (n > 0) {
    to.append(buffer, size_t(n));
    return true;
  }
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  close_fd(fd);
  return false;
}

}  // namespace

Process::Process(std::vector<std::string> argv, std::map<std::string, std::string> env) {
  int in[2], out[2], err[2];
  if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) std::abort();
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  posix_spawn_file_actions_adddup2(&actions, err[1], 2);
  std::vector<std::string> merged;
  for (char** e = environ; *e; e++) {
    std::string s = *e;
    if (!env.count(s.substr(0, s.find('=')))) merged.push_back(s);
  }
  for (auto& [k, v] : env) merged.push_back(k + "=" + v);
  std::vector<char*> a, e;
  for (auto& s : argv) a.push_back(s.data());
  for (auto& s : merged) e.push_back(s.data());
  a.push_back(nullptr);
  e.push_back(nullptr);
  if (posix_spawn(&pid_, a[0], &actions, nullptr, a.data(), e.data())) pid_ = -1;
  posix_spawn_file_actions_destroy(&actions);
  ::close(in[0]);
  ::close(out[1]);
  ::close(err[1]);
  in_ = in[1];
  out_fd_ = out[0];
  err_fd_ = err[0];
  fcntl(out_fd_, F_SETFL, O_NONBLOCK);
  fcntl(err_fd_, F_SETFL, O_NONBLOCK);
}

Process::Process(Process&& o) noexcept
    : pid_(std::exchange(o.pid_, -1)), in_(std::exchange(o.in_, -1)), out_fd_(std::exchange(o.out_fd_, -1)),
      err_fd_(std::exchange(o.err_fd_, -1)), out_(std::move(o.out_)), err_(std::move(o.err_)), exit_(o.exit_) {}

Process::~Process() {
  if (pid_ > 0 && !exit_.ended) {
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close_fd(in_);
  close_fd(out_fd_);
  close_fd(err_fd_);
}

bool Process::pump(int timeout_ms) {
  pollfd p[2] = {{out_fd_, POLLIN, 0}, {err_fd_, POLLIN, 0}};
  if (out_fd_ < 0 && err_fd_ < 0) return false;
  ::poll(p, 2, timeout_ms);
  if (out_fd_ >= 0 && p[0].revents) drain(out_fd_, out_);
  if (err_fd_ >= 0 && p[1].revents) drain(err_fd_, err_);
  return true;
}

bool Process::wait_out(const std::string& text, int timeout_ms) {
  int64_t end = now_ms() + timeout_ms;
  while (out_.find(text) == std::string::npos) {
    int64_t left = end - now_ms();
    if (left <= 0 || !pump(int(left))) return out_.find(text) != std::string::npos;
  }
  return true;
}

bool Process::wait_err(const std::string& text, int timeout_ms) {
  int64_t end = now_ms() + timeout_ms;
  while (err_.find(text) == std::string::npos) {
    int64_t left = end - now_ms();
    if (left <= 0 || !pump(int(left))) return err_.find(text) != std::string::npos;
  }
  return true;
}

bool Process::wait_out_bytes(size_t n, int timeout_ms) {
  int64_t end = now_ms() + timeout_ms;
  while (out_.size() < n) {
    int64_t left = end - now_ms();
    if (left <= 0 || !pump(int(left))) return out_.size() >= n;
  }
  return true;
}

void Process::kill(int signal) {
  if (pid_ > 0 && !exit_.ended) ::kill(pid_, signal);
}

void Process::close_stdin() { close_fd(in_); }

Exit Process::wait(int timeout_ms) {
  int64_t end = now_ms() + timeout_ms;
  while (!exit_.ended) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      exit_ = {true, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)};
      break;
    }
    if (now_ms() >= end) return exit_;
    if (!pump(5)) usleep(2000);
  }
  // What is still in the pipes; a grandchild may hold them open, so this does not wait for their end.
  while (out_fd_ >= 0 || err_fd_ >= 0) {
    size_t before = out_.size() + err_.size();
    pump(0);
    if (out_.size() + err_.size() == before) break;
  }
  return exit_;
}

Holdings holdings(pid_t pid) {
  Holdings h;
  std::string base = "/proc/" + std::to_string(pid);
  std::error_code ec;
  for (auto& e : std::filesystem::directory_iterator(base + "/fd", ec)) (void)e, h.fds++;
  std::ifstream maps(base + "/maps");
  for (std::string line; std::getline(maps, line);)
    if (line.find("/memfd:") != std::string::npos || line.find("/dev/shm/") != std::string::npos) h.shared_mappings++;
  std::ifstream statm(base + "/statm");
  uint64_t size = 0, resident = 0;
  statm >> size >> resident;
  h.rss_bytes = resident * uint64_t(sysconf(_SC_PAGESIZE));
  return h;
}

int dev_shm_entries() {
  int n = 0;
  std::error_code ec;
  for (auto& e : std::filesystem::directory_iterator("/dev/shm", ec)) n += e.path().filename().string().starts_with("baton-");
  return n;
}

std::string tool(const std::string& name) { return std::string(BATON_BUILD_DIR) + "/bin/" + name; }
std::string plugin(const std::string& name) { return std::string(BATON_BUILD_DIR) + "/lib/baton/" + name; }

TempDir::TempDir() {
  std::string t = (std::filesystem::temp_directory_path() / "baton-test-XXXXXX").string();
  if (!mkdtemp(t.data())) std::abort();
  path_ = t;
}
TempDir::~TempDir() {
  std::error_code ec;
  std::filesystem::remove_all(path_, ec);
}

}  // namespace baton::test
