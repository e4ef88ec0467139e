#include "emulators/neuron/hbm.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace baton::neuron_emu {

Result<std::unique_ptr<Hbm>> Hbm::create(const std::string& name, uint64_t bytes) {
  int fd = memfd_create(("baton-neuron-" + name).c_str(), MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, off_t(bytes))) {
    Error e(BATON_IO, "memory file for " + name + ": " + std::strerror(errno), "raise the limit on open files (ulimit -n)");
    if (fd >= 0) close(fd);
    return e;
  }
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (at == MAP_FAILED) {
    Error e(BATON_IO, "mapping " + std::to_string(bytes >> 30) + " GiB of " + name + ": " + std::strerror(errno), "lift the limit on address space (ulimit -v)");
    close(fd);
    return e;
  }
  madvise(at, bytes, MADV_DONTFORK);
  madvise(at, bytes, MADV_DONTDUMP);
  return std::unique_ptr<Hbm>(new Hbm(fd, static_cast<uint8_t*>(at), bytes));
}

Hbm::Hbm(int fd, uint8_t* base, uint64_t bytes) : fd_(fd), base_(base), bytes_(bytes) { free_[0] = bytes; }

Hbm::~Hbm() {
  munmap(base_, bytes_);
  close(fd_);
}

std::optional<uint64_t> Hbm::allocate(uint64_t bytes) {
  if (!bytes || bytes > bytes_) return std::nullopt;
  bytes = (bytes + kPage - 1) / kPage * kPage;
  std::lock_guard lock(mutex_);
  if (bytes > bytes_ - used_) return std::nullopt;
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (it->second < bytes) continue;
    auto [offset, run] = *it;
    free_.erase(it);
    if (run > bytes) free_[offset + bytes] = run - bytes;
    live_[offset] = bytes;
    used_ += bytes;
    return offset;
  }
  return std::nullopt;
}

void Hbm::release(uint64_t offset) {
  std::lock_guard lock(mutex_);
  auto live = live_.find(offset);
  if (live == live_.end()) return;
  uint64_t bytes = live->second;
  live_.erase(live);
  used_ -= bytes;
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
      return;
    }
  }
  free_[offset] = bytes;
}

bool Hbm::reserve(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  if (bytes > bytes_ - used_) return false;
  used_ += bytes;
  return true;
}

void Hbm::unreserve(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  used_ -= bytes;
}

uint64_t Hbm::used() const {
  std::lock_guard lock(mutex_);
  return used_;
}

std::optional<uint64_t> Hbm::find(const void* va, uint64_t bytes) const {
  const uint8_t* p = static_cast<const uint8_t*>(va);
  if (p < base_ || p >= base_ + bytes_) return std::nullopt;
  uint64_t offset = uint64_t(p - base_);
  std::lock_guard lock(mutex_);
  auto it = live_.upper_bound(offset);
  if (it == live_.begin()) return std::nullopt;
  --it;
  uint64_t end = it->first + it->second;
  if (offset >= end || bytes > end - offset) return std::nullopt;
  return offset;
}

int Hbm::duplicate() const { return fcntl(fd_, F_DUPFD_CLOEXEC, 0); }

}  // namespace baton::neuron_emu
