// kv_lend_page.hpp (internal): the page that a lender and a borrower share. Two rings of one writer each, the ids of blocks, and a word for each
// loan that says whether it still stands.
//
// Owner    KvLender makes it.   Threads  two processes.   Cost  -   Errors  none: readers copy, then check.
#pragma once

#include <atomic>
#include <cstdint>

namespace baton::transport::lend {

inline constexpr uint32_t kMagic = 0x314c4b42; // "BKL1"
inline constexpr uint64_t kLoans = 1024;       // out at once; loan `id` has slot id % kLoans
inline constexpr uint64_t kIds = 1u << 20;     // of loans that the borrower has not taken yet

struct Entry {
  uint64_t id, tokens, tag, modelled_ns;
  uint32_t count, at; // ids[at .. at + count), without a wrap
};

// Zeroed memory is a valid start. Each ring: the writer fills an entry, then stores head; the reader copies it, then stores tail.
struct Page {
  uint32_t magic;
  alignas(64) std::atomic<uint64_t> head;          // the lender's
  alignas(64) std::atomic<uint64_t> tail;          // the borrower's
  alignas(64) std::atomic<uint64_t> back_head;     // the borrower's
  alignas(64) std::atomic<uint64_t> back_tail;     // the lender's
  alignas(64) std::atomic<uint32_t> borrower_parked;
  alignas(64) std::atomic<uint32_t> lender_parked;
  alignas(64) std::atomic<uint64_t> stands[kLoans]; // the loan's id; 0: it does not stand
  uint64_t back[kLoans];
  Entry ring[kLoans];
  int32_t ids[kIds];
};

struct Welcome { // with the pool's and the page's descriptors
  uint32_t magic, unused;
  uint64_t bytes, fd_offset, page_bytes;
};

}  // namespace baton::transport::lend
