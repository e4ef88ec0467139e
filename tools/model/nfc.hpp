// nfc.hpp: Unicode Normalization Form C, which the Qwen tokenizers ask for.
//
// Threads  any.   Cost  a scan for text below U+0300 (already normal), else linear.
//
//     to_nfc("e\xCC\x81") == "\xC3\xA9"
#pragma once

#include <string>
#include <string_view>

namespace baton::model {

std::string to_nfc(std::string_view valid_utf8);

}  // namespace baton::model
