#include "emulators/cs3/calendar.h"

#include <algorithm>
#include <iterator>

namespace baton::cs3 {

uint64_t Calendar::take(uint64_t ready_ns, uint64_t cost_ns) {
  if (cost_ns == 0) return ready_ns;
  uint64_t begin = ready_ns, at = ready_ns;
  auto next = busy_.upper_bound(ready_ns);
  if (next != busy_.begin()) {
    const auto before = std::prev(next);
    if (before->second >= ready_ns) {  // busy now, or until now: one entry with what follows
      begin = before->first;
      at = before->second;
      busy_.erase(before);
    }
  }
  while (next != busy_.end() && next->first - at < cost_ns) {
    cost_ns -= next->first - at;
    at = next->second;
    next = busy_.erase(next);
  }
  const uint64_t end = at + cost_ns;
  const bool joins = next != busy_.end() && next->first == end;
  busy_[begin] = joins ? next->second : end;
  if (joins) busy_.erase(next);
  if (busy_.size() > kMostBusy) busy_.erase(busy_.begin());
  return end;
}

}  // namespace baton::cs3
