#include "transport/uring.hpp"

#include <fmt/format.h>
#include <liburing.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

namespace baton::transport {
namespace {

constexpr uint64_t kPieceBytes = 1 << 20;   // the most that one transfer moves
constexpr uint64_t kBounceBytes = 128 << 10;
constexpr uint32_t kBounces = 32;
constexpr uint32_t kFiles = 16, kMemories = 16;
constexpr uint32_t kTries = 1000;           // of one transfer that keeps saying EAGAIN

struct File {
  int fd;
  bool direct;
  std::string name;
};

struct Memory {
  uint8_t* base = nullptr;
  uint64_t bytes = 0;
};

// One transfer in flight.
struct Flight {
  UringIo::Way way;
  uint32_t file;
  uint64_t offset, bytes, need; // bytes: as submitted, rounded up where direct; need: the caller's
  uint64_t done;
  uint8_t* at;                  // the memory that the kernel sees
  uint8_t* home;                // the caller's, where `at` is a bounce buffer
  int32_t bounce;               // -1: none
  uint32_t tries;
};

}  // namespace

int open_direct(const char* path, int flags, uint32_t mode, bool& direct) {
  int fd = direct ? ::open(path, flags | O_CLOEXEC | O_DIRECT, mode) : -1;
  if (fd >= 0 || (direct && errno != EINVAL)) return fd;
  direct = false;
  return ::open(path, flags | O_CLOEXEC, mode);
}

Error file_error(int error, const std::string& what) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return Error(full ? BATON_CAPACITY : BATON_IO, fmt::format("{}: {}", what, strerror(error)),
               full ? "free space there, or raise the quota or RLIMIT_FSIZE" : "check the file system and its device (dmesg)");
}

struct Uring::Impl {
  io_uring ring{};
  bool has_ring = false, files_registered = false, buffers_registered = false, broken = false;
  std::string why; // there is no ring, or nothing is registered
  uint32_t depth = 0;
  uint8_t* bounce = nullptr;
  std::vector<File> files;
  Memory memories[kMemories]; // [0]: the bounce buffers
  std::vector<UringIo> batch;
  size_t next = 0;            // of batch
  uint64_t next_done = 0;     // bytes of batch[next] that are in flight or moved
  std::vector<Flight> flights;
  std::vector<uint32_t> free_flights, again;
  std::vector<int32_t> free_bounces;
  uint32_t in_flight = 0;     // the kernel has them, or the submission queue
  Status result;

  ~Impl() {
    next = batch.size();
    while (in_flight > 0) pump(true, BATON_NO_DEADLINE); // the kernel still uses the memory
    if (has_ring) io_uring_queue_exit(&ring);
    if (bounce) ::munmap(bounce, kBounces * kBounceBytes);
  }

  void open_ring() {
    if (const int rc = io_uring_queue_init(depth, &ring, IORING_SETUP_CLAMP); rc < 0) {
      why = fmt::format("io_uring_setup: {}", strerror(-rc));
      return;
    }
    has_ring = true;
    files_registered = io_uring_register_files_sparse(&ring, kFiles) == 0;
    buffers_registered = io_uring_register_buffers_sparse(&ring, kMemories) == 0 && set_memory(0, bounce, kBounces * kBounceBytes);
  }

  bool set_memory(uint32_t i, uint8_t* base, uint64_t bytes) {
    const iovec v{base, bytes};
    const int rc = io_uring_register_buffers_update_tag(&ring, i, &v, nullptr, 1);
    if (rc >= 0) memories[i] = {base, bytes};
    else why = fmt::format("registering {} bytes of memory: {}", bytes, strerror(-rc));
    return rc >= 0;
  }

  int registered(const Flight& f) const {
    const uint8_t* at = f.at + f.done;
    for (uint32_t i = 0; buffers_registered && i < kMemories; ++i)
      if (at >= memories[i].base && f.at + f.bytes <= memories[i].base + memories[i].bytes) return int(i);
    return -1;
  }

  void fail(int error, const Flight& f) {
    if (!result.ok()) return;
    result = file_error(error, fmt::format("{}: {} of {} bytes at {}", files[f.file].name, f.way == UringIo::read ? "read" : "write",
                                           f.bytes - f.done, f.offset + f.done));
  }

  // The next transfer of the batch; false: none, or no bounce buffer is free.
  bool cut(Flight& f) {
    if (next == batch.size() || !result.ok()) return false;
    const UringIo& io = batch[next];
    const bool direct = files[io.file].direct;
    uint8_t* at = static_cast<uint8_t*>(io.memory) + next_done;
    const uint64_t left = io.bytes - next_done;
    f = {io.way, io.file, io.offset + next_done, std::min(left, kPieceBytes), 0, 0, at, at, -1, 0};
    if (direct && (reinterpret_cast<uintptr_t>(at) % kDirectBytes || left < kDirectBytes)) {
      if (free_bounces.empty()) return false;
      f.bounce = free_bounces.back();
      free_bounces.pop_back();
      f.need = std::min(left, kBounceBytes);
      f.bytes = direct_up(f.need);
      f.at = bounce + uint64_t(f.bounce) * kBounceBytes;
      if (f.way == UringIo::write) {
        std::memcpy(f.at, at, f.need);
        std::memset(f.at + f.need, 0, f.bytes - f.need);
      }
    } else {
      if (direct) f.bytes &= ~(kDirectBytes - 1);
      f.need = f.bytes;
    }
    next_done += f.need;
    if (next_done == io.bytes) ++next, next_done = 0;
    return true;
  }

  // What a system call or a completion said of it. True: it is over.
  bool finish(Flight& f, int64_t moved) {
    if (moved == -EINTR || moved == -EAGAIN) {
      if (++f.tries < kTries && result.ok()) return false;
      fail(int(-moved), f);
    } else if (moved < 0) {
      fail(int(-moved), f);
    } else {
      uint64_t done = f.done + uint64_t(moved);
      const bool read = f.way == UringIo::read;
      if (done < (read ? f.need : f.bytes)) {
        if (files[f.file].direct) done &= ~(kDirectBytes - 1); // goes on at an aligned byte
        const bool on = done > f.done;
        f.done = done;
        if (on && result.ok()) return false;
        if (read && result.ok())
          result = Error(BATON_CORRUPT, fmt::format("{}: ends within the {} bytes at {}", files[f.file].name, f.need, f.offset), "make the file anew");
        else fail(EIO, f);
      } else if (read && f.bounce >= 0) {
        std::memcpy(f.home, f.at, f.need);
      }
    }
    if (f.bounce >= 0) free_bounces.push_back(f.bounce);
    return true;
  }

  void without_ring() {
    for (Flight f; cut(f);) {
      int64_t n;
      do {
        const File& file = files[f.file];
        n = f.way == UringIo::read ? ::pread(file.fd, f.at + f.done, f.bytes - f.done, off_t(f.offset + f.done))
                                   : ::pwrite(file.fd, f.at + f.done, f.bytes - f.done, off_t(f.offset + f.done));
      } while (!finish(f, n < 0 ? -int64_t(errno) : n));
    }
  }

  void queue(uint32_t i) {
    Flight& f = flights[i];
    io_uring_sqe* e = io_uring_get_sqe(&ring); // there are as many as flights
    const int fd = files_registered ? int(f.file) : files[f.file].fd, memory = registered(f);
    uint8_t* at = f.at + f.done;
    const uint32_t n = uint32_t(f.bytes - f.done);
    if (f.way == UringIo::read) {
      if (memory >= 0) io_uring_prep_read_fixed(e, fd, at, n, f.offset + f.done, memory);
      else io_uring_prep_read(e, fd, at, n, f.offset + f.done);
    } else {
      if (memory >= 0) io_uring_prep_write_fixed(e, fd, at, n, f.offset + f.done, memory);
      else io_uring_prep_write(e, fd, at, n, f.offset + f.done);
    }
    if (files_registered) io_uring_sqe_set_flags(e, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data64(e, i);
    ++in_flight;
  }

  // Submits what fits, waits for one completion if asked to, reaps all. False at the deadline.
  bool pump(bool block, uint64_t deadline_ns) {
    if (!has_ring) {
      without_ring();
      return true;
    }
    while (!again.empty()) queue(again.back()), again.pop_back();
    while (!free_flights.empty() && !broken && cut(flights[free_flights.back()])) queue(free_flights.back()), free_flights.pop_back();
    int rc = 0;
    if (block && in_flight > 0 && deadline_ns != BATON_NO_DEADLINE) {
      const uint64_t now = now_ns(), left = deadline_ns > now ? deadline_ns - now : 0;
      __kernel_timespec t{int64_t(left / 1000000000), int64_t(left % 1000000000)};
      io_uring_cqe* first;
      rc = io_uring_submit_and_wait_timeout(&ring, &first, 1, &t, nullptr);
    } else {
      rc = io_uring_submit_and_wait(&ring, block && in_flight > 0 ? 1 : 0);
    }
    if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY && rc != -ETIME) {
      in_flight -= io_uring_sq_ready(&ring); // the kernel will never see these
      broken = true;
      if (result.ok()) result = file_error(-rc, "io_uring_enter");
    }
    unsigned head, n = 0;
    io_uring_cqe* c;
    io_uring_for_each_cqe(&ring, head, c) {
      const uint32_t i = uint32_t(io_uring_cqe_get_data64(c));
      --in_flight, ++n;
      (finish(flights[i], c->res) ? free_flights : again).push_back(i);
    }
    io_uring_cq_advance(&ring, n);
    return rc != -ETIME;
  }

  bool idle() const { return in_flight == 0 && again.empty() && (next == batch.size() || !result.ok()); }
};

Uring::Uring(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Uring::Uring(Uring&&) noexcept = default;
Uring& Uring::operator=(Uring&&) noexcept = default;
Uring::~Uring() = default;

Result<Uring> Uring::open(const UringOptions& options) {
  if (options.depth < 1 || options.depth > 1024)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("{} transfers in flight", options.depth), "ask for 1 to 1024");
  auto m = std::make_unique<Impl>();
  m->depth = options.depth;
  void* p = ::mmap(nullptr, kBounces * kBounceBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return Error(BATON_CAPACITY, fmt::format("bounce buffers of {} bytes: {}", kBounces * kBounceBytes, strerror(errno)), "free memory");
  m->bounce = static_cast<uint8_t*>(p);
  if (options.io_uring) m->open_ring();
  else m->why = "not asked for";
  m->flights.resize(m->depth);
  for (uint32_t i = 0; i < m->depth; ++i) m->free_flights.push_back(m->depth - 1 - i);
  for (uint32_t i = 0; i < kBounces; ++i) m->free_bounces.push_back(int32_t(kBounces - 1 - i));
  return Uring(std::move(m));
}

Result<uint32_t> Uring::add_file(int fd, bool direct, std::string name) {
  Impl& m = *impl_;
  if (m.files.size() == kFiles) return Error(BATON_CAPACITY, fmt::format("{}: this ring has {} files", name, kFiles), "open another ring");
  const uint32_t i = uint32_t(m.files.size());
  if (m.files_registered) {
    if (const int rc = io_uring_register_files_update(&m.ring, i, &fd, 1); rc < 0)
      return file_error(-rc, fmt::format("{}: registering it", name));
  }
  m.files.push_back({fd, direct, std::move(name)});
  return i;
}

bool Uring::add_memory(void* memory, uint64_t bytes) {
  Impl& m = *impl_;
  for (uint32_t i = 1; m.buffers_registered && i < kMemories; ++i)
    if (!m.memories[i].base) return m.set_memory(i, static_cast<uint8_t*>(memory), bytes);
  return false;
}

void Uring::remove_memory(void* memory) {
  for (uint32_t i = 1; i < kMemories; ++i)
    if (impl_->memories[i].base == memory && memory) {
      impl_->set_memory(i, nullptr, 0);
      impl_->memories[i] = {};
    }
}

Status Uring::start(std::span<const UringIo> batch) {
  Impl& m = *impl_;
  if (!m.idle()) return Error(BATON_BUSY, "a batch of files is under way on this ring", "wait for it, or open another ring");
  if (m.broken) return Error(BATON_IO, "this ring failed before", "open another ring, with io_uring = false if that fails too");
  m.batch.clear();
  m.next = 0, m.next_done = 0;
  m.result = {};
  for (const UringIo& io : batch) {
    if (io.file >= m.files.size() || (m.files[io.file].direct && io.offset % kDirectBytes))
      return Error(BATON_INVALID_ARGUMENT, fmt::format("file {}, offset {}: no such file, or not a multiple of {}", io.file, io.offset, kDirectBytes),
                   "this is a bug of the caller");
    if (io.bytes == 0) continue;
    if (!m.batch.empty()) {
      UringIo& last = m.batch.back();
      if (last.file == io.file && last.way == io.way && last.offset + last.bytes == io.offset && static_cast<uint8_t*>(last.memory) + last.bytes == io.memory) {
        last.bytes += io.bytes;
        continue;
      }
    }
    m.batch.push_back(io);
  }
  return {};
}

bool Uring::step() {
  if (!impl_->idle()) impl_->pump(false, 0);
  return impl_->idle();
}

Status Uring::wait(uint64_t deadline_ns) {
  while (!impl_->idle())
    if (!impl_->pump(true, deadline_ns) && !impl_->idle()) return Error(BATON_DEADLINE, "files: the batch is still under way", "wait longer");
  return impl_->result;
}

Status Uring::run(std::span<const UringIo> batch, uint64_t deadline_ns) {
  BATON_TRY(start(batch));
  return wait(deadline_ns);
}

int Uring::fd() const { return impl_->has_ring ? impl_->ring.ring_fd : -1; }

std::string Uring::describe() const {
  const Impl& m = *impl_;
  if (!m.has_ring) return fmt::format("pread and pwrite ({})", m.why);
  std::string s = fmt::format("io_uring, {} in flight, files {}registered, buffers {}registered", m.depth, m.files_registered ? "" : "not ",
                              m.buffers_registered ? "" : "not ");
  return m.why.empty() ? s : s + " (" + m.why + ")";
}

}  // namespace baton::transport
