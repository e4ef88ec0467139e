// kv_lend_page.hpp (internal): the page that a lender and a borrower share. Two rings of one writer each, and the ids of blocks.
//
// A side that waits looks at the one cache line that the other side writes next: a loan, its terms, whether it still stands and the ids of few
// blocks are one line, published by its id, and what comes back is the id alone. A head, an entry, its ids and a word beside them would be four lines,
// one after another, each from the other core.
//
// Owner    KvLender makes it.   Threads  two processes.   Cost  -   Errors  none: readers copy, then check.
#pragma once

#include <atomic>
#include <cstdint>

namespace baton::transport::lend {

inline constexpr uint32_t kMagic = 0x324c4b42; // "BKL2"
inline constexpr uint64_t kLoans = 1024;       // out at once; loan `id` has slot id % kLoans
inline constexpr uint64_t kIds = 1u << 20;     // of loans that the borrower has not taken yet

inline constexpr uint32_t kNear = 4;           // ids that an entry has itself

// Loans are lent in the order of their ids, from 1 on: entry (id - 1) % kLoans is the loan's until it came back.
struct alignas(64) Entry {
  std::atomic<uint64_t> id;     // stored last
  std::atomic<uint64_t> stands; // the loan's id; 0: it was taken back
  uint64_t tokens, tag, modelled_ns;
  uint32_t count, at; // ids[at .. at + count), without a wrap; up to kNear: `near`
  int32_t near[kNear];
};
static_assert(sizeof(Entry) == 64);

// Zeroed memory is a valid start.
struct Page {
  uint32_t magic;
  alignas(64) std::atomic<uint64_t> tail;          // the borrower's: loans taken
  alignas(64) std::atomic<uint64_t> back_tail;     // the lender's: returns seen
  alignas(64) std::atomic<uint32_t> borrower_parked;
  alignas(64) std::atomic<uint32_t> lender_parked;
  alignas(64) std::atomic<uint64_t> back[kLoans];  // the borrower's: ids of loans, each once, so a new one differs from what was there
  Entry ring[kLoans];                              // the lender's
  int32_t ids[kIds];
};

struct Welcome { // with the pool's and the page's descriptors
  uint32_t magic, unused;
  uint64_t bytes, fd_offset, page_bytes;
};

}  // namespace baton::transport::lend
