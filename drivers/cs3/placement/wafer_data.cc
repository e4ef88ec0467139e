#include "drivers/cs3/placement/wafer_data.hpp"

#include "drivers/cs3/placement/wafers_json.hpp"
#include "hal/json_depth.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>

namespace baton::cs3 {
namespace {

using Json = nlohmann::json;
constexpr const char* kSchema = "baton.wafers/1";
constexpr uint64_t kHeadline = 44'000'000'000;  // facts/cs3 2.1: the vendor's figure, a little more than 48 KB a usable PE

struct Member {
  const char *name, *unit;
  uint32_t WaferData::*to;
};
constexpr Member kMembers[] = {{"fabric_width", "PE", &WaferData::fabric_width},     {"fabric_height", "PE", &WaferData::fabric_height},
                               {"reserved_west", "PE", &WaferData::reserved_west},   {"reserved_east", "PE", &WaferData::reserved_east},
                               {"reserved_north", "PE", &WaferData::reserved_north}, {"reserved_south", "PE", &WaferData::reserved_south},
                               {"pe_sram", "byte", &WaferData::pe_sram},             {"pe_reserve", "byte", &WaferData::pe_reserve},
                               {"edge_ports", "count", &WaferData::edge_ports},      {"port_pitch", "PE", &WaferData::port_pitch},
                               {"channels", "count", &WaferData::channels}};

Error corrupt(std::string_view where, const std::string& why) {
  return Error(BATON_CORRUPT, fmt::format("{}: {}", where, why), "compare it with drivers/cs3/placement/wafers.json");
}

Result<uint32_t> number(const Json& wafer, const Member& m, std::string_view where) {
  const auto it = wafer.find(m.name);
  if (it == wafer.end() || !it->is_object()) return corrupt(where, fmt::format("'{}' must be {{value, unit, source}}", m.name));
  const auto value = it->find("value"), unit = it->find("unit"), source = it->find("source");
  if (value == it->end() || !value->is_number_unsigned() || value->get<uint64_t>() > (1u << 24)) return corrupt(where, fmt::format("'{}' has no count as its value", m.name));
  if (unit == it->end() || *unit != m.unit) return corrupt(where, fmt::format("'{}' must be in {}", m.name, m.unit));
  if (source == it->end() || !source->is_string() || source->get_ref<const std::string&>().empty()) return corrupt(where, fmt::format("'{}' has no source", m.name));
  return value->get<uint32_t>();
}

Status check(const WaferData& w, std::string_view where) {
  if (w.fabric_width <= w.reserved_west + w.reserved_east || w.fabric_height <= w.reserved_north + w.reserved_south)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("{}: a fabric of {} x {} PEs leaves nothing beside its reserved edges", where, w.fabric_width, w.fabric_height),
                 "a CS-3 has 762 x 1172");
  if (w.pe_sram <= w.pe_reserve || w.pe_sram > (1u << 20)) return corrupt(where, fmt::format("{} bytes a PE, of which {} are reserved", w.pe_sram, w.pe_reserve));
  return {};
}

}  // namespace

Result<WaferData> parse_wafer(std::string_view text, std::string_view name, std::string_view where) {
  const Json whole = json_too_deep(text) ? Json() : Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!whole.is_object()) return corrupt(where, "not a JSON object");
  if (const auto schema = whole.find("schema"); schema == whole.end() || *schema != kSchema)
    return Error(BATON_VERSION, fmt::format("{}: the schema is not {}", where, kSchema), "use a file of this release");
  const auto wafers = whole.find("wafers");
  if (wafers == whole.end() || !wafers->is_object()) return corrupt(where, "'wafers' must be an object");
  const auto found = wafers->find(std::string(name));
  if (found == wafers->end()) {
    std::string known;
    for (const auto& entry : wafers->items()) known += (known.empty() ? "" : ", ") + entry.key();
    return Error(BATON_NOT_FOUND, fmt::format("there is no wafer '{}' in {}", name, where), "known wafers: " + known);
  }
  if (!found->is_object()) return corrupt(where, fmt::format("wafer '{}' must be an object", name));
  WaferData w;
  w.name = name;
  for (const Member& m : kMembers) {
    BATON_ASSIGN(w.*m.to, number(*found, m, fmt::format("{}, wafer '{}'", where, name)));
  }
  BATON_TRY(check(w, where));
  return w;
}

Result<WaferData> wafer_data(std::string_view name) { return parse_wafer(kWafersJson, name, "wafers.json"); }

Result<WaferData> resized(WaferData w, uint32_t fabric_width, uint32_t fabric_height) {
  w.fabric_width = fabric_width;
  w.fabric_height = fabric_height;
  BATON_TRY(check(w, w.name));
  return w;
}

Result<WaferData> with_sram(WaferData w, uint64_t bytes) {
  if (bytes != kHeadline) w.pe_sram = uint32_t(std::min<uint64_t>((bytes + w.usable_pes() - 1) / w.usable_pes(), UINT32_MAX));
  if (w.pe_sram <= w.pe_reserve)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("{} bytes of SRAM are {} a PE, of which {} are reserved", bytes, w.pe_sram, w.pe_reserve), "a CS-3 has 44 GB");
  return w;
}

}  // namespace baton::cs3
