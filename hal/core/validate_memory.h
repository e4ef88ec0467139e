// validate_memory.h: which bytes of each buffer have been written, and which ops in flight touch which: reads of memory that nobody has
// written, and two ops that touch the same bytes with nothing that orders them.
//
// An op counts where it is issued, and it writes from then on: a reader is at fault if no writer was even begun. Of two ops that are issued
// and not complete neither can have waited for the other, so on different queues they are unordered. What is not certain is not said: a
// launch is taken at what validate_program.h can tell, one that reports progress may be waited for at its marks and races with nobody, a
// table queue's far end is not known, and on one queue what a device runs in order is no harm. A buffer that the caller has mapped,
// exported or imported may be written from elsewhere, so all of it counts as written.
//
// Owner    the Validator.   Threads  inside the instance.
// Cost     an op: a map entry a side, merged with its neighbours; a buffer with more than 4,096 separate pieces counts as written whole.
// Errors   findings.
#pragma once

#include "hal/core/finding.h"
#include "hal/core/op.h"
#include "hal/core/validate_program.h"

#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace baton::core {

// Bytes [first, second) of a buffer.
using Bytes = std::pair<uint64_t, uint64_t>;

// A set of bytes, as disjoint pieces that do not touch.
class Pieces {
 public:
  void add(Bytes);
  // The first part of `in` that is not in the set.
  std::optional<Bytes> missing(Bytes in) const;
  bool any(Bytes in) const;

 private:
  static constexpr size_t kMost = 4096;
  std::map<uint64_t, uint64_t> ends_;  // by begin
};

class MemoryWatch {
 public:
  explicit MemoryWatch(Findings& findings) : findings_(findings) {}

  void loaded(const baton_program*, const void* bytes, uint64_t count);
  void written_elsewhere(const baton_buffer*);
  void issued(const Op*);  // a second time, if the driver did not take it at first: not looked at again
  void ended(const Op*);
  void forget(const baton_buffer* b) { buffers_.erase(b); }
  void forget(const baton_program* p) { programs_.erase(p); }
  template <class T>
  void forget(const T*) {}  // other handles

 private:
  struct Use {
    const Op* op;
    Bytes bytes;
    bool write;
  };
  struct Contents {
    Pieces written;
    std::vector<Use> in_flight;
  };
  // One side of an op.
  struct Side {
    const baton_buffer* buffer;
    const char* binding;  // NULL: of a COPY or FILL
    Bytes reads{}, writes{}, may_write{};
    uint64_t attended = 0;
  };
  std::vector<Side> sides_of(const Op*) const;
  void check_read(const Op*, const Side&);
  void check_overlap(const Op*, const Side&, Bytes, bool write);

  Findings& findings_;
  std::unordered_map<const baton_buffer*, Contents> buffers_;
  std::unordered_map<const baton_program*, ProgramUse> programs_;
  std::unordered_set<const Op*> issued_;
};

}  // namespace baton::core
