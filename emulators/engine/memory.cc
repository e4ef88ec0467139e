#include "emulators/engine/memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>

namespace baton::engine {

Result<Region> Region::make(uint64_t bytes, const char* what) {
  Region r;
  if (bytes == 0) return r;
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED)
    return Error(BATON_CAPACITY, fmt::format("no memory for {} bytes of {} (errno {})", bytes, what, errno),
                 "load a smaller program (max_tokens, model) or free memory");
  r.data_ = static_cast<uint8_t*>(p);
  r.bytes_ = bytes;
  return r;
}

Region& Region::operator=(Region&& o) noexcept {
  if (this != &o) {
    if (data_) munmap(data_, bytes_);
    data_ = std::exchange(o.data_, nullptr);
    bytes_ = std::exchange(o.bytes_, 0);
  }
  return *this;
}

Region::~Region() {
  if (data_) munmap(data_, bytes_);
}

}  // namespace baton::engine
