#include "tools/devctl/topo_svg.h"

#include "tools/devctl/devices.h"
#include "tools/devctl/output.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

namespace baton::devctl {
namespace {

constexpr int kWidth = 190, kHeight = 56, kGap = 18, kColumns = 4, kMargin = 28, kTitle = 34;

std::string escaped(const std::string& s) {
  std::string out;
  for (char ch : clean(s))
    if (ch == '<') out += "&lt;";
    else if (ch == '>') out += "&gt;";
    else if (ch == '&') out += "&amp;";
    else if (ch == '"') out += "&quot;";
    else out += ch;
  return out;
}

struct Tile {
  std::string title, detail, fill;
  bool bad = false;
  int x = 0, y = 0;
};

std::string rectangle(int x, int y, int w, int h, const std::string& style) { return fmt::format("<rect x='{}' y='{}' width='{}' height='{}' rx='8' {}/>\n", x, y, w, h, style); }

std::string text(int x, int y, const std::string& s, const std::string& style) { return fmt::format("<text x='{}' y='{}' {}>{}</text>\n", x, y, style, escaped(s)); }

// "staged" is orange, "imported" blue, "mapped" and "direct" green: the fewer copies, the greener.
const char* colour_of(const std::string& path) { return path == "staged" ? "#d97706" : path == "imported" ? "#2563eb" : "#16a34a"; }

int numa_of(const json& j) { return j.contains("numa_node") && j.at("numa_node").is_number() ? j.at("numa_node").get<int>() : -1; }

}  // namespace

std::string topo_svg(const json& doc) {
  std::map<int, std::vector<Tile>> nodes;  // -1: belongs to none
  for (auto& n : doc.at("machine").at("numa")) nodes[n.at("node").get<int>()];
  for (auto& d : doc.at("devices")) {
    const bool bad = d.contains("problem") && !d.contains("model");
    const std::string name = d.at("selector");
    nodes[numa_of(d)].push_back({name, bad ? d.at("problem").get<std::string>().substr(0, 26) : fmt::format("{}, {}", d.at("model").get<std::string>().substr(0, 16), bytes_text(memory_bytes(d))),
                                 name.starts_with("host") ? "#e2e8f0" : "#dbeafe", bad});
  }
  for (auto& n : doc.at("nics")) {
    const bool bad = std::any_of(n.at("ports").begin(), n.at("ports").end(), [](auto& p) { return p.at("state") != "ACTIVE"; });
    const std::string rate = n.at("ports").empty() ? "" : n.at("ports")[0].at("rate").template get<std::string>();
    nodes[numa_of(n)].push_back({n.at("name"), fmt::format("{}{}{}", n.at("kind").get<std::string>(), rate.empty() ? "" : ", ", rate.substr(0, 14)), "#dcfce7", bad});
  }
  if (nodes.contains(-1) && nodes[-1].empty()) nodes.erase(-1);

  std::string body;
  std::map<std::string, const Tile*> by_name;
  int y = kMargin + kTitle;
  for (auto& [node, tiles] : nodes) {
    const int rows = std::max(1, int(tiles.size() + kColumns - 1) / kColumns);
    const int height = kTitle + rows * (kHeight + kGap) + 4;
    body += rectangle(kMargin, y, kColumns * (kWidth + kGap) + kGap, height, "fill='#f8fafc' stroke='#94a3b8'");
    body += text(kMargin + kGap, y + 23, node < 0 ? std::string("no NUMA node of its own") : fmt::format("NUMA node {}", node), "font-size='14' fill='#475569'");
    for (size_t i = 0; i < tiles.size(); ++i) {
      Tile& t = tiles[i];
      t.x = kMargin + kGap + int(i % kColumns) * (kWidth + kGap);
      t.y = y + kTitle + int(i / kColumns) * (kHeight + kGap);
      body += rectangle(t.x, t.y, kWidth, kHeight, fmt::format("fill='{}' stroke='{}' stroke-width='{}'", t.fill, t.bad ? "#dc2626" : "#64748b", t.bad ? 2 : 1));
      body += text(t.x + 12, t.y + 23, t.title.size() > 22 ? t.title.substr(0, 21) + "~" : t.title, "font-size='15' font-weight='bold' fill='#0f172a'");
      body += text(t.x + 12, t.y + 43, t.detail, "font-size='12' fill='#475569'");
      by_name[t.title] = &t;
    }
    y += height + kGap;
  }
  std::set<std::pair<std::string, std::string>> drawn;
  for (auto& p : doc.at("paths")) {
    const std::string a = p.at("from"), b = p.at("to"), path = p.at("path");
    if (a == b || path == "unknown" || path == "none" || drawn.contains({b, a}) || !by_name.contains(a) || !by_name.contains(b)) continue;
    drawn.insert({a, b});
    const Tile &f = *by_name[a], &t = *by_name[b];
    const int x0 = f.x + kWidth / 2, y0 = f.y + kHeight, x1 = t.x + kWidth / 2, y1 = t.y + kHeight, sag = std::max(y0, y1) + 16;
    body += fmt::format("<path d='M {} {} C {} {} {} {} {} {}' fill='none' stroke='{}' stroke-width='2' opacity='0.75'><title>{} - {}: {}</title></path>\n", x0, y0, x0, sag, x1, sag, x1, y1, colour_of(path),
                        escaped(a), escaped(b), escaped(path));
  }
  const int width = 2 * kMargin + kColumns * (kWidth + kGap) + kGap;
  std::string legend;
  int x = kMargin;
  for (const char* path : {"direct or mapped", "imported", "staged"}) {
    legend += rectangle(x, y + 4, 22, 6, fmt::format("fill='{}'", colour_of(path)));
    legend += text(x + 30, y + 12, path, "font-size='12' fill='#475569'");
    x += 170;
  }
  legend += text(x, y + 12, "red frame: not usable now", "font-size='12' fill='#dc2626'");
  return fmt::format("<svg xmlns='http://www.w3.org/2000/svg' width='{0}' height='{1}' viewBox='0 0 {0} {1}' font-family='sans-serif'>\n<rect width='100%' height='100%' fill='white'/>\n", width, y + 36) +
         text(kMargin, kMargin + 14, doc.at("machine").at("cpu").get<std::string>(), "font-size='18' font-weight='bold' fill='#0f172a'") + body + legend + "</svg>\n";
}

}  // namespace baton::devctl
