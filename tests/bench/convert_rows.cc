// KV-cache between a 16-bit dtype and FP8 by one thread, beside memcpy of as many bytes as the wide side has.
#include "tests/bench/groups.h"
#include "transport/kv_convert.hpp"

#include <fmt/format.h>

#include <chrono>

namespace baton::bench {
namespace {

using program::DType;

constexpr size_t kBytes = 64u << 20; // of the wide side: well above the last-level cache of a core

double seconds(auto&& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

Status convert_rows(const Settings& s, Report& report) {
  Area wide(kBytes), narrow(kBytes / 2);
  Memcpy copy(kBytes);
  for (size_t i = 0; i < kBytes / 2; ++i) reinterpret_cast<uint16_t*>(wide.data())[i] = uint16_t(0x3c00 + (i * 40503u) % 0x400 + (i % 3 ? 0 : 0x8000)); // 2^-7 to 2
  for (DType w : {DType::bf16, DType::f16})
    for (DType n : {DType::f8e4m3, DType::f8e5m2})
      for (bool back : {false, true}) {
        const DType from = back ? n : w, to = back ? w : n;
        progress(fmt::format("convert: {} to {}", program::dtype_name(from), program::dtype_name(to)));
        BATON_ASSIGN(const transport::ConvertFn f, transport::kv_converter(from, to));
        const transport::RowsFn rows = transport::kv_row_converter(from, to); // what plans use
        uint8_t *dst = back ? wide.data() : narrow.data(), *src = back ? narrow.data() : wide.data();
        const Pair p = interleave(
            s.repeats(15), [&] { return kBytes / 1e9 / seconds([&] {
              const float factor = back ? 0x1.2p-8f : 0x1.2p+8f;
              if (rows) rows({dst, src, kBytes / 2, 1, 0, 0}, factor);
              else f(dst, src, kBytes / 2, factor);
            }); }, [&] { return kBytes / 1e9 / copy.once(); });
        report.add({.group = "convert", .figure = fmt::format("{} to {}, 64 MiB of {}", program::dtype_name(from), program::dtype_name(to), program::dtype_name(w)),
                    .unit = "GB/s",
                    .value = p.figure, .yardstick = "memcpy, one thread, 64 MiB", .against = p.yardstick, .ratio = p.ratio.median, .aim_on = AimOn::ratio_above, .aim = 0.5,
                    .note = fmt::format("Bytes of the wide side a second; {}.", transport::isa_name(transport::convert_isa()))});
      }
  return {};
}

}  // namespace baton::bench
