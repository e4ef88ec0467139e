#include "drivers/cs3/link/connect.h"

#include "drivers/cs3/link/shm_carrier.h"
#include "drivers/cs3/link/tcp_carrier.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace baton::cs3 {

Hello make_hello(CarrierKind carrier, uint8_t wafer) {
  Hello h{};
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  h.major = kVersionMajor;
  h.minor = kVersionMinor;
  h.hello_bytes = sizeof h;
  h.capabilities = kCapShm | kCapRegions | kCapProgress | kCapSlots;
  read_boot_id(h.boot_id);
  h.carrier = uint8_t(carrier);
  h.wafer = wafer;
  h.pid = uint32_t(::getpid());
  Error::put(h.program, "libbaton-driver-cs3 " BATON_VERSION_STRING);
  return h;
}

std::string version_skew(const char* who, uint16_t major, uint16_t minor) {
  return std::string(who) + " speaks wafer link " + std::to_string(major) + "." + std::to_string(minor) + ", this side " +
         std::to_string(kVersionMajor) + "." + std::to_string(kVersionMinor);
}

Status judge(const Welcome& w, const std::string& where) {
  if (const char* wrong = check(w))
    return Error(BATON_MISMATCH, "what listens on " + where + " is not a wafer daemon (" + wrong + ")", "check the port: cs3://HOST:PORT");
  if (w.code != BATON_OK) {
    const std::string_view text(w.text);
    const size_t cut = text.find('\n');
    return Error(w.code, cut == 0 || text.empty() ? "the daemon on " + where + " refuses without a reason" : std::string(text.substr(0, cut)),
                 cut == std::string_view::npos ? "" : text.substr(cut + 1));
  }
  if (w.major != kVersionMajor)
    return Error(BATON_VERSION, version_skew("the daemon", w.major, w.minor), "install baton-emu-cs3 and the driver from one release");
  return {};
}

namespace {

Result<Welcome> handshake(int fd, CarrierKind carrier, uint8_t wafer, const std::string& where, uint64_t deadline_ns) {
  const Hello hello = make_hello(carrier, wafer);
  Welcome w{};
  Status s = write_exact(fd, &hello, sizeof hello, deadline_ns);
  if (s.ok()) s = read_exact(fd, &w, sizeof w, deadline_ns);
  if (!s.ok()) {
    if (s.error().code == BATON_DEADLINE)
      return Error(BATON_DEADLINE, "what listens on " + where + " does not answer the handshake", "check that it is a wafer daemon, and not stopped");
    return Error(BATON_MISMATCH, "what listens on " + where + " ended the handshake (" + s.error().what + ")",
                 "check the port: cs3://HOST:PORT is a wafer daemon's");
  }
  BATON_TRY(judge(w, where));
  return w;
}

Result<std::unique_ptr<Carrier>> upgrade(const std::string& unix_name, uint64_t instance, uint8_t wafer, uint64_t deadline_ns) {
  const std::string where = "unix socket @" + unix_name;
  BATON_ASSIGN(Fd fd, connect_abstract(unix_name));
  const Hello hello = make_hello(CarrierKind::shm, wafer);
  BATON_TRY(write_exact(fd.get(), &hello, sizeof hello, deadline_ns));
  BATON_TRY(await(fd.get(), POLLIN, deadline_ns));
  Welcome w{};
  Fd fds[kMaxFds];
  size_t count = 0;
  const ssize_t n = receive_with_fds(fd.get(), &w, sizeof w, fds, &count);
  if (n <= 0) return Error(BATON_MISMATCH, where + " ended the handshake");
  if (size_t(n) < sizeof w) BATON_TRY(read_exact(fd.get(), reinterpret_cast<uint8_t*>(&w) + n, sizeof w - size_t(n), deadline_ns));
  BATON_TRY(judge(w, where));
  if (w.instance != instance) return Error(BATON_MISMATCH, where + " belongs to another daemon");
  if (count != kMaxFds || w.segment_bytes != sizeof(SegmentLayout))
    return Error(BATON_CORRUPT, where + " passed " + std::to_string(count) + " descriptors and a segment of " + std::to_string(w.segment_bytes) + " bytes");
  BATON_ASSIGN(Segment segment, Segment::open(std::move(fds[0])));
  return std::unique_ptr<Carrier>(std::make_unique<ShmCarrier>(std::move(fd), std::move(segment), std::move(fds[1]), std::move(fds[2])));
}

}  // namespace

Result<Link> connect(const HostPort& hp, CarrierKind kind, uint64_t deadline_ns, uint8_t wafer) {
  const std::string where = hp.host + ":" + hp.port;
  BATON_ASSIGN(Fd fd, connect_tcp(hp.host, hp.port, deadline_ns));
  auto welcome = handshake(fd.get(), CarrierKind::tcp, wafer, where, deadline_ns);
  if (!welcome) return welcome.error();
  const Welcome& w = *welcome;
  Link link;
  link.daemon = {w.instance, w.epoch, w.capabilities, w.pid, w.minor, std::max<uint8_t>(1, w.wafers), w.emulated != 0, w.same_host != 0};
  if (kind == CarrierKind::shm && !w.same_host)
    return Error(BATON_UNSUPPORTED, "carrier=shm, but " + where + " is another host", "leave the option out, or carrier=tcp");
  if (kind != CarrierKind::tcp && w.same_host && (w.capabilities & kCapShm)) {
    auto up = upgrade(w.unix_name, w.instance, wafer, deadline_ns);
    if (up) {
      link.carrier = std::move(*up);
      return link;
    }
    // Another network namespace (a container) has the same boot id but not the socket: TCP works there.
    if (kind == CarrierKind::shm) return up.error();
  }
  link.carrier = std::make_unique<TcpCarrier>(std::move(fd), std::make_unique_for_overwrite<uint8_t[]>(kArenaBytes));
  return link;
}

}  // namespace baton::cs3
