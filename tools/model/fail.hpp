// fail.hpp: an Error from a format string.
//
//     return fail(BATON_CORRUPT, "download the file again", "{}: header of {} bytes in a file of {}", path, header, size);
#pragma once

#include "hal/baton.hpp"

#include <fmt/format.h>

namespace baton {

template <class... A>
Error fail(int32_t code, std::string_view next, fmt::format_string<A...> what, A&&... args) {
  return Error(code, fmt::format(what, std::forward<A>(args)...), next);
}

}  // namespace baton
