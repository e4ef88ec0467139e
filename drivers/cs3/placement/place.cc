#include "drivers/cs3/placement/place.hpp"

#include "drivers/cs3/placement/tiling.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
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

// Which layers and what of the ends each wafer has.
std::vector<WaferUse> cut(const Shape& s, uint32_t wafers, uint32_t sequences, Ends ends) {
  std::vector<WaferUse> all(wafers);
  if (ends == Ends::pinned || wafers == 1) all.front().ends_first = all.back().ends_last = 1;
  // Whole layers as evenly as they go; those that are over go to the wafers with the least beside them, the inner ones.
  std::vector<uint32_t> order(wafers);
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    auto pinned = [&](uint32_t w) { return all[w].ends_first * double(s.first.weights) + all[w].ends_last * double(s.last.weights); };
    return pinned(a) < pinned(b);
  });
  const uint32_t n = uint32_t(s.layers.size());
  for (uint32_t i = 0; i < wafers; ++i) all[order[i]].layers = n / wafers + (i < n % wafers);
  uint32_t next = 0;
  uint64_t most = 0;
  for (WaferUse& w : all) {
    w.first_layer = next;
    for (uint32_t l = 0; l < w.layers; ++l, ++next) {
      w.weights += s.layers[next].weights;
      w.scratch += s.layers[next].scratch * sequences;
      w.kv_token += s.layers[next].kv_token;
    }
    most = std::max(most, w.weights);
  }
  if (ends == Ends::spread && wafers > 1) {  // first where layers leave room, then evenly
    const double whole = double(s.first.weights + s.last.weights);
    double gap = 0, each = 0;
    for (const WaferUse& w : all) gap += double(most - w.weights);
    each = gap < whole ? (whole - gap) / wafers : 0;
    for (WaferUse& w : all) {
      const double here = each + double(most - w.weights) * (gap < whole ? 1 : whole / gap);
      w.ends_first = w.ends_last = whole > 0 ? here / whole : 1.0 / wafers;
    }
  }
  for (WaferUse& w : all) {
    w.weights += uint64_t(std::ceil(w.ends_first * double(s.first.weights)) + std::ceil(w.ends_last * double(s.last.weights)));
    w.scratch += ((w.ends_first > 0 ? s.first.scratch : 0) + (w.ends_last > 0 ? s.last.scratch : 0)) * sequences;
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
      r.weights = ends_weights(use);
      r.scratch = ends_scratch(use);
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
  uint64_t ends_weights(const WaferUse& u) const {
    return uint64_t(std::ceil(u.ends_first * double(s_.first.weights)) + std::ceil(u.ends_last * double(s_.last.weights)));
  }
  uint64_t ends_scratch(const WaferUse& u) const {
    return ((u.ends_first > 0 ? s_.first.scratch : 0) + (u.ends_last > 0 ? s_.last.scratch : 0)) * r_.sequences;
  }
  uint32_t strip_rows(const WaferUse& u) const {
    const uint64_t row = uint64_t(w_.usable_width()) * w_.pe_bytes(), bytes = ends_weights(u) + ends_scratch(u);
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

Placement lay_out(const WaferData& w, const Shape& s, const Request& r, const std::vector<uint32_t>& rows) {
  Placement p;
  p.wafer = w;
  p.request = r;
  p.wafers = cut(s, r.wafers, r.sequences, r.ends);
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
  const uint32_t most = std::min<uint32_t>(kMaxWafers, std::max<uint32_t>(1, uint32_t(s.layers.size())));
  for (r.wafers = 1; r.wafers <= most; ++r.wafers)
    if (worst(lay_out(w, s, r, rows), tokens).bytes == 0) return r.wafers;
  return 0;
}

Error does_not_fit(const Placement& p, const Shape& s, const std::vector<uint32_t>& rows, uint64_t tokens) {
  const Request& r = p.request;
  const Overrun over = worst(p, tokens);
  const uint64_t capacity = p.wafers[0].capacity * r.wafers;
  std::string what = fmt::format("{} wafer{} of {}, {} of weights: ", r.wafers, r.wafers == 1 ? "" : "s", gigabytes(p.wafers[0].capacity), gigabytes(s.weights()));
  what += s.weights() > capacity ? fmt::format("{} too little", gigabytes(s.weights() - capacity))
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
    next += ", or spill KV to host memory";
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
