// process.h: a child process for tests: spawned with pipes, read with deadlines, killed and reaped by the destructor.
//
// Owner    the Process owns the child and the pipes.   Threads  one.
// Errors   a child that cannot start has pid() == -1; reads return "" at the deadline.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace baton::test {

struct Exit {
  bool ended = false; // false: still running at the deadline
  int code = -1;      // exit status; 128 + signal if it was killed
};

class Process {
 public:
  explicit Process(std::vector<std::string> argv, std::map<std::string, std::string> env = {});
  ~Process();
  Process(Process&&) noexcept;
  Process& operator=(Process&&) = delete;
  pid_t pid() const { return pid_; }
  // Reads until stdout / stderr (everything so far) holds `text`; false at the deadline or at the end of the stream.
  bool wait_out(const std::string& text, int timeout_ms);
  bool wait_err(const std::string& text, int timeout_ms);
  bool wait_out_bytes(size_t n, int timeout_ms);
  void kill(int signal);
  void close_stdin();
  Exit wait(int timeout_ms); // drains the pipes meanwhile
  const std::string& out() const { return out_; }
  const std::string& err() const { return err_; }

 private:
  bool pump(int timeout_ms); // false: both streams ended
  pid_t pid_ = -1;
  int in_ = -1, out_fd_ = -1, err_fd_ = -1;
  std::string out_, err_;
  Exit exit_;
};

// What a process holds, for leak tests.
struct Holdings {
  int fds = 0;
  int shared_mappings = 0; // lines of /proc/PID/maps that are memfd or /dev/shm objects
  uint64_t rss_bytes = 0;
};
Holdings holdings(pid_t pid);
int dev_shm_entries();

// BATON_BUILD_DIR/bin/NAME or /lib/baton/NAME.
std::string tool(const std::string& name);
std::string plugin(const std::string& name);
// A folder that is removed with everything in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace baton::test
