// Temporary, while emulators/engine is being written: lets the driver link without LAUNCH.
#include "emulators/engine/engine.hpp"
namespace baton::engine {
struct Executable::Impl {};
struct Run::Impl {};
Isa best_isa() { return Isa::scalar; }
Result<Isa> parse_isa(std::string_view) { return Isa::scalar; }
Result<Executable> Executable::load(std::span<const uint8_t>, std::span<const Constant>, const Options&) {
  return Error(BATON_UNSUPPORTED, "no engine in this build");
}
Executable::Executable(Executable&&) noexcept = default;
Executable::~Executable() = default;
Run::Run(const Executable&, std::span<const Binding>, std::span<const int64_t>, RunHooks) {}
Run::~Run() = default;
Step Run::step() { return Step::failed; }
const Error& Run::error() const { static Error e; return e; }
}
