#include "hal/layers/record/contents.h"

#include <sodium.h>
#include <xxhash.h>

#include <cstdio>

namespace baton::layers {

std::string hash_of(const void* data, uint64_t bytes) {
  const XXH128_hash_t h = XXH3_128bits(data, bytes);
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(h.high64), static_cast<unsigned long long>(h.low64));
  return text;
}

std::string to_base64(const void* data, uint64_t bytes) {
  std::string text(sodium_base64_ENCODED_LEN(bytes, sodium_base64_VARIANT_ORIGINAL), 0);
  sodium_bin2base64(text.data(), text.size(), static_cast<const unsigned char*>(data), bytes, sodium_base64_VARIANT_ORIGINAL);
  text.resize(text.size() - 1);  // the terminating 0
  return text;
}

Result<std::string> from_base64(std::string_view text) {
  std::string bytes(text.size() / 4 * 3 + 3, 0);
  size_t n = 0;
  if (sodium_base642bin(reinterpret_cast<unsigned char*>(bytes.data()), bytes.size(), text.data(), text.size(), nullptr, &n, nullptr,
                        sodium_base64_VARIANT_ORIGINAL))
    return Error(BATON_CORRUPT, "contents that are not base64");
  bytes.resize(n);
  return bytes;
}

}  // namespace baton::layers
