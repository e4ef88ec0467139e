// The source's side of rails: stripes, which rail takes the next, and what becomes of those whose rail fails.
#include "transport/kv_wire.hpp"
#include "transport/rails.hpp"
#include "transport/stream.hpp"

#include <algorithm>

namespace baton::transport {
namespace {

constexpr uint64_t kLeastStripe = 256u << 10, kMostStripe = 1u << 20;
constexpr uint32_t kRoom = 8;                   // stripes of one rail in flight
// Of a stream some pieces of each rail are left for those of a rail that fails: all others may be with the sink, waiting for just these. As many as are
// returned together, or they would not come back.
constexpr uint32_t kStreamRoom = kStreamPieces - kStreamBunch;
constexpr uint64_t kMostCooldown = 60;          // of the first
constexpr uint64_t kJoinNs = 200'000'000;       // after which a transfer begins without the rails that are still connecting

class RailSender final : public Sender {
 public:
  RailSender(const std::string& fabric, Session::Impl& s) : fabric_(fabric), session_(s), started_ns_(now_ns()) {
    const EndpointOptions& o = s.ep->options;
    silence_ns_ = o.rail_silence_ns ? o.rail_silence_ns : std::max(o.lease_ns, s.peer.lease_ns) / 2;
    cooldown_ns_ = std::max<uint64_t>(o.rail_cooldown_ns, 1);
  }

  Status start(std::vector<Nic> nics, const nlohmann::json& offer) {
    const Error bad(BATON_CORRUPT, "the sink's offer of rails makes no sense", "run the same Baton version on both sides");
    sink_ = text_of(offer, "sink").value_or("");
    const nlohmann::json& list = offer["rails"];
    if (sink_.empty() || !list.is_array() || list.empty() || list.size() > kMaxRails) return bad;
    std::vector<bool> paired(list.size());
    // Those in one network first, then what is left, in order: a router may join them.
    for (const bool near : {true, false})
      for (size_t k = 0; k < list.size(); ++k) {
        if (paired[k]) continue;
        const auto host = text_of(list[k], "host");
        if (!host || !text_of(list[k], "nic")) return bad;
        const auto nic = std::find_if(nics.begin(), nics.end(), [&](const Nic& n) { return !near || in_network(n, *host); });
        if (nic == nics.end()) continue;
        paired[k] = true;
        Rail& r = *rails_.emplace_back(std::make_unique<Rail>());
        r.nic = std::move(*nic);
        nics.erase(nic);
        r.cooldown_ns = cooldown_ns_;
        r.down_ns = started_ns_;
        r.answer = list[k];
      }
    std::optional<Error> last;
    for (auto& r : rails_)
      if (Status s = connect(*r, std::exchange(r->answer, nullptr)); !s.ok()) {
        if (session_.cause) return s;
        if (!r->number) return bad; // it was not offered as one
        last = s.error();
        lose(*r, s.error());
      }
    return last && !any([](const Rail& r) { return r.sender != nullptr; }) ? Status(*last) : Status();
  }

  std::optional<Status> state() override {
    if (failure_) return Status(*failure_);
    for (auto& r : rails_) look(*r);
    if (failure_) return Status(*failure_);
    const bool up = any([](const Rail& r) { return r.up; }), joining = any([](const Rail& r) { return r.sender && !r.up; });
    if (!up || (joining && now_ns() - started_ns_ < kJoinNs)) return std::nullopt;
    return Status();
  }

  Result<void*> local(const SourceMemory& m) override {
    const SourceKey key = key_of(m);
    auto it = std::find_if(sources_.begin(), sources_.end(), [&](const auto& s) { return s->memory.base == m.base && s->memory.bytes == m.bytes && *s->memory.key == key; });
    if (it == sources_.end()) it = sources_.insert(it, std::make_unique<Source>());
    Source& s = **it;
    s.memory = m;
    s.handles.assign(rails_.size(), std::nullopt);
    std::optional<Error> last;
    for (size_t i = 0; i < rails_.size(); ++i)
      if (rails_[i]->up) {
        auto h = rails_[i]->sender->local(s.memory);
        if (h.ok()) s.handles[i] = *h;
        else last = h.error();
      }
    s.memory.fd = -1; // the caller's, for now; a rail that comes later goes by the key
    s.memory.key = key;
    if (last && std::none_of(s.handles.begin(), s.handles.end(), [](const auto& h) { return h.has_value(); })) return *last;
    return &s;
  }

  bool unsettled() const override { return !requests_.empty(); } // a rail that owes a note, or fails with it
  bool converts() const override { return any([](const Rail& r) { return r.sender && r.sender->converts(); }); }
  bool copies() const override { return false; }

  uint64_t step(Batch& b, uint64_t budget) override {
    uint64_t done = 0;
    while (!failure_ && !b.error && !b.posted() && done < budget) {
      const uint64_t n = cut(b);
      if (!n) break;
      done += n;
    }
    if (failure_ && !b.error) b.error = *failure_;
    return done;
  }

  bool notify(const Note& n) override {
    Request& q = request(n.generation);
    Note note = n;
    note.slot = 0;
    for (auto& r : rails_)
      if (r->up && r->sender->in_order()) note.slot |= rail_bit(r->number);
    q.notes.push_back(note);
    for (auto& r : rails_)
      if (r->up && !r->sender->notify(note)) r->owed.push_back(note);
    return true;
  }

  uint32_t progress() override {
    uint32_t n = 0;
    const uint64_t now = now_ns();
    for (auto& r : rails_) {
      if (!r->sender) continue;
      const uint32_t events = r->sender->progress();
      if (events) r->moved_ns = now, r->down_ns = 0, r->proved = true;
      n += events;
      look(*r);
      if (r->up) std::erase_if(r->owed, [&](const Note& note) { return r->sender->notify(note); });
    }
    n += settle(now);
    if (!failure_) {
      watch_silence(now);
      repost();
      ask_again(now);
      join();
    }
    flush(); // the last: the session may end, and with it what is in flight
    return n;
  }
  void heard(const Message& m) override {
    const uint64_t number = u64_of(m.body, m.type == "kv.credit" ? "rail" : m.body.contains("down") ? "down" : "of").value_or(0);
    for (auto& r : rails_) {
      if (!number || r->number != number) continue;
      if (m.type == "kv.credit" && r->sender) r->sender->heard(m);
      else if (m.type == "kv.rail" && m.body.contains("down")) r->told = error_from(m.body);
      else if (m.type == "kv.rail" && !r->sender && r->asked) r->answer = m.body.contains("rail") ? m.body["rail"] : nlohmann::json(false);
    }
  }

  void stop(Batch& b) override {
    std::erase_if(stripes_, [&](const std::unique_ptr<Stripe>& s) {
      if (s->parent != &b) return false;
      s->stopped = true;
      if (s->rail) s->rail->sender->stop(s->batch);
      if (s->rail && s->batch.outstanding) return false;
      release(*s);
      return true;
    });
  }

  void close(uint64_t generation, bool complete) override {
    const auto it = std::find_if(requests_.begin(), requests_.end(), [&](const Request& q) { return q.generation == generation; });
    if (it != requests_.end()) {
      if (complete && !it->notes.empty()) out_.push_back({"kv.rail", nlohmann::json::object(), bytes_of(it->notes)});
      requests_.erase(it);
    }
    flush();
  }
  void rails(uint64_t generation, std::vector<RailUse>& all) const override {
    all.clear();
    const auto it = std::find_if(requests_.begin(), requests_.end(), [&](const Request& q) { return q.generation == generation; });
    const uint64_t now = now_ns();
    for (size_t i = 0; i < rails_.size(); ++i) {
      const Rail& r = *rails_[i];
      all.push_back({r.nic.name, r.peer_nic, it == requests_.end() || it->bytes.empty() ? 0 : it->bytes[i], r.failures, r.up, r.nic.host, r.peer_host,
                     r.down_ns ? std::max<uint64_t>(1, now - r.down_ns) : 0, r.stripes && now > r.moved_ns ? now - r.moved_ns : 0});
    }
  }
  void abandon() override {
    if (!failure_) failure_ = Error(BATON_CANCELLED, "this sender was abandoned", "open a new transfer");
    for (auto& r : rails_) {
      if (r->sender) r->sender->abandon();
      r->up = false;
    }
    drop_stripes();
  }

 private:
  struct Rail {
    Nic nic;
    std::string peer_nic, peer_host;
    uint32_t number = 0;               // the sink's
    std::unique_ptr<Sender> sender;    // nullptr: closed
    bool up = false;                   // it can take stripes: one, until it has been seen to complete something
    bool proved = false;
    uint32_t stripes = 0;              // in flight
    uint64_t moved_ns = 0, up_ns = 0, failed_ns = 0, down_ns = 0; // something was complete; it came up; it failed last; since when it does not work (0: it does)
    std::vector<Note> owed;            // it had no room for them
    uint64_t cooldown_ns = 0, again_ns = 0;
    bool asked = false;
    uint32_t failures = 0;
    std::optional<Error> told;         // the sink says that it is closed
    nlohmann::json answer;             // null: none; of the sink, when asked: the rail, or false
  };
  struct Source {
    SourceMemory memory;
    std::vector<std::optional<void*>> handles; // by rail; nullopt: not asked, or it cannot
  };
  struct Stripe {
    Batch batch;
    Batch* parent = nullptr;
    Rail* rail = nullptr; // nullptr: its rail has failed
    bool stream = false, stopped = false;
    uint64_t from = 0, bytes = 0, first_offset = 0, posted_ns = 0; // from: of a stream
    KvSegment part{};     // of a long segment
  };
  struct Request { // until its transfer ends
    uint64_t generation = 0;
    std::vector<Note> notes;
    std::vector<uint64_t> bytes; // by rail
  };

  template <class F>
  bool any(F f) const {
    return std::any_of(rails_.begin(), rails_.end(), [&](const auto& r) { return f(*r); });
  }
  static std::vector<uint8_t> bytes_of(const std::vector<Note>& notes) {
    std::vector<uint8_t> out(notes.size() * sizeof(Note));
    if (!notes.empty()) std::memcpy(out.data(), notes.data(), out.size());
    return out;
  }
  Request& request(uint64_t generation) {
    for (Request& q : requests_)
      if (q.generation == generation) return q;
    return requests_.emplace_back(Request{generation, {}, std::vector<uint64_t>(rails_.size())});
  }
  size_t index(const Rail& r) const {
    return size_t(std::find_if(rails_.begin(), rails_.end(), [&](const auto& x) { return x.get() == &r; }) - rails_.begin());
  }

  // ---- rails ----

  Status connect(Rail& r, const nlohmann::json& offer) {
    const uint64_t number = u64_of(offer, "rail").value_or(0);
    r.peer_nic = text_of(offer, "nic").value_or("").substr(0, 32);
    r.peer_host = text_of(offer, "host").value_or("").substr(0, 64);
    if (!number || number > UINT32_MAX || any([&](const Rail& x) { return x.number == number; }))
      return Error(BATON_CORRUPT, "the sink's offer of a rail makes no sense", "run the same Baton version on both sides");
    r.number = uint32_t(number);
    if (!offer.contains("offer")) return Error(BATON_UNSUPPORTED, fmt::format("the sink's {} is not up", r.peer_nic), "see 'devctl fabric' there");
    r.asked = false;
    r.told.reset();
    auto made = make_sender(fabric_, session_, offer["offer"], place_on(r.nic, r.number)); // it may say something, and then the session may end
    if (!made.ok()) return made.error();
    if (failure_) return *failure_;
    r.sender = std::move(*made);
    return {};
  }
  // Has it connected, has it failed?
  void look(Rail& r) {
    if (!r.sender) return;
    if (r.told) return fail(r, *r.told);
    const auto s = r.sender->state();
    if (s && !s->ok()) return fail(r, s->error());
    if (!s || r.up) return;
    if (!any([](const Rail& x) { return x.up; })) // there was none to bring them
      for (const Request& q : requests_) r.owed.insert(r.owed.end(), q.notes.begin(), q.notes.end());
    r.up = true;
    r.up_ns = r.moved_ns = now_ns();
    if (!r.failures) r.down_ns = 0; // one that has failed is to carry something first
  }
  // What it had in flight goes by the others, if there are any.
  void fail(Rail& r, const Error& why) {
    lose(r, why);
    for (auto& s : stripes_)
      if (s->rail == &r) s->rail = nullptr;
    r.stripes = 0;
    r.failed_ns = now_ns();
    // One that has come back after its failure is no hope until something has been complete since.
    if (any([&](const Rail& x) { return x.sender && x.failed_ns <= moved_ns_; })) return;
    for (auto& x : rails_)
      if (x->sender) lose(*x, why);
    failure_ = Error(BATON_PEER_LOST, fmt::format("every rail of {} has failed; the last: {}", fabric_, why.what), why.next);
    drop_stripes();
  }
  void drop_stripes() {
    for (auto& s : stripes_) {
      if (!s->parent->error) s->parent->error = *failure_;
      --s->parent->outstanding;
    }
    stripes_.clear();
  }
  void lose(Rail& r, const Error& why) {
    if (r.sender) r.sender->abandon(); // nothing of it reads the sources any more
    r.sender.reset();
    const bool steady = r.proved && now_ns() - r.up_ns > r.cooldown_ns;
    r.cooldown_ns = steady || !r.failures ? cooldown_ns_ : std::min(2 * r.cooldown_ns, kMostCooldown * cooldown_ns_);
    r.again_ns = now_ns() + r.cooldown_ns;
    r.up = r.proved = r.asked = false;
    if (!r.down_ns) r.down_ns = now_ns();
    r.owed.clear();
    ++r.failures;
    std::vector<Note> notes;
    for (const Request& q : requests_) notes.insert(notes.end(), q.notes.begin(), q.notes.end());
    out_.push_back({"kv.rail", {{"down", r.number}, {"error", to_json(why)}}, bytes_of(notes)});
  }

  // The oldest stripe waits for nothing but its own rail: of a stream too, as pieces are used in their order. A rail that has completed nothing for so long,
  // though the peer is heard over the session, is taken for dead; TCP alone would go on for minutes.
  void watch_silence(uint64_t now) {
    const auto oldest = std::find_if(stripes_.begin(), stripes_.end(), [](const auto& s) { return s->rail != nullptr; });
    const Stripe* s = oldest == stripes_.end() ? nullptr : oldest->get();
    const uint64_t since = s ? std::max(s->posted_ns, s->rail->moved_ns) : now;
    if (!s || now - since < silence_ns_ || session_.heard_ns() < since + silence_ns_ / 2) {
      silent_ns_ = 0;
      return;
    }
    if (!silent_ns_) silent_ns_ = now; // the peer may just have come back: it has a while
    if (now - silent_ns_ < silence_ns_ / 4) return;
    silent_ns_ = 0;
    fail(*s->rail, Error(BATON_PEER_LOST, fmt::format("the rail {} > {} was silent for {} ms", s->rail->nic.name, s->rail->peer_nic, (now - since) / 1'000'000), "see 'ip link' and 'devctl fabric' on both sides"));
  }
  void ask_again(uint64_t now) {
    for (auto& r : rails_) {
      if (r->sender || r->asked || now < r->again_ns) continue;
      r->asked = true;
      out_.push_back({"kv.rail", {{"again", r->number}}, {}});
    }
  }
  void join() {
    for (auto& r : rails_) {
      if (r->answer.is_null()) continue;
      const nlohmann::json answer = std::exchange(r->answer, nullptr);
      const Status s = answer.is_object() ? connect(*r, answer) : Status(Error(BATON_UNSUPPORTED, "the sink cannot open it", "see the decode side"));
      if (failure_) return;
      if (!s.ok()) lose(*r, s.error());
    }
  }
  void flush() {
    for (size_t i = 0; i < out_.size() && !session_.cause; ++i) {
      out_[i].body["sink"] = sink_;
      out_[i].body["fabric"] = fabric_;
      Message m = std::move(out_[i]);
      (void)send_transport(session_, m.type.c_str(), std::move(m.body), std::move(m.bytes));
    }
    out_.clear();
  }

  // ---- stripes ----

  bool can_take(const Rail& r, const Batch& b, bool again) {
    if (!r.up || r.stripes >= (!streams_ ? kRoom : again ? kStreamPieces : kStreamRoom) || (!r.proved && r.stripes)) return false;
    return handle(r, b).has_value();
  }
  std::optional<void*> handle(const Rail& r, const Batch& b) {
    if (!b.local) return nullptr;
    auto* const s = static_cast<Source*>(b.local);
    auto& h = s->handles[index(r)];
    if (!h && r.up)
      if (auto made = r.sender->local(s->memory); made.ok()) h = *made;
    return h;
  }
  // Those that can take one, the emptiest first.
  const std::vector<Rail*>& takers(const Batch& b, bool again) {
    takers_.clear();
    for (auto& r : rails_)
      if (can_take(*r, b, again)) takers_.push_back(r.get());
    std::stable_sort(takers_.begin(), takers_.end(), [](const Rail* x, const Rail* y) { return x->stripes < y->stripes; });
    return takers_;
  }
  std::unique_ptr<Stripe> stripe_of(Batch& b) {
    std::unique_ptr<Stripe> s = spare_.empty() ? std::make_unique<Stripe>() : std::move(spare_.back());
    if (!spare_.empty()) spare_.pop_back();
    *s = Stripe();
    s->parent = &b;
    Batch& c = s->batch;
    c.src = b.src;
    c.source = b.source, c.part = b.part, c.layer = b.layer;
    c.segments = b.segments;
    c.units = b.units;
    c.mode = b.mode;
    c.generation = b.generation;
    c.slot = b.slot;
    c.sum = b.sum;
    c.stripe = true;
    return s;
  }

  // Cuts the next stripe and begins it; its bytes. 0: no rail has room.
  uint64_t cut(Batch& b) {
    Sender* any_up = nullptr;
    for (auto& r : rails_)
      if (r->up) any_up = r->sender.get();
    if (!any_up) return 0;
    streams_ = any_up->streams(b);
    const auto& who = takers(b, false);
    if (who.empty()) return 0;
    std::unique_ptr<Stripe> s = stripe_of(b);
    if (streams_) {
      if (!b.pack) b.pack.emplace(b.packer());
      s->stream = true;
      s->from = b.packed;
      s->batch.packed = b.packed;
      for (Rail* r : who) {
        s->bytes = post_piece(*s, *r, b.pack);
        if (s->bytes) break;
        if (!s->batch.error) continue;
        fail(*r, *s->batch.error);
        break;
      }
      if (!s->bytes) {
        spare_.push_back(std::move(s));
        return 0;
      }
      b.packed += s->bytes;
      if (!b.pack) {
        b.packed = 0;
        b.next = b.pieces();
      }
    } else {
      take_segments(b, *s);
      post(*s, *who.front());
    }
    const uint64_t n = s->bytes;
    ++b.outstanding;
    stripes_.push_back(std::move(s)); // one that has failed already is seen by settle()
    return n;
  }
  void take_segments(Batch& b, Stripe& s) {
    const auto up = uint64_t(std::count_if(rails_.begin(), rails_.end(), [](const auto& r) { return r->up; }));
    const uint64_t want = std::clamp(b.bytes / (4 * std::max<uint64_t>(up, 1)), kLeastStripe, kMostStripe);
    const KvSegment& g = b.segments[b.next];
    const uint64_t left = g.bytes - b.offset;
    if (b.offset || left >= 2 * want) { // a part of a long one
      s.bytes = left >= 2 * want ? want : left;
      s.part = g;
      s.part.src += b.offset, s.part.dst += b.offset, s.part.bytes = s.bytes;
      s.batch.segments = {&s.part, 1};
      b.offset += s.bytes;
      if (b.offset == g.bytes) ++b.next, b.offset = 0;
    } else {
      const size_t first = b.next;
      while (s.bytes < want && b.next < b.segments.size() && b.segments[b.next].bytes < 2 * want) s.bytes += b.segments[b.next++].bytes;
      s.batch.segments = b.segments.subspan(first, b.next - first);
    }
    s.batch.bytes = s.bytes;
  }

  void begin(Stripe& s, Rail& r) {
    s.rail = &r;
    s.posted_ns = now_ns();
    if (!r.stripes++) r.moved_ns = s.posted_ns;
    s.batch.local = handle(r, *s.parent).value_or(nullptr);
  }
  // One piece of what `pack` has next; 0: the rail has no room for it. An empty `pack` then: the part's last.
  uint64_t post_piece(Stripe& s, Rail& r, std::optional<Packer>& pack) {
    s.batch.pack = std::move(pack);
    const uint64_t n = r.sender->step(s.batch, 1);
    pack.reset();
    if (s.batch.pack) pack = std::move(s.batch.pack);
    s.batch.pack.reset();
    if (!n) return 0;
    s.batch.next = s.batch.pieces();
    begin(s, r);
    return n;
  }
  void post(Stripe& s, Rail& r) {
    begin(s, r);
    (void)r.sender->step(s.batch, UINT64_MAX);
  }

  // Those whose rail has failed, and the rest of those that found a queue full.
  void repost() {
    for (size_t i = 0; i < stripes_.size(); ++i) {
      Stripe& s = *stripes_[i];
      if (s.rail) {
        if (!s.batch.posted() && !s.stopped) (void)s.rail->sender->step(s.batch, UINT64_MAX);
        continue;
      }
      streams_ = s.stream;
      for (Rail* r : takers(*s.parent, true)) {
        s.batch.outstanding = 0;
        s.batch.error.reset();
        s.batch.next = 0;
        s.batch.offset = 0;
        if (!s.stream) {
          post(s, *r);
          break;
        }
        s.batch.packed = s.from;
        s.batch.sum = nullptr; // added when it was packed first
        std::optional<Packer> pack(s.batch.packer());
        pack->skip(s.from);
        if (post_piece(s, *r, pack)) break;
      }
    }
  }

  void release(Stripe& s) {
    --s.parent->outstanding;
    if (s.rail) --s.rail->stripes;
  }
  uint32_t settle(uint64_t now) {
    for (size_t i = 0; i < stripes_.size(); ++i)
      if (Stripe& s = *stripes_[i]; s.rail && s.batch.error && !s.stopped) {
        const Error why = *s.batch.error;
        fail(*s.rail, why);
        if (failure_) return 1;
      }
    uint32_t n = 0;
    size_t kept = 0;
    for (size_t i = 0; i < stripes_.size(); ++i) {
      Stripe& s = *stripes_[i];
      const bool over = s.rail ? s.batch.outstanding == 0 && (s.batch.posted() || s.stopped) : s.stopped;
      if (!over) {
        if (kept != i) stripes_[kept] = std::move(stripes_[i]);
        ++kept;
        continue;
      }
      if (s.rail) {
        s.rail->moved_ns = moved_ns_ = now;
        if (!s.stopped) request(s.batch.generation).bytes[index(*s.rail)] += s.bytes;
      }
      release(s);
      spare_.push_back(std::move(stripes_[i]));
      ++n;
    }
    stripes_.resize(kept);
    return n;
  }

  std::string fabric_, sink_;
  Session::Impl& session_;
  const uint64_t started_ns_;
  uint64_t silence_ns_ = 0, cooldown_ns_ = 0, silent_ns_ = 0, moved_ns_ = 0; // moved: a stripe was complete
  std::vector<std::unique_ptr<Rail>> rails_;
  std::vector<std::unique_ptr<Source>> sources_;
  std::vector<std::unique_ptr<Stripe>> stripes_, spare_; // oldest first
  std::vector<Request> requests_;
  std::vector<Rail*> takers_;
  std::vector<Message> out_;
  bool streams_ = false; // the batch at hand
  std::optional<Error> failure_;
};

} // namespace

Result<std::unique_ptr<Sender>> make_rail_sender(const std::string& fabric, Session::Impl& s, const nlohmann::json& offer, const SourceMemory& near) {
  if (!has_rails(fabric)) return Error(BATON_CORRUPT, fmt::format("rails of {}, which has none", fabric), "run the same Baton version on both sides");
  BATON_ASSIGN(std::vector<Nic> nics, rails_of(*s.ep, fabric, near.base, near.bytes));
  auto m = std::make_unique<RailSender>(fabric, s);
  BATON_TRY(m->start(std::move(nics), offer));
  return std::unique_ptr<Sender>(std::move(m));
}

}  // namespace baton::transport
