#include "drivers/cs3/placement/place.hpp"

#include "drivers/cs3/placement/tiling.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

namespace baton::cs3 {
namespace {

constexpr double kNearBest = 0.99;  // of the room of the best grid: among these the squarest is taken

constexpr uint32_t kMaxColumns = 128;  // of regions: what is tried costs by it

std::string gigabytes(uint64_t bytes) { return bytes >= 100'000'000 ? fmt::format("{:.2f} GB", double(bytes) / 1e9) : fmt::format("{:.2f} MB", double(bytes) / 1e6); }

// Rows that may be used, from north to south.
Result<std::vector<uint32_t>> good_rows(const WaferData& w, const std::vector<uint32_t>& bad) {
  for (const uint32_t row : bad)
    if (row >= w.fabric_height) return Error(BATON_INVALID_ARGUMENT, fmt::format("bad row {} of a fabric of {} rows", row, w.fabric_height), "rows are counted from 0 in the north");
  std::vector<uint32_t> good;
  for (uint32_t row = w.reserved_north; row < w.reserved_north + w.usable_height(); ++row)
    if (std::find(bad.begin(), bad.end(), row) == bad.end()) good.push_back(row);
  if (good.empty()) return Error(BATON_CAPACITY, "every usable row of the fabric is bad", "take another wafer");
  return good;
}

// Layers in the order of the model, what is beside the first and the last included, as something to be cut: bytes of any run of them.
class Chain {
 public:
  Chain(const Shape& s, uint32_t sequences, bool pinned, uint64_t both, uint64_t room) : room_(room) {
    bytes_.push_back(0), kv_.push_back(0);
    for (size_t l = 0; l < s.layers.size(); ++l) {
      uint64_t own = s.layers[l].weights + s.layers[l].scratch * sequences;
      if (pinned && l == 0) own += s.first.weights + s.first.scratch * sequences;
      if (pinned && l + 1 == s.layers.size()) own += s.last.weights + s.last.scratch * sequences + both;
      bytes_.push_back(bytes_.back() + own);
      kv_.push_back(kv_.back() + s.layers[l].kv_token);
      most_ = std::max(most_, s.layers[l].kv_token);
    }
  }
  size_t layers() const { return bytes_.size() - 1; }
  // Of layers [from, to) with so many tokens.
  uint64_t load(size_t from, size_t to, uint64_t tokens) const { return bytes_[to] - bytes_[from] + (kv_[to] - kv_[from]) * tokens; }
  bool fits(size_t from, size_t to, uint64_t tokens) const { return load(from, to, tokens) <= room_; }
  // The fewest wafers that keep so many tokens, by bytes alone; 0: a layer is too large for one.
  uint32_t wafers(uint64_t tokens) const {
    if (most_ && tokens > room_ / most_) return 0;
    uint32_t n = 0;
    for (size_t from = 0, to = 0; from < layers(); from = to, ++n) {
      while (to < layers() && fits(from, to + 1, tokens)) ++to;
      if (to == from) return 0;
    }
    return n;
  }
  // The most tokens that so many wafers keep; nothing: not even weights fit.
  std::optional<uint64_t> tokens(uint32_t wafers_there) const {
    const auto kept = [&](uint64_t t) { const uint32_t n = wafers(t); return n && n <= wafers_there; };
    if (!kept(0)) return std::nullopt;
    uint64_t low = 0, high = most_ ? room_ / most_ : 0;
    while (low < high) {
      const uint64_t middle = low + (high - low + 1) / 2;
      if (kept(middle)) low = middle;
      else high = middle - 1;
    }
    return low;
  }
  // Layers of each wafer: of the cuts that keep the most tokens, the most even one with so many tokens (the least sum of squares).
  std::vector<uint32_t> cut(uint32_t wafers_there) const {
    const std::optional<uint64_t> most = tokens(wafers_there);
    const uint64_t t = most.value_or(0);
    const size_t n = layers();
    constexpr double kNever = std::numeric_limits<double>::infinity();
    std::vector<std::vector<double>> cost(wafers_there + 1, std::vector<double>(n + 1, kNever));
    std::vector<std::vector<uint32_t>> taken(wafers_there + 1, std::vector<uint32_t>(n + 1));
    cost[0][0] = 0;
    for (uint32_t w = 1; w <= wafers_there; ++w)
      for (size_t to = w; to + (wafers_there - w) <= n; ++to)
        for (size_t from = to; from-- >= w;) {  // of equal ones, that with more on the first wafers
          if (most && !fits(from, to, t)) break;
          const double here = double(load(from, to, t)), all = cost[w - 1][from] + here * here;
          if (all < cost[w][to]) cost[w][to] = all, taken[w][to] = uint32_t(to - from);
        }
    std::vector<uint32_t> counts(wafers_there);
    for (size_t w = wafers_there, to = n; w > 0; to -= counts[--w]) counts[w - 1] = taken[w][to];
    return counts;
  }

 private:
  uint64_t room_, most_ = 0;           // of a wafer; of a layer's tokens
  std::vector<uint64_t> bytes_, kv_;   // of the layers before
};

bool pinned(const Request& r) { return r.ends == Ends::pinned || r.wafers == 1; }

Chain chain_of(const Shape& s, const Request& r, uint64_t room) { return Chain(s, r.sequences, pinned(r), r.wafers > 1 ? s.both : 0, room); }

// Of what lies in a wafer's strip. A table that both ends use is on the first wafer and on the last.
uint64_t ends_weights(const Shape& s, const WaferUse& u) {
  const uint64_t again = u.ends_first == 0 && u.ends_last > 0 ? s.both : 0;
  return uint64_t(std::ceil(u.ends_first * double(s.first.weights)) + std::ceil(u.ends_last * double(s.last.weights))) + again;
}
uint64_t ends_scratch(const Shape& s, const WaferUse& u, uint32_t sequences) {
  return ((u.ends_first > 0 ? s.first.scratch : 0) + (u.ends_last > 0 ? s.last.scratch : 0)) * sequences;
}

// Which layers and what of the ends each wafer has.
std::vector<WaferUse> cut(const Shape& s, const Request& r, uint64_t room) {
  std::vector<WaferUse> all(r.wafers);
  if (pinned(r)) all.front().ends_first = all.back().ends_last = 1;
  const std::vector<uint32_t> counts = s.layers.empty() ? std::vector<uint32_t>(r.wafers) : chain_of(s, r, room).cut(r.wafers);
  uint32_t next = 0;
  uint64_t most = 0;
  for (uint32_t i = 0; i < r.wafers; ++i) {
    WaferUse& w = all[i];
    w.first_layer = next;
    w.layers = counts[i];
    for (; next < w.first_layer + w.layers; ++next) {
      w.weights += s.layers[next].weights;
      w.scratch += s.layers[next].scratch * r.sequences;
      w.kv_token += s.layers[next].kv_token;
    }
    most = std::max(most, w.weights);
  }
  if (!pinned(r)) {  // first where layers leave room, then evenly
    const double whole = double(s.first.weights + s.last.weights);
    double gap = 0, each = 0;
    for (const WaferUse& w : all) gap += double(most - w.weights);
    each = gap < whole ? (whole - gap) / r.wafers : 0;
    for (WaferUse& w : all) {
      const double here = each + double(most - w.weights) * (gap < whole ? 1 : whole / gap);
      w.ends_first = w.ends_last = whole > 0 ? here / whole : 1.0 / r.wafers;
    }
  }
  for (WaferUse& w : all) {
    w.weights += ends_weights(s, w);
    w.scratch += ends_scratch(s, w, r.sequences);
  }
  return all;
}

class Layout {
 public:
  Layout(const WaferData& w, const Shape& s, const Request& r, const std::vector<uint32_t>& rows) : w_(w), s_(s), r_(r), rows_(rows) {}

  // The regions of one wafer; its tokens go to `use`.
  std::vector<Region> regions(uint32_t index, WaferUse& use) const {
    std::vector<Region> all;
    const uint32_t strip = use.layers ? strip_rows(use) : uint32_t(rows_.size());
    use.capacity = uint64_t(w_.usable_width()) * rows_.size() * w_.pe_bytes();
    if (use.layers) all = best_grid(index, use, strip);
    if (strip) {
      Region r = region(index, kEnds, {0, uint32_t(rows_.size()) - strip, w_.usable_width(), strip});
      r.weights = ends_weights(s_, use);
      r.scratch = ends_scratch(s_, use, r_.sequences);
      all.push_back(r);
    }
    use.kv_tokens = use.layers ? tokens(all) : UINT64_MAX;
    return all;
  }

 private:
  static uint64_t tokens(const std::vector<Region>& all) {
    uint64_t least = UINT64_MAX;
    for (const Region& r : all)
      if (r.layer != kEnds) least = std::min(least, r.kv_tokens);
    return least;
  }
  uint32_t strip_rows(const WaferUse& u) const {
    const uint64_t row = uint64_t(w_.usable_width()) * w_.pe_bytes(), bytes = ends_weights(s_, u) + ends_scratch(s_, u, r_.sequences);
    return uint32_t(std::min<uint64_t>((bytes + row - 1) / row, rows_.size()));
  }
  // A tile of usable columns and rows, on the fabric.
  Region region(uint32_t wafer, uint32_t layer, const Tile& t) const {
    Region r;
    r.wafer = wafer;
    r.layer = layer;
    r.rows = t.h;
    if (t.area()) r.at = {w_.reserved_west + t.x, rows_[t.y], t.w, rows_[t.y + t.h - 1] - rows_[t.y] + 1};
    r.capacity = r.pes() * w_.pe_bytes();
    if (layer == kEnds) return r;
    r.weights = s_.layers[layer].weights;
    r.scratch = s_.layers[layer].scratch * r_.sequences;
    r.kv_token = s_.layers[layer].kv_token;
    const uint64_t taken = r.weights + r.scratch;
    r.kv_tokens = r.capacity > taken ? kv_tokens(r.capacity - taken, r.rows, r.kv_token, r_.kv) : 0;
    return r;
  }
  std::vector<Region> grid(uint32_t wafer, const WaferUse& u, uint32_t strip, uint32_t columns) const {
    std::vector<Region> all;
    uint32_t layer = u.first_layer;
    for (const Tile& t : tile(w_.usable_width(), uint32_t(rows_.size()) - strip, u.layers, columns)) all.push_back(region(wafer, layer++, t));
    return all;
  }
  // By bytes of the smallest region, not by tokens: those depend on how KV lies, and a grid that is too small still has to be shown.
  std::vector<Region> best_grid(uint32_t wafer, const WaferUse& u, uint32_t strip) const {
    struct Try {
      std::vector<Region> regions;
      uint64_t room;
      uint32_t way;  // an allreduce's, across both sides
    };
    std::vector<Try> tries;
    uint64_t best = 0;
    for (uint32_t c = 1; c <= std::min({u.layers, w_.usable_width(), kMaxColumns}); ++c) {
      Try t{grid(wafer, u, strip, c), UINT64_MAX, 0};
      for (const Region& r : t.regions) {
        t.room = std::min(t.room, r.capacity);
        t.way = std::max(t.way, r.at.w + r.at.h);
      }
      best = std::max(best, t.room);
      tries.push_back(std::move(t));
    }
    std::erase_if(tries, [&](const Try& t) { return double(t.room) < kNearBest * double(best); });
    return std::min_element(tries.begin(), tries.end(), [](const Try& a, const Try& b) { return a.way < b.way; })->regions;
  }

  const WaferData& w_;
  const Shape& s_;
  const Request& r_;
  const std::vector<uint32_t>& rows_;
};

uint64_t room_of(const WaferData& w, const std::vector<uint32_t>& rows) { return uint64_t(w.usable_width()) * rows.size() * w.pe_bytes(); }

Placement lay_out(const WaferData& w, const Shape& s, const Request& r, const std::vector<uint32_t>& rows) {
  Placement p;
  p.wafer = w;
  p.request = r;
  p.wafers = cut(s, r, room_of(w, rows));
  p.kv_tokens = UINT64_MAX;
  const Layout layout(w, s, r, rows);
  for (uint32_t i = 0; i < r.wafers; ++i) {
    for (Region& region : layout.regions(i, p.wafers[i])) p.regions.push_back(region);
    p.kv_tokens = std::min(p.kv_tokens, p.wafers[i].kv_tokens);
  }
  if (s.kv_token() == 0) p.kv_tokens = 0;
  return p;
}

std::string name_of(const Region& r) {
  return fmt::format("{} on wafer {} ({} x {} PEs)", r.layer == kEnds ? std::string("the vocabulary") : fmt::format("layer {}", r.layer), r.wafer, r.at.w, r.rows);
}

// The region that is the most over with so many tokens, and by how many bytes.
struct Overrun {
  const Region* region = nullptr;
  uint64_t bytes = 0, kv = 0;
};
Overrun worst(const Placement& p, uint64_t tokens) {
  Overrun o;
  for (const Region& r : p.regions) {
    uint64_t kv = r.kv_token * tokens;
    if (p.request.kv == Kv::concat && r.rows) kv *= r.rows;  // one row keeps all: as if each did
    const uint64_t need = r.weights + r.scratch + kv;
    // Tokens are whole in a row: what fits by bytes may be one row's remainder over.
    const uint64_t over = need > r.capacity ? need - r.capacity : r.kv_token && r.kv_tokens < tokens ? r.kv_token * (tokens - r.kv_tokens) : 0;
    if (over > o.bytes) o = {&r, over, kv};
  }
  return o;
}

// The fewest wafers that keep so many tokens, up to the number of layers; 0: none.
uint32_t fewest(const WaferData& w, const Shape& s, Request r, const std::vector<uint32_t>& rows, uint64_t tokens) {
  r.wafers = 2;  // by bytes alone, as several are cut; a single one has a table of both ends once
  const uint32_t least = s.layers.empty() ? 0 : chain_of(s, r, room_of(w, rows)).wafers(tokens);
  const uint32_t most = least ? std::min<uint32_t>(kMaxWafers, uint32_t(s.layers.size())) : 1;
  for (r.wafers = least <= 2 ? 1 : least; r.wafers <= most; ++r.wafers)
    if (worst(lay_out(w, s, r, rows), tokens).bytes == 0) return r.wafers;
  return 0;
}

Error does_not_fit(const Placement& p, const Shape& s, const std::vector<uint32_t>& rows, uint64_t tokens) {
  const Request& r = p.request;
  const Overrun over = worst(p, tokens);
  const uint64_t capacity = p.wafers[0].capacity * r.wafers;
  uint64_t weights = 0;
  for (const WaferUse& w : p.wafers) weights += w.weights;
  std::string what = fmt::format("{} wafer{} of {}, {} of weights: ", r.wafers, r.wafers == 1 ? "" : "s", gigabytes(p.wafers[0].capacity), gigabytes(weights));
  what += weights > capacity ? fmt::format("{} too little", gigabytes(weights - capacity))
                                 : fmt::format("room for {} tokens of {} bytes, of {} asked for", p.kv_tokens, s.kv_token(), tokens);
  what += fmt::format("; {}: {} of weights + {} of scratch + {} of KV are {} over {}", name_of(*over.region), gigabytes(over.region->weights),
                      gigabytes(over.region->scratch), gigabytes(over.kv), gigabytes(over.bytes), gigabytes(over.region->capacity));
  std::string next;
  if (const uint32_t enough = fewest(p.wafer, s, r, rows, tokens)) next = fmt::format("{} wafer{}", enough, enough == 1 ? "" : "s");
  if (p.kv_tokens) {
    const uint64_t context = tokens / r.sequences, fit = p.kv_tokens / std::max<uint64_t>(1, context);
    if (r.sequences > 1 && fit) next += fmt::format("{}{} sequence{} of {}", next.empty() ? "" : ", ", fit, fit == 1 ? "" : "s", context);
    next += fmt::format("{}a context of {}", next.empty() ? "" : ", ", p.kv_tokens / r.sequences);
    if (r.kv == Kv::concat) next += ", kv shift";
    next += ", or where they are several sequences spill KV to host memory (baton worker --spill-bytes)";
  }
  return Error(BATON_CAPACITY, what, next.empty() ? "a smaller model, or weights of fewer bytes" : next);
}

}  // namespace

uint64_t kv_tokens(uint64_t bytes, uint32_t rows, uint64_t kv_token, Kv kv) {
  if (rows == 0 || kv_token == 0) return kv_token ? 0 : UINT64_MAX;
  const uint64_t in_a_row = bytes / rows / kv_token;
  return kv == Kv::shift ? in_a_row * rows : in_a_row;
}

uint32_t Placement::wafer_of(uint32_t layer) const {
  for (uint32_t i = 0; i < wafers.size(); ++i)
    if (layer >= wafers[i].first_layer && layer - wafers[i].first_layer < wafers[i].layers) return i;
  return 0;
}

const Region* Placement::region_of(uint32_t layer) const {
  for (const Region& r : regions)
    if (r.layer == layer) return &r;
  return nullptr;
}

Result<Placement> place(const WaferData& w, const Shape& s, const Request& request) {
  if (request.wafers > kMaxWafers || request.sequences == 0)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("{} wafers, {} sequences", request.wafers, request.sequences), fmt::format("1 to {} wafers (0: the fewest), 1 sequence or more", kMaxWafers));
  if (!s.layers.empty() && request.wafers > s.layers.size())
    return Error(BATON_INVALID_ARGUMENT, fmt::format("{} wafers for {} layers", request.wafers, s.layers.size()), "a wafer has at least one layer");
  if (request.context > UINT64_MAX / request.sequences / std::max<uint64_t>(1, s.kv_token()) / w.fabric_height)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("{} sequences of {} tokens", request.sequences, request.context), "ask for fewer");
  BATON_ASSIGN(const std::vector<uint32_t> rows, good_rows(w, request.bad_rows));
  Request r = request;
  const uint64_t tokens = s.kv_token() ? std::max<uint64_t>(1, r.context) * r.sequences : 0;
  if (r.wafers == 0) {
    r.wafers = fewest(w, s, r, rows, tokens);
    if (r.wafers == 0) r.wafers = std::max<uint32_t>(1, std::min<uint32_t>(kMaxWafers, uint32_t(s.layers.size())));  // refused below, with its numbers
  }
  Placement p = lay_out(w, s, r, rows);
  if (worst(p, tokens).bytes) return does_not_fit(p, s, rows, tokens);
  return p;
}

}  // namespace baton::cs3
