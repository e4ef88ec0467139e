// npy.hpp: a float32 matrix as a NumPy file.
//
// Threads  any.   Errors  IO, with the path and errno's text.
//
//     BATON_TRY(write_npy("logits.npy", logits, vocab));
#pragma once

#include "hal/baton.hpp"

#include <span>
#include <string>

namespace baton::runtime {

Status write_npy(const std::string& path, std::span<const float> values, uint64_t columns); // [values / columns, columns]
Status write_file(const std::string& path, std::string_view bytes);

}  // namespace baton::runtime
