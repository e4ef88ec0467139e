#include "emulators/neuron/hbm.hpp"

#include "drivers/neuron/single_import.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace baton::neuron_emu {
namespace {

Error no_space(const std::string& name, uint64_t bytes) {
  return Error(BATON_IO, "mapping " + std::to_string(bytes >> 30) + " GiB of " + name + ": " + std::strerror(errno), "lift the limit on address space (ulimit -v)");
}

}  // namespace

Result<std::unique_ptr<Hbm>> Hbm::create(const std::string& name, uint64_t bytes, HbmModes modes) {
  int fd = memfd_create(("baton-neuron-" + name).c_str(), MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, off_t(bytes))) {
    Error e(BATON_IO, "memory file for " + name + ": " + std::strerror(errno), "raise the limit on open files (ulimit -n)");
    if (fd >= 0) close(fd);
    return e;
  }
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (at == MAP_FAILED) {
    Error e = no_space(name, bytes);
    close(fd);
    return e;
  }
  madvise(at, bytes, MADV_DONTFORK);
  madvise(at, bytes, MADV_DONTDUMP);
  std::unique_ptr<Hbm> hbm(new Hbm(name, fd, static_cast<uint8_t*>(at), bytes));
  if (modes.strict) {
    // The file mapped again, so that whoever pins or looks up the address finds the memory; no access to it succeeds.
    void* window = mmap(nullptr, bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (window == MAP_FAILED) return no_space(name, bytes);
    madvise(window, bytes, MADV_DONTFORK);
    hbm->window_ = static_cast<uint8_t*>(window);
    hbm->strict_.emplace(*hbm, window, bytes);
  }
  if (modes.visibility) {
    BATON_ASSIGN(hbm->mirror_, Mirror::create(name, bytes, *modes.visibility));
  }
  return hbm;
}

Hbm::Hbm(std::string name, int fd, uint8_t* base, uint64_t bytes) : name_(std::move(name)), fd_(fd), base_(base), window_(base), bytes_(bytes) {
  free_[0] = bytes;
}

Hbm::~Hbm() {
  strict_.reset();
  if (window_ != base_) munmap(window_, bytes_);
  munmap(base_, bytes_);
  close(fd_);
}

std::optional<uint64_t> Hbm::allocate(uint64_t bytes, std::string name) {
  if (!bytes || bytes > bytes_) return std::nullopt;
  bytes = (bytes + kPage - 1) / kPage * kPage;
  std::lock_guard lock(mutex_);
  if (bytes > bytes_ - taken()) return std::nullopt;
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (it->second < bytes) continue;
    auto [offset, run] = *it;
    free_.erase(it);
    if (run > bytes) free_[offset + bytes] = run - bytes;
    live_[offset] = {bytes, std::move(name)};
    used_ += bytes;
    return offset;
  }
  return std::nullopt;
}

uint64_t Hbm::release(uint64_t offset) {
  std::lock_guard lock(mutex_);
  auto live = live_.find(offset);
  if (live == live_.end()) return 0;
  const uint64_t released = live->second.bytes;
  uint64_t bytes = released;
  live_.erase(live);
  used_ -= bytes;
  if (mirror_) mirror_->untrack(offset);
  // The pages go back to the host. If that fails they stay, which costs memory and nothing else.
  (void)fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(offset), off_t(bytes));
  auto next = free_.lower_bound(offset);
  if (next != free_.end() && next->first == offset + bytes) {
    bytes += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    auto before = std::prev(next);
    if (before->first + before->second == offset) {
      before->second += bytes;
      return released;
    }
  }
  free_[offset] = bytes;
  return released;
}

uint64_t Hbm::allocated(uint64_t offset) const {
  std::lock_guard lock(mutex_);
  auto it = live_.find(offset);
  return it == live_.end() ? 0 : it->second.bytes;
}

bool Hbm::reserve(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  if (bytes > bytes_ - taken()) return false;
  used_ += bytes;
  return true;
}

void Hbm::unreserve(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  used_ -= bytes;
}

uint64_t Hbm::used() const {
  std::lock_guard lock(mutex_);
  return taken();
}

std::map<uint64_t, Hbm::Live>::const_iterator Hbm::around(uint64_t offset) const {
  auto it = live_.upper_bound(offset);
  if (it == live_.begin()) return live_.end();
  --it;
  return offset - it->first < it->second.bytes ? it : live_.end();
}

std::optional<uint64_t> Hbm::find(const void* va, uint64_t bytes) const {
  const uint8_t* p = static_cast<const uint8_t*>(va);
  if (p < window_ || p >= window_ + bytes_) return std::nullopt;
  uint64_t offset = uint64_t(p - window_);
  std::lock_guard lock(mutex_);
  auto it = around(offset);
  if (it == live_.end() || bytes > it->first + it->second.bytes - offset) return std::nullopt;
  return offset;
}

void Hbm::describe(const void* va, char* out, size_t bytes) const {
  const uint64_t offset = uint64_t(static_cast<const uint8_t*>(va) - window_);
  std::lock_guard lock(mutex_);
  auto it = around(offset);
  if (it == live_.end())
    std::snprintf(out, bytes, "byte %llu of %s, which is not allocated", static_cast<unsigned long long>(offset), name_.c_str());
  else
    std::snprintf(out, bytes, "byte %llu of tensor '%.200s' (%llu bytes) on %s", static_cast<unsigned long long>(offset - it->first),
                  it->second.name.c_str(), static_cast<unsigned long long>(it->second.bytes), name_.c_str());
}

int Hbm::export_at(uint64_t offset) {
  std::lock_guard lock(mutex_);
  auto it = around(offset);
  if (it == live_.end()) {
    errno = EINVAL;
    return -1;
  }
  if (mirror_) mirror_->track(base_, it->first, it->second.bytes);
  // Opened anew, not duplicated: each export has a position of its own, and so an importer of its own.
  int fd = open(("/proc/self/fd/" + std::to_string(mirror_ ? mirror_->fd() : fd_)).c_str(), O_RDWR | O_CLOEXEC);
  if (fd >= 0) (void)lseek(fd, off_t(neuron::kSingleImport), SEEK_SET);
  return fd;
}

void Hbm::exchange() {
  if (!mirror_) return;
  std::lock_guard lock(mutex_);
  mirror_->exchange(base_);
}

void Hbm::fence(uint64_t offset, uint64_t bytes) {
  if (!mirror_) return;
  std::lock_guard lock(mutex_);
  mirror_->fence(base_, offset, bytes);
}

}  // namespace baton::neuron_emu
