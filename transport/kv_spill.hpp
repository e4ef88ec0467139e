// kv_spill.hpp: KV blocks on a disk, by key: spilled when the cache is full, restored when a prompt returns.
//
// A folder of three files: `blocks` (slots of one size), `index` (append-only, what lies where), `lock`. A block is in the index only once its
// bytes are on the disk, and put() returns only once its index record is, so that kill -9 or a power cut at any point leaves each block whole
// or absent. Each block has a generation and an xxh3 checksum, bound to its key, slot and layout, which get() verifies. A slot is used again
// only after the record that frees it is on the disk. The files go through io_uring with O_DIRECT where the machine lets them (uring.hpp).
//
// Owner    The caller. One KvSpill a folder: an flock keeps others out, and goes with the process and the last of its writes.
// Threads  One at a time.
// Cost     put and drop: two and one fdatasync a call, so put many blocks at once. get: one read a block, many in flight. Memory: about 80 bytes a block.
//          Memory at a multiple of 4096 is read and written in place, other memory by way of one copy.
// Errors   BUSY with the holder's pid; MISMATCH (the folder has another layout or block size; a block has another length); NOT_FOUND; CAPACITY
//          (no slot or no disk left: nothing changed, put fewer or drop); CORRUPT with file and slot (all that was asked for is then zero); IO.
//
//     BATON_ASSIGN(auto spill, KvSpill::open({.folder = "kv", .layout = layout.hash(), .block_bytes = 16384, .blocks = 65536}));
//     BATON_TRY(spill.put({{{key, memory, 16384}}}));
//     if (spill.has(key)) BATON_TRY(spill.get({{{key, memory, 16384}}}));
//     BATON_TRY(spill.drop({{key}}));
#pragma once

#include "hal/baton.hpp"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace baton::transport {

struct KvBlockKey {             // the caller's hash of what the block holds: model, tokens so far, shard
  uint64_t high = 0, low = 0;
  bool operator==(const KvBlockKey&) const = default;
};

struct KvSpillOptions {
  std::string folder;           // made if it is not there; its parent must be
  uint64_t layout = 0;          // KvLayout::hash(): blocks of another layout are not this folder's
  uint64_t block_bytes = 0;     // the longest block
  uint32_t blocks = 0;          // the most that are kept
  bool direct = true;           // O_DIRECT, where the file system has it; false: through the page cache
  bool io_uring = true;         // where the kernel lets it; false: pread and pwrite
  uint32_t depth = 64;          // transfers in flight
};

class KvSpill {
 public:
  static Result<KvSpill> open(const KvSpillOptions&);
  KvSpill(KvSpill&&) noexcept;
  KvSpill& operator=(KvSpill&&) noexcept;
  ~KvSpill();

  struct Put {
    KvBlockKey key;
    const void* data;
    uint64_t bytes;             // 1 .. block_bytes
  };
  struct Get {
    KvBlockKey key;
    void* data;
    uint64_t bytes;             // as it was put
  };
  Status put(std::span<const Put>);            // all or, after an error, none; durable on return; a key that is there is replaced
  Status get(std::span<const Get>);            // all verified, or an error
  Status drop(std::span<const KvBlockKey>);    // keys that are not there are passed over
  bool has(const KvBlockKey&) const;
  struct Block {
    KvBlockKey key;
    uint64_t bytes, generation; // the generation rises with each put: the lowest is the oldest
  };
  std::vector<Block> list() const;             // oldest first

  // Pins memory that blocks come from and go to; false where the machine refuses. It outlives this object or is removed.
  bool add_memory(void*, uint64_t bytes);
  void remove_memory(void*);

  struct Stats {
    uint64_t blocks, capacity, bytes;          // bytes: of the blocks that are there
    uint64_t index_bytes;
  };
  Stats stats() const;
  std::string describe() const;                // "kv: 3 of 65536 blocks, O_DIRECT, io_uring, 64 in flight, ..."
  struct Impl;

 private:
  explicit KvSpill(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::transport
