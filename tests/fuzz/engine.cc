// Programs of any shape, loaded and run on small memory: what verifies and can be bound never leaves the memory that was bound to it.
// Every buffer is an allocation of its own, filled with bytes of the input, so that a sanitizer sees its ends.
#include "emulators/engine/engine.hpp"
#include "tests/fuzz/program_io.h"

#include <deque>

using namespace baton;

namespace {

constexpr uint64_t kMostBytes = 1 << 16;  // of one value; larger ones are verified, not run
constexpr int kMostOps = 512;             // executed in one launch

using Memory = std::vector<uint8_t>;

uint64_t bytes_of(const program::Program& p, const program::Value& v) {
  uint64_t n = program::dtype_bytes(v.dtype);
  for (const int64_t d : v.shape) {
    n *= d == program::kTokens ? p.max_tokens : d == program::kSteps ? p.max_steps + 1 : uint64_t(d);
    if (n > kMostBytes) return n;
  }
  return n;
}

// Numbers near those that a launch takes, from two bytes of the input.
int64_t argument(program::Arg a, const program::Program& p, fuzz::Input& in) {
  const uint16_t n = in.number<uint16_t>();
  double d = n / 256.0;
  int64_t bits;
  std::memcpy(&bits, &d, sizeof bits);
  if (n == UINT16_MAX) return INT64_MIN;
  switch (a) {
    case program::Arg::temperature:
    case program::Arg::top_p: return bits;
    case program::Arg::tokens: return 1 + n % p.max_tokens;
    case program::Arg::steps: return 1 + n % p.max_steps;
    case program::Arg::stop: return n % 2;
    default: return n;
  }
}

int launch(const program::Program& p, const engine::Executable& exe, fuzz::Input& in, std::deque<Memory>& memory) {
  std::vector<int64_t> args;
  for (const program::Arg a : p.args) args.push_back(argument(a, p, in));
  std::vector<engine::Binding> bindings;
  for (const program::Value& v : p.values) {
    if (v.storage == program::Storage::constant || v.storage == program::Storage::scratch) continue;
    const uint8_t how = in.number();
    if (v.optional && how % 2) continue;
    const uint64_t bytes = v.shape.empty() ? how * 64 : bytes_of(p, v);
    Memory& m = memory.emplace_back(bytes);
    const auto given = in.bytes(std::min<uint64_t>(bytes, 16));
    for (size_t i = 0; i < given.size(); ++i) m[i] = given[i];
    bindings.push_back({v.name, m});
  }
  engine::Run run(exe, bindings, args, {.on_mark = [](uint64_t, uint64_t) { return true; }});
  engine::Step step = engine::Step::more;
  for (int i = 0; i < kMostOps && step == engine::Step::more; ++i) step = run.step();
  return step == engine::Step::failed ? fuzz::sound(run.error()) : 0;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  program::Program p;
  fuzz::ProgramReader(in).all(p);
  const std::vector<uint8_t> bytes = program::serialize(p);
  const Status good = program::verify(p);
  auto parsed = program::parse(bytes);
  FUZZ_CHECK(parsed.ok() == good.ok());
  if (!good.ok()) return fuzz::sound(good);
  uint64_t work = uint64_t(p.max_tokens) * p.max_context;
  for (const program::Value& v : p.values) work = std::max(work, bytes_of(p, v));
  if (work > kMostBytes) return 0;
  std::deque<Memory> memory;
  std::vector<engine::Constant> constants;
  for (const program::Value& v : p.values)
    if (v.storage == program::Storage::constant) constants.push_back({v.name, memory.emplace_back(bytes_of(p, v), in.number())});
  auto exe = engine::Executable::load(bytes, constants, {.isa = engine::Isa::scalar});
  if (!exe) return fuzz::sound(exe);
  return launch(p, *exe, in, memory);
}
