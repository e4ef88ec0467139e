// What arrives: notes of layers, checked and fenced, up to the contiguous prefix that the decode side may use.
#include "transport/kv_sink.hpp"
#include "transport/kv_sum.hpp"
#include "transport/kv_wire.hpp"

#include <fmt/format.h>

#include <sys/timerfd.h>

#include <algorithm>

namespace baton::transport {

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

}  // namespace baton::transport
