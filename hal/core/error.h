// error.h: filling the caller's baton_error.
//
// Owner    the caller's memory.   Threads  any; no state.   Cost  a snprintf: error paths only.   Errors  none of its own.
//
//     return fail(error, make_error(BATON_NOT_FOUND, uri, "list devices with: devctl list", "no driver for '%s'", scheme));
#pragma once

#include "hal/baton.h"

#include <cstdint>

namespace baton::core {

// `device` and `next` may be NULL. The what text is the printf format.
__attribute__((format(printf, 4, 5))) baton_error make_error(int32_t code, const char* device, const char* next, const char* what, ...);

// Copies into the caller's struct, which may be NULL or an older, smaller one. Returns the code.
int32_t fail(baton_error* to, const baton_error& from);

// Empties the caller's struct. Returns BATON_OK.
int32_t ok(baton_error* to);

// A zeroed full-size error to hand to a driver.
baton_error blank_error();

// A driver returned `code`: completes what it left out (code, device, a text) so that no error is ever empty.
void complete_error(baton_error& e, int32_t code, const char* device, uint64_t epoch, const char* call);

// Appends " > name" to the hop; the same place twice in a row is one hop. A hop that does not fit ends in "...".
void add_hop(baton_error& e, const char* name);

// Copies an in/out struct of `size` bytes to a caller that knows `caller_size` bytes of it (0: all of them).
void copy_out(void* to, uint32_t caller_size, const void* from, uint32_t size);

}  // namespace baton::core
