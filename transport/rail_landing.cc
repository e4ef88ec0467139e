// The sink's side of rails: one landing for each NIC, what they have unpacked in common, and which rails' notes a layer still waits for.
#include "transport/kv_wire.hpp"
#include "transport/rails.hpp"
#include "transport/stream.hpp"

#include <algorithm>

namespace baton::transport {
namespace {

constexpr size_t kHeldNotes = 4096;
constexpr uint32_t kNoSlot = UINT32_MAX;

class RailLanding final : public Landing {
 public:
  RailLanding(const std::string& fabric, Session::Impl& s, const LandingMemory& m) : fabric_(fabric), session_(&s), memory_(m), flows_(memory_) {}
  const char* fabric() const override { return fabric_.c_str(); }

  Status start(std::vector<Nic> nics) {
    for (Nic& n : nics) rails_.push_back({0, std::move(n), nullptr, {}});
    return open_all();
  }

  bool wants_moves() const override {
    return std::any_of(rails_.begin(), rails_.end(), [](const Rail& r) { return r.landing && r.landing->wants_moves(); });
  }

  Result<nlohmann::json> offer() override {
    if (!session_) return Error(BATON_PEER_LOST, "this landing is closed", "open a new session");
    if (!live_bits()) BATON_TRY(open_all()); // of requests that have ended: not the next one's
    nlohmann::json list = nlohmann::json::array();
    for (Rail& r : rails_) { // one that is closed too: it may be asked for again
      BATON_ASSIGN(auto one, offer_of(r));
      list.push_back(std::move(one));
    }
    return nlohmann::json{{"sink", memory_.id}, {"rails", std::move(list)}};
  }

  Result<uint32_t> allow(uint64_t generation, const KvMoves* moves) override {
    const uint32_t i = slots_.open();
    requests_.resize(slots_.size());
    requests_[i] = {generation, moves};
    flows_.allow(generation, i, moves);
    for (Rail& r : rails_)
      if (r.landing) BATON_TRY(allow_on(r, i));
    return i;
  }
  void revoke(uint32_t slot) override {
    flows_.revoke(slot);
    each(slot, [](Landing& l, uint32_t s) { l.revoke(s); });
    slots_.revoke(slot);
    std::erase_if(held_, [&](const Held& h) { return h.note.generation == requests_[slot].generation; });
  }
  void stopped(uint32_t slot) override {
    each(slot, [](Landing& l, uint32_t s) { l.stopped(s); });
    slots_.stopped(slot);
  }
  void session_lost() override {
    session_ = nullptr;
    for (Rail& r : rails_)
      if (r.landing) r.landing->session_lost();
  }
  // Those that are closed cannot write.
  bool quiet(uint32_t slot) override {
    bool all = !session_;
    each(slot, [&](Landing& l, uint32_t i) { all = l.quiet(i) && all; });
    if (all) slots_.stopped(slot);
    return slots_.free(slot);
  }

  bool poll(std::vector<Note>& notes, uint32_t& worked) override {
    const bool was_up = live_bits();
    uint32_t before = 0;
    do { // a piece that one rail has may be what another's waits for
      before = worked;
      for (Rail& r : rails_) {
        if (!r.landing) continue;
        received_.clear();
        const bool good = r.landing->poll(received_, worked);
        for (const Note& n : received_)
          if (!hear(n, rail_bit(r.number), notes)) return false;
        if (good) continue;
        if ((broken_ = r.landing->broken())) return false; // the peer sends what makes no sense: by no rail any more
        cause_ = r.landing->cause().value_or(Error(BATON_PEER_LOST, fmt::format("the {} rail {} failed", fabric_, r.nic.name), "see 'ip link' and 'devctl fabric'"));
        out_.push_back({"kv.rail", {{"down", r.number}, {"error", to_json(*cause_)}}, {}});
        close(r, notes);
      }
    } while (worked != before && worked < 8);
    return !was_up || live_bits();
  }

  Status heard(const Message& m, std::vector<Note>& notes) override {
    if (m.type == "kv.cipher") {
      Rail* r = find(u64_of(m.body, "rail").value_or(0));
      return r ? r->landing->heard(m, notes) : Status(); // closed meanwhile
    }
    if (m.bytes.size() % sizeof(Note) || m.bytes.size() > kHeldNotes * sizeof(Note)) return malformed();
    for (size_t at = 0; at < m.bytes.size(); at += sizeof(Note)) {
      Note n;
      std::memcpy(&n, m.bytes.data() + at, sizeof n);
      if (!hear(n, 0, notes)) return malformed();
    }
    if (m.body.contains("down")) {
      const auto number = u64_of(m.body, "down");
      if (!number) return malformed();
      if (Rail* r = find(*number)) close(*r, notes);
    }
    if (m.body.contains("again")) {
      const auto number = u64_of(m.body, "again");
      if (!number) return malformed();
      again(*number);
    }
    return {};
  }
  void tell(std::vector<Message>& all) override {
    for (Rail& r : rails_) {
      if (!r.landing) continue;
      const size_t first = all.size();
      r.landing->tell(all);
      for (size_t i = first; i < all.size(); ++i) all[i].body["rail"] = r.number;
    }
    for (Message& m : out_) all.push_back(std::move(m));
    out_.clear();
  }
  const char* broken() const override { return broken_; }
  std::optional<Error> cause() const override { return cause_; }
  uint64_t tick_ns() const override {
    uint64_t want = 0;
    for (const Rail& r : rails_)
      if (const uint64_t t = r.landing ? r.landing->tick_ns() : 0) want = want ? std::min(want, t) : t;
    return want;
  }

 private:
  struct Rail {
    uint32_t number;
    Nic nic;
    std::unique_ptr<Landing> landing; // nullptr: closed
    std::vector<uint32_t> slots;      // its own, by ours
  };
  struct Request {
    uint64_t generation = 0;
    const KvMoves* moves = nullptr;
  };
  struct Held {
    Note note;
    uint32_t waits; // bits of rails that have not brought it
  };

  static Error malformed() { return Error(BATON_CORRUPT, "a kv.rail with missing or malformed fields", "run the same Baton version on both sides"); }
  uint32_t live_bits() const {
    uint32_t bits = 0;
    for (const Rail& r : rails_)
      if (r.landing) bits |= rail_bit(r.number);
    return bits;
  }
  Rail* find(uint64_t number) {
    const auto it = std::find_if(rails_.begin(), rails_.end(), [&](const Rail& r) { return r.landing && r.number == number; });
    return it == rails_.end() ? nullptr : &*it;
  }
  template <class F>
  void each(uint32_t slot, F f) {
    for (Rail& r : rails_)
      if (r.landing && slot < r.slots.size() && r.slots[slot] != kNoSlot) f(*r.landing, r.slots[slot]);
  }

  // One NIC that does not work leaves the others; the last error is told if none does.
  Status open_all() {
    Status last;
    for (Rail& r : rails_)
      if (Status s = open(r); !s.ok()) last = s;
    if (live_bits()) return {};
    return last;
  }
  Status open(Rail& r) {
    do ++numbers_;
    while (live_bits() & rail_bit(numbers_));
    RailPlace place = place_on(r.nic, r.number = numbers_);
    place.flows = &flows_;
    BATON_ASSIGN(auto landing, make_landing(fabric_, *session_, memory_, place));
    r.landing = std::move(landing);
    r.slots.clear();
    for (uint32_t i = 0; i < slots_.size(); ++i)
      if (slots_.wanted(i)) BATON_TRY(allow_on(r, i));
    return {};
  }
  Status allow_on(Rail& r, uint32_t slot) {
    if (r.slots.size() <= slot) r.slots.resize(slot + 1, kNoSlot);
    BATON_ASSIGN(r.slots[slot], r.landing->allow(requests_[slot].generation, requests_[slot].moves));
    return {};
  }
  Result<nlohmann::json> offer_of(Rail& r) {
    nlohmann::json one{{"rail", r.number}, {"nic", r.nic.name}, {"host", r.nic.host}};
    if (r.landing) { BATON_ASSIGN(one["offer"], r.landing->offer()); }
    return one;
  }
  void close(Rail& r, std::vector<Note>& notes) {
    r.landing.reset(); // from here on nothing comes by it
    const uint32_t up = live_bits();
    std::erase_if(held_, [&](Held& h) {
      if (h.waits &= up) return false;
      notes.push_back(h.note);
      return true;
    });
  }
  void again(uint64_t number) {
    for (Rail& r : rails_) {
      if (r.landing || r.number != number || !session_) continue;
      nlohmann::json body{{"of", number}};
      Status s = open(r);
      if (s.ok()) {
        if (auto one = offer_of(r); one.ok()) body["rail"] = std::move(*one);
        else s = one.error();
      }
      if (!s.ok()) {
        r.landing.reset();
        r.number = uint32_t(number); // it may be asked for once more
        body["error"] = to_json(s.error());
      }
      out_.push_back({"kv.rail", std::move(body), {}});
    }
  }

  // A note, by the rail of that bit; 0: over the session. False: too many.
  bool hear(const Note& n, uint32_t by, std::vector<Note>& notes) {
    if (n.kind != Note::Kind::layer) return true;
    bool wanted = false;
    for (uint32_t i = 0; i < slots_.size(); ++i) wanted |= slots_.wanted(i) && requests_[i].generation == n.generation;
    if (!wanted) return true; // late
    const auto it = std::find_if(held_.begin(), held_.end(), [&](const Held& h) {
      return h.note.generation == n.generation && h.note.source == n.source && h.note.layer == n.layer && h.note.part == n.part;
    });
    const uint32_t waits = (it == held_.end() ? n.slot : it->waits) & live_bits() & ~by;
    if (!waits) {
      notes.push_back(n);
      if (it != held_.end()) held_.erase(it);
    } else if (it != held_.end()) {
      it->waits = waits;
    } else {
      if (held_.size() >= kHeldNotes) return broken_ = "more layers than can be held", false;
      held_.push_back({n, waits});
    }
    return true;
  }

  std::string fabric_;
  Session::Impl* session_; // nullptr: lost
  LandingMemory memory_;
  StreamFlows flows_;      // outlives the landings
  std::vector<Rail> rails_;
  LandingSlots slots_;
  std::vector<Request> requests_; // by slot
  std::vector<Held> held_;
  std::vector<Note> received_;
  std::vector<Message> out_;
  uint32_t numbers_ = 0;
  const char* broken_ = nullptr;
  std::optional<Error> cause_;
};

} // namespace

Result<std::unique_ptr<Landing>> make_rail_landing(const std::string& fabric, Session::Impl& s, const LandingMemory& m) {
  if (s.ep->options.rails.empty() || !has_rails(fabric)) return make_landing(fabric, s, m);
  BATON_ASSIGN(std::vector<Nic> nics, rails_of(*s.ep, fabric, m.base, m.bytes));
  auto l = std::make_unique<RailLanding>(fabric, s, m);
  BATON_TRY(l->start(std::move(nics)));
  return std::unique_ptr<Landing>(std::move(l));
}

}  // namespace baton::transport
