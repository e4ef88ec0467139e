#include "tools/model/bpe.hpp"

#include "tools/model/fail.hpp"
#include "tools/model/utf8.hpp"

#include <queue>

namespace baton::model {

const std::array<uint32_t, 256>& byte_alphabet() {
  // Printable Latin-1 bytes stand for themselves, the other 68 for U+0100 upwards.
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> t{};
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
      bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      t[b] = printable ? b : next++;
    }
    return t;
  }();
  return table;
}

Result<std::string> from_alphabet(std::string_view entry) {
  static const std::unordered_map<uint32_t, uint8_t> back = [] {
    std::unordered_map<uint32_t, uint8_t> m;
    for (uint32_t b = 0; b < 256; ++b) m[byte_alphabet()[b]] = uint8_t(b);
    return m;
  }();
  std::string bytes;
  for (size_t i = 0; i < entry.size();) {
    uint32_t c = 0;
    if (!utf8_next(entry, i, c)) return fail(BATON_CORRUPT, "fetch the file again", "entry '{}' is not UTF-8", entry.substr(0, 40));
    auto it = back.find(c);
    if (it == back.end())
      return fail(BATON_UNSUPPORTED, "use a checkpoint with a byte-level BPE tokenizer.json",
                  "entry '{}' has U+{:04X}, which is outside the byte-level alphabet{}", entry.substr(0, 40), c,
                  c == 0x2581 ? " (a sentencepiece vocabulary)" : "");
    bytes += char(it->second);
  }
  return bytes;
}

Result<Bpe> Bpe::build(std::unordered_map<std::string, int32_t> vocab, const std::vector<std::pair<std::string, std::string>>& merges,
                       bool ignore_merges) {
  Bpe b;
  b.vocab_ = std::move(vocab);
  b.ignore_merges_ = ignore_merges;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    auto it = b.vocab_.find(std::string(1, char(byte)));
    if (it == b.vocab_.end())
      return fail(BATON_UNSUPPORTED, "use a checkpoint with a byte-level BPE tokenizer.json", "no vocabulary entry for byte 0x{:02X}", byte);
    b.byte_ids_[byte] = it->second;
  }
  b.merges_.reserve(merges.size());
  for (uint32_t rank = 0; rank < merges.size(); ++rank) {
    auto& [left, right] = merges[rank];
    auto l = b.vocab_.find(left), r = b.vocab_.find(right), whole = b.vocab_.find(left + right);
    if (l == b.vocab_.end() || r == b.vocab_.end() || whole == b.vocab_.end())
      return fail(BATON_CORRUPT, "fetch the file again", "merge {} ('{}' + '{}') names what is not in the vocabulary", rank, utf8_clean(left), utf8_clean(right));
    b.merges_.emplace(uint64_t(uint32_t(l->second)) << 32 | uint32_t(r->second), Merge{rank, whole->second});
  }
  return b;
}

void Bpe::encode(std::string_view pretoken, std::vector<int32_t>& out) const {
  if (pretoken.empty()) return;
  if (ignore_merges_) {
    if (auto it = vocab_.find(std::string(pretoken)); it != vocab_.end()) {
      out.push_back(it->second);
      return;
    }
  }
  struct Node {
    int32_t id, previous, next;  // id -1: merged away
  };
  struct Candidate {
    uint32_t rank;
    int32_t at, left, right;     // the ids that it would join: stale if the nodes have others by now
    bool operator>(const Candidate& o) const { return std::pair(rank, at) > std::pair(o.rank, o.at); }
  };
  int32_t n = int32_t(pretoken.size());
  std::vector<Node> nodes(size_t(n), Node{});
  for (int32_t i = 0; i < n; ++i) nodes[size_t(i)] = {byte_ids_[uint8_t(pretoken[size_t(i)])], i - 1, i + 1 < n ? i + 1 : -1};
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap;
  auto offer = [&](int32_t at) {
    if (at < 0 || nodes[size_t(at)].next < 0) return;
    int32_t l = nodes[size_t(at)].id, r = nodes[size_t(nodes[size_t(at)].next)].id;
    if (const Merge* m = find(l, r)) heap.push({m->rank, at, l, r});
  };
  for (int32_t i = 0; i < n; ++i) offer(i);
  while (!heap.empty()) {
    Candidate c = heap.top();
    heap.pop();
    Node& left = nodes[size_t(c.at)];
    if (left.id != c.left || left.next < 0 || nodes[size_t(left.next)].id != c.right) continue;
    Node& right = nodes[size_t(left.next)];
    left.id = find(c.left, c.right)->id;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) nodes[size_t(left.next)].previous = c.at;
    offer(left.previous);
    offer(c.at);
  }
  for (int32_t i = 0; i >= 0; i = nodes[size_t(i)].next) out.push_back(nodes[size_t(i)].id);
}

}  // namespace baton::model
