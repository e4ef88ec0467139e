#include "emulators/neuron/machine_page.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace baton::neuron_emu {

struct MachinePage::Header {
  uint64_t magic;
  uint32_t version;
  uint32_t chips, cores_per_chip;
  uint32_t chip_bytes, core_bytes;  // another build's page is another shape
  uint32_t pad[9];
};

namespace {

constexpr uint64_t kMagic = 0x65676170746e726eull;  // "nrntpage"
constexpr uint32_t kVersion = 1;

Error io(const std::string& what) { return Error(BATON_IO, what + ": " + std::strerror(errno), "name a folder that exists and is writable"); }

}  // namespace

MachinePage::~MachinePage() {
  if (header_) munmap(header_, bytes_);
  if (fd_ >= 0) close(fd_);
}

void MachinePage::swap(MachinePage& o) noexcept {
  std::swap(header_, o.header_);
  std::swap(bytes_, o.bytes_);
  std::swap(fd_, o.fd_);
}

MachineShape MachinePage::shape() const { return {header_->chips, header_->cores_per_chip}; }

ChipCounters& MachinePage::chip(uint32_t chip) const { return reinterpret_cast<ChipCounters*>(header_ + 1)[chip]; }

CoreCounters& MachinePage::core(uint32_t chip, uint32_t core) const {
  auto* cores = reinterpret_cast<CoreCounters*>(reinterpret_cast<ChipCounters*>(header_ + 1) + header_->chips);
  return cores[uint64_t(chip) * header_->cores_per_chip + core];
}

Result<MachinePage> MachinePage::map(int fd, uint64_t bytes) {
  MachinePage p;
  p.fd_ = fd;
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
  if (at == MAP_FAILED) return io("mapping the machine's counters");
  p.header_ = static_cast<Header*>(at);
  p.bytes_ = bytes;
  return p;
}

Result<MachinePage> MachinePage::open(const std::string& folder, MachineShape want) {
  const uint64_t bytes = sizeof(Header) + want.chips * (sizeof(ChipCounters) + want.cores_per_chip * sizeof(CoreCounters));
  const Header fresh{kMagic, kVersion, want.chips, want.cores_per_chip, sizeof(ChipCounters), sizeof(CoreCounters), {}};
  int fd = -1;
  if (!folder.empty()) {
    std::string path = folder + "/" + kFile;
    fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return io(path);
    // Alone with it, the file may be made anew; else it must be what we would have made. The one who makes it then shares it.
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
      Header found{};
      if (pread(fd, &found, sizeof found, 0) != sizeof found || std::memcmp(&found, &fresh, sizeof fresh) != 0)
        if (ftruncate(fd, 0) || ftruncate(fd, off_t(bytes)) || pwrite(fd, &fresh, sizeof fresh, 0) != sizeof fresh) {
          Error e = io(path);
          close(fd);
          return e;
        }
    }
    if (flock(fd, LOCK_SH)) {
      Error e = io(path);
      close(fd);
      return e;
    }
    Header found{};
    if (pread(fd, &found, sizeof found, 0) != sizeof found || std::memcmp(&found, &fresh, sizeof fresh) != 0) {
      close(fd);
      return Error(BATON_BUSY, path + " is of a machine with " + std::to_string(found.chips) + " chips that is in use, asked for " + std::to_string(want.chips),
                   "give every process of one machine the same options, or another folder");
    }
  }
  BATON_ASSIGN(MachinePage page, map(fd, bytes));
  if (fd < 0) *page.header_ = fresh;
  return page;
}

Result<MachinePage> MachinePage::read(const std::string& folder) {
  std::string path = folder + "/" + kFile;
  int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return Error(BATON_NOT_FOUND, path + ": " + std::strerror(errno), "name the folder of a machine that ran");
  struct stat st {};
  Header h{};
  if (flock(fd, LOCK_SH) || fstat(fd, &st) || pread(fd, &h, sizeof h, 0) != sizeof h || h.magic != kMagic || h.version != kVersion ||
      h.chip_bytes != sizeof(ChipCounters) || h.core_bytes != sizeof(CoreCounters) ||
      uint64_t(st.st_size) != sizeof(Header) + uint64_t(h.chips) * (sizeof(ChipCounters) + uint64_t(h.cores_per_chip) * sizeof(CoreCounters))) {
    close(fd);
    return Error(BATON_CORRUPT, path + " is not this build's page of counters", "remove the folder while no process uses it");
  }
  return map(fd, uint64_t(st.st_size));
}

}  // namespace baton::neuron_emu
