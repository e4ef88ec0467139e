#include "transport/timeline_board.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace baton::transport {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
constexpr int kTries = 1000; // of a reader against a writer in the middle; one that died there leaves it odd for good

}  // namespace

Status TimelineBoard::map() {
  void* p = mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_.get(), 0);
  if (p == MAP_FAILED) return io_error("cannot map a board of timelines", errno);
  page_ = static_cast<Page*>(p);
  return {};
}

TimelineBoard::~TimelineBoard() {
  if (page_) munmap(page_, sizeof(Page));
}

Result<std::unique_ptr<TimelineBoard>> TimelineBoard::make(const SessionId& session) {
  std::unique_ptr<TimelineBoard> b(new TimelineBoard);
  b->fd_ = Fd(memfd_create("baton-timelines", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!b->fd_ || ftruncate(b->fd_.get(), sizeof(Page)) || fcntl(b->fd_.get(), F_ADD_SEALS, kSeals)) return io_error("cannot make a board of timelines", errno);
  BATON_TRY(b->map());
  b->page_->session = session;
  return b;
}

Result<std::unique_ptr<TimelineBoard>> TimelineBoard::open(int32_t pid, uint64_t fd, const SessionId& session) {
  std::unique_ptr<TimelineBoard> b(new TimelineBoard);
  const std::string path = fmt::format("/proc/{}/fd/{}", pid, fd);
  b->fd_ = Fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat st {};
  if (!b->fd_ || fstat(b->fd_.get(), &st)) return io_error("cannot open " + path, errno);
  if (fcntl(b->fd_.get(), F_GET_SEALS) != kSeals || st.st_size != off_t(sizeof(Page)) || st.st_uid != geteuid())
    return Error(BATON_UNSUPPORTED, path + " is not a board of timelines", "run the same Baton version on both sides");
  BATON_TRY(b->map());
  if (b->page_->session != session) return Error(BATON_UNSUPPORTED, path + " is the board of another session", "connect again");
  return b;
}

std::optional<uint32_t> TimelineBoard::take() {
  const auto it = std::find(used_.begin(), used_.end(), false);
  if (it == used_.end()) return std::nullopt;
  *it = true;
  const auto slot = uint32_t(it - used_.begin());
  page_->changed[slot / 64].fetch_and(~(uint64_t(1) << slot % 64), std::memory_order_seq_cst); // what the slot's last user left is not the next one's
  return slot;
}

bool TimelineBoard::publish(uint32_t slot, uint64_t value, uint64_t modelled_ns) {
  Line& l = page_->lines[slot];
  const uint64_t s = l.sequence.load(std::memory_order_relaxed);
  l.sequence.store(s | 1, std::memory_order_relaxed);
  l.value.store(value, std::memory_order_release); // release: not before the odd number
  l.modelled_ns.store(modelled_ns, std::memory_order_release);
  l.sequence.store((s | 1) + 1, std::memory_order_release);
  page_->changed[slot / 64].fetch_or(uint64_t(1) << slot % 64, std::memory_order_seq_cst);
  return page_->parked.load(std::memory_order_seq_cst) && page_->parked.exchange(0, std::memory_order_seq_cst);
}

bool TimelineBoard::get(uint32_t slot, uint64_t& value, uint64_t& modelled_ns) const {
  const Line& l = page_->lines[slot];
  for (int i = 0; i < kTries; ++i) {
    const uint64_t s = l.sequence.load(std::memory_order_acquire);
    value = l.value.load(std::memory_order_acquire);
    modelled_ns = l.modelled_ns.load(std::memory_order_acquire);
    if (!(s & 1) && l.sequence.load(std::memory_order_relaxed) == s) return true;
    __builtin_ia32_pause();
  }
  return false;
}

}  // namespace baton::transport
