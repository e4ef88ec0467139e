#include "transport/mapped_wire.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace baton::transport::mapped {
namespace {

// Of more than this (50 ms) the rest is left to the faults.
constexpr uint64_t kPopulate = 4ull << 30;

void populate_backed(uint8_t* at, int fd, uint64_t offset, uint64_t bytes, Mapping::Use use) {
#ifdef MADV_POPULATE_WRITE
  const int how = use == Mapping::Use::write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
  const off_t end = off_t(offset + std::min(bytes, kPopulate));
  for (off_t from = off_t(offset); from < end;) {
    const off_t data = lseek(fd, from, SEEK_DATA);
    if (data < 0 || data >= end) return;
    const off_t hole = std::min(end, lseek(fd, data, SEEK_HOLE));
    if (hole <= data || madvise(at + (data - off_t(offset)), size_t(hole - data), how)) return;
    from = hole;
  }
#endif
}

}  // namespace

void Mapping::reset() {
  if (p_) munmap(std::exchange(p_, nullptr), n_);
}

Result<Mapping> Mapping::of(int fd, uint64_t offset, uint64_t bytes, Use use) {
  const uint64_t page = uint64_t(sysconf(_SC_PAGESIZE)), down = offset / page * page, skip = offset - down;
  void* p = mmap(nullptr, skip + bytes, use == Use::write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, off_t(down));
  if (p == MAP_FAILED) return io_error(fmt::format("cannot map {} bytes", bytes), errno);
  populate_backed(static_cast<uint8_t*>(p), fd, down, skip + bytes, use);
  return Mapping(p, skip + bytes, skip);
}

Status check_object(int fd, uint64_t need) {
  struct stat st {};
  if (fstat(fd, &st)) return io_error("fstat", errno);
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0) return Error(BATON_UNSUPPORTED, "mapped: the peer's memory is not a memfd", "use the fabric shm or tcp");
  if (!(seals & (F_SEAL_SHRINK | F_SEAL_SEAL)) && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK)) return io_error("cannot seal the peer's memory", errno);
  if (st.st_size < 0 || uint64_t(st.st_size) < need)
    return Error(BATON_CORRUPT, fmt::format("mapped: the peer's memory has {} bytes, {} were announced", int64_t(st.st_size), need), "restart the peer");
  return {};
}

}  // namespace baton::transport::mapped
