#include "emulators/cs3/calibration.h"

#include "emulators/cs3/case_program.h"
#include "emulators/cs3/ground.h"
#include "emulators/timing/timing.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <fstream>
#include <sstream>

namespace baton::cs3 {
namespace {

using nlohmann::json;

constexpr const char* kSchema = "baton.timing-cases/1";

struct Case {
  CaseModel model;
  uint32_t tokens = 1, context = 0, side = 0, wafers = 1;
  bool layers_alone = false;  // one layer, as many times as the model has
  timing::WaferSettings settings;
  CaseResult result;
};

std::vector<uint8_t> zeros(uint64_t bytes) { return std::vector<uint8_t>(bytes); }

// The modelled time of one launch. steps: of a decode loop whose last step sees `context` keys.
Result<double> launch_ns(const timing::WaferModel& model, const Case& c, const CaseModel& m, uint32_t steps) {
  BATON_ASSIGN(const program::Program p, case_program(m, c.tokens, c.context));
  std::vector<timing::Ground> grounds(p.ops.size(), {c.side, c.side, 0});
  if (!c.side) {
    BATON_ASSIGN(const WaferData wafer, wafer_data("cs3"));
    BATON_ASSIGN(const Shape shape, shape_of(p));
    BATON_ASSIGN(const Placement where, place(wafer, shape, {.wafers = c.wafers, .ends = Ends::spread}));
    grounds = grounds_of(shape, where);
  }
  BATON_ASSIGN(auto cost, model.placed(p, std::move(grounds)));
  BATON_ASSIGN(auto exe, engine::Executable::load(program::serialize(p), {}, {.cost = cost.get(), .numbers = false}));
  std::vector<std::vector<uint8_t>> memory;
  std::vector<engine::Binding> bindings;
  for (const program::Value& v : p.values) {
    if (v.optional || v.storage == program::Storage::constant || v.storage == program::Storage::scratch) continue;
    uint64_t bytes = program::dtype_bytes(v.dtype);
    for (const int64_t d : v.shape) bytes *= d == program::kTokens ? p.max_tokens : d == program::kSteps ? p.max_steps + 1 : uint64_t(d);
    memory.push_back(zeros(bytes));  // a block table of zeros: every block is block 0
    bindings.push_back({v.name, memory.back()});
  }
  std::vector<int64_t> args;
  if (p.loop) args = {int64_t(c.context) - steps, steps, 0, std::bit_cast<int64_t>(1.0), 0, 0};
  else if (!p.args.empty()) args = {int64_t(c.tokens), 0, 0, std::bit_cast<int64_t>(1.0), 0};
  engine::Run run(exe, bindings, args, {});
  engine::Step step = engine::Step::more;
  while (step == engine::Step::more) step = run.step();
  if (step == engine::Step::failed) return run.error();
  return double(run.modelled_ns());
}

// What the figure is of: a token or a prompt of the whole model, or of so many of its layers alone.
Result<double> time_ns(const timing::WaferModel& model, const Case& c) {
  if (c.model.matrix) {
    BATON_ASSIGN(const double ns, launch_ns(model, c, c.model, 1));
    return ns - model.launch_ns();
  }
  if (!c.layers_alone) {
    BATON_ASSIGN(const double two, launch_ns(model, c, c.model, c.tokens == 1 ? 2 : 1));
    if (c.tokens > 1) return two - model.launch_ns();
    BATON_ASSIGN(const double one, launch_ns(model, c, c.model, 1));
    return two - one;
  }
  CaseModel m = c.model;
  m.layers = 1;
  BATON_ASSIGN(const double one, launch_ns(model, c, m, 1));
  m.layers = 2;
  BATON_ASSIGN(const double two, launch_ns(model, c, m, 1));
  return (two - one) * c.model.layers;
}

CaseModel model_of(const json& j) {
  if (j.contains("matrix")) return {.matrix = j.at("matrix").get<uint32_t>()};
  return {.hidden = j.at("hidden"), .layers = j.at("layers"), .heads = j.at("heads"), .kv_heads = j.at("kv_heads"), .head_dim = j.at("head_dim"),
          .ffn = j.at("ffn"), .vocabulary = j.value("vocabulary", 0u), .qk_norm = j.value("qk_norm", false)};
}

Case case_of(const json& j, const json& models) {
  Case c;
  c.model = model_of(models.at(j.at("model").get<std::string>()));
  c.tokens = j.value("tokens", 1u);
  c.context = j.value("context", c.tokens);
  c.side = j.value("side", 0u);
  c.wafers = j.value("wafers", 1u);
  c.layers_alone = j.value("layers_alone", false);
  c.settings = {.clock_hz = j.value("clock_hz", 0.0), .mac_rate = j.value("mac_rate", 0.0), .fused = j.value("fused", true)};
  c.result = {.name = j.at("name"), .unit = j.at("unit"), .source = j.at("source"), .published = j.at("published"), .fitted = j.at("fitted")};
  return c;
}

Result<std::vector<Case>> load_cases() {
  const std::string path = timing::data_folder("timing") + "/cs3_cases.json";
  std::ifstream file(path);
  if (!file) return Error(BATON_NOT_FOUND, fmt::format("{} cannot be opened", path), "build the target baton_timing_data");
  std::stringstream text;
  text << file.rdbuf();
  try {
    const json j = json::parse(text.str());
    if (j.at("schema") != kSchema) return Error(BATON_VERSION, fmt::format("{}: the schema is not {}", path, kSchema), "use the file of this release");
    std::vector<Case> cases;
    for (const json& one : j.at("cases")) cases.push_back(case_of(one, j.at("models")));
    return cases;
  } catch (const json::exception& e) {
    return Error(BATON_CORRUPT, fmt::format("{}: {}", path, e.what()), "compare it with emulators/timing/cs3_cases.json");
  }
}

std::string figure(double v, const std::string& unit) { return fmt::format("{} {}", v >= 100 ? fmt::format("{:.0f}", v) : fmt::format("{:.2f}", v), unit); }

std::vector<double> sorted_errors(const Calibration& c) {
  std::vector<double> e;
  for (const CaseResult& r : c.cases) e.push_back(std::abs(r.error()));
  std::sort(e.begin(), e.end());
  return e;
}

}  // namespace

double Calibration::median() const {
  const std::vector<double> e = sorted_errors(*this);
  return e.empty() ? 0 : (e[e.size() / 2] + e[(e.size() - 1) / 2]) / 2;
}

double Calibration::worst() const { return cases.empty() ? 0 : sorted_errors(*this).back(); }

std::string Calibration::text() const {
  std::string s = "| case | published | modelled | error | constants |\n|---|---|---|---|---|\n";
  size_t fitted = 0;
  for (const CaseResult& r : cases) {
    s += fmt::format("| {} | {} | {} | {:+.0f}% | {} |\n", r.name, figure(r.published, r.unit), figure(r.modelled, r.unit), 100 * r.error(), r.fitted ? "fitted" : "compared");
    fitted += r.fitted;
  }
  return s + fmt::format("\n{}: median error {:.1f}%, worst {:.1f}%; {} constants fitted to {} figures, {} more only compared\n", model, 100 * median(), 100 * worst(), constants, fitted,
                         cases.size() - fitted);
}

std::string Calibration::json() const {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const CaseResult& r : cases)
    all.push_back({{"case", r.name}, {"unit", r.unit}, {"published", r.published}, {"modelled", r.modelled}, {"error", r.error()}, {"fitted", r.fitted}, {"source", r.source}});
  return nlohmann::ordered_json{{"schema", "baton.calibration/1"}, {"timing", model}, {"median_error", median()}, {"worst_error", worst()}, {"fitted_constants", constants}, {"cases", all}}.dump(2) + "\n";
}

Result<Calibration> calibrate(std::string_view timing) {
  BATON_ASSIGN(const timing::ModelFile file, timing::load_model_file(timing));
  BATON_ASSIGN(std::vector<Case> cases, load_cases());
  Calibration all;
  for (const timing::Constant& k : file.constants) all.constants += k.source.rfind("fitted", 0) == 0;
  for (Case& c : cases) {
    BATON_ASSIGN(const auto model, timing::load_wafer_model(timing, c.settings));
    all.model = model->name();
    auto ns = time_ns(*model, c);
    if (!ns) return Error(ns.error().code, fmt::format("case '{}': {}", c.result.name, ns.error().what), ns.error().next);
    c.result.modelled = c.result.unit == "us" ? *ns / 1e3 : c.tokens * 1e9 / *ns;
    all.cases.push_back(std::move(c.result));
  }
  return all;
}

}  // namespace baton::cs3
