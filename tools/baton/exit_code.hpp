// exit_code.hpp: what the process says when it ends: 0 ok, 1 finding, 2 usage or bad input, 3 no such device, 4 permission, 5 busy,
// 6 unsupported, 7 lost, 8 timeout, 9 version or mismatch, 130 interrupted.
#pragma once

#include "hal/baton.hpp"

namespace baton::runtime {

int exit_code(const Error&);
// One line, and a line "next: ...", on stderr. Returns exit_code().
int report_error(const Error&);

}  // namespace baton::runtime
