// bpe.hpp: byte-level byte-pair encoding of one pre-token: bytes to token ids.
//
// Owner    a Bpe is immutable after build().   Threads  const use from any.
// Cost     O(n log n) in the bytes of the pre-token (a heap over a linked list), so that a megabyte without a space is no trap.
// Errors   CORRUPT / UNSUPPORTED from build(), naming the entry.
//
//     BATON_ASSIGN(Bpe bpe, Bpe::build(vocab, merges, ignore_merges));
//     bpe.encode(" garden", ids);
#pragma once

#include "hal/baton.hpp"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace baton::model {

// The printable alphabet of byte-level BPE: each byte is one code point (GPT-2's table).
const std::array<uint32_t, 256>& byte_alphabet();
// The bytes that a vocabulary entry stands for; UNSUPPORTED if it has characters outside the alphabet.
Result<std::string> from_alphabet(std::string_view entry);

class Bpe {
 public:
  // `vocab`: bytes -> id. `merges`: pairs of bytes, best first. ignore_merges: a pre-token that is an entry as a whole is taken as such.
  static Result<Bpe> build(std::unordered_map<std::string, int32_t> vocab, const std::vector<std::pair<std::string, std::string>>& merges,
                           bool ignore_merges);
  void encode(std::string_view pretoken, std::vector<int32_t>& out) const;
  const std::unordered_map<std::string, int32_t>& vocab() const { return vocab_; }

 private:
  struct Merge {
    uint32_t rank;
    int32_t id;
  };
  const Merge* find(int32_t left, int32_t right) const {
    auto it = merges_.find(uint64_t(uint32_t(left)) << 32 | uint32_t(right));
    return it == merges_.end() ? nullptr : &it->second;
  }
  std::unordered_map<std::string, int32_t> vocab_;
  std::unordered_map<uint64_t, Merge> merges_;
  std::array<int32_t, 256> byte_ids_{};
  bool ignore_merges_ = false;
};

}  // namespace baton::model
