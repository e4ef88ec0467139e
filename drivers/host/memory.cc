#include "drivers/host/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <memory>

namespace baton::host_driver {
namespace {

Error system_error(const char* call, uint64_t bytes) {
  const int code = errno;
  const bool full = code == ENOMEM || code == ENOSPC || code == EFBIG;
  const char* next = code == EMFILE ? "raise the limit of open files (ulimit -n)" : full ? "free memory or allocate less" : "";
  return Error(full ? BATON_CAPACITY : BATON_IO, std::string(call) + " of " + std::to_string(bytes) + " bytes: " + strerror(code), next);
}

}  // namespace

Memory::~Memory() {
  if (base_) munmap(base_, mapped_);
  if (fd_ >= 0) close(fd_);
}

Status Memory::map(uint64_t offset, uint64_t bytes) {
  const uint64_t page = uint64_t(sysconf(_SC_PAGESIZE));
  skip_ = offset % page;
  mapped_ = bytes + skip_;
  bytes_ = bytes;
  fd_offset_ = offset;
  void* p = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, off_t(offset - skip_));
  if (p == MAP_FAILED) return system_error("mmap", bytes);
  base_ = static_cast<uint8_t*>(p);
  return {};
}

Result<Memory*> Memory::allocate(uint64_t bytes) {
  std::unique_ptr<Memory> m(new Memory);
  m->fd_ = memfd_create("baton-dram", MFD_CLOEXEC);
  if (m->fd_ < 0) return system_error("memfd_create", bytes);
  if (bytes > uint64_t(INT64_MAX) || ftruncate(m->fd_, off_t(bytes))) {
    if (bytes > uint64_t(INT64_MAX)) errno = EFBIG;
    return system_error("ftruncate", bytes);
  }
  BATON_TRY(m->map(0, bytes));
  return m.release();
}

Result<Memory*> Memory::import(int fd, uint64_t offset, uint64_t bytes) {
  std::unique_ptr<Memory> m(new Memory);
  struct stat st {};
  if (fstat(fd, &st)) return system_error("fstat", bytes);
  const uint64_t size = uint64_t(st.st_size);
  if (S_ISREG(st.st_mode) && (bytes > size || offset > size - bytes))
    return Error(BATON_INVALID_ARGUMENT,
                 std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + " of a memory object of " + std::to_string(size) + " bytes",
                 "pass the offset that the export gave");
  m->imported_ = true;
  m->fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (m->fd_ < 0) return system_error("dup", bytes);
  BATON_TRY(m->map(offset, bytes));
  return m.release();
}

Result<int> Memory::duplicate() const {
  int fd = fcntl(fd_, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return system_error("dup", bytes_);
  return fd;
}

}  // namespace baton::host_driver
