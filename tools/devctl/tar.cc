#include "tools/devctl/tar.h"

#include <cstdio>
#include <cstring>
#include <ctime>

namespace baton::devctl {

void Tar::add(const std::string& name, const std::string& content) {
  char head[512] = {};  // POSIX.1-1988 ustar: name 0, mode 100, uid 108, gid 116, size 124, mtime 136, checksum 148, type 156, magic 257
  (folder_ + "/" + name).copy(head, 99);
  std::snprintf(head + 100, 8, "%07o", 0644);
  std::snprintf(head + 108, 8, "%07o", 0);
  std::snprintf(head + 116, 8, "%07o", 0);
  std::snprintf(head + 124, 12, "%011llo", static_cast<unsigned long long>(content.size()));
  std::snprintf(head + 136, 12, "%011llo", static_cast<unsigned long long>(std::time(nullptr)));
  std::memset(head + 148, ' ', 8);
  head[156] = '0';
  std::memcpy(head + 257, "ustar\00000", 8);
  unsigned sum = 0;
  for (unsigned char c : head) sum += c;
  std::snprintf(head + 148, 8, "%06o", sum);
  bytes_.append(head, sizeof head);
  bytes_ += content;
  bytes_.append((512 - content.size() % 512) % 512, '\0');
}

}  // namespace baton::devctl
