#include "hal/core/stats.h"

#include "hal/core/instance.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace baton::core {
namespace {

constexpr size_t kKeptDead = 8;       // pages of processes that were killed, for whoever looks into why
constexpr int kInstances = 256;       // of one process

uint64_t realtime_ns() {
  timespec t{};
  clock_gettime(CLOCK_REALTIME, &t);
  return uint64_t(t.tv_sec) * 1'000'000'000 + uint64_t(t.tv_nsec);
}

std::string read_file(const char* path) {
  std::string s;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return s;
  char part[1024];
  for (ssize_t n; s.size() < 4096 && (n = read(fd, part, sizeof part)) > 0;) s.append(part, size_t(n));
  close(fd);
  return s;
}

// Field 22 of /proc/self/stat; the second one, in brackets, may hold spaces and brackets.
uint64_t start_time() {
  const std::string stat = read_file("/proc/self/stat");
  size_t at = stat.rfind(')');
  for (int field = 2; field < 22 && at != std::string::npos; ++field) at = stat.find(' ', at + 1);
  return at == std::string::npos ? 0 : strtoull(stat.c_str() + at, nullptr, 10);
}

// A folder of this user's alone, made if it is missing.
bool private_folder(const std::string& path) {
  struct stat st {};
  if (mkdir(path.c_str(), 0700) && errno != EEXIST) return false;
  return !lstat(path.c_str(), &st) && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 0022);
}

// Removes what killed processes have left, but for the latest.
void sweep(const std::string& folder) {
  DIR* d = opendir(folder.c_str());
  if (!d) return;
  std::vector<std::pair<int64_t, std::string>> dead;
  while (dirent* e = readdir(d)) {
    char* end = nullptr;
    const long pid = strtol(e->d_name, &end, 10);
    struct stat st {};
    if (pid <= 0 || *end != '.' || !kill(pid_t(pid), 0) || errno != ESRCH) continue;
    if (!fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW)) dead.emplace_back(int64_t(st.st_mtim.tv_sec) * 1'000'000'000 + st.st_mtim.tv_nsec, e->d_name);
  }
  std::sort(dead.rbegin(), dead.rend());
  for (size_t i = kKeptDead; i < dead.size(); ++i) unlinkat(dirfd(d), dead[i].second.c_str(), 0);
  closedir(d);
}

}  // namespace

uint64_t coarse_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
  return uint64_t(t.tv_sec) * 1'000'000'000 + uint64_t(t.tv_nsec);
}

StatsPage::StatsPage(const std::string& folder) : folder_(folder), pid_(getpid()) {
  if (!folder_.empty() && !open_file()) folder_.clear();
  if (!page_) {
    void* at = mmap(nullptr, sizeof(baton_stats_page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) std::abort();  // 116 KB: nothing else would work either
    page_ = static_cast<baton_stats_page*>(at);
  }
  fill_head();
}

StatsPage::~StatsPage() {
  munmap(page_, sizeof *page_);
  if (!file_.empty() && getpid() == pid_) unlink(file_.c_str());  // a forked child's copy is its parent's
}

bool StatsPage::open_file() {
  if (!private_folder(folder_)) return false;
  sweep(folder_);
  int fd = -1;
  for (int n = 0; n < kInstances && fd < 0; ++n) {
    file_ = folder_ + "/" + std::to_string(pid_) + "." + std::to_string(n);
    fd = open(file_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 && errno != EEXIST) break;
  }
  if (fd < 0) {
    file_.clear();
    return false;
  }
  // Allocated, not only made longer: on a full disk a store would be a SIGBUS.
  void* at = posix_fallocate(fd, 0, sizeof(baton_stats_page)) ? MAP_FAILED : mmap(nullptr, sizeof(baton_stats_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (at == MAP_FAILED) {
    unlink(file_.c_str());
    file_.clear();
    return false;
  }
  page_ = static_cast<baton_stats_page*>(at);
  return true;
}

void StatsPage::fill_head() {
  page_->row_bytes = sizeof(baton_stats_row);
  page_->rows = BATON_STATS_ROWS;
  page_->pid = uint32_t(pid_);
  if (!file_.empty()) {
    page_->started = start_time();
    page_->opened_ns = realtime_ns();
    std::string command = read_file("/proc/self/cmdline");
    std::replace(command.begin(), command.end(), '\0', ' ');
    if (command.ends_with(' ')) command.pop_back();
    command.copy(page_->command, sizeof page_->command - 1);
  }
  __atomic_store_n(&page_->magic, BATON_STATS_MAGIC, __ATOMIC_RELEASE);
}

baton_stats_row* StatsPage::take(baton_stats_kind kind, const std::string& name, const baton_stats_row* device) {
  std::lock_guard lock(mu_);
  constexpr uint32_t kLast = BATON_STATS_ROWS - 1;
  baton_stats_row* row = nullptr;
  for (uint32_t i = 0; i < kLast && !row; ++i) {
    const uint32_t at = (next_ + i) % kLast;
    if (page_->row[at].kind != BATON_STATS_FREE) continue;
    row = &page_->row[at];
    next_ = at + 1;
  }
  if (!row) {
    row = &page_->row[kLast];
    if (row->kind) return row;
  }
  __atomic_store_n(&row->turn, row->turn + 1, __ATOMIC_SEQ_CST);
  const size_t n = name.copy(row->name, sizeof row->name - 1);
  std::memset(row->name + n, 0, sizeof row->name - n);
  std::memset(&row->device, 0, sizeof *row - offsetof(baton_stats_row, device));
  row->device = device ? uint64_t(device - page_->row) + 1 : 0;
  row->opened_ns = file_.empty() ? 0 : realtime_ns();
  __atomic_store_n(&row->kind, uint32_t(kind), __ATOMIC_RELAXED);
  __atomic_store_n(&row->turn, row->turn + 1, __ATOMIC_SEQ_CST);
  return row;
}

void StatsPage::give(baton_stats_row* row) {
  if (row == &page_->row[BATON_STATS_ROWS - 1]) return;
  std::lock_guard lock(mu_);
  if (row->device) {  // what a closed queue did stays with its device
    baton_stats_row& device = page_->row[row->device - 1];
    add(device.done, row->done), add(device.failed, row->failed), add(device.bytes, row->bytes);
  }
  __atomic_store_n(&row->turn, row->turn + 1, __ATOMIC_SEQ_CST);
  __atomic_store_n(&row->kind, uint32_t(BATON_STATS_FREE), __ATOMIC_RELAXED);
  __atomic_store_n(&row->turn, row->turn + 1, __ATOMIC_SEQ_CST);
}

uint64_t* StatsPage::value(const std::string& name) {
  {
    std::lock_guard lock(mu_);
    for (baton_stats_row& row : page_->row)
      if (row.kind == BATON_STATS_VALUE && name == row.name) return &row.value;
  }
  return &take(BATON_STATS_VALUE, name.substr(0, sizeof(baton_stats_row::name) - 1))->value;
}

}  // namespace baton::core

uint64_t* baton_stats_value(baton_instance* in, const char* name) { return in && name ? in->stats.value(name) : nullptr; }

const char* baton_stats_folder(baton_instance* in) { return in ? in->stats.folder().c_str() : ""; }
