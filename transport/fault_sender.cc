#include "transport/fault_sender.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <random>

namespace baton::transport {
namespace {

struct Rates {
  uint64_t seed = 1, corrupt = 0, repeat = 0, reorder = 0, cut = 0, connect = 0; // of a million
  std::string mute{};
};

Result<Rates> parse(const std::string& spec) {
  Rates r;
  const Error bad(BATON_INVALID_ARGUMENT, fmt::format("BATON_FABRIC_FAULTS: '{}'", spec.substr(0, 80)), "seed=1,corrupt=1000,repeat=1000,reorder=1000,cut=10,connect=10: of a million; mute=ADDRESS of a rail");
  for (size_t at = 0; at < spec.size();) {
    const size_t end = std::min(spec.find(',', at), spec.size()), eq = spec.find('=', at);
    if (eq >= end) return bad;
    const std::string key = spec.substr(at, eq - at);
    if (key == "mute") {
      r.mute = spec.substr(eq + 1, end - eq - 1);
      at = end + 1;
      continue;
    }
    uint64_t* to = key == "seed" ? &r.seed : key == "corrupt" ? &r.corrupt : key == "repeat" ? &r.repeat : key == "reorder" ? &r.reorder : key == "cut" ? &r.cut : key == "connect" ? &r.connect : nullptr;
    const char *first = spec.data() + eq + 1, *last = spec.data() + end;
    if (!to || first == last || std::from_chars(first, last, *to).ptr != last) return bad;
    at = end + 1;
  }
  return r;
}

class FaultSender final : public Sender {
 public:
  FaultSender(std::unique_ptr<Sender> s, const Rates& r, bool mute) : inner_(std::move(s)), rates_(r), rng_(r.seed), unconnected_(happens(r.connect)), mute_(mute) {}
  std::optional<Status> state() override {
    if (unconnected_) return Status(Error(BATON_PEER_LOST, "the fabric did not connect (BATON_FABRIC_FAULTS)", "open a new transfer"));
    return inner_->state();
  }
  Result<void*> local(const SourceMemory& m) override {
    regions_.push_back({m.base, m.bytes});
    return inner_->local(m);
  }
  uint64_t step(Batch& b, uint64_t budget) override {
    if (happens(rates_.cut)) {
      b.error = Error(BATON_PEER_LOST, "a rail was cut (BATON_FABRIC_FAULTS)", "open a new transfer");
      return 0;
    }
    const uint8_t* src = b.src;
    if (happens(rates_.corrupt)) b.src = neighbour(b);
    const uint64_t n = inner_->step(b, budget);
    b.src = src;
    return n;
  }
  bool streams(const Batch& b) const override { return inner_->streams(b); }
  void heard(const Message& m) override { inner_->heard(m); }
  void stop(Batch& b) override { inner_->stop(b); }
  bool notify(const Note& n) override {
    if (happens(rates_.reorder)) return false; // it is tried again, after those that come meanwhile
    if (!inner_->notify(n)) return false;
    if (happens(rates_.repeat)) (void)inner_->notify(n);
    return true;
  }
  uint32_t progress() override { return mute_ ? 0 : inner_->progress(); }
  bool unsettled() const override { return inner_->unsettled(); }
  int fd() const override { return inner_->fd(); }
  bool converts() const override { return inner_->converts(); }
  bool copies() const override { return inner_->copies(); }
  void close(uint64_t generation, bool complete) override { inner_->close(generation, complete); }
  void rails(uint64_t generation, std::vector<RailUse>& all) const override { inner_->rails(generation, all); }
  void abandon() override { inner_->abandon(); }

 private:
  bool happens(uint64_t rate) { return rate && rng_() % 1'000'000 < rate; }
  // 64 bytes beside the source, if that is its own memory.
  const uint8_t* neighbour(const Batch& b) const {
    if (b.units) return b.src;
    uint64_t end = 0;
    for (const KvSegment& g : b.segments) end = std::max(end, g.src + g.bytes);
    for (const auto& [base, bytes] : regions_)
      if (base == b.src && end + 64 <= bytes) return b.src + 64;
    return b.src;
  }

  std::unique_ptr<Sender> inner_;
  Rates rates_;
  std::mt19937_64 rng_;
  const bool unconnected_, mute_;
  std::vector<std::pair<const uint8_t*, uint64_t>> regions_;
};

}  // namespace

Result<std::unique_ptr<Sender>> with_faults(std::unique_ptr<Sender> sender, const std::string& spec, const std::string& fabric, const RailPlace& at) {
  if (spec.empty()) return sender;
  BATON_ASSIGN(Rates r, parse(spec));
  r.seed = r.seed * 31 + at.number;
  for (const char c : fabric) r.seed = r.seed * 31 + uint8_t(c);
  return std::unique_ptr<Sender>(std::make_unique<FaultSender>(std::move(sender), r, !r.mute.empty() && (r.mute == at.host || r.mute == at.device)));
}

}  // namespace baton::transport
