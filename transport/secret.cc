#include "transport/secret.hpp"

#include <sodium.h>

namespace baton::transport {

void* secret_alloc(size_t bytes) {
  void* p = sodium_init() < 0 ? nullptr : sodium_malloc((bytes + 63) & ~size_t(63)); // its block ends at a page: aligned as its size is
  if (!p) throw std::bad_alloc();
  return p;
}

void secret_free(void* p) { sodium_free(p); }

}  // namespace baton::transport
