// Chunks sealed and opened by one thread, by each AEAD that this processor has, beside memcpy of as many bytes.
#include "tests/bench/groups.h"
#include "transport/aead.hpp"

#include <fmt/format.h>

#include <chrono>

namespace baton::bench {
namespace {

using namespace transport;

constexpr size_t kBytes = 64u << 20, kChunk = 256u << 10, kChunks = kBytes / kChunk;

double seconds(auto&& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

ChunkLabel label(size_t i) { return {1, 0, 0, uint32_t(i), uint32_t(kChunk)}; }

}  // namespace

Status crypto_rows(const Settings& s, Report& report) {
  Area plain(kBytes), sealed(kBytes + kChunks * kTagBytes);
  Memcpy copy(kBytes);
  const Key key = random_key();
  for (Aead a : {Aead::aes256gcm, Aead::chacha20poly1305}) {
    if (!aead_here(a)) continue;
    progress(fmt::format("crypto: {}", aead_name(a)));
    bool right = true;
    auto box = [&](size_t i) { return std::span<uint8_t>(sealed.data() + i * (kChunk + kTagBytes), kChunk + kTagBytes); };
    auto text = [&](size_t i) { return std::span<uint8_t>(plain.data() + i * kChunk, kChunk); };
    // A stream of its own each time: what is opened was sealed just before, outside of the measure.
    auto once = [&](bool open) {
      auto sealer = ChunkSealer::create(a, key, 1);
      auto opener = sealer.ok() ? ChunkOpener::create(key, 1, sealer->header()) : Result<ChunkOpener>(sealer.error());
      if (!opener.ok()) return right = false, 1.0;
      auto seal = [&] { for (size_t i = 0; i < kChunks; ++i) right = sealer->seal(box(i), text(i), label(i)) && right; };
      if (!open) return seconds(seal);
      seal();
      return seconds([&] { for (size_t i = 0; i < kChunks; ++i) right = opener->open(text(i), box(i), label(i)) && right; });
    };
    for (bool open : {false, true}) {
      const Pair p = interleave(s.repeats(9), [&] { return kBytes / 1e9 / once(open); }, [&] { return kBytes / 1e9 / copy.once(); });
      report.add({.group = "crypto", .figure = fmt::format("{} {}, chunks of 256 KiB", open ? "open" : "seal", aead_name(a)), .unit = "GB/s", .value = p.figure,
                  .yardstick = "memcpy, one thread, 64 MiB", .against = p.yardstick, .ratio = p.ratio.median, .note = a == best_aead() ? "What a session takes here." : ""});
    }
    if (!right) return Error(BATON_INTERNAL, fmt::format("{}: a chunk did not open", aead_name(a)), "report this");
  }
  return {};
}

}  // namespace baton::bench
