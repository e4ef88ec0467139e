#include "emulators/neuron/options.hpp"

#include "emulators/timing/timing.hpp"

#include <charconv>
#include <cstdlib>

namespace baton::neuron_emu {
namespace {

Result<uint64_t> number(std::string_view name, std::string_view text, uint64_t least, uint64_t most) {
  uint64_t n = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (ec != std::errc() || end != text.data() + text.size() || n < least || n > most)
    return Error(BATON_INVALID_ARGUMENT, std::string(name) + "=" + std::string(text) + " is not a number from " + std::to_string(least) + " to " +
                                             std::to_string(most), "correct the option");
  return n;
}

std::string_view variable(const char* name) {
  const char* v = std::getenv(name);
  return v ? v : "";
}

std::vector<std::string> split(std::string_view list) {
  std::vector<std::string> items;
  while (!list.empty()) {
    std::string_view item = list.substr(0, list.find(','));
    items.emplace_back(item);
    list.remove_prefix(std::min(list.size(), item.size() + 1));
  }
  return items;
}

Result<std::vector<uint32_t>> core_list(std::string_view list, uint32_t total) {
  constexpr char kName[] = "NEURON_RT_VISIBLE_CORES";
  std::vector<uint32_t> cores;
  for (const std::string& item : split(list)) {
    std::string_view range = item;
    std::string_view first = range.substr(0, range.find('-'));
    std::string_view last = first.size() == range.size() ? first : range.substr(first.size() + 1);
    BATON_ASSIGN(uint64_t from, number(kName, first, cores.empty() ? 0 : cores.back() + 1, total - 1));
    BATON_ASSIGN(uint64_t to, number(kName, last, from, total - 1));
    for (uint64_t c = from; c <= to; ++c) cores.push_back(uint32_t(c));
  }
  return cores;
}

Status read_cores(Options& o) {
  std::string_view visible = variable("NEURON_RT_VISIBLE_CORES"), count = variable("NEURON_RT_NUM_CORES");
  uint32_t n = o.total_logical();
  if (!visible.empty()) {
    BATON_ASSIGN(o.cores, core_list(visible, n));
    return {};
  }
  if (!count.empty()) {
    BATON_ASSIGN(uint64_t asked, number("NEURON_RT_NUM_CORES", count, 0, n));
    if (asked) n = uint32_t(asked);
    o.any_cores = asked != 0;
  }
  for (uint32_t c = 0; c < n; ++c) o.cores.push_back(c);
  return {};
}

}  // namespace

std::string runtime_folder() { return std::string(variable("XDG_RUNTIME_DIR")); }

Result<Options> read_options() {
  Options o;
  auto take = [](const char* name, uint64_t least, uint64_t most, auto& field) -> Status {
    std::string_view text = variable(name);
    if (text.empty()) return {};
    BATON_ASSIGN(uint64_t n, number(name, text, least, most));
    field = static_cast<std::remove_reference_t<decltype(field)>>(n);
    return {};
  };
  uint32_t chips = 0;
  BATON_TRY(take("BATON_EMU_NEURON_CHIPS", 1, kMaxChips, chips));
  BATON_ASSIGN(o.machine, choose_machine(variable("BATON_EMU_NEURON_MACHINE"), chips));
  o.chips = chips ? chips : uint32_t(o.machine.devices.size());
  o.lnc = o.machine.chip.lnc;
  BATON_TRY(take("BATON_EMU_NEURON_THREADS", 1, kMaxThreads, o.threads));
  BATON_TRY(take("NEURON_LOGICAL_NC_CONFIG", 1, o.machine.chip.max_lnc, o.lnc));
  BATON_TRY(take("NEURON_RT_EXEC_TIMEOUT", 1, 1'000'000, o.exec_timeout_s));
  std::string_view isa = variable("BATON_EMU_NEURON_ISA");
  BATON_ASSIGN(o.isa, engine::parse_isa(isa.empty() ? "auto" : isa));
  if (std::string_view timing = variable("BATON_EMU_NEURON_TIMING"); !timing.empty()) {
    BATON_TRY(check_option("timing", timing));
    o.timing = timing;
  }
  o.folder = variable("BATON_EMU_NEURON_FOLDER");
  if (std::string_view mode = variable("BATON_EMU_NEURON_MODE"); !mode.empty()) {
    BATON_TRY(check_option("mode", mode));
    o.numbers = mode == "full";
  }
  if (!o.numbers && o.timing == "none") return Error(BATON_INVALID_ARGUMENT, "mode=timing with timing=none leaves nothing to run", "leave one of them out");
  o.log = !variable("NEURON_RT_LOG_LEVEL").empty();
  BATON_TRY(take("NEURON_RT_VALIDATE_HASH", 0, 1, o.validate_hash));
  BATON_TRY(take("BATON_EMU_NEURON_STRICT", 0, 1, o.strict));
  if (std::string_view neff = variable("BATON_EMU_NEURON_NEFF"); !neff.empty()) {
    BATON_TRY(check_option("neff", neff));
    o.compiled_only = neff == "compiled";
  }
  if (std::string_view seed = variable("BATON_EMU_NEURON_VISIBILITY"); !seed.empty()) {
    BATON_ASSIGN(o.visibility, number("BATON_EMU_NEURON_VISIBILITY", seed, 0, UINT64_MAX));
  }
  o.root_comm = variable("NEURON_RT_ROOT_COMM_ID");
  o.faults = variable("BATON_EMU_NEURON_FAULTS");
  o.runtime_folder = runtime_folder();
  BATON_TRY(read_cores(o));
  return o;
}

Result<MachineData> choose_machine(std::string_view name, uint64_t chips) {
  BATON_ASSIGN(MachineData m, load_machine(!name.empty() ? name : chips ? "trn2.48xlarge" : "trn2.3xlarge"));
  if (chips > m.devices.size())
    return Error(BATON_INVALID_ARGUMENT, "chips=" + std::to_string(chips) + ": a " + m.name + " has " + std::to_string(m.devices.size()),
                 "name a larger machine");
  return m;
}

Status check_option(std::string_view name, std::string_view value) {
  auto as_status = [](const auto& r) { return r.ok() ? Status() : Status(r.error()); };
  if (name == "chips") return as_status(number(name, value, 1, kMaxChips));
  if (name == "threads") return as_status(number(name, value, 1, kMaxThreads));
  if (name == "lnc") return as_status(number(name, value, 1, 2));
  if (name == "strict") return as_status(number(name, value, 0, 1));
  if (name == "visibility") return as_status(number(name, value, 0, UINT64_MAX));
  if (name == "isa") return as_status(engine::parse_isa(value));
  if (name == "mode" && value != "full" && value != "timing")
    return Error(BATON_INVALID_ARGUMENT, "mode=" + std::string(value) + " is neither full nor timing", "correct the option");
  if (name == "neff" && value != "any" && value != "compiled")
    return Error(BATON_INVALID_ARGUMENT, "neff=" + std::string(value) + " is neither any nor compiled", "correct the option");
  if (name == "machine") return as_status(load_machine(value));
  if (name == "timing" && value != "none" && value.find('/') == std::string_view::npos) return as_status(timing::find_model_file(value));
  return {};
}

}  // namespace baton::neuron_emu
