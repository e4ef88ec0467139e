#include "tools/baton/npy.hpp"

#include "tools/model/fail.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace baton::runtime {

Status write_file(const std::string& path, std::string_view bytes) {
  FILE* f = std::fopen(path.c_str(), "wb");
  bool ok = f && std::fwrite(bytes.data(), 1, bytes.size(), f) == bytes.size();
  int cause = errno;
  if (f && std::fclose(f) != 0) {
    ok = false;
    cause = errno;
  }
  if (ok) return {};
  return fail(BATON_IO, "check the path and the space on the device", "{}: cannot be written: {}", path, std::strerror(cause));
}

Status write_npy(const std::string& path, std::span<const float> values, uint64_t columns) {
  // Version 1.0: magic, header length, a Python literal padded so that the data begins at a multiple of 64.
  std::string header = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", columns ? values.size() / columns : 0, columns);
  header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 10 - 1, ' ');
  header += '\n';
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += char(header.size() & 0xFF);
  bytes += char(header.size() >> 8);
  bytes += header;
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  return write_file(path, bytes);
}

}  // namespace baton::runtime
