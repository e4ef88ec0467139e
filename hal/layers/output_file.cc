#include "hal/layers/output_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

namespace baton::layers {
namespace {

Error refused(const std::string& path) {
  return Error(BATON_IO, "cannot write '" + path + "': " + strerror(errno), "name a file in a folder that you may write");
}

}  // namespace

Result<OutputFile> OutputFile::open(const std::string& name) {
  const size_t at = name.find("%p");
  if (name.empty()) return Error(BATON_INVALID_ARGUMENT, "no file is named", "write NAME=/path/of/the/file");
  if (at == std::string::npos) {
    OutputFile f(::open(name.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
    if (f.fd_ < 0) return refused(name);
    if (flock(f.fd_, LOCK_EX | LOCK_NB))
      return Error(BATON_BUSY, "'" + name + "' is being written by another process or instance", "put %p in its name: each process has its own then");
    if (ftruncate(f.fd_, 0)) return refused(name);
    return f;
  }
  for (int n = 1;; ++n) {
    const std::string path = name.substr(0, at) + std::to_string(getpid()) + (n > 1 ? "-" + std::to_string(n) : "") + name.substr(at + 2);
    OutputFile f(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (f.fd_ >= 0) return f;
    if (errno != EEXIST) return refused(path);
  }
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) close(fd_);
}

void OutputFile::put(std::string_view text, uint64_t at) {
  while (good_ && !text.empty()) {
    const ssize_t n = pwrite(fd_, text.data(), text.size(), off_t(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) good_ = false;
    else text.remove_prefix(size_t(n)), at += uint64_t(n);
  }
}

void OutputFile::append(std::string_view body, std::string_view tail) {
  put(body, end_);
  end_ += body.size();
  put(tail, end_);
}

}  // namespace baton::layers
