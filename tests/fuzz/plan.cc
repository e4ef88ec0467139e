// Fault plans of the layer, of the emulated libnrt and of the emulated wafer, and the arguments of layers: what is accepted has rules that match something and can act.
#include "emulators/cs3/fault.h"
#include "emulators/neuron/fault.hpp"
#include "hal/layers/argument.h"
#include "hal/layers/fault/plan.h"
#include "tests/fuzz/fuzz.h"

using namespace baton;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  auto plan = layers::parse_plan(text);
  if (!plan) fuzz::sound(plan);
  if (plan)
    for (const layers::Rule& r : plan->rules) {
      FUZZ_CHECK(r.points && r.action <= layers::Action::kill && r.code != BATON_OK && r.bits >= 1);
      FUZZ_CHECK((r.nth != 0) + (r.every != 0) + r.probability.has_value() <= 1);
      (void)layers::matches(r.device, "cs3://10.0.0.5:9000");
    }
  auto nrt = neuron_emu::FaultPlan::parse(text);
  if (!nrt) fuzz::sound(nrt);
  for (int call = 0; nrt && call < 8; ++call) {
    const auto met = nrt->match("nrt_execute", call % 2);
    FUZZ_CHECK(!met || (met->status > 0 && met->action <= neuron_emu::Fault::Action::ecc));
  }
  auto wafer = cs3::FaultPlan::parse(text);
  if (!wafer) fuzz::sound(wafer);
  if (wafer) {
    const std::string report = wafer->report();
    auto same = cs3::FaultPlan::parse(report);
    FUZZ_CHECK(same.ok() && same->report() == report);
    FUZZ_CHECK(wafer->conditions().alive(0) >= 1 && wafer->conditions().bad_rows.size() <= cs3::kMaxBadRows && wafer->conditions().slow_ingress >= 1);
    for (int call = 0; call < 8; ++call) {
      const auto met = wafer->match(call % 2 ? cs3::Op::launch : cs3::Op::memcpy_h2d);
      FUZZ_CHECK(!met || (met->code != BATON_OK && (met->action != cs3::Fault::Action::hang || call % 2)));
    }
  }
  auto argument = layers::parse_argument(text, {"seed", "COPY", "inline"});
  if (!argument) fuzz::sound(argument);
  if (argument) fuzz::sound(argument->number("seed", 0));
  if (auto ns = layers::parse_duration(text); ns) FUZZ_CHECK(*ns <= 3'600'000'000'000);
  return 0;
}
