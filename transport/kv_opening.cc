// A transfer until it is open: agrees with the sink, connects the fabric, makes the moves and the queue.
#include "transport/kv_kept.hpp"
#include "transport/kv_transfer.hpp"

#include <fmt/format.h>

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <cerrno>

namespace baton::transport {
namespace {

constexpr uint64_t kConnectLookNs = 500'000; // a fabric that connects may have no descriptor yet

}  // namespace

Status KvTransfer::Impl::check(const std::vector<KvSource>& all, uint64_t tokens) {
  if (all.empty() || all.size() > kMaxSources) return Error(BATON_INVALID_ARGUMENT, fmt::format("{} sources", all.size()), fmt::format("1 to {}, one for each rank", kMaxSources));
  for (size_t i = 0; i < all.size(); ++i) {
    const KvSource& s = all[i];
    if (!s.memory && !s.host.base) return Error(BATON_INVALID_ARGUMENT, fmt::format("source {} has no memory", i), "give the rank's KV buffer");
    BATON_TRY(s.layout.check());
    const uint64_t has = s.memory ? s.memory->bytes() : s.host.bytes;
    if (has < s.layout.bytes())
      return Error(BATON_INVALID_ARGUMENT, fmt::format("source {} has {} bytes, its layout needs {}", i, has, s.layout.bytes()), "allocate KvLayout::bytes()");
    const uint64_t need = (tokens + s.layout.block_tokens - 1) / s.layout.block_tokens;
    if (s.blocks.size() < need) return Error(BATON_INVALID_ARGUMENT, fmt::format("source {} has {} blocks, {} tokens need {}", i, s.blocks.size(), tokens, need), "give every block");
    void* base = s.host.base;
    if (s.memory) {
      BATON_ASSIGN(base, s.memory->map());
    }
    SourceMemory& m = memory_.emplace_back();
    m.base = static_cast<const uint8_t*>(base);
    m.bytes = s.layout.bytes();
    if (!s.memory) {
      m.fd = s.host.fd;
      m.fd_offset = s.host.fd_offset;
    } else if (auto x = s.memory->export_fd(); x.ok()) {
      fds_.emplace_back(x->fd);
      m.fd = x->fd;
      m.fd_offset = x->offset;
    }
    layouts_.push_back(s.layout);
    tagged_.push_back(s.tagged);
  }
  return {};
}

Status KvTransfer::Impl::ask(const std::string& ticket) {
  const TransferOptions& o = opening_->options;
  fabrics_ = {o.fabric};
  if (o.fabric == "auto") fabrics_ = auto_fabrics(*session);
  for (const auto& f : fabrics_)
    if (auto why = fabric_unusable(f, *session); why && fabrics_.size() == 1) return session->hop(Error(BATON_UNSUPPORTED, *why, "choose another fabric; 'devctl topo' lists them"));
  nlohmann::json list = nlohmann::json::array();
  std::vector<uint8_t> blocks;
  for (size_t i = 0; i < layouts_.size(); ++i) {
    list.push_back(to_json(layouts_[i]));
    put_blocks(blocks, opening_->all[i].blocks);
  }
  nlohmann::json ask{{"id", id_}, {"ticket", ticket}, {"model", o.model}, {"tokens", opening_->tokens}, {"fabrics", fabrics_}, {"sources", list}, {"checksum", o.checksum}};
  if (!ep->options.rails.empty()) ask["rails"] = true;
  BATON_TRY(send_transport(*session, "kv.open", std::move(ask), std::move(blocks)));
  open_sent_ = true;
  BATON_TRY(make_descriptors()); // while the other side reads it
  return {};
}

Status KvTransfer::Impl::accept() {
  const nlohmann::json& b = answer_->body;
  if (answer_->type == "kv.refuse") {
    told = true;
    return session->hop(error_from(b));
  }
  const auto generation = u64_of(b, "generation"), slot = u64_of(b, "slot"), plan = u64_of(b, "plan"), held = u64_of(b, "held");
  const auto fabric = text_of(b, "fabric");
  std::span<const uint8_t> bytes(answer_->bytes);
  auto blocks = take_blocks(bytes);
  if (!generation || !slot || *slot > UINT32_MAX || !plan || !held || *held >= opening_->tokens || !fabric || !blocks || !b.contains("layout") || !b.contains("offer"))
    return session->hop(Error(BATON_CORRUPT, "the decode side's answer has missing or malformed fields", "run the same Baton version on both sides"));
  if (std::find(fabrics_.begin(), fabrics_.end(), *fabric) == fabrics_.end())
    return session->hop(Error(BATON_MISMATCH, fmt::format("the decode side chose the fabric '{}', which was not offered", fabric->substr(0, 40)), "run the same Baton version on both sides"));
  BATON_ASSIGN(KvLayout sink, layout_from(b["layout"]));
  BATON_ASSIGN(shares_, KvKept::of(*ep).shares(layouts_, sink));
  if (shares_.hash != *plan)
    return session->hop(Error(BATON_MISMATCH, fmt::format("plans differ: prefill {:016x}, decode {:016x}", shares_.hash, *plan), "run the same Baton version on both sides"));
  generation_ = *generation;
  slot_ = uint32_t(*slot);
  stats.fabric = *fabric;
  opening_->held = *held;
  opening_->sink = std::move(sink);
  opening_->blocks = std::move(*blocks);
  Status s = attach(*fabric, b["offer"]);
  if (!s.ok() && session) {
    not_again(*session, *fabric);
    if (ask_again()) return {};
  }
  return s;
}

bool KvTransfer::Impl::ask_again() {
  std::erase(fabrics_, stats.fabric);
  if (fabrics_.empty() || !session || failure) return false;
  if (sender_) --std::exchange(sender_, nullptr)->users;
  answer_.reset();
  return send_transport(*session, "kv.again", {{"id", id_}, {"fabrics", fabrics_}, {"rails", !ep->options.rails.empty()}}).ok();
}

// The fabric is connected: everything that the first op needs.
Status KvTransfer::Impl::settle() {
  const std::vector<KvSource>& all = opening_->all;
  const TransferOptions& o = opening_->options;
  const KvLayout& sink = opening_->sink;
  if (shares_.converts && !sender_->converts())
    return session->hop(Error(BATON_UNSUPPORTED, fmt::format("the fabric {} does not convert KV", stats.fabric), "use the same dtype and scales on both sides, or another fabric"));
  moves_.resize(all.size());
  recoders_.resize(all.size());
  std::vector<void*> local(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    for (const KvPlan& p : shares_.plans[i]) {
      BATON_TRY(p.instantiate(all[i].blocks, opening_->blocks, opening_->held, opening_->tokens, moves_[i].emplace_back(KvKept::of(*ep).move())));
      recoders_[i].push_back(p.converts() ? Recoder(p) : Recoder());
    }
    if (moves_[i].empty()) continue;
    BATON_ASSIGN(local[i], sender_->local(memory_[i]));
    if (o.checksum && sender_->copies()) local[i] = nullptr; // the sink does not copy a share: the sum would find it cold, and the sink has its own to do
  }
  fds_.clear();
  sources = all.size();
  layers = sink.layers_held();
  first_layer_ = sink.layer_begin;
  left_ = sources * layers;
  steps_.resize(left_);
  noted_.resize(left_);
  pending_.reserve(left_);
  if (o.checksum) sums_.resize(left_);
  uint64_t bytes_in_all = 0, segments_in_all = 0;
  for (const auto& parts : moves_)
    for (const KvMove& m : parts) bytes_in_all += m.total_bytes(), segments_in_all += m.total_segments();
  stats.bulk = o.bulk == TransferOptions::Bulk::always ||
               (o.bulk == TransferOptions::Bulk::model && model_.cost_ns(bytes_in_all, segments_in_all) <= 2 * model_.base_ns);
  stats.spans.resize(left_);
  for (size_t i = 0; i < left_; ++i) {
    Batch& batch = steps_[i].batch;
    batch.src = memory_[source_of(i)].base;
    batch.source = uint32_t(source_of(i));
    batch.layer = layer_of(i);
    batch.local = local[source_of(i)];
    batch.generation = generation_;
    batch.slot = slot_;
    if (!sums_.empty()) batch.sum = sums_[i].units();
  }
  return make_queue();
}

Status KvTransfer::Impl::attach(const std::string& fabric, const nlohmann::json& offer) {
  auto& slot = session->attached[sender_key(fabric, text_of(offer, "sink").value_or(""))];
  if (slot) {
    const auto state = static_cast<Sender*>(slot.get())->state();
    if (state && !state->ok()) { // others may still hold it: it goes with the session
      session->attached["dead:" + random_hex(8)] = std::move(slot);
      slot.reset();
    }
  }
  if (!slot) {
    auto made = make_sender(fabric, *session, offer, {}, memory_[0]);
    if (!made.ok()) return session->hop(made.error());
    slot = std::move(*made);
  }
  sender_ = static_cast<Sender*>(slot.get());
  ++sender_->users;
  return {};
}

Status KvTransfer::Impl::make_descriptors() {
  BATON_ASSIGN(epoll_, epoll_new());
  more_ = Fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  timer_ = Fd(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!more_ || !timer_) return io_error("eventfd or timerfd", errno);
  epoll_add(epoll_.get(), more_.get(), EPOLLIN, 0);
  epoll_add(epoll_.get(), timer_.get(), EPOLLIN, 0);
  return {};
}

Status KvTransfer::Impl::make_queue() {
  if (sender_->fd() >= 0) epoll_add(epoll_.get(), sender_->fd(), EPOLLIN, 0);
  table_.struct_size = sizeof table_;
  table_.abi_version = BATON_ABI_VERSION;
  table_.scheme = "kv";
  table_.description = "a KV transfer";
  table_.submit = [](void* self, void*, const baton_driver_op* ops, uint32_t n, uint32_t* taken, baton_error*) { return static_cast<Impl*>(self)->submit(ops, n, taken); };
  table_.poll = [](void* self, void*, uint32_t) { return static_cast<Impl*>(self)->poll(); };
  const std::string name = fmt::format("link {} > {} ({})", ep->options.name.empty() ? "prefill" : ep->options.name, session->peer.name.empty() ? session->address : session->peer.name, stats.fabric);
  Error e;
  baton_queue* q = nullptr;
  if (baton_queue_from_table(instance, name.c_str(), &table_, this, epoll_.get(), &q, &e)) return e;
  queue = Queue(q);
  return {};
}

Status KvTransfer::Impl::begin(const std::string& ticket, std::vector<KvSource> all, uint64_t tokens, const TransferOptions& o, uint64_t deadline_ns) {
  if (session->cause) return *session->cause;
  BATON_TRY(check(all, tokens));
  BATON_ASSIGN(model_, link_model(o.link_model));
  ep->add(this);
  opening_.emplace(Opening{std::move(all), tokens, o, deadline_ns});
  return ask(ticket);
}

// Not from within a poll: the queue is registered here.
std::optional<Status> KvTransfer::Impl::opened() {
  if (failure) return *failure;
  if (!opening_) return Status();
  Status ok;
  if (answer_ && !sender_) ok = accept();
  const std::optional<Status> connected = ok.ok() && sender_ ? sender_->state() : std::nullopt;
  if (connected && connected->ok()) {
    ok = settle();
  } else if (connected) {
    not_again(*session, stats.fabric);
    if (ask_again()) return std::nullopt;
    ok = session->hop(connected->error());
  } else if (ok.ok()) {
    if (now_ns() < opening_->deadline_ns) return std::nullopt;
    if (sender_) not_again(*session, stats.fabric);
    ok = session->hop(sender_ ? Error(BATON_DEADLINE, fmt::format("the {} fabric did not connect before the deadline", stats.fabric), "check that the decode side polls")
                              : Error(BATON_DEADLINE, "the decode side did not answer before the deadline", "check that it polls"));
  }
  if (!ok.ok()) fail(ok.error());
  opening_.reset();
  answer_.reset();
  return ok;
}

// A fabric that connects may have no descriptor yet.
uint32_t KvTransfer::Impl::on_poll(uint64_t) {
  if (opening_ && sender_ && !failure && !sender_->state()) ep->look_again(kConnectLookNs);
  return 0;
}

}  // namespace baton::transport
