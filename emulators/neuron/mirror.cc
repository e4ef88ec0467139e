#include "emulators/neuron/mirror.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace baton::neuron_emu {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kLine = 64;

uint64_t mix(uint64_t x) {  // splitmix64's finalizer
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

}  // namespace

Result<std::unique_ptr<Mirror>> Mirror::create(const std::string& name, uint64_t bytes, uint64_t seed) {
  int fd = memfd_create(("baton-neuron-wire-" + name).c_str(), MFD_CLOEXEC);
  void* at = MAP_FAILED;
  if (fd >= 0 && ftruncate(fd, off_t(bytes)) == 0) at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (at == MAP_FAILED) {
    Error e(BATON_IO, "the wire's side of " + name + ": " + std::strerror(errno), "raise the limits on open files and address space (ulimit -n, -v)");
    if (fd >= 0) close(fd);
    return e;
  }
  madvise(at, bytes, MADV_DONTFORK);
  madvise(at, bytes, MADV_DONTDUMP);
  return std::unique_ptr<Mirror>(new Mirror(fd, static_cast<uint8_t*>(at), bytes, seed));
}

Mirror::~Mirror() {
  while (!tracked_.empty()) untrack(tracked_.begin()->first);
  munmap(wire_, bytes_);
  close(fd_);
}

void Mirror::track(uint8_t* array, uint64_t offset, uint64_t bytes) {
  if (tracked_.contains(offset)) return;
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  Agreed a{static_cast<uint8_t*>(at), bytes};
  std::memcpy(a.data, array + offset, bytes);
  std::memcpy(wire_ + offset, array + offset, bytes);
  tracked_[offset] = a;
}

void Mirror::untrack(uint64_t offset) {
  auto it = tracked_.find(offset);
  if (it == tracked_.end()) return;
  munmap(it->second.data, it->second.bytes);
  (void)fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(offset), off_t(it->second.bytes));
  tracked_.erase(it);
}

// One page in four at a time, seed 0: none ever.
bool Mirror::let_in(uint64_t page) const { return seed_ && mix(seed_ ^ mix(page * 0x9e3779b97f4a7c15ull + round_)) % 4 == 0; }

// Byte by byte, so that neighbours which the two sides write do not undo each other.
void Mirror::exchange_page(uint8_t* array, uint64_t offset, uint8_t* agreed, uint64_t bytes, bool in) {
  uint8_t *a = array + offset, *w = wire_ + offset;
  for (uint64_t at = 0; at < bytes; at += kLine) {
    const uint64_t n = std::min(kLine, bytes - at);
    if (std::memcmp(a + at, agreed + at, n) != 0)
      for (uint64_t i = at; i < at + n; ++i)
        if (a[i] != agreed[i]) w[i] = agreed[i] = a[i];
    if (!in || std::memcmp(w + at, agreed + at, n) == 0) continue;
    for (uint64_t i = at; i < at + n; ++i)
      if (w[i] != agreed[i]) a[i] = agreed[i] = w[i];
  }
}

void Mirror::exchange(uint8_t* array) {
  ++round_;
  for (auto& [offset, agreed] : tracked_)
    for (uint64_t at = 0; at < agreed.bytes; at += kPage)
      exchange_page(array, offset + at, agreed.data + at, std::min(kPage, agreed.bytes - at), let_in((offset + at) / kPage));
}

void Mirror::fence(uint8_t* array, uint64_t offset, uint64_t bytes) {
  for (auto& [start, agreed] : tracked_) {
    const uint64_t from = std::max(start, offset), to = std::min(start + agreed.bytes, offset + bytes);
    if (from < to) exchange_page(array, from, agreed.data + (from - start), to - from, true);
  }
}

}  // namespace baton::neuron_emu
