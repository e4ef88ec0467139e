// folder.h: a folder of this process for targets whose parser takes a path; removed when the process ends.
//
// Owner    a static of the target.   Threads  one.   Cost  a write is about 20 us.   Errors  FUZZ_CHECK.
//
//     static const fuzz::Folder folder;
//     folder.write("config.json", in.text());
#pragma once

#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>

namespace baton::fuzz {

class Folder {
 public:
  Folder() {
    path_ = (std::filesystem::temp_directory_path() / "baton-fuzz-XXXXXX").string();
    FUZZ_CHECK(::mkdtemp(path_.data()));
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  const std::string& path() const { return path_; }
  std::string file(const char* name) const { return path_ + "/" + name; }
  std::string write(const char* name, std::string_view bytes) const {
    remove(name);  // a new file: ext4 writes one that was truncated to the disk when it is closed
    const int fd = ::open(file(name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    FUZZ_CHECK(fd >= 0 && ::write(fd, bytes.data(), bytes.size()) == ssize_t(bytes.size()));
    ::close(fd);
    return file(name);
  }
  void remove(const char* name) const { ::unlink(file(name).c_str()); }

 private:
  std::string path_;
};

}  // namespace baton::fuzz
