#include "drivers/cs3/regions.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

namespace baton::cs3 {

// memfd and tmpfs: reading and writing them never blocks on a disk or a network (hugetlbfs cannot be written with pwrite).
static bool shareable(int fd) {
  struct statfs fs{};
  return ::fcntl(fd, F_GET_SEALS) >= 0 && ::fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

static bool tell(Carrier& c, Op op, uint32_t number) {
  Ticket* t = c.begin(0);
  if (!t) return false;
  t->owner = kQuietOwner;
  Submission s{};
  s.op = uint16_t(op);
  s.region = number;
  c.push(*t, s);
  return true;
}

// A free entry, or the one unused for longest.
Region* Regions::place(Carrier& c) {
  Region* oldest = nullptr;
  for (Region& r : table_) {
    if (r.number == 0) return &r;
    if (r.in_flight == 0 && (!oldest || r.used < oldest->used)) oldest = &r;
  }
  if (!oldest || !tell(c, Op::region_drop, oldest->number)) return nullptr;
  *oldest = Region();
  return oldest;
}

Region* Regions::use(Carrier& c, int fd, bool write) {
  struct stat st{};
  if (::fstat(fd, &st) != 0) return nullptr;
  for (Region& r : table_) {
    if (r.number == 0 || r.ino != st.st_ino || r.dev != st.st_dev || r.bytes != st.st_size) continue;
    if (!(write ? r.writable : r.readable)) return nullptr;
    r.used = ++clock_;
    ++r.in_flight;
    return &r;
  }
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || (flags & O_APPEND) || !shareable(fd)) return nullptr;
  const int access = flags & O_ACCMODE;
  const bool readable = access != O_WRONLY, writable = access != O_RDONLY;
  if (!(write ? writable : readable)) return nullptr;
  Region* r = place(c);
  if (!r) return nullptr;
  const uint32_t number = uint32_t(r - table_) + 1;
  if (!c.pass_fd(fd, number) || !tell(c, Op::region_add, number)) return nullptr;
  *r = {st.st_dev, st.st_ino, st.st_size, number, 1, readable, writable, ++clock_};
  return r;
}

void Regions::done(uint32_t number) {
  if (number && number <= kMaxRegions && table_[number - 1].in_flight) --table_[number - 1].in_flight;
}

}  // namespace baton::cs3
