// validate_program.h: what a launch of a portable program certainly does with the memory bound to it.
//
// Read from the program's serialized form (hal/program/program.fbs) at load: libbaton does not run programs and links nothing for this
// but FlatBuffers' header. Only what every launch does is said. What depends on data or on how far a loop gets (rows of an embedding, the
// blocks of a cache beyond this launch's own, sampled tokens) is not, and bytes that are no portable program say nothing at all.
//
// Owner    value type.   Threads  none of its own.   Cost  one pass over the program at load; a search by name a binding.   Errors  none.
//
//     if (auto use = ProgramUse::of(bytes, n)) Touch t = use->touch("x", args);   // t.read_bytes
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace baton::core {

// Bytes from the start of a binding.
struct Touch {
  uint64_t read_begin = 0, read_bytes = 0;  // are read
  uint64_t write_bytes = 0;                 // are written, from 0
  uint64_t attended = 0;                    // tokens of before this launch, some of which it reads from this cache
  bool may_write = true;                    // any of it, perhaps
};

class ProgramUse {
 public:
  static std::optional<ProgramUse> of(const void* bytes, uint64_t count);
  // Of the value of that name in a launch with these arguments.
  Touch touch(std::string_view name, std::span<const int64_t> args) const;

 private:
  struct ValueUse {
    std::string name;
    uint8_t storage = 0;
    uint64_t element_bytes = 0;
    std::vector<int64_t> shape;
    bool read_whole = false;
    bool read_first = false;    // its first element
    bool written_whole = false;
    bool attended = false;      // a cache that is read over every token before
    uint32_t block_tokens = 0;  // a block table, of blocks so long
  };
  void note_input(uint8_t opcode, size_t place, ValueUse&, uint32_t window, uint32_t block_tokens) const;
  std::optional<int64_t> argument(int index, std::span<const int64_t> args) const;
  static uint64_t bytes_of(const ValueUse&, int64_t tokens);

  std::vector<ValueUse> values_;
  int tokens_ = -1, position_ = -1;  // arguments, by index
  bool loop_ = false;
};

}  // namespace baton::core
