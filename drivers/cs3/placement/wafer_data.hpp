// wafer_data.hpp: a wafer as data: its fabric, what of it programs may use, SRAM of a processing element (PE), I/O ports.
//
// The figures are those of wafers.json, each with its source or "guess", embedded in the library and kept beside the plug-ins for people to
// read. A machine says its own fabric (the wafer link's InfoReply): resized() takes it.
//
// Owner    plain values.   Threads  any.   Cost  a few KB of JSON at each call.
// Errors   NOT_FOUND with the names that there are; CORRUPT naming the member; INVALID_ARGUMENT for a fabric that leaves nothing.
//
//     BATON_ASSIGN(WaferData w, wafer_data("cs3"));
//     w.usable_pes()  // 883350
#pragma once

#include "hal/baton.hpp"

#include <cstdint>
#include <string>
#include <string_view>

namespace baton::cs3 {

// One kind of wafer. Counts are of PEs unless they say otherwise.
struct WaferData {
  std::string name;                                      // "cs3"
  uint32_t fabric_width = 0, fabric_height = 0;          // all PEs
  uint32_t reserved_west = 0, reserved_east = 0;         // columns that programs may not use
  uint32_t reserved_north = 0, reserved_south = 0;       // rows
  uint32_t pe_sram = 0;                                  // bytes of a PE
  uint32_t pe_reserve = 0;                               // bytes of it that code, stack and buffers take
  uint32_t edge_ports = 0, port_pitch = 0;               // I/O points on each of the east and west edges, and rows from one to the next
  uint32_t channels = 0;                                 // of the host's copies, at most

  uint32_t usable_width() const { return fabric_width - reserved_west - reserved_east; }
  uint32_t usable_height() const { return fabric_height - reserved_north - reserved_south; }
  uint64_t usable_pes() const { return uint64_t(usable_width()) * usable_height(); }
  uint64_t pe_bytes() const { return pe_sram - pe_reserve; }              // of a PE, for a program's data
  uint64_t usable_bytes() const { return usable_pes() * pe_bytes(); }     // of a wafer
  uint64_t sram_bytes() const { return uint64_t(fabric_width) * fabric_height * pe_sram; }
};

// A wafer that the library knows: "cs3", "cs2".
Result<WaferData> wafer_data(std::string_view name);
// The same from a text in the form of wafers.json. `where` is named in errors.
Result<WaferData> parse_wafer(std::string_view json, std::string_view name, std::string_view where);
// The wafer with the fabric that a machine says it has.
Result<WaferData> resized(WaferData, uint32_t fabric_width, uint32_t fabric_height);
// The wafer with the SRAM that a machine says it has: beside the vendor's 44 GB, each usable PE has so much less or more.
Result<WaferData> with_sram(WaferData, uint64_t bytes);

}  // namespace baton::cs3
