#include "tools/model/nfc.hpp"

#include "tools/model/utf8.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <unordered_map>
#include <vector>

namespace baton::model {

namespace {

struct Decomposition {
  uint32_t code, first, second;
  bool composes;
};
struct CombiningRange {
  uint32_t first, last;
  uint8_t klass;
};
#include "tools/model/nfc_tables.inc"

// Hangul syllables are arithmetic (Unicode 15, section 3.12).
constexpr uint32_t kS = 0xAC00, kL = 0x1100, kV = 0x1161, kT = 0x11A7, kLs = 19, kVs = 21, kTs = 28;

uint8_t combining_class(uint32_t c) {
  auto it = std::upper_bound(std::begin(kCombining), std::end(kCombining), c, [](uint32_t v, const CombiningRange& r) { return v < r.first; });
  if (it == std::begin(kCombining)) return 0;
  --it;
  return c <= it->last ? it->klass : 0;
}

void decompose(uint32_t c, std::vector<uint32_t>& out) {
  if (c >= kS && c < kS + kLs * kVs * kTs) {
    uint32_t s = c - kS;
    out.push_back(kL + s / (kVs * kTs));
    out.push_back(kV + s % (kVs * kTs) / kTs);
    if (s % kTs) out.push_back(kT + s % kTs);
    return;
  }
  auto it = std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), c, [](const Decomposition& d, uint32_t v) { return d.code < v; });
  if (it == std::end(kDecompositions) || it->code != c) {
    out.push_back(c);
    return;
  }
  decompose(it->first, out);
  if (it->second) decompose(it->second, out);
}

uint32_t compose(uint32_t a, uint32_t b) { // 0: the pair does not compose
  if (a >= kL && a < kL + kLs && b >= kV && b < kV + kVs) return kS + ((a - kL) * kVs + (b - kV)) * kTs;
  if (a >= kS && a < kS + kLs * kVs * kTs && (a - kS) % kTs == 0 && b > kT && b < kT + kTs) return a + (b - kT);
  static const std::unordered_map<uint64_t, uint32_t> pairs = [] {
    std::unordered_map<uint64_t, uint32_t> m;
    for (const Decomposition& d : kDecompositions)
      if (d.composes && d.second) m.emplace(uint64_t(d.first) << 32 | d.second, d.code);
    return m;
  }();
  auto it = pairs.find(uint64_t(a) << 32 | b);
  return it == pairs.end() ? 0 : it->second;
}

}  // namespace

std::string to_nfc(std::string_view text) {
  // Below U+0300 (first byte under 0xCC) every character is its own normal form and no mark follows.
  if (std::all_of(text.begin(), text.end(), [](char c) { return uint8_t(c) < 0xCC; })) return std::string(text);
  std::vector<uint32_t> codes;
  for (size_t i = 0; i < text.size();) {
    uint32_t c = 0;
    if (!utf8_next(text, i, c)) return std::string(text);
    decompose(c, codes);
  }
  // Marks between two starters are sorted by class, equal classes keep their order.
  for (size_t i = 0; i < codes.size();) {
    size_t j = i;
    while (j < codes.size() && combining_class(codes[j])) ++j;
    std::stable_sort(codes.begin() + long(i), codes.begin() + long(j), [](uint32_t a, uint32_t b) { return combining_class(a) < combining_class(b); });
    i = j + 1;
  }
  std::vector<uint32_t> out;
  size_t starter = SIZE_MAX;
  int last_class = -1; // of what stands between the starter and here; -1: nothing
  for (uint32_t c : codes) {
    int k = combining_class(c);
    if (starter != SIZE_MAX && last_class < k) {
      if (uint32_t whole = compose(out[starter], c)) {
        out[starter] = whole;
        continue;
      }
    }
    if (k == 0) {
      starter = out.size();
      last_class = -1;
    } else {
      last_class = k;
    }
    out.push_back(c);
  }
  std::string s;
  s.reserve(text.size());
  for (uint32_t c : out) utf8_append(s, c);
  return s;
}

}  // namespace baton::model
