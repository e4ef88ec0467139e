#include "tools/devctl/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <climits>
#include <cstring>

namespace baton::devctl {

std::string whole_file(const std::string& path, size_t most) {
  std::string s;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return s;
  char part[4096];
  for (ssize_t n; s.size() < most && (n = read(fd, part, std::min(sizeof part, most - s.size()))) > 0;) s.append(part, size_t(n));
  close(fd);
  return s;
}

std::string first_line(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return "";
  char part[4096]; // one read: the kernel gives an attribute whole, and thousands of them are read for a frame of top
  const ssize_t n = read(fd, part, sizeof part);
  close(fd);
  std::string s(part, n > 0 ? size_t(n) : 0);
  s.resize(std::min(s.size(), s.find('\n')));
  while (!s.empty() && (s.back() == ' ' || s.back() == '\r')) s.pop_back();
  return s;
}

std::optional<uint64_t> number_in(const std::string& path) {
  const std::string s = first_line(path);
  uint64_t n = 0;
  const auto [end, ec] = std::from_chars(s.data(), s.data() + s.size(), n);
  if (ec != std::errc() || end != s.data() + s.size() || s.empty()) return std::nullopt;
  return n;
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> all;
  DIR* d = opendir(folder.c_str());
  if (!d) return all;
  while (dirent* e = readdir(d))
    if (e->d_name[0] != '.') all.push_back(e->d_name);
  closedir(d);
  std::sort(all.begin(), all.end(), [](auto& a, auto& b) { return strverscmp(a.c_str(), b.c_str()) < 0; });
  return all;
}

std::string link_name(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t n = readlink(path.c_str(), target, sizeof target);
  const std::string s(target, n > 0 ? size_t(n) : 0);
  return s.substr(s.rfind('/') + 1);
}

}  // namespace baton::devctl
