// uring.hpp (internal): reads and writes of files through io_uring: many in flight, registered files and memory, O_DIRECT.
//
// A batch is a list of transfers (file, offset, memory, bytes). Neighbours in file and memory are merged, long ones cut; what O_DIRECT cannot
// take as it lies (memory or length that is not a multiple of 4096) goes through bounce buffers. Short transfers go on, EINTR and EAGAIN
// are tried again. Where io_uring is refused (seccomp, kernel.io_uring_disabled, an old kernel) the same batch runs by pread and pwrite.
//
// Owner    The ring owns its descriptor and bounce buffers. Files and memory are the caller's and outlive what is under way: the destructor waits
//          for it.
// Threads  One at a time; the ring starts none.
// Cost     open: 4 MiB of bounce buffers. A batch: one system call for what fits in flight, and one copy of what is bounced.
// Errors   IO with errno, file and offset; CAPACITY where the disk, a quota or a limit is full; CORRUPT where a file ends within a read; DEADLINE.
//          The first error ends the batch; what it wrote until then is unknown.
//
//     BATON_ASSIGN(auto ring, Uring::open({}));
//     BATON_ASSIGN(uint32_t file, ring.add_file(fd, true, path));
//     BATON_TRY(ring.run({{{UringIo::read, file, 0, memory, bytes}}}, deadline_in_ms(1000)));
#pragma once

#include "hal/baton.hpp"

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace baton::transport {

inline constexpr uint64_t kDirectBytes = 4096; // the alignment of O_DIRECT that every block device takes
inline constexpr uint64_t direct_up(uint64_t n) { return (n + kDirectBytes - 1) & ~(kDirectBytes - 1); }

struct UringOptions {
  uint32_t depth = 64;       // transfers in flight, 1..1024
  bool io_uring = true;      // false: pread and pwrite
};

struct UringIo {
  enum Way : uint8_t { read, write } way;
  uint32_t file;             // of add_file
  uint64_t offset;           // a multiple of 4096 in a direct file
  void* memory;
  uint64_t bytes;            // a direct write is padded with zeros to a multiple of 4096: the caller owns that much of the file
};

class Uring {
 public:
  static Result<Uring> open(const UringOptions&);
  Uring(Uring&&) noexcept;
  Uring& operator=(Uring&&) noexcept;
  ~Uring();
  // A file that is open already, with O_DIRECT or without; `name` is for errors. At most 16.
  Result<uint32_t> add_file(int fd, bool direct, std::string name);
  // Pins memory for the kernel, once instead of once a transfer. False where RLIMIT_MEMLOCK or the kernel refuses: all works without.
  bool add_memory(void* memory, uint64_t bytes);
  void remove_memory(void* memory);

  Status start(std::span<const UringIo> batch);      // BUSY while another batch is under way
  bool step();                                       // reaps and submits, does not block; true: nothing is under way
  Status wait(uint64_t deadline_ns);                 // of the batch; after DEADLINE it is still under way
  Status run(std::span<const UringIo> batch, uint64_t deadline_ns = BATON_NO_DEADLINE);
  int fd() const;                                    // readable when step() has something to reap; -1 without io_uring
  std::string describe() const;                      // "io_uring, 64 in flight, files and buffers registered", or why not
  struct Impl;

 private:
  explicit Uring(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

// Opens a file with O_DIRECT; without where its file system has none, and `direct` says which.
int open_direct(const char* path, int flags, uint32_t mode, bool& direct);
// IO, or CAPACITY for ENOSPC, EDQUOT and EFBIG: "WHAT: errno's text".
Error file_error(int error, const std::string& what);

}  // namespace baton::transport
