#include "emulators/neuron/shared_group.hpp"

#include "emulators/engine/columns.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstring>

namespace baton::neuron_emu {
namespace {

constexpr uint64_t kSlotBytes = 1 << 20;
constexpr uint64_t kRun = kSlotBytes / sizeof(float);
constexpr uint32_t kMostRanks = 1024;
constexpr uint32_t kMostGroups = 64;  // groups of one signature that are loaded at once
constexpr long kNapNs = 1'000'000;    // a cancel is felt within this time
constexpr auto kDeathCheck = std::chrono::milliseconds(10);
constexpr char kPrefix[] = "meet-";

uint64_t hash(const std::string& text) {  // FNV-1a
  uint64_t h = 0xcbf29ce484222325ull;
  for (unsigned char c : text) h = (h ^ c) * 0x100000001b3ull;
  return h;
}

// The lock of seat `rank`, an open file's: whoever opens the file anew meets it, also within one process.
bool lock_seat(int fd, uint32_t rank) {
  struct flock l {};
  l.l_type = F_WRLCK;
  l.l_whence = SEEK_SET;
  l.l_start = rank;
  l.l_len = 1;
  return fcntl(fd, F_OFD_SETLK, &l) == 0;
}

// Whether another open file holds one of the seats [from, from + count).
bool seats_held(int fd, uint32_t from, uint32_t count) {
  struct flock l {};
  l.l_type = F_WRLCK;
  l.l_whence = SEEK_SET;
  l.l_start = from;
  l.l_len = count;
  return fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
}

}  // namespace

struct SharedGroup::Seat {
  uint32_t joined, executing, arrived;
  int32_t pid;
  uint64_t fingerprint, bytes;
  char aborted[112];  // why this execution ends, "" if it goes on
};

struct SharedGroup::Page {
  pthread_mutex_t mutex;
  std::atomic<uint32_t> bell;
  uint32_t ranks;
  uint64_t round;
  Seat seats[1];  // `ranks` of them, then the slots
  static uint64_t head(uint32_t ranks) { return (sizeof(Page) + ranks * sizeof(Seat) + 4095) / 4096 * 4096; }
  static uint64_t size(uint32_t ranks) { return head(ranks) + 2ull * ranks * kSlotBytes; }
};

// Robust: a rank that dies inside leaves a page whose executions all end.
class SharedGroup::Lock {
 public:
  explicit Lock(SharedGroup& g) : group_(g) { lock(); }
  ~Lock() { unlock(); }
  void lock() {
    if (pthread_mutex_lock(&group_.page_->mutex) != EOWNERDEAD) return;
    pthread_mutex_consistent(&group_.page_->mutex);
    group_.abort_all("a rank's process died during a collective");
  }
  void unlock() { pthread_mutex_unlock(&group_.page_->mutex); }

 private:
  SharedGroup& group_;
};

SharedGroup::SharedGroup(Site site, std::string path, int fd, Page* page, uint64_t bytes, uint32_t rank)
    : site_(std::move(site)), path_(std::move(path)), fd_(fd), page_(page), bytes_(bytes), rank_(rank) {}

SharedGroup::~SharedGroup() {
  auto guard = site_.taking();
  {
    Lock lock(*this);
    page_->seats[rank_].joined = 0;
  }
  if (guard.ok() && !seats_held(fd_, 0, page_->ranks)) unlink(path_.c_str());
  munmap(page_, bytes_);
  close(fd_);
}

Result<std::shared_ptr<SharedGroup>> SharedGroup::sit(const Site& site, const std::string& path, uint32_t rank, uint32_t ranks, bool& taken) {
  auto io = [&] { return Error(BATON_IO, path + ": " + std::strerror(errno), "make room in the machine's folder"); };
  const uint64_t bytes = Page::size(ranks);
  int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return io();
  if (!lock_seat(fd, rank)) {
    close(fd);
    taken = true;
    return Error(BATON_BUSY, "the seat is taken");
  }
  const bool first = !seats_held(fd, 0, ranks);
  void* at = MAP_FAILED;
  if ((!first || ftruncate(fd, 0) == 0) && ftruncate(fd, off_t(bytes)) == 0) at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) {
    Error e = io();
    close(fd);
    return e;
  }
  Page* page = static_cast<Page*>(at);
  if (first) {
    pthread_mutexattr_t robust;
    pthread_mutexattr_init(&robust);
    pthread_mutexattr_setpshared(&robust, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&page->mutex, &robust);
    pthread_mutexattr_destroy(&robust);
    page->ranks = ranks;
  }
  std::shared_ptr<SharedGroup> group(new SharedGroup(site, path, fd, page, bytes, rank));
  Lock lock(*group);
  page->seats[rank] = {.joined = 1, .executing = 0, .arrived = 0, .pid = int32_t(getpid()), .fingerprint = 0, .bytes = 0, .aborted = {}};
  return group;
}

Result<std::shared_ptr<SharedGroup>> SharedGroup::join(const Site& site, const std::string& root, const std::string& signature, uint32_t rank,
                                                       uint32_t ranks) {
  if (!ranks || ranks > kMostRanks || rank >= ranks)
    return Error(BATON_INVALID_ARGUMENT, "rank " + std::to_string(rank) + " of " + std::to_string(ranks), "ranks of different processes are up to " + std::to_string(kMostRanks));
  char name[64];
  const uint64_t id = hash(root + "\n" + signature + "\n" + std::to_string(ranks));
  BATON_ASSIGN(HeldCore guard, site.taking());  // making, sitting down and removing exclude each other
  for (uint32_t k = 0; k < kMostGroups; ++k) {
    std::snprintf(name, sizeof name, "/%s%016llx-%u", kPrefix, static_cast<unsigned long long>(id), k);
    bool taken = false;
    auto group = sit(site, site.folder() + name, rank, ranks, taken);
    if (!taken) return group;
  }
  return Error(BATON_BUSY, "rank " + std::to_string(rank) + " has joined " + std::to_string(kMostGroups) + " groups of this program already", "unload some");
}

void SharedGroup::sweep(const Site& site) {
  if (site.folder().empty()) return;
  auto guard = site.taking();
  DIR* folder = guard.ok() ? opendir(site.folder().c_str()) : nullptr;
  if (!folder) return;
  while (dirent* entry = readdir(folder)) {
    if (std::strncmp(entry->d_name, kPrefix, sizeof kPrefix - 1) != 0) continue;
    const std::string path = site.folder() + "/" + entry->d_name;
    int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) continue;
    if (!seats_held(fd, 0, kMostRanks)) unlink(path.c_str());
    close(fd);
  }
  closedir(folder);
}

const uint8_t* SharedGroup::slot(uint64_t round, uint32_t rank) const {
  return reinterpret_cast<const uint8_t*>(page_) + Page::head(page_->ranks) + (round % 2 * page_->ranks + rank) * kSlotBytes;
}

void SharedGroup::abort_all(const char* why) {
  for (uint32_t r = 0; r < page_->ranks; ++r) {
    Seat& s = page_->seats[r];
    s.arrived = 0;
    if (s.executing && !s.aborted[0]) std::snprintf(s.aborted, sizeof s.aborted, "%s", why);
  }
  ++page_->bell;
  syscall(SYS_futex, &page_->bell, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

bool SharedGroup::complete() const {
  return std::all_of(page_->seats, page_->seats + page_->ranks, [](const Seat& s) { return s.joined && s.arrived && !s.aborted[0]; });
}

uint32_t SharedGroup::dead_rank() const {
  for (uint32_t r = 0; r < page_->ranks; ++r)
    if (r != rank_ && page_->seats[r].joined && !seats_held(fd_, r, 1)) return r;
  return page_->ranks;
}

void SharedGroup::begin(uint32_t, uint64_t fingerprint, std::function<Status()> stop) {
  stop_ = std::move(stop);
  Lock lock(*this);
  Seat& me = page_->seats[rank_];
  me.executing = 1;
  me.arrived = 0;
  me.aborted[0] = 0;
  me.fingerprint = fingerprint;
}

void SharedGroup::end(uint32_t, bool failed) {
  stop_ = nullptr;
  Lock lock(*this);
  Seat& me = page_->seats[rank_];
  me.executing = me.arrived = 0;
  if (failed) abort_all(("rank " + std::to_string(rank_) + " of " + std::to_string(page_->ranks) + " failed or was cancelled").c_str());
}

// The data lies in this rank's slot before it arrives. The other half is free by then: a rank arrives at a round only after it has read the
// one before.
Status SharedGroup::arrive(const void* data, uint64_t bytes, uint64_t& round) {
  Lock lock(*this);
  Seat& me = page_->seats[rank_];
  if (me.aborted[0]) return Error(BATON_FAILED, std::string("collective: ") + me.aborted);
  round = page_->round;
  if (bytes) std::memcpy(const_cast<uint8_t*>(slot(round, rank_)), data, bytes);
  me.bytes = bytes;
  me.arrived = 1;
  if (!complete()) return {};
  const Seat* seats = page_->seats;
  if (!std::all_of(seats, seats + page_->ranks, [&](const Seat& s) { return s.fingerprint == seats[0].fingerprint && s.bytes == seats[0].bytes; })) {
    abort_all("the ranks run different launches (arguments, token ids or sizes differ)");
    return {};
  }
  for (uint32_t r = 0; r < page_->ranks; ++r) page_->seats[r].arrived = 0;
  ++page_->round;
  ++page_->bell;
  syscall(SYS_futex, &page_->bell, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  return {};
}

Status SharedGroup::wait(uint64_t round) {
  auto looked = std::chrono::steady_clock::now();
  Lock lock(*this);
  while (page_->round == round) {
    if (page_->seats[rank_].aborted[0]) return Error(BATON_FAILED, std::string("collective: ") + page_->seats[rank_].aborted);
    if (Status s = stop_ ? stop_() : Status(); !s.ok()) return s;
    if (auto now = std::chrono::steady_clock::now(); now - looked >= kDeathCheck) {
      looked = now;
      if (uint32_t r = dead_rank(); r < page_->ranks)
        abort_all(("rank " + std::to_string(r) + ", process " + std::to_string(page_->seats[r].pid) + ", is gone").c_str());
      if (page_->seats[rank_].aborted[0]) continue;
    }
    const uint32_t bell = page_->bell;
    lock.unlock();
    const timespec nap{0, kNapNs};
    syscall(SYS_futex, &page_->bell, FUTEX_WAIT, bell, &nap, nullptr, 0);
    lock.lock();
  }
  return {};
}

Status SharedGroup::meet(const void* data, uint64_t bytes, uint64_t& round) {
  BATON_TRY(arrive(data, bytes, round));
  return wait(round);
}

// take(run): the sum of all ranks, run by run.
template <class Take>
Status SharedGroup::sums(const float* x, uint64_t count, Take take) {
  std::vector<const float*> parts(page_->ranks);
  std::vector<float> sum(std::min(count, kRun));
  for (uint64_t at = 0; at < count; at += kRun) {
    const uint64_t n = std::min(kRun, count - at);
    uint64_t round = 0;
    BATON_TRY(meet(x + at, n * sizeof(float), round));
    for (uint32_t r = 0; r < page_->ranks; ++r) parts[r] = reinterpret_cast<const float*>(slot(round, r));
    tree_sum(parts, n, sum.data());
    take(engine::MatrixRun{sum.data(), at, n});
  }
  return {};
}

Status SharedGroup::all_reduce(uint32_t, float* x, uint64_t count) {
  return sums(x, count, [&](const engine::MatrixRun& run) { std::memcpy(x + run.at, run.data, run.n * sizeof(float)); });
}

Status SharedGroup::reduce_scatter(uint32_t, const float* x, uint64_t rows, uint64_t width, float* out) {
  return sums(x, rows * width, [&](const engine::MatrixRun& run) { engine::take_columns(run, width / page_->ranks, page_->ranks, rank_, out); });
}

Status SharedGroup::all_gather(uint32_t, const float* x, uint64_t rows, uint64_t width, float* out) {
  const uint64_t count = rows * width;
  for (uint64_t at = 0; at < count; at += kRun) {
    const uint64_t n = std::min(kRun, count - at);
    uint64_t round = 0;
    BATON_TRY(meet(x + at, n * sizeof(float), round));
    for (uint32_t r = 0; r < page_->ranks; ++r) engine::put_columns({reinterpret_cast<const float*>(slot(round, r)), at, n}, width, page_->ranks, r, out);
  }
  return {};
}

Status SharedGroup::gather_bytes(const void* in, void* out, uint64_t bytes) {
  uint64_t at = 0;
  do {
    const uint64_t n = std::min(kSlotBytes, bytes - at);
    uint64_t round = 0;
    BATON_TRY(meet(static_cast<const uint8_t*>(in) + at, n, round));
    for (uint32_t r = 0; n && r < page_->ranks; ++r) std::memcpy(static_cast<uint8_t*>(out) + r * bytes + at, slot(round, r), n);
    at += n;
  } while (at < bytes);
  return {};
}

}  // namespace baton::neuron_emu
