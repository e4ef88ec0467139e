// The examples in baton.hpp and program.hpp, compiled.
#include "hal/program/program.hpp"

#define DONE return {};
namespace baton {
#define EXAMPLE(n)                                                                                  \
  Status example_##n([[maybe_unused]] Instance& in, [[maybe_unused]] Buffer& buf, [[maybe_unused]] Queue& q, \
                     [[maybe_unused]] Timeline& made, [[maybe_unused]] Timeline& done)
#include "baton_hpp.inc"
#undef EXAMPLE
namespace program {
#define EXAMPLE(n) Status example_##n([[maybe_unused]] Builder& builder)
#include "program_hpp.inc"
}  // namespace program
}  // namespace baton
