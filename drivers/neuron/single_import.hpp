// single_import.hpp: a descriptor that one importer may use: what the kernel enforces for a dma-buf of the neuron driver (EPERM for a second
// importer, driver neuron_dmabuf.c), kept where a memory file stands for the dma-buf.
//
// The file position of such a descriptor's open file begins at kSingleImport; an importer moves it by one byte, atomically, and looks where
// it stands. Copies of the descriptor share the position, also in other processes. A dma-buf has no position and a plain memory file
// begins at 0: for these the answer is yes, and the kernel's own rules hold.
//
// Owner    none.   Threads  any, any process.   Cost  one or two system calls.   Errors  none: an answer.
//
//     if (!claim_import(fd)) return Error(BATON_BUSY, ...);
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <cstdint>

namespace baton::neuron {

inline constexpr int64_t kSingleImport = int64_t(1) << 52;  // far beyond any memory object

// True for the first importer of an export, and for every descriptor that is no such export.
inline bool claim_import(int fd) {
  if (lseek(fd, 0, SEEK_CUR) < kSingleImport) return true;
  return lseek(fd, 1, SEEK_CUR) == kSingleImport + 1;
}

}  // namespace baton::neuron
