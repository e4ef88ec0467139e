// regions.h: host memory objects that the daemon has by descriptor, so that a copy from or to them crosses no arena.
//
// Kept by (device, inode, size): a descriptor number may be reused, an inode cannot while the daemon holds its descriptor. At most
// kMaxRegions; the one unused for longest goes first, and none while a copy that names it is in flight.
//
// Owner    The device; one for each connection.   Threads  one at a time.
// Cost     use(): one fstat; the first time also two fcntl, a statfs and a sendmsg.
// Errors   none: use() returns nullptr where the object cannot be shared (no tmpfs, no access, all busy), and the copy takes the arena.
//
//     if (Region* r = regions.use(carrier, side.fd, write)) { s.region = r->number; ...; regions.done(*r); }
#pragma once

#include "drivers/cs3/link/carrier.h"

#include <sys/types.h>

namespace baton::cs3 {

inline constexpr uint32_t kQuietOwner = UINT32_MAX - 2; // of tickets whose answer nobody waits for

struct Region {
  dev_t dev = 0;
  ino_t ino = 0;
  off_t bytes = 0;
  uint32_t number = 0;  // 0: free
  uint32_t in_flight = 0;
  bool readable = false, writable = false;
  uint64_t used = 0;    // by a counter, for the choice of the oldest
};

class Regions {
 public:
  // The region of `fd`, registered if need be, counted as in flight.
  Region* use(Carrier&, int fd, bool write);
  void done(uint32_t number);
  void clear() { *this = Regions(); }

 private:
  Region* place(Carrier&);
  Region table_[kMaxRegions];
  uint64_t clock_ = 0;
};

}  // namespace baton::cs3
