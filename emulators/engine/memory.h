// memory.h: pages of the engine's own (packed weights, scratch): mmap'd, 64-byte aligned (a page is), zero-filled, not touched until used.
//
// Owner  a Region owns its pages.   Threads  none of its own.   Cost  one system call.   Errors  CAPACITY with the size.
//
//     BATON_ASSIGN(Region r, Region::make(bytes, "packed weights"));
#pragma once

#include "hal/baton.hpp"

#include <cstdint>

namespace baton::engine {

class Region {
 public:
  Region() = default;
  static Result<Region> make(uint64_t bytes, const char* what);
  Region(Region&& o) noexcept : data_(std::exchange(o.data_, nullptr)), bytes_(std::exchange(o.bytes_, 0)) {}
  Region& operator=(Region&& o) noexcept;
  ~Region();
  uint8_t* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace baton::engine
