#include "hal/core/emulator_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

extern char** environ;

namespace baton::core {
namespace {

constexpr uint64_t kStartNs = 10'000'000'000;  // an emulator that says nothing for so long will not
constexpr int kPoliteMs = 1000;                // for it to notice the end of its stdin
constexpr int kTermMs = 500;
constexpr size_t kLineBytes = 4096;

// The exit codes that Baton's programs share (tools/README.md); any other is FAILED.
int32_t code_of_exit(int status) {
  switch (WIFEXITED(status) ? WEXITSTATUS(status) : 0) {
    case 2: return BATON_INVALID_ARGUMENT;
    case 3: return BATON_NOT_FOUND;
    case 4: return BATON_PERMISSION;
    case 5: return BATON_BUSY;
    case 6: return BATON_UNSUPPORTED;
    default: return BATON_FAILED;
  }
}

std::string errno_text(const char* call) { return std::string(call) + ": " + strerror(errno); }

}  // namespace

Fd& Fd::operator=(Fd&& o) noexcept {
  if (this != &o) {
    reset();
    fd_ = std::exchange(o.fd_, -1);
  }
  return *this;
}

void Fd::reset() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

Result<std::unique_ptr<EmulatorProcess>> EmulatorProcess::start(const std::string& program, const std::string& argument) {
  std::unique_ptr<EmulatorProcess> p(new EmulatorProcess);
  p->argument_ = argument;
  if (Status s = p->spawn(program); !s) return s.error();
  if (Status s = p->read_address(program); !s) return s.error();
  return p;
}

Status EmulatorProcess::spawn(const std::string& program) {
  int in[2], out[2];
  if (pipe2(in, O_CLOEXEC)) return Error(BATON_IO, errno_text("pipe2"), "raise the limit of open files (ulimit -n)");
  Fd child_in(in[0]);
  stdin_ = Fd(in[1]);
  if (pipe2(out, O_CLOEXEC)) return Error(BATON_IO, errno_text("pipe2"), "raise the limit of open files (ulimit -n)");
  stdout_ = Fd(out[0]);
  Fd child_out(out[1]);
  stderr_ = Fd(memfd_create("baton-emulator-stderr", MFD_CLOEXEC));
  if (!stderr_) return Error(BATON_IO, errno_text("memfd_create"), "raise the limit of open files (ulimit -n)");

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attr;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attr);
  // The three go above 2 first: pipes of a process that was started without a stdin may themselves be 0, 1 or 2.
  int top = std::max({child_in.get(), child_out.get(), stderr_.get()}) + 1;
  const int from[3] = {child_in.get(), child_out.get(), stderr_.get()};
  for (int i = 0; i < 3; ++i) posix_spawn_file_actions_adddup2(&actions, from[i], top + 3 + i);
  for (int i = 0; i < 3; ++i) posix_spawn_file_actions_adddup2(&actions, top + 3 + i, i);
  posix_spawn_file_actions_addclosefrom_np(&actions, 3);
  // A process group of its own: the terminal's ^C is ours to turn into an orderly end. Signals at their defaults, none blocked.
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attr, &none);
  posix_spawnattr_setsigdefault(&attr, &all);
  posix_spawnattr_setpgroup(&attr, 0);
  posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  char* argv[] = {const_cast<char*>(program.c_str()), argument_.data(), nullptr};
  int rc = posix_spawn(&pid_, program.c_str(), &actions, &attr, argv, environ);
  posix_spawnattr_destroy(&attr);
  posix_spawn_file_actions_destroy(&actions);
  if (rc) {
    pid_ = -1;
    return Error(rc == EACCES ? BATON_PERMISSION : BATON_FAILED, "cannot run " + program + ": " + strerror(rc),
                 "check that the file is an executable of this machine");
  }
  return {};
}

Status EmulatorProcess::read_address(const std::string& program) {
  const uint64_t deadline = now_ns() + kStartNs;
  char buffer[512];
  while (address_.size() < kLineBytes) {
    uint64_t now = now_ns();
    if (now >= deadline)
      return Error(BATON_DEADLINE, program + " printed no address within 10 s" + last_words().what, "run it by hand to see what it waits for");
    pollfd fd{stdout_.get(), POLLIN, 0};
    if (::poll(&fd, 1, int((deadline - now) / 1000000 + 1)) <= 0) continue;
    ssize_t n = read(stdout_.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    const char* end = static_cast<const char*>(memchr(buffer, '\n', size_t(n)));
    address_.append(buffer, end ? size_t(end - buffer) : size_t(n));
    if (end) {
      if (address_.find("://") != std::string::npos) return {};
      return Error(BATON_FAILED, program + " printed '" + address_.substr(0, 120) + "', which is not an address",
                   "its first line of output must be SCHEME://ADDRESS");
    }
  }
  // End of output. Only now its exit code and last lines are known.
  std::string how = " printed no address";
  int32_t code = BATON_FAILED;
  if (wait_exit(kPoliteMs)) {
    code = code_of_exit(exit_status_);
    if (WIFSIGNALED(exit_status_)) how = " was ended by signal " + std::to_string(WTERMSIG(exit_status_));
    else if (WEXITSTATUS(exit_status_)) how = " failed with exit code " + std::to_string(WEXITSTATUS(exit_status_));
  }
  const LastWords words = last_words();
  return Error(code, program + how + words.what, words.next.empty() ? "run it by hand with the argument '" + argument_ + "'" : words.next);
}

EmulatorProcess::LastWords EmulatorProcess::last_words() const {
  char text[2048];
  off_t size = lseek(stderr_.get(), 0, SEEK_END);
  if (size <= 0) return {};
  off_t from = size > off_t(sizeof text) ? size - off_t(sizeof text) : 0;
  ssize_t n = pread(stderr_.get(), text, sizeof text, from);
  while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r')) --n;
  if (n <= 0) return {};
  std::string all(text, size_t(n));
  auto take_line = [&all] {  // from the end
    const size_t newline = all.rfind('\n'), from = newline == std::string::npos ? 0 : newline + 1;
    std::string line = all.substr(from, 200);
    all.resize(from ? newline : 0);
    return line;
  };
  LastWords words{take_line(), ""};
  constexpr std::string_view kNext = "next: ";
  if (words.what.starts_with(kNext)) {
    words.next = words.what.substr(kNext.size());
    words.what = take_line();
  }
  if (!words.what.empty()) words.what.insert(0, ": ");
  return words;
}

bool EmulatorProcess::running() {
  if (pid_ < 0) return false;
  int status = 0;
  pid_t r = waitpid(pid_, &status, WNOHANG);
  if (r == 0) return true;
  if (r == pid_) exit_status_ = status;
  pid_ = -1;  // also if the application reaped it (SIGCHLD ignored): the id is no longer ours to signal
  return false;
}

bool EmulatorProcess::wait_exit(int timeout_ms) {
  for (uint64_t until = now_ns() + uint64_t(timeout_ms) * 1000000; running();) {
    if (now_ns() > until) return false;
    timespec nap{0, 1000000};
    nanosleep(&nap, nullptr);
  }
  return true;
}

EmulatorProcess::~EmulatorProcess() {
  stdin_.reset();
  if (pid_ < 0 || wait_exit(kPoliteMs)) return;
  kill(pid_, SIGTERM);
  if (wait_exit(kTermMs)) return;
  kill(pid_, SIGKILL);
  int status;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace baton::core
