#include "transport/crypto.hpp"

#include "transport/socket.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace baton::transport {
Status crypto_ready() {
  if (sodium_init() < 0) return Error(BATON_INTERNAL, "libsodium did not start", "check the machine's source of randomness");
  return {};
}

Key::~Key() { sodium_memzero(data(), size()); }

bool same_mac(std::span<const uint8_t> a, std::span<const uint8_t> b) { return a.size() == b.size() && sodium_memcmp(a.data(), b.data(), b.size()) == 0; }

std::array<uint8_t, Sealer::kHeaderBytes> Sealer::start(const Key& tx) {
  std::array<uint8_t, kHeaderBytes> header;
  crypto_secretstream_xchacha20poly1305_init_push(&s_, header.data(), tx.data());
  return header;
}

void Sealer::seal(std::span<const uint8_t> plain, std::span<const uint8_t> ad, uint8_t* out) {
  crypto_secretstream_xchacha20poly1305_push(&s_, out, nullptr, plain.data(), plain.size(), ad.data(), ad.size(), 0);
}

bool Opener::start(const Key& rx, std::span<const uint8_t, Sealer::kHeaderBytes> header) {
  return crypto_secretstream_xchacha20poly1305_init_pull(&s_, header.data(), rx.data()) == 0;
}

bool Opener::open(std::span<const uint8_t> sealed, std::span<const uint8_t> ad, uint8_t* out) {
  if (sealed.size() < Sealer::kExtraBytes) return false;
  return crypto_secretstream_xchacha20poly1305_pull(&s_, out, nullptr, nullptr, sealed.data(), sealed.size(), ad.data(), ad.size()) == 0;
}

std::string hex(std::span<const uint8_t> b) {
  std::string s;
  for (uint8_t x : b) s += fmt::format("{:02x}", x);
  return s;
}

std::string random_hex(size_t bytes) {
  std::vector<uint8_t> b(bytes);
  randombytes_buf(b.data(), b.size());
  return hex(b);
}

uint64_t random_u64() {
  uint64_t v = 0;
  while (!v) randombytes_buf(&v, sizeof v);
  return v;
}

// ---- key files ----

Key random_key() {
  Key k{};
  if (crypto_ready().ok()) randombytes_buf(k.data(), k.size());
  return k;
}

Result<Key> read_key_file(const std::string& path) {
  BATON_TRY(crypto_ready());
  Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd)
    return Error(errno == ENOENT ? BATON_NOT_FOUND : errno == EACCES ? BATON_PERMISSION : BATON_IO, fmt::format("key file {}: {}", path, strerror(errno)),
                 "make one with write_key_file and copy it to both hosts");
  struct stat st {};
  if (fstat(fd.get(), &st)) return io_error(fmt::format("key file {}", path), errno);
  if (!S_ISREG(st.st_mode)) return Error(BATON_INVALID_ARGUMENT, fmt::format("key file {} is not a regular file", path), "give the path of a key file");
  if (st.st_mode & 077)
    return Error(BATON_PERMISSION, fmt::format("key file {} has mode {:04o}: others may read it", path, st.st_mode & 07777u), fmt::format("chmod 600 {}", path));
  char text[130] = {};
  const ssize_t n = read(fd.get(), text, sizeof text - 1);
  if (n < 0) return io_error(fmt::format("key file {}", path), errno);
  Key key{};
  size_t got = 0;
  const char* end = nullptr;
  const bool parsed = sodium_hex2bin(key.data(), key.size(), text, size_t(n), "\r\n", &got, &end) == 0 && got == key.size() && end == text + n;
  sodium_memzero(text, sizeof text);
  if (!parsed) return Error(BATON_CORRUPT, fmt::format("key file {} does not hold 64 hex digits", path), "make a new one on one host and copy it to the other");
  return key;
}

Status write_key_file(const std::string& path) {
  BATON_TRY(crypto_ready());
  Fd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) {
    if (errno == EEXIST) return Error(BATON_BUSY, fmt::format("key file {} exists; it is never overwritten", path), "use it, or remove it on both hosts first");
    return io_error(fmt::format("cannot create key file {}", path), errno);
  }
  std::string text = random_hex(32) + "\n";
  const bool ok = fchmod(fd.get(), 0600) == 0 && write(fd.get(), text.data(), text.size()) == ssize_t(text.size()) && fsync(fd.get()) == 0;
  const int err = errno;
  sodium_memzero(text.data(), text.size());
  if (!ok) {
    unlink(path.c_str());
    return io_error(fmt::format("cannot write key file {}", path), err);
  }
  return {};
}

}  // namespace baton::transport
