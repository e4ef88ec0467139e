#include "emulators/cs3/calendar.h"

#include <algorithm>
#include <iterator>

namespace baton::cs3 {

uint64_t Calendar::take(uint64_t ready_ns, uint64_t cost_ns) {
  if (cost_ns == 0) return ready_ns;
  auto next = busy_.upper_bound(ready_ns);
  auto before = next == busy_.begin() ? busy_.end() : std::prev(next);
  uint64_t begin = ready_ns;
  for (;; before = next++) {
    if (before != busy_.end()) begin = std::max(begin, before->second);
    if (next == busy_.end() || next->first - begin >= cost_ns) break;
  }
  const uint64_t end = begin + cost_ns;
  const uint64_t until = next != busy_.end() && next->first == end ? next->second : end;
  if (until != end) busy_.erase(next);
  if (before != busy_.end() && before->second == begin) before->second = until;  // neighbours are one entry
  else busy_[begin] = until;
  if (busy_.size() > kMostBusy) busy_.erase(busy_.begin());
  return end;
}

}  // namespace baton::cs3
