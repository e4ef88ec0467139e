// The decode side: tickets, the agreement before the memory is disclosed, the contiguous prefix, and fencing.
//
// How a request that ends early is fenced: its slot of the landing is revoked first (mapped: a word that the sender reads before each chunk;
// libfabric: a kv.cancel that the sender answers with kv.abort once nothing of it is in flight). Its generation leaves the active list, so a note
// that still arrives matches nothing and is dropped. Its blocks stay in quarantine until the landing says that the slot is quiet; expect()
// refuses them until then. If the session is lost, quiet means: mapped and shm, the peer's process is gone (or was not writing);
// tcp and hardware, the endpoint is closed.
#include "transport/fabric.hpp"
#include "transport/kv_kept.hpp"
#include "transport/kv_link.hpp"
#include "transport/kv_sum.hpp"
#include "transport/kv_wire.hpp"
#include "transport/rails.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace baton::transport {

struct Incoming::Impl {
  enum class State : uint8_t { waiting, active, done, ended };

  KvSink::Impl* sink = nullptr; // nullptr: the sink is closed
  std::string ticket;
  std::vector<int32_t> blocks;
  KvTagged tagged; // they
  uint64_t tokens = 0, held = 0; // [held, tokens) come
  bool checksum = false;         // each layer has one
  Timeline landed;
  State state = State::waiting;
  bool quiet = true;

  Session::Impl* session = nullptr;
  uint64_t transfer = 0, generation = 0; // the peer's id; ours
  Landing* landing = nullptr;
  uint32_t slot = 0;
  Shares shares;
  std::vector<std::vector<int32_t>> tables; // the sources'
  KvMoves moves;                         // empty where the fabric does all by itself
  std::vector<uint64_t> wanted;          // by layer held: bit s: source s sends some of it
  std::vector<uint64_t> arrived;         // by layer
  std::vector<uint64_t> modelled;        // by layer: the latest of its sources
  uint32_t prefix = 0;
  std::optional<Message> seal;
  bool seal_taken = false;
  Stats stats;
};

struct KvSink::Impl final : Service, Watcher {
  struct Link {
    Session::Impl* session; // nullptr: lost
    std::string fabric;
    std::unique_ptr<Landing> landing;
  };
  struct Quarantine { // a request that ended while somebody may still write
    Landing* landing;
    uint32_t slot;
    Session::Impl* session;
    uint64_t transfer;
    std::vector<int32_t> blocks;
    Incoming::Impl* incoming; // nullptr: destroyed
  };

  ~Impl() override;
  Status start(const Instance&, Endpoint::Impl&, const HostMemory&, const KvLayout&, std::string model); // dups the descriptor
  Result<Incoming> expect(std::vector<int32_t> blocks, uint64_t tokens, uint64_t held);
  void forget(Incoming::Impl&);
  void cancel(Incoming::Impl&, const Error&);

  bool on_message(Session::Impl&, Message&) override;
  bool on_ticket(const std::string& ticket, const Error& why) override {
    const auto it = waiting_.find(ticket);
    if (it == waiting_.end()) return false;
    fail(*it->second, why);
    return true;
  }
  void on_lost(Session::Impl&, const Error&) override;
  uint32_t on_poll(uint64_t now) override;
  void ready(uint32_t) override { // the timer
    uint64_t fired;
    (void)!read(timer.get(), &fired, sizeof fired);
  }

 private:
  void open(Session::Impl&, Incoming::Impl&, const Message&);
  void again(Session::Impl&, Incoming::Impl&, const Message&);
  Status agree(Session::Impl&, Incoming::Impl&, const Message&, nlohmann::json& reply);
  Status grant(Session::Impl&, Incoming::Impl&, const Message&, nlohmann::json& reply);
  void plan(Incoming::Impl&);
  Result<Link*> choose(Session::Impl&, const std::vector<std::string>& wanted, bool rails);
  Status check_blocks(const std::vector<int32_t>&, uint64_t tokens) const;
  uint32_t collect();
  void take(const Note&);
  Status fence(const Incoming::Impl&, const Note&);
  void finish_if_complete(Incoming::Impl&);
  void fail(Incoming::Impl&, Error);
  void leave(Incoming::Impl&); // from active: revoke, forget, quarantine
  void retick(uint64_t now, bool events);

 public:
  void settle();
  Endpoint::Impl* ep = nullptr;
  baton_instance* instance = nullptr;
  LandingMemory memory;
  baton_buffer* buffer = nullptr; // whose memory it is; nullptr: no device's
  std::optional<KvTags> tags;
  KvLayout layout;
  std::string model;
  Fd fd, timer;

 private:
  uint64_t timer_tag_ = 0, tick_ns_ = 0, last_event_ns_ = 0;
  std::map<std::string, Incoming::Impl*> waiting_;
  std::vector<Incoming::Impl*> active_, all_;
  std::vector<std::unique_ptr<Link>> links_;
  std::vector<Quarantine> quarantine_;
  std::vector<Note> notes_;
  std::vector<uint8_t> scratch_; // of checksums
  std::vector<Message> told_;
  std::vector<std::pair<Incoming::Impl*, Error>> doomed_;
};

// ---- lifetime ----

Status KvSink::Impl::start(const Instance& in, Endpoint::Impl& e, const HostMemory& host, const KvLayout& l, std::string m) {
  BATON_TRY(l.check());
  if (!host.base) return Error(BATON_INVALID_ARGUMENT, "a landing without memory", "give the KV pool's first byte");
  if (host.bytes < l.bytes())
    return Error(BATON_INVALID_ARGUMENT, fmt::format("the landing buffer has {} bytes, its layout needs {}", host.bytes, l.bytes()), "allocate KvLayout::bytes()");
  instance = in.get();
  layout = l;
  tags.emplace(l.blocks);
  model = std::move(m);
  memory.id = random_hex(8);
  memory.base = static_cast<uint8_t*>(host.base);
  memory.bytes = l.bytes();
  buffer = host.buffer;
  if (host.fd >= 0) {
    fd = Fd(fcntl(host.fd, F_DUPFD_CLOEXEC, 0));
    if (!fd) return io_error("dup", errno);
    memory.fd = fd.get();
    memory.fd_offset = host.fd_offset;
  }
  timer = Fd(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!timer) return io_error("timerfd_create", errno);
  ep = &e;
  timer_tag_ = ep->watch(timer.get(), EPOLLIN, this);
  ep->add(this);
  notes_.reserve(256);
  return {};
}

KvSink::Impl::~Impl() {
  if (!ep) return;
  ep->remove(this);
  const auto mine = all_;
  for (Incoming::Impl* in : mine) {
    cancel(*in, Error(BATON_CANCELLED, "the sink was closed", "open it again"));
    in->sink = nullptr;
  }
  for (auto& l : links_)
    if (l->session) (void)send_transport(*l->session, "kv.gone", {{"sink", memory.id}});
  links_.clear();
  ep->unwatch(timer_tag_, timer.get());
}

Status KvSink::Impl::check_blocks(const std::vector<int32_t>& blocks, uint64_t tokens) const {
  if (tokens == 0) return Error(BATON_INVALID_ARGUMENT, "a request of 0 tokens", "expect at least one");
  const uint64_t need = (tokens + layout.block_tokens - 1) / layout.block_tokens;
  if (blocks.size() < need)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("{} tokens need {} blocks of {}; {} given", tokens, need, layout.block_tokens, blocks.size()), "allocate more blocks");
  std::vector<bool> mine(layout.blocks);
  for (int32_t b : blocks) {
    if (b < 0 || uint32_t(b) >= layout.blocks) return Error(BATON_INVALID_ARGUMENT, fmt::format("block {}: the buffer has 0..{}", b, layout.blocks - 1), "pass this buffer's blocks");
    if (mine[size_t(b)]) return Error(BATON_INVALID_ARGUMENT, fmt::format("block {} is given twice", b), "give each block once");
    mine[size_t(b)] = true;
  }
  for (const auto& q : quarantine_)
    for (int32_t b : q.blocks)
      if (mine[size_t(b)])
        return Error(BATON_BUSY, fmt::format("block {} belongs to a cancelled request whose sender has not stopped yet", b), "use other blocks, or poll until quiesced()");
  return {};
}

Result<Incoming> KvSink::Impl::expect(std::vector<int32_t> blocks, uint64_t tokens, uint64_t held) {
  settle();
  if (held >= tokens && tokens) return Error(BATON_INVALID_ARGUMENT, fmt::format("{} of {} tokens are held: nothing is to come", held, tokens), "expect what is missing");
  BATON_TRY(check_blocks(blocks, tokens));
  auto in = std::make_unique<Incoming::Impl>();
  in->sink = this;
  in->ticket = random_hex(16);
  in->blocks = std::move(blocks);
  const auto upto = [&](uint64_t n) { return size_t((n + layout.block_tokens - 1) / layout.block_tokens); };
  const auto mine = std::span(in->blocks).first(upto(tokens));
  tags->renew(mine.subspan(upto(held)));
  in->tagged = KvTagged(&*tags, mine);
  in->tokens = tokens;
  in->held = held;
  Error e;
  baton_timeline* t = nullptr;
  const std::string name = "landed " + in->ticket.substr(0, 8);
  if (baton_timeline_create(instance, name.c_str(), &t, &e)) return e;
  in->landed = Timeline(t);
  const uint32_t layers = layout.layers_held();
  in->arrived.resize(layers);
  in->wanted.resize(layers);
  in->modelled.resize(layers);
  in->stats.landed_wall_ns.resize(layers);
  in->stats.landed_modelled_ns.resize(layers);
  waiting_[in->ticket] = in.get();
  all_.push_back(in.get());
  return Incoming(std::move(in));
}

void KvSink::Impl::forget(Incoming::Impl& in) {
  cancel(in, Error(BATON_CANCELLED, "the decode side dropped the request", "nothing: it was its choice"));
  std::erase(all_, &in);
  for (auto& q : quarantine_)
    if (q.incoming == &in) q.incoming = nullptr;
}

// ---- ending ----

void KvSink::Impl::leave(Incoming::Impl& in) {
  if (!in.landing) return;
  std::erase(active_, &in);
  in.landing->revoke(in.slot);
  KvKept::of(*ep).keep(in.moves.parts);
  in.quiet = in.landing->quiet(in.slot);
  if (!in.quiet) quarantine_.push_back({in.landing, in.slot, in.session, in.transfer, in.blocks, &in});
  in.landing = nullptr;
  in.session = nullptr;
}

void KvSink::Impl::fail(Incoming::Impl& in, Error why) {
  if (in.state == Incoming::Impl::State::ended || in.state == Incoming::Impl::State::done) return;
  waiting_.erase(in.ticket);
  in.state = Incoming::Impl::State::ended;
  leave(in);
  in.landed.poison(why);
}

void KvSink::Impl::cancel(Incoming::Impl& in, const Error& why) {
  if (in.state == Incoming::Impl::State::active && in.session)
    (void)send_transport(*in.session, "kv.cancel", {{"id", in.transfer}, {"error", to_json(why)}});
  fail(in, why);
}

// Quarantined blocks whose sender has stopped are free again; landings of lost sessions go when nothing holds them.
void KvSink::Impl::settle() {
  std::erase_if(quarantine_, [](Quarantine& q) {
    if (!q.landing->quiet(q.slot)) return false;
    if (q.incoming) q.incoming->quiet = true;
    return true;
  });
  std::erase_if(links_, [&](const auto& l) {
    return !l->session && std::none_of(quarantine_.begin(), quarantine_.end(), [&](const Quarantine& q) { return q.landing == l->landing.get(); });
  });
}

void KvSink::Impl::on_lost(Session::Impl& s, const Error& why) {
  collect(); // what had landed before the end has landed
  const auto mine = active_;
  for (Incoming::Impl* in : mine)
    if (in->session == &s) fail(*in, why);
  for (auto& q : quarantine_)
    if (q.session == &s) q.session = nullptr;
  for (auto& l : links_)
    if (l->session == &s) {
      l->session = nullptr;
      l->landing->session_lost();
    }
  settle();
}

// ---- agreeing ----

bool KvSink::Impl::on_message(Session::Impl& s, Message& m) {
  if (m.type == "kv.open") {
    const auto it = waiting_.find(text_of(m.body, "ticket").value_or(""));
    if (it == waiting_.end()) return false;
    open(s, *it->second, m);
    return true;
  }
  if (m.type == "kv.cipher" || m.type == "kv.rail") {
    if (text_of(m.body, "sink").value_or("") != memory.id) return false;
    Status ok;
    std::vector<Note> notes;
    for (auto& l : links_)
      if (l->session == &s && l->fabric == text_of(m.body, "fabric").value_or("") && ok.ok()) ok = l->landing->heard(m, notes);
    for (const Note& n : notes) take(n);
    if (!ok.ok()) s.lose(ok.error());
    return true;
  }
  if (m.type != "kv.abort" && m.type != "kv.seal" && m.type != "kv.again") return false;
  const uint64_t id = u64_of(m.body, "id").value_or(0);
  for (auto& q : quarantine_)
    if (q.session == &s && q.transfer == id) {
      q.landing->stopped(q.slot);
      settle();
      return true;
    }
  for (Incoming::Impl* in : active_) {
    if (in->session != &s || in->transfer != id) continue;
    in->landing->stopped(in->slot);
    if (m.type == "kv.again") {
      again(s, *in, m);
    } else if (m.type == "kv.abort") {
      fail(*in, s.hop(error_from(m.body)));
    } else {
      in->seal = Message{text_of(m.body, "type").value_or(""), m.body.contains("body") ? m.body["body"] : nlohmann::json::object(), std::move(m.bytes)};
      collect();
      if (in->state == Incoming::Impl::State::active) finish_if_complete(*in);
    }
    return true;
  }
  return false;
}

void KvSink::Impl::open(Session::Impl& s, Incoming::Impl& in, const Message& m) {
  waiting_.erase(in.ticket); // single use, whatever comes of it
  in.transfer = u64_of(m.body, "id").value_or(0);
  nlohmann::json reply;
  if (Status ok = agree(s, in, m, reply); !ok.ok()) {
    (void)send_transport(s, "kv.refuse", {{"id", in.transfer}, {"error", to_json(ok.error())}});
    fail(in, s.hop(ok.error()));
    return;
  }
  in.session = &s;
  in.state = Incoming::Impl::State::active;
  in.quiet = false;
  active_.push_back(&in);
  last_event_ns_ = now_ns();
  std::vector<uint8_t> blocks;
  put_blocks(blocks, in.blocks);
  (void)send_transport(s, "kv.accept", std::move(reply), std::move(blocks)); // a failure loses the session, and on_lost ends this
  if (in.state == Incoming::Impl::State::active) plan(in); // while the other side does the same
}

// The fabric did not connect: another one, before anything was moved.
void KvSink::Impl::again(Session::Impl& s, Incoming::Impl& in, const Message& m) {
  in.landing->revoke(in.slot);
  nlohmann::json reply;
  const auto landed = in.landed.value();
  Status ok = landed.ok() && *landed ? Status(Error(BATON_CORRUPT, "a wish for another fabric after layers have landed", "run the same Baton version on both sides")) : grant(s, in, m, reply);
  if (!ok.ok()) {
    (void)send_transport(s, "kv.refuse", {{"id", in.transfer}, {"error", to_json(ok.error())}});
    fail(in, s.hop(ok.error()));
    return;
  }
  std::vector<uint8_t> blocks;
  put_blocks(blocks, in.blocks);
  (void)send_transport(s, "kv.accept", std::move(reply), std::move(blocks));
  if (in.state == Incoming::Impl::State::active) plan(in);
}

Status KvSink::Impl::agree(Session::Impl& s, Incoming::Impl& in, const Message& m, nlohmann::json& reply) {
  const auto theirs = text_of(m.body, "model");
  const auto tokens = u64_of(m.body, "tokens");
  if (!theirs || !tokens || !m.body.contains("sources") || !m.body["sources"].is_array() || m.body["sources"].empty() || m.body["sources"].size() > kMaxSources)
    return Error(BATON_CORRUPT, "a kv.open with missing or malformed fields", "run the same Baton version on both sides");
  if (*theirs != model)
    return Error(BATON_MISMATCH, fmt::format("models differ: prefill has {}, decode has {}", theirs->substr(0, 64), model.substr(0, 64)), "load the same model on both sides");
  if (*tokens != in.tokens)
    return Error(BATON_MISMATCH, fmt::format("the prefill side brings {} tokens, the ticket is for {}", *tokens, in.tokens), "agree on the prompt before asking for a ticket");
  in.checksum = m.body.contains("checksum") && m.body["checksum"] == true;
  std::vector<KvLayout> sources;
  for (const auto& j : m.body["sources"]) {
    BATON_ASSIGN(KvLayout l, layout_from(j));
    sources.push_back(l);
  }
  BATON_ASSIGN(Shares shares, KvKept::of(*ep).shares(sources, layout));
  in.tables.clear();
  std::span<const uint8_t> bytes(m.bytes);
  for (size_t i = 0; i < sources.size(); ++i) {
    auto table = take_blocks(bytes);
    if (!table) return Error(BATON_CORRUPT, fmt::format("a kv.open whose block table of source {} is malformed", i), "run the same Baton version on both sides");
    in.tables.push_back(std::move(*table));
  }
  for (uint32_t l = 0; l < in.wanted.size(); ++l) {
    in.wanted[l] = 0;
    for (size_t i = 0; i < sources.size(); ++i)
      for (const KvPlan& p : shares.plans[i]) in.wanted[l] |= uint64_t(p.has_layer(layout.layer_begin + l)) << i;
  }
  in.shares = std::move(shares);
  return grant(s, in, m, reply); // only now is anything of the memory told
}

// A slot of the first fabric of the wish that there is, and what the other side needs to write to it.
Status KvSink::Impl::grant(Session::Impl& s, Incoming::Impl& in, const Message& m, nlohmann::json& reply) {
  const auto wanted = texts_of(m.body, "fabrics");
  if (!wanted) return Error(BATON_CORRUPT, "a wish for fabrics with missing or malformed fields", "run the same Baton version on both sides");
  BATON_ASSIGN(Link * link, choose(s, *wanted, m.body.contains("rails") && m.body["rails"] == true));
  BATON_ASSIGN(nlohmann::json offer, link->landing->offer());
  in.generation = random_u64();
  BATON_ASSIGN(in.slot, link->landing->allow(in.generation, &in.moves));
  in.landing = link->landing.get();
  in.stats.fabric = link->fabric;
  reply = {{"id", in.transfer},          {"generation", in.generation}, {"slot", in.slot},      {"fabric", link->fabric},
           {"layout", to_json(layout)}, {"plan", in.shares.hash}, {"held", in.held}, {"offer", std::move(offer)}};
  return {};
}

// The same moves as the sender has, so that the landing can do a part of them. A table that does not fit its layout is the sender's to refuse.
void KvSink::Impl::plan(Incoming::Impl& in) {
  if (!in.landing->wants_moves() && !in.checksum && !in.shares.converts) return;
  in.moves.parts.clear();
  in.moves.how.clear();
  in.moves.bytes.clear();
  in.moves.first_layer = layout.layer_begin;
  for (size_t i = 0; i < in.shares.plans.size(); ++i) {
    auto& parts = in.moves.parts.emplace_back();
    auto& how = in.moves.how.emplace_back();
    in.moves.bytes.push_back(0);
    for (const KvPlan& p : in.shares.plans[i]) {
      in.moves.bytes.back() = p.src().bytes();
      if (!p.instantiate(in.tables[i], in.blocks, in.held, in.tokens, parts.emplace_back(KvKept::of(*ep).move())).ok()) return void(parts.clear());
      how.push_back(p.converts() ? Recoder(p) : Recoder());
    }
  }
}

Result<KvSink::Impl::Link*> KvSink::Impl::choose(Session::Impl& s, const std::vector<std::string>& wanted, bool rails) {
  std::string why;
  for (const std::string& f : wanted) {
    if (auto no = fabric_unusable(f, s)) {
      why += (why.empty() ? "" : "; ") + *no;
      continue;
    }
    for (auto& l : links_)
      if (l->session == &s && l->fabric == f) return l.get();
    auto landing = rails ? make_rail_landing(f, s, memory) : make_landing(f, s, memory);
    if (landing.ok()) {
      links_.push_back(std::make_unique<Link>(Link{&s, f, std::move(*landing)}));
      return links_.back().get();
    }
    if (wanted.size() == 1) return landing.error(); // with its own next step
    why += (why.empty() ? "" : "; ") + std::string(landing.error().what);
  }
  return Error(BATON_UNSUPPORTED, fmt::format("no fabric between the two sides: {}", why.empty() ? "none was asked for" : why), "choose another fabric; 'devctl topo' lists them");
}

// ---- landing ----

uint32_t KvSink::Impl::on_poll(uint64_t now) {
  if (active_.empty() && quarantine_.empty()) {
    if (tick_ns_) retick(now, false);
    return 0;
  }
  const uint32_t n = collect();
  while (!doomed_.empty()) {
    const auto [in, why] = std::move(doomed_.back());
    doomed_.pop_back();
    if (std::find(active_.begin(), active_.end(), in) != active_.end()) cancel(*in, why);
  }
  for (size_t i = 0; i < links_.size(); ++i) // a failed send loses the session, and takes links with it
    if (Session::Impl* s = links_[i]->session) {
      told_.clear();
      links_[i]->landing->tell(told_);
      for (Message& m : told_) {
        m.body["sink"] = memory.id;
        m.body["fabric"] = links_[i]->fabric;
        if (!send_transport(*s, m.type.c_str(), std::move(m.body), std::move(m.bytes)).ok()) break;
      }
    }
  if (!quarantine_.empty()) settle();
  retick(now, n != 0);
  return n;
}

uint32_t KvSink::Impl::collect() {
  uint32_t n = 0;
  for (size_t i = 0; i < links_.size(); ++i) {
    Link& l = *links_[i];
    notes_.clear();
    uint32_t worked = 0;
    const bool good = l.landing->poll(notes_, worked);
    for (const Note& note : notes_) take(note);
    n += uint32_t(notes_.size()) + worked;
    if (good || !l.session) continue;
    const Landing* broken = l.landing.get(); // cancelling may lose the session, and the link with it
    const char* blame = broken->broken();
    const Error why = blame ? Error(BATON_CORRUPT, fmt::format("{}: the prefill side sent {}", l.fabric, blame), "open a new session; if it comes again, report it")
                            : l.session->hop(broken->cause().value_or(Error(BATON_PEER_LOST, fmt::format("the {} fabric failed", l.fabric), "open a new session")));
    const auto mine = active_;
    for (Incoming::Impl* in : mine)
      if (in->landing == broken) cancel(*in, why);
    break;
  }
  return n;
}

// The fabric says that the layers are complete; from here on the device sees them.
Status KvSink::Impl::fence(const Incoming::Impl& in, const Note& note) {
  Error e;
  if (buffer)
    for (const KvLayout::Range& r : layout.range(note.layer, note.part + 1, in.blocks))
      if (baton_fence(buffer, r.begin, r.end - r.begin, &e)) return e;
  return {};
}

void KvSink::Impl::take(const Note& note) {
  const auto it = std::find_if(active_.begin(), active_.end(), [&](const Incoming::Impl* a) { return a->generation == note.generation; });
  if (it == active_.end()) return; // late: its request has ended
  Incoming::Impl& in = **it;
  const uint64_t bit = note.source < kMaxSources ? uint64_t(1) << note.source : 0;
  if (note.layer >= in.wanted.size() || note.part >= in.wanted.size() - note.layer) return; // not what was agreed
  bool wanted = false;
  for (uint32_t l = note.layer; l <= note.layer + note.part; ++l) {
    if (in.arrived[l] & bit) return;
    wanted |= (in.wanted[l] & bit) != 0;
  }
  if (!wanted) return;
  Status right = in.tagged.intact("this request");
  if (right.ok()) right = fence(in, note);
  if (right.ok() && in.checksum && !landed_right(note, in.moves, memory.base, scratch_))
    right = Error(BATON_CORRUPT, fmt::format("layer {} of source {} is not what was sent over {}: its checksum differs", note.layer, note.source, in.stats.fabric),
                  "ask the decode side for a new ticket; if it comes again, look at the memory and the link");
  if (!right.ok()) {
    const Error& why = right.error();
    doomed_.emplace_back(&in, in.session ? in.session->hop(why) : why); // telling the peer may lose its session, and the notes with it
    return;
  }
  for (uint32_t l = note.layer; l <= note.layer + note.part; ++l) {
    if (!(in.wanted[l] & bit)) continue; // others send that one
    in.arrived[l] |= bit;
    in.modelled[l] = std::max(in.modelled[l], note.modelled_ns);
  }
  in.stats.bytes += note.bytes;
  in.stats.segments += note.segments;
  while (in.prefix < in.wanted.size() && in.arrived[in.prefix] == in.wanted[in.prefix]) {
    const uint32_t l = in.prefix++;
    if (l) in.modelled[l] = std::max(in.modelled[l], in.modelled[l - 1]);
    in.stats.landed_wall_ns[l] = now_ns();
    in.stats.landed_modelled_ns[l] = in.modelled[l];
    in.landed.signal(in.prefix, in.modelled[l]);
  }
  finish_if_complete(in);
}

// Everything landed and the seal is here: what becomes of the session no longer matters to this request.
void KvSink::Impl::finish_if_complete(Incoming::Impl& in) {
  if (!in.seal || in.prefix != in.wanted.size()) return;
  if (Status s = in.tagged.intact("this request"); !s.ok()) return void(doomed_.emplace_back(&in, s.error()));
  in.state = Incoming::Impl::State::done;
  leave(in);
}

// Landings without a descriptor are polled by a timer: often while things arrive, every millisecond while nothing does.
void KvSink::Impl::retick(uint64_t now, bool events) {
  if (events) last_event_ns_ = now;
  uint64_t want = 0;
  if (!active_.empty() || !quarantine_.empty())
    for (const auto& l : links_)
      if (const uint64_t t = l->landing->tick_ns()) want = want ? std::min(want, t) : t;
  if (!quarantine_.empty() && !want) want = 1'000'000; // mapped senders say nothing when they stop
  if (want && now - last_event_ns_ > 2'000'000) want = std::max<uint64_t>(want, 1'000'000);
  if (want == tick_ns_) return;
  tick_ns_ = want;
  itimerspec t{};
  t.it_interval.tv_nsec = t.it_value.tv_nsec = long(want);
  timerfd_settime(timer.get(), 0, &t, nullptr);
}

// ---- the public faces ----

Incoming::Incoming(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
Incoming::Incoming(Incoming&&) noexcept = default;
Incoming::~Incoming() {
  if (impl_ && impl_->sink) impl_->sink->forget(*impl_);
}
const std::string& Incoming::ticket() const { return impl_->ticket; }
const Timeline& Incoming::landed() const { return impl_->landed; }
const Incoming::Stats& Incoming::stats() const { return impl_->stats; }

std::optional<Message> Incoming::sealed() {
  if (impl_->state != Impl::State::done || impl_->seal_taken) return std::nullopt;
  impl_->seal_taken = true;
  return std::move(*impl_->seal);
}

void Incoming::cancel(const Error& cause) {
  if (impl_->sink) impl_->sink->cancel(*impl_, cause);
}

bool Incoming::quiesced() {
  if (!impl_->quiet && impl_->sink) impl_->sink->settle();
  return impl_->quiet || !impl_->sink;
}

Status Incoming::intact() {
  if (!impl_->sink) return Error(BATON_CANCELLED, "the sink was closed", "open it again");
  return impl_->tagged.intact("this request");
}

KvSink::KvSink(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
KvSink::KvSink(KvSink&&) noexcept = default;
KvSink::~KvSink() = default;

Result<KvSink> KvSink::create(const Instance& in, Endpoint& ep, const Buffer& memory, const KvLayout& layout, std::string model) {
  BATON_ASSIGN(void* base, memory.map());
  auto x = memory.export_fd();
  const Fd fd(x.ok() ? x->fd : -1);
  return create(in, ep, HostMemory{base, memory.bytes(), fd.get(), x.ok() ? x->offset : 0, memory.get()}, layout, std::move(model));
}

Result<KvSink> KvSink::create(const Instance& in, Endpoint& ep, const HostMemory& memory, const KvLayout& layout, std::string model) {
  auto impl = std::make_unique<Impl>();
  BATON_TRY(impl->start(in, ep.impl(), memory, layout, std::move(model)));
  return KvSink(std::move(impl));
}

KvTags& KvSink::tags() { return *impl_->tags; }

Result<Incoming> KvSink::expect(std::vector<int32_t> blocks, uint64_t tokens, uint64_t held) { return impl_->expect(std::move(blocks), tokens, held); }

}  // namespace baton::transport
