// emulator_process.h: a program baton-emu-SCHEME that prints the ordinary address of a device, and perhaps stays.
//
// Owner    the registry. The destructor ends the process and reaps it: end of file on its stdin, then SIGTERM, then SIGKILL.
// Threads  one at a time.
// Cost     start() blocks until the first line of output, at most 10 s; the destructor at most about 2 s for a process that hangs.
// Errors   NOT_FOUND (no such program), DEADLINE; of one that ended, its last line on stderr (and the next step, from a line "next: ..."),
//          with the code that its exit code stands for: 2 INVALID_ARGUMENT, 3 NOT_FOUND, 4 PERMISSION, 5 BUSY, 6 UNSUPPORTED, else FAILED.
//
// The process gets three descriptors and no other: a pipe as stdin (its end of file is the order to exit, and comes also
// when this process dies), a pipe as stdout, of which only the first line is read, and a memory file as stderr, so that it never blocks on what it writes there.
//
//     BATON_ASSIGN(auto p, EmulatorProcess::start("/usr/lib/baton/baton-emu-cs3", "0?threads=2"));
//     p->address();   // "cs3://127.0.0.1:41234"
#pragma once

#include "hal/baton.hpp"

#include <sys/types.h>

#include <memory>
#include <string>

namespace baton::core {

class Fd {  // a descriptor that is closed once
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  Fd& operator=(Fd&& o) noexcept;
  ~Fd() { reset(); }
  void reset();
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

class EmulatorProcess {
 public:
  static Result<std::unique_ptr<EmulatorProcess>> start(const std::string& program, const std::string& argument);
  EmulatorProcess(const EmulatorProcess&) = delete;
  ~EmulatorProcess();
  const std::string& address() const { return address_; }
  const std::string& argument() const { return argument_; }
  // False once it has ended, whatever its exit code; reaps it.
  bool running();

 private:
  EmulatorProcess() = default;
  Status spawn(const std::string& program);
  Status read_address(const std::string& program);
  struct LastWords {
    std::string what, next;  // ": the last line on stderr", or the one before a line "next: ..."
  };
  LastWords last_words() const;
  bool wait_exit(int timeout_ms);

  pid_t pid_ = -1;
  int exit_status_ = 0;
  Fd stdin_, stdout_, stderr_;
  std::string argument_, address_;
};

}  // namespace baton::core
