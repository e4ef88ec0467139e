#include "tools/devctl/pages.h"

#include "tools/devctl/files.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

namespace baton::devctl {
namespace {

using Raw = std::unique_ptr<baton_stats_page>;

bool read_raw(int fd, baton_stats_page& to) {
  size_t at = 0;
  for (ssize_t n; at < sizeof to && (n = pread(fd, reinterpret_cast<char*>(&to) + at, sizeof to - at, off_t(at))) > 0;) at += size_t(n);
  return at == sizeof to && to.magic == BATON_STATS_MAGIC && to.row_bytes == sizeof(baton_stats_row) && to.rows == BATON_STATS_ROWS;
}

// Two copies: a row that is the same thing in both was not given away meanwhile.
bool read_page(const std::string& file, Page& page) {
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return false;
  Raw before(new baton_stats_page), after(new baton_stats_page);
  const bool good = read_raw(fd, *before) && read_raw(fd, *after);
  close(fd);
  if (!good || after->pid == uint32_t(getpid())) return false;
  page.pid = after->pid;
  page.command = std::string(after->command, strnlen(after->command, sizeof after->command));
  page.opened_ns = after->opened_ns;
  page.alive = lives(after->pid, after->started);
  for (uint32_t i = 0; i < BATON_STATS_ROWS; ++i) {
    const baton_stats_row& r = after->row[i];
    if (r.kind == BATON_STATS_FREE || r.turn & 1 || before->row[i].turn != r.turn) continue;
    page.rows.push_back({i, std::string(r.name, strnlen(r.name, sizeof r.name)), r});
  }
  return true;
}

}  // namespace

std::vector<Page> read_pages(const std::vector<std::string>& folders) {
  std::vector<Page> all;
  for (const std::string& folder : folders)
    for (const std::string& name : names_in(folder)) {
      Page p;
      if (atoi(name.c_str()) > 0 && read_page(folder + "/" + name, p)) all.push_back(std::move(p));
    }
  std::sort(all.begin(), all.end(), [](auto& a, auto& b) { return a.alive != b.alive ? a.alive : a.pid < b.pid; });
  return all;
}

std::vector<std::string> page_folders(const std::string& own) {
  std::vector<std::string> all;
  if (!own.empty()) all.push_back(own);
  // A folder that was chosen (BATON_RUN_DIR) is all that was asked for.
  if (geteuid() || !(own.starts_with("/dev/shm/baton-run-") || own.starts_with("/run/user/"))) return all;
  for (const std::string& user : names_in("/run/user")) all.push_back("/run/user/" + user + "/baton");
  for (const std::string& name : names_in("/dev/shm"))
    if (name.starts_with("baton-run-")) all.push_back("/dev/shm/" + name);
  for (size_t i = 1; i < all.size();)
    if (all[i] == own) all.erase(all.begin() + long(i));
    else ++i;
  return all;
}

bool lives(uint32_t pid, uint64_t started) {
  const std::string stat = first_line(fmt::format("/proc/{}/stat", pid));
  size_t at = stat.rfind(')');
  if (at == std::string::npos || stat.compare(at, 3, ") Z") == 0) return false;  // a zombie holds nothing
  for (int field = 2; field < 22 && at != std::string::npos; ++field) at = stat.find(' ', at + 1);
  return at != std::string::npos && strtoull(stat.c_str() + at, nullptr, 10) == started;
}

std::string command_of(uint32_t pid, const std::string& proc) {
  std::string s = whole_file(fmt::format("{}/{}/cmdline", proc, pid), 4096);
  std::replace(s.begin(), s.end(), '\0', ' ');
  while (!s.empty() && s.back() == ' ') s.pop_back();
  return s.empty() ? first_line(fmt::format("{}/{}/comm", proc, pid)) : s;
}

std::string short_command(const std::string& command, size_t most) {
  std::string s = clean(command);
  if (const size_t space = s.find(' '), slash = s.rfind('/', space); slash != std::string::npos && slash < std::min(space, s.size())) s.erase(0, slash + 1);
  return s.size() > most ? s.substr(0, most - 3) + "..." : s;
}

std::string utc_text(uint64_t ns) { return ns ? fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time_t(ns / 1'000'000'000))) : ""; }

std::vector<Holder> kernel_holders(const std::string& proc) {
  std::vector<Holder> all;
  for (const std::string& pid : names_in(proc)) {
    if (pid[0] < '0' || pid[0] > '9') continue;
    std::vector<std::string> seen;
    for (const std::string& fd : names_in(proc + "/" + pid + "/fd")) {
      const std::string node = link_name(proc + "/" + pid + "/fd/" + fd);
      const bool neuron = node.starts_with("neuron") && node.size() > 6 && isdigit(static_cast<unsigned char>(node[6]));
      if (!neuron && !node.starts_with("uverbs")) continue;
      if (std::find(seen.begin(), seen.end(), node) != seen.end()) continue;
      seen.push_back(node);
      all.push_back({node, uint32_t(atoi(pid.c_str())), command_of(uint32_t(atoi(pid.c_str())), proc), "", "kernel"});
    }
  }
  return all;
}

std::vector<Holder> core_holders(const std::string& folder) {
  std::vector<Holder> all;
  for (const std::string& name : names_in(folder)) {
    if (!name.starts_with("core") || name.size() == 4 || !isdigit(static_cast<unsigned char>(name[4]))) continue;
    const int fd = open((folder + "/" + name).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) continue;
    const bool held = flock(fd, LOCK_SH | LOCK_NB) != 0;  // its holder's lock is gone with it
    close(fd);
    if (!held) continue;
    const std::string line = first_line(folder + "/" + name);  // "PID COMMAND since TIME"
    const uint32_t pid = uint32_t(atoi(line.c_str()));
    const size_t since = line.rfind(" since ");
    all.push_back({"core " + name.substr(4), pid, pid ? command_of(pid) : "", since == std::string::npos ? "" : line.substr(since + 7), "emulator"});
  }
  return all;
}

}  // namespace baton::devctl
