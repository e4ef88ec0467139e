#include "drivers/cs3/link/segment.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace baton::cs3 {

static constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

bool same_cpu(std::atomic<uint32_t>& mine, const std::atomic<uint32_t>& other) {
  const uint32_t cpu = uint32_t(::sched_getcpu()) + 1;
  if (mine.load(std::memory_order_relaxed) != cpu) mine.store(cpu, std::memory_order_relaxed);
  return other.load(std::memory_order_relaxed) == cpu;
}

Result<Segment> Segment::create() {
  Fd fd(::memfd_create("baton-cs3-link", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return io_error("memfd_create", errno);
  if (::ftruncate(fd.get(), sizeof(SegmentLayout)) != 0) return io_error("ftruncate of the link segment", errno);
  if (::fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) return io_error("seal of the link segment", errno);
  return map(std::move(fd)); // zero pages are valid empty rings
}

Result<Segment> Segment::open(Fd fd) {
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return io_error("fstat of the link segment", errno);
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (uint64_t(st.st_size) != sizeof(SegmentLayout) || seals < 0 || (seals & F_SEAL_SHRINK) == 0)
    return Error(BATON_CORRUPT, "the link segment has " + std::to_string(st.st_size) + " bytes, not " +
                                    std::to_string(sizeof(SegmentLayout)) + ", or can be resized");
  return map(std::move(fd));
}

Result<Segment> Segment::map(Fd fd) {
  void* p = ::mmap(nullptr, sizeof(SegmentLayout), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (p == MAP_FAILED) return io_error("mmap of the link segment", errno);
  return Segment(std::move(fd), static_cast<SegmentLayout*>(p));
}

Segment::~Segment() {
  if (p_) ::munmap(p_, sizeof(SegmentLayout));
}

}  // namespace baton::cs3
