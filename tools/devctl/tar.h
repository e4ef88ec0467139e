// tar.h: a tar archive (POSIX ustar) of files that are in memory.
//
// Owner    value type.   Threads  one.   Cost  a copy of the bytes.   Errors  none: a name of more than 99 letters is cut.
//
//     Tar t("baton-report"); t.add("snapshot.json", text); file << t.bytes();
#pragma once

#include <string>

namespace baton::devctl {

class Tar {
 public:
  explicit Tar(std::string folder) : folder_(std::move(folder)) {}
  void add(const std::string& name, const std::string& content);
  std::string bytes() const { return bytes_ + std::string(1024, '\0'); }

 private:
  std::string folder_, bytes_;
};

}  // namespace baton::devctl
