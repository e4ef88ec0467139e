#include "emulators/cs3/options.h"

#include "drivers/cs3/link/wire.h"

#include <algorithm>
#include <cctype>
#include <charconv>

namespace baton::cs3 {
namespace {

template <class T>
bool number(std::string_view text, T& out) {
  const auto r = std::from_chars(text.data(), text.data() + text.size(), out);
  return r.ec == std::errc() && r.ptr == text.data() + text.size();
}

Error bad(std::string_view key, std::string_view value, const char* next) {
  return Error(BATON_INVALID_ARGUMENT, std::string(key) + " '" + std::string(value) + "' is not usable", next);
}

}  // namespace

Status set_option(DaemonOptions& o, std::string_view key, std::string_view value) {
  if (key == "threads") {
    if (!number(value, o.threads) || o.threads == 0 || o.threads > 256) return bad(key, value, "1 to 256");
  } else if (key == "wafers") {
    if (!number(value, o.wafers) || o.wafers == 0 || o.wafers > kMaxStages) return bad(key, value, "1 to 16");
  } else if (key == "isa") {
    BATON_ASSIGN(o.isa, engine::parse_isa(value));
  } else if (key == "sram_gb") {
    if (!number(value, o.sram_gb) || !(o.sram_gb >= 0.001 && o.sram_gb <= 16384)) return bad(key, value, "gigabytes (10^9 bytes), 0.001 to 16384; a CS-3 has 44");
  } else if (key == "timing") {
    if (value.empty()) return bad(key, value, "cs3, none, or the path of a model file");
    o.timing = value;
  } else if (key == "faults") {
    o.faults = value;
  } else if (key == "fabric") {
    const size_t x = value.find('x');
    if (x == std::string_view::npos || !number(value.substr(0, x), o.fabric_width) || !number(value.substr(x + 1), o.fabric_height) || std::max(o.fabric_width, o.fabric_height) > 65535)
      return bad(key, value, "PEs, as in 762x1172");
  } else if (key == "clock_ghz") {
    if (!number(value, o.clock_ghz) || !(o.clock_ghz >= 0.01 && o.clock_ghz <= 100)) return bad(key, value, "0.01 to 100; sources say 0.75, 0.85, 1.1 and 1.4");
  } else if (key == "mode") {
    if (value != "full" && value != "timing") return bad(key, value, "full, or timing: nothing is computed");
    o.numbers = value == "full";
  } else {
    return Error(BATON_INVALID_ARGUMENT, "option '" + std::string(key) + "' is not known", "options of emu+cs3://: wafers, threads, isa, sram_gb, timing, fabric, clock_ghz, mode, faults");
  }
  return {};
}

Status parse_rest(std::string_view rest, DaemonOptions& o) {
  const size_t question = rest.find('?');
  const std::string_view index = rest.substr(0, question);
  bool digits = !index.empty();
  for (const char c : index) digits = digits && std::isdigit(uint8_t(c));
  if (!digits) return Error(BATON_INVALID_ARGUMENT, "'" + std::string(rest) + "' is not INDEX?key=value", "for example emu+cs3://0 or emu+cs3://0?threads=2");
  std::string_view left = question == std::string_view::npos ? std::string_view() : rest.substr(question + 1);
  while (!left.empty()) {
    const size_t amp = left.find('&');
    const std::string_view pair = left.substr(0, amp);
    left = amp == std::string_view::npos ? std::string_view() : left.substr(amp + 1);
    const size_t equals = pair.find('=');
    BATON_TRY(set_option(o, pair.substr(0, equals), equals == std::string_view::npos ? std::string_view() : pair.substr(equals + 1)));
  }
  return {};
}

}  // namespace baton::cs3
