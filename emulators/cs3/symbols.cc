#include "emulators/cs3/symbols.h"

#include <fmt/format.h>

#include <algorithm>

namespace baton::cs3 {
namespace {

bool overlap(const Area& a, const Area& b) { return a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h; }

Status good_rows(const Area& a, const Conditions& c) {
  for (const uint16_t row : c.bad_rows)
    if (row >= a.y && row < a.y + a.h)
      return Error(BATON_UNSUPPORTED, fmt::format("row {} of PEs is bad (fault plan), and {} lies on it", row, a.text()),
                   "placement's bug: route around the rows that info lists");
  return {};
}

}  // namespace

Error clients_bug(const std::string& what, const std::string& advice) { return Error(BATON_INVALID_ARGUMENT, what, "the client's bug: " + advice); }

std::string Area::text() const { return fmt::format("{}x{} at ({}, {})", w, h, x, y); }

SymbolReply Symbol::reply() const {
  SymbolReply r{};
  r.bytes = sizeof r;
  r.id = id;
  r.kind = uint8_t(kind);
  r.x = uint16_t(area.x), r.y = uint16_t(area.y), r.w = uint16_t(area.w), r.h = uint16_t(area.h);
  r.elements_per_pe = elements;
  r.mem = mem;
  r.base = base;
  Error::put(r.name, name);
  return r;
}

Status Symbols::fresh(const std::string& name) const {
  if (name.empty() || name.size() >= kSymbolName || name.find('\0') != std::string::npos)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("a symbol's name of {} bytes", name.size()), fmt::format("the client's bug: 1 to {} bytes", kSymbolName - 1));
  if (all_.size() >= kMaxSymbols) return Error(BATON_CAPACITY, fmt::format("{} symbols, which is the most of a client", kMaxSymbols), "the client's bug: export fewer");
  if (name == "sram" || find(name).ok()) return clients_bug("the symbol '" + name + "' exists", "names are unique");
  return {};
}

// The busiest PE, exactly: between two neighbouring edges of all arrays each PE holds the same.
uint64_t Symbols::most_bytes(const Area& a) const {
  std::vector<const Symbol*> here;
  std::vector<uint32_t> xs{a.x}, ys{a.y};
  for (const Symbol& s : all_) {
    if (s.kind != SymbolKind::array || !overlap(s.area, a)) continue;
    here.push_back(&s);
    xs.push_back(std::max(a.x, s.area.x));
    ys.push_back(std::max(a.y, s.area.y));
  }
  uint64_t most = 0;
  for (const uint32_t y : ys)
    for (const uint32_t x : xs) {
      uint64_t bytes = 0;
      for (const Symbol* s : here) bytes += s->area.holds({x, y, 1, 1}) ? uint64_t(s->elements) * 4 : 0;
      most = std::max(most, bytes);
    }
  return most;
}

const Symbol* Symbols::keep(Symbol s) {
  s.id = uint16_t(kSramSymbol + 1 + all_.size());
  all_.push_back(std::move(s));
  return &all_.back();
}

Result<const Symbol*> Symbols::add_array(Wafer& wafer, uint64_t session, const std::string& name, const Area& a, uint32_t elements, const Conditions& c) {
  BATON_TRY(fresh(name));
  if (a.w == 0 || a.h == 0 || elements == 0)
    return clients_bug("the symbol '" + name + "' is empty", "w, h and elements_per_pe are at least 1");
  if (!program.holds(a))
    return clients_bug(fmt::format("the symbol '{}' of {} PEs lies outside of the program's {}", name, a.text(), program.text()),
                 "keep x + w and y + h within the rectangle that load named");
  BATON_TRY(good_rows(a, c));
  const uint64_t here = most_bytes(a), more = uint64_t(elements) * 4;
  if (here + more > kPeBytes)
    return Error(BATON_CAPACITY, fmt::format("the symbol '{}' takes {} bytes a PE: with the {} that one of {} holds, over its {}", name, more, here, a.text(), kPeBytes),
                 fmt::format("at most {} elements a PE fit there; spread it over more PEs", (kPeBytes - here) / 4));
  BATON_ASSIGN(const Block* block, wafer.alloc(session, uint64_t(a.w) * a.h * more));
  return keep({name, 0, SymbolKind::array, a, elements, block->handle, block->address});
}

Result<const Symbol*> Symbols::add_port(const std::string& name, uint16_t array, uint32_t x, uint32_t y, bool outward) {
  BATON_TRY(fresh(name));
  BATON_ASSIGN(const Symbol* a, find(array));
  if (a->kind != SymbolKind::array || !a->area.holds({x, y, 1, 1}))
    return clients_bug(fmt::format("the port '{}' at PE ({}, {}) is not on '{}'", name, x, y, a->name), "a port is one PE of an array symbol");
  Symbol port{name, 0, outward ? SymbolKind::output_port : SymbolKind::input_port, {x, y, 1, 1}, a->elements, a->mem, a->base};
  port.base += ((uint64_t(y) - a->area.y) * a->area.w + (x - a->area.x)) * a->elements * 4;
  return keep(std::move(port));
}

Result<const Symbol*> Symbols::find(uint16_t id) const {
  if (id <= kSramSymbol || size_t(id - kSramSymbol) > all_.size())
    return Error(BATON_NOT_FOUND, fmt::format("there is no symbol {}", id), "the client's bug: use an id that get_id gave, within its session");
  return &all_[id - kSramSymbol - 1];
}

Result<const Symbol*> Symbols::find(const std::string& name) const {
  for (const Symbol& s : all_)
    if (s.name == name) return &s;
  std::string known = "sram";
  for (const Symbol& s : all_) known += known.size() < 200 ? " " + s.name : "";
  return Error(BATON_NOT_FOUND, "no symbol '" + name.substr(0, kSymbolName) + "'", "the client's bug, or its kernel exports another name; symbols: " + known);
}

bool Symbols::uses(uint32_t mem) const {
  return std::any_of(all_.begin(), all_.end(), [&](const Symbol& s) { return s.mem == mem; });
}

Result<Rectangle> rectangle_of(const Submission& s, const Symbol& symbol, const Area& program, const Conditions& c) {
  const bool port = Op(s.op) == Op::send || Op(s.op) == Op::receive;
  const SymbolKind wanted = Op(s.op) == Op::send ? SymbolKind::input_port : Op(s.op) == Op::receive ? SymbolKind::output_port : SymbolKind::array;
  if (symbol.kind != wanted)
    return clients_bug(fmt::format("'{}' is not {}", symbol.name, port ? "a port of this direction" : "an array"),
                 "memcpy is for arrays, send for input ports, receive for output ports");
  Rectangle r;
  Area a{s.x, s.y, s.w, s.h};
  if (port) {
    a = symbol.area;
    r.elements = uint32_t(std::min<uint64_t>(s.total / 4, UINT32_MAX));
    // Documented for output ports (facts/cs3 1.2: CS, WE1). Here for both: stricter than the documents say.
    if (s.total % 8)
      return clients_bug(fmt::format("{} bytes on the port '{}' are not an even number of wavelets", s.total, symbol.name),
                         "a port moves pairs of 32-bit wavelets; pad to an even count");
  } else {
    r.elements = s.elements_per_pe;
    r.order = Order(s.order);
    r.element_bytes = s.element_bits == 16 ? 2 : 4;
    r.broadcast = s.flags & kAlongRows ? Broadcast::along_rows : s.flags & kAlongColumns ? Broadcast::along_columns : Broadcast::none;
    r.row_stride = std::max<uint32_t>(1, s.row_stride);
    r.col_stride = std::max<uint32_t>(1, s.col_stride);
    if (!program.holds(a))
      return clients_bug(fmt::format("the rectangle {} lies outside of the program's {}", a.text(), program.text()), "(0, 0) is the program's corner");
  }
  r.x = a.x - symbol.area.x, r.y = a.y - symbol.area.y, r.w = a.w, r.h = a.h;
  if (!symbol.area.holds(a) || a.w == 0 || a.h == 0)
    return clients_bug(fmt::format("the rectangle {} lies outside of '{}', which is on {}", a.text(), symbol.name, symbol.area.text()), "see get_id for the symbol's rectangle");
  if (r.elements == 0 || r.elements > symbol.elements)
    return clients_bug(fmt::format("{} elements a PE: '{}' has {}", r.elements, symbol.name, symbol.elements), "see get_id for the symbol's length");
  if (s.total != r.tensor_elements() * r.element_bytes || s.address % r.element_bytes || s.bytes % r.element_bytes || s.address > s.total || s.bytes > s.total - s.address)
    return clients_bug(fmt::format("{} bytes at {} of {}: the host's tensor has {} elements of {} bytes", s.bytes, s.address, s.total, r.tensor_elements(), r.element_bytes),
                 "total is the whole tensor, and a chunk lies in it");
  BATON_TRY(good_rows(a, c));
  return r;
}

}  // namespace baton::cs3
