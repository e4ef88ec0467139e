// The fabric is drawn to scale; a region's height is cut by bytes: weights, KV, free.
#include "tools/devctl/place_svg.h"

#include <fmt/format.h>

#include <algorithm>

namespace baton::devctl {
namespace {

using cs3::Placement;
using cs3::Region;

constexpr double kScale = 0.5;       // pixels a PE
constexpr double kGap = 56, kMargin = 40, kTop = 92, kBottom = 84;
constexpr uint32_t kInARow = 8;      // wafers

constexpr const char* kStyle =
    "text{font-family:'DejaVu Sans',Helvetica,Arial,sans-serif;fill:#22303c}"
    ".t{font-size:20px;font-weight:600}.s{font-size:12px;fill:#5b6b79}.n{font-size:11px;font-weight:600;fill:#fff;text-anchor:middle}"
    ".w{font-size:13px;font-weight:600}.die{fill:#eef2f5;stroke:#9fb0bf;stroke-width:1.2}.use{fill:#fff;stroke:#cfd9e1}"
    ".ws{fill:#2f6f9f}.kv{fill:#f2a541}.fr{fill:#e6edf2}.en{fill:#6b4f8a}.rg{fill:none;stroke:#fff;stroke-width:1.4}"
    ".way{fill:none;stroke:#16222c;stroke-width:1.3;opacity:.5}.hop{fill:none;stroke:#16222c;stroke-width:1.6}.bad{stroke:#d43d3d;stroke-width:1.4}"
    ".port{stroke:#7d8f9e;stroke-width:1}";

std::string escaped(const std::string& s) {
  std::string out;
  for (const char c : s) out += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : uint8_t(c) < 0x20 ? "?" : std::string(1, c);
  return out;
}

class Picture {
 public:
  Picture(const Placement& p, uint64_t tokens) : p_(p), tokens_(tokens) {}

  std::string draw(const std::string& title) {
    const uint32_t n = uint32_t(p_.wafers.size()), columns = std::min(n, kInARow), rows = (n + kInARow - 1) / kInARow;
    const double wide = std::max(760.0, 2 * kMargin + columns * die_w() + (columns - 1) * kGap), high = kTop + rows * (die_h() + kGap) + kBottom - kGap;
    out_ = fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" height=\"{1:.0f}\">\n<style>{2}</style>\n", wide, high, kStyle);
    out_ += fmt::format("<rect width=\"{:.0f}\" height=\"{:.0f}\" fill=\"#fff\"/>\n", wide, high);
    out_ += "<defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#16222c\"/></marker></defs>\n";
    out_ += fmt::format("<text class=\"t\" x=\"{}\" y=\"36\">{}</text>\n", kMargin, escaped(title));
    const uint32_t seq = p_.request.sequences;
    out_ += fmt::format("<text class=\"s\" x=\"{}\" y=\"58\">{} wafer{} ({}), {} tokens of KV-cache shown; {} fit: {} sequence{} of {}</text>\n", kMargin, n, n == 1 ? "" : "s", p_.wafer.name,
                        tokens_, p_.kv_tokens, seq, seq == 1 ? "" : "s", p_.context());
    for (uint32_t i = 0; i < n; ++i) wafer(i);
    legend(high - 30);
    return out_ + "</svg>\n";
  }

 private:
  double die_w() const { return p_.wafer.fabric_width * kScale; }
  double die_h() const { return p_.wafer.fabric_height * kScale; }
  double left(uint32_t wafer) const { return kMargin + (wafer % kInARow) * (die_w() + kGap); }
  double top(uint32_t wafer) const { return kTop + (wafer / kInARow) * (die_h() + kGap); }

  void rect(const char* kind, double x, double y, double w, double h, const std::string& more = "") {
    out_ += fmt::format("<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"{}\n", kind, x, y, w, h, more.empty() ? "/>" : ">" + more + "</rect>");
  }
  void line(const char* kind, double x, double y, double to_x, double to_y) {
    out_ += fmt::format("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", kind, x, y, to_x, to_y);
  }

  void wafer(uint32_t i) {
    const double x = left(i), y = top(i);
    const cs3::WaferData& d = p_.wafer;
    const cs3::WaferUse& u = p_.wafers[i];
    out_ += fmt::format("<text class=\"w\" x=\"{:.1f}\" y=\"{:.1f}\">wafer {}: layers {}-{}</text>\n", x, y - 8, i, u.first_layer, u.first_layer + std::max(1u, u.layers) - 1);
    rect("die", x, y, die_w(), die_h());
    rect("use", x + d.reserved_west * kScale, y + d.reserved_north * kScale, d.usable_width() * kScale, d.usable_height() * kScale);
    for (uint32_t k = 0; k < d.edge_ports && k * d.port_pitch < d.fabric_height; ++k) {
      const double at = y + k * d.port_pitch * kScale;
      line("port", x - 5, at, x, at);
      line("port", x + die_w(), at, x + die_w() + 5, at);
    }
    for (const Region& r : p_.regions)
      if (r.wafer == i) region(r, x, y);
    for (const uint32_t row : p_.request.bad_rows) line("bad", x, y + (row + 0.5) * kScale, x + die_w(), y + (row + 0.5) * kScale);
    way(i, x, y);
  }

  // From top to bottom: weights, KV, free.
  void region(const Region& r, double x, double y) {
    const double rx = x + r.at.x * kScale, ry = y + r.at.y * kScale, rw = r.at.w * kScale, rh = r.at.h * kScale;
    const double all = double(std::max<uint64_t>(1, r.capacity));
    const double weights = std::min(1.0, double(r.weights + r.scratch) / all), kv = std::min(1 - weights, double(r.kv_token * tokens_) / all);
    const std::string tip = fmt::format("<title>{}: {} x {} PEs at ({}, {}), {:.2f} GB of weights, room for {} tokens</title>",
                                        r.layer == cs3::kEnds ? std::string("vocabulary") : fmt::format("layer {}", r.layer), r.at.w, r.rows, r.at.x, r.at.y, double(r.weights) / 1e9, r.kv_tokens);
    rect("fr", rx, ry, rw, rh, tip);
    rect(r.layer == cs3::kEnds ? "en" : "ws", rx, ry, rw, rh * weights);
    if (kv > 0) rect("kv", rx, ry + rh * weights, rw, rh * kv);
    rect("rg", rx, ry, rw, rh);
    if (r.layer != cs3::kEnds && rh * weights > 13 && rw > 18) out_ += fmt::format("<text class=\"n\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", rx + 14, ry + 14, r.layer);
  }

  // Through the regions of the wafer, and on to the next one.
  void way(uint32_t i, double x, double y) {
    std::string points;
    double px = 0, py = 0;
    for (const Region& r : p_.regions) {
      if (r.wafer != i || r.layer == cs3::kEnds) continue;
      px = x + (r.at.x + r.at.w / 2.0) * kScale;
      py = y + (r.at.y + r.at.h / 2.0) * kScale;
      points += fmt::format("{:.1f},{:.1f} ", px, py);
    }
    if (points.empty()) return;
    out_ += fmt::format("<polyline class=\"way\" points=\"{}\"/>\n", points);
    if (i + 1 == p_.wafers.size() || (i + 1) % kInARow == 0) return;
    out_ += fmt::format("<path class=\"hop\" d=\"M{:.1f} {:.1f}L{:.1f} {:.1f}\" marker-end=\"url(#a)\"/>\n", x + die_w() + 7, y + die_h() / 2, x + die_w() + kGap - 9, y + die_h() / 2);
  }

  void legend(double y) {
    const std::pair<const char*, const char*> entries[] = {{"ws", "weights of a layer"}, {"kv", "KV-cache"}, {"fr", "free"}, {"en", "embedding, lm_head"}};
    double x = kMargin;
    for (const auto& [kind, name] : entries) {
      rect(kind, x, y - 10, 12, 12);
      out_ += fmt::format("<text class=\"s\" x=\"{:.0f}\" y=\"{:.0f}\">{}</text>\n", x + 18, y, name);
      x += 150;
    }
    if (!p_.request.bad_rows.empty()) {
      line("bad", x, y - 4, x + 12, y - 4);
      out_ += fmt::format("<text class=\"s\" x=\"{:.0f}\" y=\"{:.0f}\">bad row</text>\n", x + 18, y);
    }
  }

  const Placement& p_;
  uint64_t tokens_;
  std::string out_;
};

}  // namespace

std::string placement_svg(const Placement& p, const std::string& title, uint64_t tokens) { return Picture(p, tokens).draw(title); }

}  // namespace baton::devctl
