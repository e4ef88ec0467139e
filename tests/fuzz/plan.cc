// Fault plans of the layer and of the emulated libnrt, and the arguments of layers: what is accepted has rules that match something and can act.
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
  auto argument = layers::parse_argument(text, {"seed", "COPY", "inline"});
  if (!argument) fuzz::sound(argument);
  if (argument) fuzz::sound(argument->number("seed", 0));
  if (auto ns = layers::parse_duration(text); ns) FUZZ_CHECK(*ns <= 3'600'000'000'000);
  return 0;
}
