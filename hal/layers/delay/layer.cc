// layer.cc: delay=TIME[?NOP=TIME&COPY=TIME&LAUNCH=TIME&FILL=TIME&seed=NUMBER]: a completion comes that much later on the wall clock.
// TIME is 2us, or 1us..5us: uniformly random, the same at every run with one seed. Modelled time is not touched.
#include "hal/layers/argument.h"
#include "hal/layers/tap.h"

#include <random>

namespace baton::layers {
namespace {

struct Range {
  uint64_t low = 0, high = 0;  // ns
};

struct Delays {
  Range of[4];  // by opcode
  uint64_t seed = 0;
};

Result<Range> parse_range(const std::string& text) {
  const size_t dots = text.find("..");
  BATON_ASSIGN(uint64_t low, parse_duration(text.substr(0, dots)));
  if (dots == std::string::npos) return Range{low, low};
  BATON_ASSIGN(uint64_t high, parse_duration(text.substr(dots + 2)));
  if (high < low) return Error(BATON_INVALID_ARGUMENT, "'" + text + "' ends before it begins", "write 1us..5us");
  return Range{low, high};
}

Result<Delays> parse(const char* text) {
  BATON_ASSIGN(Argument a, parse_argument(text, {"NOP", "COPY", "LAUNCH", "FILL", "seed"}));
  Delays d;
  BATON_ASSIGN(d.seed, a.number("seed", 0));
  BATON_ASSIGN(Range all, parse_range(a.main));
  for (uint8_t op = BATON_OP_NOP; op <= BATON_OP_FILL; ++op) {
    d.of[op] = all;
    auto own = a.options.find(opcode_name(op));
    if (own == a.options.end()) continue;
    BATON_ASSIGN(d.of[op], parse_range(own->second));
  }
  return d;
}

class Delayed : public Tap {
 public:
  Delayed(const Delays& d, const baton_driver_host* host, const char* address) : Tap(host, address, true), delays_(d), random_(d.seed) {}

 private:
  void completed(Op& op, uint64_t cost_ns, const baton_error* error) override {
    const Range& r = delays_.of[op.opcode];
    const uint64_t ns = r.low + (r.high > r.low ? random_() % (r.high - r.low + 1) : 0);
    if (!ns) return pass(op, cost_ns, error);
    op.queue->held->hold(now_ns() + ns, op.up, cost_ns, error);
  }
  const Delays& delays_;
  std::mt19937_64 random_;
};

const baton_driver kSlots = Tap::slots();

}  // namespace
}  // namespace baton::layers

extern "C" __attribute__((visibility("default"))) const baton_layer* baton_layer_v1() {
  using namespace baton::layers;
  static const baton_layer layer = {
      .struct_size = sizeof(baton_layer),
      .abi_version = BATON_ABI_VERSION,
      .name = "delay",
      .description = "holds completions back for a time",
      .create =
          [](const char* argument, void** out, baton_error* e) {
            auto d = parse(argument);
            if (!d) return *e = d.error(), e->code;
            *out = new Delays(*d);
            return int32_t(BATON_OK);
          },
      .destroy = [](void* l) { delete static_cast<Delays*>(l); },
      .attach =
          [](void* l, const baton_driver_host* host, const char* uri, baton_layered** out, baton_error*) {
            *out = new Delayed(*static_cast<Delays*>(l), host, uri);
            return int32_t(BATON_OK);
          },
      .detach = [](baton_layered* d) { delete Tap::of(d); },
      .slots = &kSlots,
  };
  return &layer;
}
