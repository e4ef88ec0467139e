// place: where a model lies on wafers: how many it takes, what each holds, how long contexts may be. Needs no device and no weights.
#include "tools/devctl/place_svg.h"
#include "tools/devctl/verbs.h"
#include "tools/model/synthetic.hpp"
#include "tools/model/wafers.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cstdio>

namespace baton::devctl {
namespace {

using cs3::Placement;
using cs3::WaferData;
using cs3::WaferUse;

constexpr size_t kMaxBadRows = 4096;

bool number(std::string_view s, uint32_t& n) {
  const auto r = std::from_chars(s.data(), s.data() + s.size(), n);
  return r.ec == std::errc() && r.ptr == s.data() + s.size();
}

// "17,100-103"
Result<std::vector<uint32_t>> rows_of(std::string_view text) {
  std::vector<uint32_t> rows;
  while (!text.empty()) {
    const size_t comma = text.find(',');
    const std::string_view one = text.substr(0, comma);
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
    const size_t dash = one.find('-');
    uint32_t from = 0, to = 0;
    if (!number(one.substr(0, dash), from) || !number(dash == std::string_view::npos ? one : one.substr(dash + 1), to) || to < from || to - from >= kMaxBadRows)
      return Error(BATON_INVALID_ARGUMENT, fmt::format("bad rows '{}'", one), "rows and ranges, as in 17,100-103");
    for (uint32_t r = from; r <= to; ++r) rows.push_back(r);
  }
  return rows;
}

// "762x1176"
Result<WaferData> with_fabric(const WaferData& w, std::string_view text) {
  const size_t x = text.find('x');
  uint32_t width = 0, height = 0;
  if (x == std::string_view::npos || !number(text.substr(0, x), width) || !number(text.substr(x + 1), height) || std::max(width, height) > 65535)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("fabric '{}'", text), "PEs, as in 762x1176");
  return cs3::resized(w, width, height);
}

struct Placed {
  std::string title;
  uint64_t tokens = 0;    // shown as KV: asked for, or all that fit
  uint64_t headline = 0;  // tokens, if every byte of SRAM held weights or KV
  uint32_t reserve = 0;   // bytes a PE that WaferLLM's programs leave unused
  uint64_t reserved = 0;  // tokens with that; 0: does not fit
  uint64_t kv_token = 0, weights = 0;
  Placement p;
};

Result<Placed> compute(const PlaceCall& call) {
  BATON_ASSIGN(const model::ModelConfig config, model::load_config(call.folder));
  BATON_ASSIGN(const model::Model m, model::shapes_alone(config, call.dtype));
  BATON_ASSIGN(const model::Numbers numbers, model::Numbers::of(m, model::Precision::automatic));
  BATON_ASSIGN(const model::Shard whole, model::Shard::make(m.config, 0, 1));
  BATON_ASSIGN(const cs3::Shape s, model::decode_shape(m, numbers, whole));
  BATON_ASSIGN(WaferData wafer, cs3::wafer_data(call.wafer));
  if (!call.fabric.empty()) {
    BATON_ASSIGN(wafer, with_fabric(wafer, call.fabric));
  }
  if (call.reserve >= 0) wafer.pe_reserve = uint32_t(std::min<int64_t>(call.reserve, wafer.pe_sram - 1));
  cs3::Request request{.wafers = call.wafers,
                       .sequences = call.sequences,
                       .context = call.context,
                       .kv = call.kv == "concat" ? cs3::Kv::concat : cs3::Kv::shift,
                       .ends = call.ends == "pinned" ? cs3::Ends::pinned : cs3::Ends::spread};
  BATON_ASSIGN(request.bad_rows, rows_of(call.bad_rows));
  Placed r;
  r.title = m.title();
  r.kv_token = s.kv_token();
  r.weights = s.weights();
  BATON_ASSIGN(r.p, place(wafer, s, request));
  r.tokens = call.context ? call.context * call.sequences : r.p.kv_tokens;
  const uint64_t all = wafer.sram_bytes() * r.p.request.wafers;
  r.headline = r.kv_token && all > r.weights ? (all - r.weights) / r.kv_token : 0;
  BATON_ASSIGN(const WaferData measured, cs3::wafer_data("cs2"));
  r.reserve = measured.pe_reserve;
  if (wafer.pe_reserve < r.reserve) {
    WaferData less = wafer;
    less.pe_reserve = r.reserve;
    cs3::Request same = r.p.request;
    same.context = 0;
    if (auto p = place(less, s, same)) r.reserved = p->kv_tokens;
  }
  return r;
}

uint64_t used(const WaferUse& w, uint64_t tokens) { return w.weights + w.scratch + w.kv_token * tokens; }

json document(const Placed& r) {
  json wafers = json::array();
  for (uint32_t i = 0; i < r.p.wafers.size(); ++i) {
    const WaferUse& w = r.p.wafers[i];
    json regions = json::array();
    for (const cs3::Region& g : r.p.regions) {
      if (g.wafer != i) continue;
      regions.push_back({{"layer", g.layer == cs3::kEnds ? json(nullptr) : json(g.layer)},
                         {"x", g.at.x}, {"y", g.at.y}, {"w", g.at.w}, {"h", g.at.h}, {"rows", g.rows},
                         {"capacity_bytes", g.capacity}, {"weight_bytes", g.weights}, {"scratch_bytes", g.scratch}, {"kv_tokens", g.kv_tokens}});
    }
    wafers.push_back({{"wafer", i}, {"first_layer", w.first_layer}, {"layers", w.layers}, {"vocabulary_share", {w.ends_first, w.ends_last}},
                      {"capacity_bytes", w.capacity}, {"weight_bytes", w.weights}, {"scratch_bytes", w.scratch}, {"kv_bytes", w.kv_token * r.tokens},
                      {"kv_tokens_fit", w.kv_tokens}, {"regions", regions}});
  }
  return {{"model", r.title}, {"wafer", r.p.wafer.name}, {"fabric", {r.p.wafer.fabric_width, r.p.wafer.fabric_height}}, {"pe_reserve_bytes", r.p.wafer.pe_reserve},
          {"sequences", r.p.request.sequences}, {"kv", r.p.request.kv == cs3::Kv::shift ? "shift" : "concat"}, {"weight_bytes", r.weights},
          {"kv_bytes_per_token", r.kv_token}, {"kv_tokens", r.p.kv_tokens}, {"context", r.p.context()}, {"kv_tokens_of_all_sram", r.headline},
          {"kv_tokens_with_reserve", {{"pe_reserve_bytes", r.reserve}, {"kv_tokens", r.reserved}}}, {"wafers", wafers}};
}

std::string gb(uint64_t bytes) { return fmt::format("{:.2f} GB", double(bytes) / 1e9); }

std::string text(const Placed& r) {
  const Placement& p = r.p;
  const WaferData& d = p.wafer;
  Table t({"WAFER", "LAYERS", "REGION", "WEIGHTS", "KV", "FREE", "USED"});
  for (size_t right = 3; right < 7; ++right) t.right(right);
  for (uint32_t i = 0; i < p.wafers.size(); ++i) {
    const WaferUse& w = p.wafers[i];
    const cs3::Region* g = p.region_of(w.first_layer);
    const uint64_t taken = used(w, r.tokens);
    t.row({std::to_string(i), w.layers == 1 ? std::to_string(w.first_layer) : fmt::format("{}-{}", w.first_layer, w.first_layer + w.layers - 1),
           g ? fmt::format("{} x {} PEs", g->at.w, g->rows) : "-", gb(w.weights), gb(w.kv_token * r.tokens), gb(w.capacity > taken ? w.capacity - taken : 0),
           fmt::format("{:.1f}%", 100 * double(taken) / double(w.capacity))});
  }
  const uint32_t n = p.request.sequences;
  std::string s = fmt::format("{} on {} wafer{} ({}, {} x {} PEs usable of {} x {}, {} B of each for data)\n\n{}\n", r.title, p.wafers.size(), p.wafers.size() == 1 ? "" : "s", d.name,
                              d.usable_width(), d.usable_height(), d.fabric_width, d.fabric_height, d.pe_bytes(), t.text());
  s += fmt::format("KV-cache     {} tokens fit ({} B each): {} sequence{} of {}\n", p.kv_tokens, r.kv_token, n, n == 1 ? "" : "s", p.context());
  s += fmt::format("             {} if no byte of {} were lost to edges, rectangles and code\n", r.headline, gb(d.sram_bytes() * p.wafers.size()));
  if (d.pe_reserve < r.reserve)
    s += r.reserved ? fmt::format("             {} if code, stack and buffers took {} B of each PE, as WaferLLM's table 5 implies (--reserve {})\n", r.reserved, r.reserve, r.reserve)
                    : fmt::format("             none if code, stack and buffers took {} B of each PE, as WaferLLM's table 5 implies: it would not fit\n", r.reserve);
  return s;
}

Status write(const std::string& path, const std::string& content) {
  std::FILE* f = std::fopen(path.c_str(), "wb");
  if (!f) return Error(BATON_PERMISSION, fmt::format("{} cannot be written (errno {})", path, errno), "name a file in a folder that is there and yours");
  const bool whole = std::fwrite(content.data(), 1, content.size(), f) == content.size();
  if (std::fclose(f) != 0 || !whole) return Error(BATON_IO, fmt::format("{}: writing failed", path), "see whether the disk is full");
  return {};
}

}  // namespace

int place_model(const Output& out, const PlaceCall& call) {
  auto r = compute(call);
  if (!r) return out.fail(r.error());
  if (!call.svg.empty()) {
    const Status st = write(call.svg, placement_svg(r->p, r->title, r->tokens));
    if (!st.ok()) return out.fail(st.error());
  }
  if (out.is_json()) out.document("place", document(*r));
  else out.print(text(*r));
  return kOk;
}

}  // namespace baton::devctl
