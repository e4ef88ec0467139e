// symbols.h: what a session knows by name: arrays on rectangles of PEs, as @export_symbol makes them, and ports, each one PE's buffer.
//
// Owner    The session; their memory is the wafer's, allocated for it.   Threads  the event loop's.
// Cost     find(): an index; add(): at most kMaxSymbols compares, and the PEs' account by cells between edges.
// Errors   INVALID_ARGUMENT and CAPACITY, each saying whose bug it is and what would do.
//
//     BATON_ASSIGN(const Symbol* a, symbols.add_array(wafer, session, "A", {x, y, w, h}, 64));
//     BATON_TRY(symbols.inside(*a, s));
#pragma once

#include "emulators/cs3/fault.h"
#include "emulators/cs3/rectangle.h"
#include "emulators/cs3/wafer.h"

#include <string>
#include <vector>

namespace baton::cs3 {

inline constexpr uint16_t kSramSymbol = 1;
inline constexpr uint32_t kPeBytes = 48 << 10;  // SRAM of a PE: facts/cs3 2.1 (AP, CV)

// INVALID_ARGUMENT; the advice begins with whose bug it is.
Error clients_bug(const std::string& what, const std::string& advice);

struct Area {
  uint32_t x = 0, y = 0, w = 0, h = 0;
  bool holds(const Area& o) const { return o.x >= x && o.y >= y && o.x + o.w <= x + w && o.y + o.h <= y + h; }
  std::string text() const;  // "2x3 at (4, 0)"
};

struct Symbol {
  std::string name;
  uint16_t id = 0;
  SymbolKind kind = SymbolKind::array;
  Area area;
  uint32_t elements = 0;  // words a PE
  uint32_t mem = 0;
  uint64_t base = 0;
  SymbolReply reply() const;
};

class Symbols {
 public:
  Area program;  // what `load` said
  Result<const Symbol*> add_array(Wafer&, uint64_t session, const std::string& name, const Area&, uint32_t elements, const Conditions&);
  // On one PE of an array, whose words it shares.
  Result<const Symbol*> add_port(const std::string& name, uint16_t array, uint32_t x, uint32_t y, bool outward);
  Result<const Symbol*> find(uint16_t id) const;
  Result<const Symbol*> find(const std::string& name) const;
  bool uses(uint32_t mem) const;  // an array's memory is not freed by hand
  void clear() { all_.clear(); }

 private:
  Status fresh(const std::string& name) const;
  uint64_t most_bytes(const Area&) const;  // of one PE of it, by the arrays there are
  const Symbol* keep(Symbol);
  std::vector<Symbol> all_;  // id 2 and on
};

// The transfer that `s` asks of `symbol`: what cannot be is refused with whose bug it is.
Result<Rectangle> rectangle_of(const Submission& s, const Symbol& symbol, const Area& program, const Conditions&);

}  // namespace baton::cs3
