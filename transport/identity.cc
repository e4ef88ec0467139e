#include "transport/crypto.hpp"
#include "transport/own_identity.hpp"
#include "transport/socket.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

namespace baton::transport {
namespace {

constexpr std::string_view kIdentityWord = "baton-identity/1 ";
constexpr size_t kIdentityText = kIdentityWord.size() + 64 + 1;
constexpr size_t kMaxKnownBytes = 1u << 20;
constexpr size_t kMaxName = 64, kMaxRoles = 16;

bool plain_name(std::string_view s) {
  return !s.empty() && s.size() <= kMaxName && std::all_of(s.begin(), s.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || std::string_view("._-:@").find(c) != std::string_view::npos;
  });
}

std::string_view next_word(std::string_view& s) {
  const auto space = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!s.empty() && space(s.front())) s.remove_prefix(1);
  size_t n = 0;
  while (n < s.size() && !space(s[n])) ++n;
  const auto word = s.substr(0, n);
  s.remove_prefix(n);
  return word;
}

// "" or why the line is wrong; an empty line gives a peer without a name.
std::string parse_line(std::string_view line, KnownPeer& p) {
  line = line.substr(0, line.find('#'));
  const auto name = next_word(line);
  if (name.empty()) return {};
  if (!plain_name(name)) return "the name has other characters than letters, digits and ._-:@, or more than 64";
  const auto key = next_word(line);
  if (key.empty()) return "there is no public key after the name";
  const auto pk = parse_public_key(key);
  if (!pk) return "the public key is neither 64 hex digits nor 43 of base64";
  p.key = *pk;
  for (auto word = next_word(line); !word.empty(); word = next_word(line)) {
    if (!word.starts_with("roles=")) return "what follows the key is not roles=...; a comment begins with #";
    word.remove_prefix(6);
    for (size_t at = 0; at <= word.size();) {
      const size_t end = std::min(word.find(',', at), word.size());
      if (!plain_name(word.substr(at, end - at)) || p.roles.size() == kMaxRoles) return "roles= is not a list of at most 16 names, as in roles=prefill,client";
      p.roles.emplace_back(word.substr(at, end - at));
      at = end + 1;
    }
  }
  p.name = name;
  return {};
}

Result<Fd> open_regular(const char* what, const std::string& path, struct stat& st, const char* next) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd) return Error(errno == ENOENT ? BATON_NOT_FOUND : errno == EACCES ? BATON_PERMISSION : BATON_IO, fmt::format("{} {}: {}", what, path, strerror(errno)), next);
  if (fstat(fd.get(), &st)) return io_error(fmt::format("{} {}", what, path), errno);
  if (!S_ISREG(st.st_mode)) return Error(BATON_INVALID_ARGUMENT, fmt::format("{} {} is not a regular file", what, path), next);
  return fd;
}

int64_t ns_of(const timespec& t) { return int64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec; }

}  // namespace

std::string public_key_text(const PublicKey& k) { return hex(k); }

std::optional<PublicKey> parse_public_key(std::string_view s) {
  PublicKey k{};
  size_t got = 0;
  if (s.size() == 64 && sodium_hex2bin(k.data(), k.size(), s.data(), s.size(), nullptr, &got, nullptr) == 0 && got == k.size()) return k;
  if (s.size() == 44 && s.back() == '=') s.remove_suffix(1);
  if (s.size() != 43) return std::nullopt;
  for (int variant : {sodium_base64_VARIANT_URLSAFE_NO_PADDING, sodium_base64_VARIANT_ORIGINAL_NO_PADDING})
    if (sodium_base642bin(k.data(), k.size(), s.data(), s.size(), nullptr, &got, nullptr, variant) == 0 && got == k.size()) return k;
  return std::nullopt;
}

std::string fingerprint(const PublicKey& k) {
  std::array<uint8_t, 16> h;
  crypto_generichash(h.data(), h.size(), k.data(), k.size(), nullptr, 0);
  std::string s;
  for (size_t i = 0; i < h.size(); ++i) s += fmt::format("{}{:02x}", i && i % 2 == 0 ? "-" : "", h[i]);
  return s;
}

// ---- identity files ----

Result<PublicKey> write_identity_file(const std::string& path) {
  BATON_TRY(crypto_ready());
  Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) {
    if (errno == EEXIST) return Error(BATON_BUSY, fmt::format("identity file {} exists; it is never overwritten", path), "use it, or move it away first");
    return io_error(fmt::format("cannot create identity file {}", path), errno);
  }
  Secret<Key> sk;
  PublicKey pk;
  crypto_box_keypair(pk.data(), sk->data());
  Secret<std::array<char, kIdentityText + 1>> text;
  std::copy(kIdentityWord.begin(), kIdentityWord.end(), text->begin());
  sodium_bin2hex(text->data() + kIdentityWord.size(), 65, sk->data(), sk->size());
  (*text)[kIdentityText - 1] = '\n';
  if (fchmod(fd.get(), 0600) || write(fd.get(), text->data(), kIdentityText) != ssize_t(kIdentityText) || fsync(fd.get())) {
    const int err = errno;
    unlink(path.c_str());
    return io_error(fmt::format("cannot write identity file {}", path), err);
  }
  return pk;
}

Result<OwnIdentity> OwnIdentity::read(const std::string& path) {
  BATON_TRY(crypto_ready());
  struct stat st {};
  BATON_ASSIGN(Fd fd, open_regular("identity file", path, st, "make one: devctl key new FILE"));
  if (st.st_mode & 077)
    return Error(BATON_PERMISSION, fmt::format("identity file {} has mode {:04o}: others may read it", path, st.st_mode & 07777u), fmt::format("chmod 600 {}", path));
  Secret<std::array<char, kIdentityText + 2>> text;
  const ssize_t n = ::read(fd.get(), text->data(), text->size());
  if (n < 0) return io_error(fmt::format("identity file {}", path), errno);
  OwnIdentity me;
  size_t got = 0;
  const char* end = nullptr;
  std::string_view s(text->data(), size_t(n));
  const bool parsed = s.starts_with(kIdentityWord) && sodium_hex2bin(me.sk_->data(), me.sk_->size(), s.data() + kIdentityWord.size(), s.size() - kIdentityWord.size(), "\r\n", &got, &end) == 0 &&
                      got == me.sk_->size() && end == s.data() + s.size();
  if (!parsed || crypto_scalarmult_base(me.pk_.data(), me.sk_->data()))
    return Error(BATON_CORRUPT, fmt::format("{} is not an identity file", path), "make one: devctl key new FILE; a shared key goes by --key-file");
  return me;
}

bool OwnIdentity::dh(Key& shared, const PublicKey& theirs) const { return crypto_scalarmult(shared.data(), sk_->data(), theirs.data()) == 0; }

Result<PublicKey> identity_public_key(const std::string& path) {
  BATON_ASSIGN(OwnIdentity me, OwnIdentity::read(path));
  return me.public_key();
}

// ---- known peers ----

Result<std::vector<KnownPeer>> parse_known_peers(std::string_view text, const std::string& path) {
  std::vector<KnownPeer> all;
  uint32_t number = 0;
  auto wrong = [&](const std::string& why) { return Error(BATON_CORRUPT, fmt::format("{}:{}: {}", path, number, why), "a line is: NAME PUBLICKEY [roles=A,B] [# comment]"); };
  while (!text.empty()) {
    ++number;
    const auto line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    KnownPeer p;
    if (const std::string why = parse_line(line, p); !why.empty()) return wrong(why);
    if (p.name.empty()) continue;
    p.line = number;
    all.push_back(std::move(p));
  }
  std::stable_sort(all.begin(), all.end(), [](auto& a, auto& b) { return a.key < b.key; });
  const auto twice = std::adjacent_find(all.begin(), all.end(), [](auto& a, auto& b) { return a.key == b.key; });
  if (twice != all.end()) {
    number = std::max(twice->line, (twice + 1)->line);
    return wrong(fmt::format("the same key as in line {}", std::min(twice->line, (twice + 1)->line)));
  }
  return all;
}

Result<KnownPeers> KnownPeers::open(const std::string& path) {
  KnownPeers k;
  k.path_ = path;
  BATON_TRY(k.refresh());
  return k;
}

Status KnownPeers::refresh() {
  struct stat st {};
  auto stamp = [&] { return Stamp{st.st_ino, uint64_t(st.st_size), ns_of(st.st_mtim), ns_of(st.st_ctim)}; };
  if (settled_ && ::stat(path_.c_str(), &st) == 0 && stamp() == stamp_) return {};
  peers_.clear();
  settled_ = false;
  BATON_ASSIGN(Fd fd, open_regular("known-peers file", path_, st, "make it, with a line for each peer: NAME PUBLICKEY ('devctl key show' prints it)"));
  if (st.st_mode & 022)
    return Error(BATON_PERMISSION, fmt::format("known-peers file {} has mode {:04o}: others may write it", path_, st.st_mode & 07777u), fmt::format("chmod go-w {}", path_));
  if (st.st_uid != geteuid() && st.st_uid != 0)
    return Error(BATON_PERMISSION, fmt::format("known-peers file {} belongs to user {}", path_, st.st_uid), "chown it to this user or to root: who owns it says who may connect");
  std::string text(kMaxKnownBytes + 1, 0);
  size_t bytes = 0;
  for (ssize_t n; bytes < text.size() && (n = ::read(fd.get(), text.data() + bytes, text.size() - bytes)) != 0;) {
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error(fmt::format("known-peers file {}", path_), errno);
    bytes += size_t(n);
  }
  if (bytes > kMaxKnownBytes) return Error(BATON_CORRUPT, fmt::format("known-peers file {} has more than {} bytes", path_, kMaxKnownBytes), "keep the peers of this endpoint alone");
  text.resize(bytes);
  BATON_ASSIGN(peers_, parse_known_peers(text, path_));
  stamp_ = stamp();
  // A file that changes twice within the clock's grain keeps its stamp: a young stamp is not believed.
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  settled_ = ns_of(now) - std::max(stamp_.modified_ns, stamp_.changed_ns) > 2'000'000'000;
  return {};
}

const KnownPeer* KnownPeers::find(const PublicKey& k) const {
  const auto it = std::lower_bound(peers_.begin(), peers_.end(), k, [](const KnownPeer& p, const PublicKey& key) { return p.key < key; });
  return it != peers_.end() && it->key == k ? &*it : nullptr;
}

}  // namespace baton::transport
