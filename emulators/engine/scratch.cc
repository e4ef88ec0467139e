#include "emulators/engine/scratch.h"

#include <algorithm>
#include <map>
#include <set>

namespace baton::engine {
namespace {

using program::Program;
using program::Storage;
using program::Value;

constexpr uint64_t kAlign = 64;     // a cache line, an AVX-512 register
constexpr uint64_t kMaxArena = 1ull << 46;

// Free ranges of the arena by offset; neighbours are merged, so that lives that end together make room for a larger one.
class FreeList {
 public:
  uint64_t take(uint64_t bytes) {
    auto best = by_size_.lower_bound({bytes, 0});
    if (best == by_size_.end()) return grow(bytes);
    auto [size, at] = *best;
    erase(at, size);
    if (size > bytes) insert(at + bytes, size - bytes);
    return at;
  }
  void give(uint64_t at, uint64_t bytes) {
    auto next = by_offset_.lower_bound(at);
    if (next != by_offset_.end() && next->first == at + bytes) {
      bytes += next->second;
      erase(next->first, next->second);
      next = by_offset_.lower_bound(at);
    }
    if (next != by_offset_.begin()) {
      auto before = std::prev(next);
      if (before->first + before->second == at) {
        at = before->first;
        bytes += before->second;
        erase(before->first, before->second);
      }
    }
    insert(at, bytes);
  }
  uint64_t end() const { return end_; }

 private:
  uint64_t grow(uint64_t bytes) {
    // A free range at the end is extended rather than left behind.
    uint64_t at = end_;
    if (!by_offset_.empty()) {
      auto last = std::prev(by_offset_.end());
      if (last->first + last->second == end_) {
        at = last->first;
        erase(last->first, last->second);
      }
    }
    end_ = at + bytes;
    return at;
  }
  void insert(uint64_t at, uint64_t bytes) {
    by_offset_[at] = bytes;
    by_size_.insert({bytes, at});
  }
  void erase(uint64_t at, uint64_t bytes) {
    by_offset_.erase(at);
    by_size_.erase({bytes, at});
  }
  std::map<uint64_t, uint64_t> by_offset_;           // offset -> bytes
  std::set<std::pair<uint64_t, uint64_t>> by_size_;  // (bytes, offset)
  uint64_t end_ = 0;
};

struct Life {
  uint32_t first = UINT32_MAX, last = 0;
  bool read = false;
};

std::vector<Life> lives(const Program& p) {
  std::vector<Life> all(p.values.size());
  for (uint32_t i = 0; i < p.ops.size(); ++i) {
    for (uint32_t v : p.ops[i].in) all[v].last = i, all[v].read = true;
    for (uint32_t v : p.ops[i].out) {
      all[v].first = std::min(all[v].first, i);
      all[v].last = std::max(all[v].last, i);
    }
  }
  return all;
}

}  // namespace

uint64_t scratch_bytes_of(const Program& p, const Value& v) {
  uint64_t n = 1;
  for (int64_t d : v.shape) n *= d == program::kTokens ? p.max_tokens : d == program::kSteps ? 1 : uint64_t(d);
  return (n * program::dtype_bytes(v.dtype) + kAlign - 1) / kAlign * kAlign;
}

Result<ScratchPlan> plan_scratch(const Program& p) {
  ScratchPlan plan;
  plan.offset.assign(p.values.size(), kNoScratch);
  std::vector<Life> life = lives(p);
  auto in_arena = [&](uint32_t v) {
    const Value& value = p.values[v];
    return value.storage == Storage::scratch || (value.storage == Storage::output && value.optional && life[v].read);
  };
  FreeList free;
  for (uint32_t i = 0; i < p.ops.size(); ++i) {
    // Outputs are placed before inputs are released: no op reads and writes the same bytes.
    for (uint32_t v : p.ops[i].out)
      if (life[v].first == i && in_arena(v)) plan.offset[v] = free.take(scratch_bytes_of(p, p.values[v]));
    auto release = [&](uint32_t v) {
      if (life[v].last != i || plan.offset[v] == kNoScratch || life[v].first == UINT32_MAX) return;
      free.give(plan.offset[v], scratch_bytes_of(p, p.values[v]));
      life[v].first = UINT32_MAX; // once
    };
    for (uint32_t v : p.ops[i].in) release(v);
    for (uint32_t v : p.ops[i].out) release(v);
    if (free.end() > kMaxArena)
      return Error(BATON_CAPACITY, "the program's scratch is beyond 2^46 bytes", "lower max_tokens");
  }
  plan.bytes = free.end();
  return plan;
}

}  // namespace baton::engine
