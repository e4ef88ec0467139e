#include "transport/discovery/directory.hpp"
#include "transport/socket.hpp"

#include <fmt/format.h>

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>

namespace baton::transport {
namespace {

uint32_t poll_slot(void* ctx, void*, uint32_t budget);

// Nobody submits to its queue: it exists to be polled.
int32_t submit_slot(void*, void*, const baton_driver_op*, uint32_t, uint32_t* taken, baton_error* e) {
  *taken = 0;
  *e = Error(BATON_UNSUPPORTED, "discovery takes no ops", "submit to a device's queue");
  return BATON_UNSUPPORTED;
}

constexpr uint64_t kLookEveryNs = 50'000; // a spinning poller does not pay a system call each time

}  // namespace

struct Discovery::Impl {
  ~Impl() { queue.reset(); } // no more polls from here on
  uint32_t poll() {
    const uint64_t now = now_ns();
    if (now - last_ns < kLookEveryNs) return 0;
    last_ns = now;
    const uint32_t handled = directory->poll(now);
    uint64_t fired;
    (void)!read(timer.get(), &fired, sizeof fired);
    arm();
    return handled;
  }
  void arm() {
    const uint64_t due = directory->due();
    if (due == armed_ns) return;
    armed_ns = due;
    const uint64_t now = now_ns(), in = due > now ? due - now : 1;
    const itimerspec t{{0, 100'000'000}, {time_t(in / 1'000'000'000), long(in % 1'000'000'000)}}; // one that is missed comes again
    timerfd_settime(timer.get(), 0, &t, nullptr);
  }
  template <class F>
  bool drive(uint64_t deadline_ns, F done) {
    while (!done()) {
      if (now_ns() >= deadline_ns) return false;
      baton_poll_wait(instance, std::min(deadline_ns, now_ns() + 10'000'000));
    }
    return true;
  }

  baton_instance* instance = nullptr;
  Fd epoll, timer;
  WorkerTable table;
  std::unique_ptr<Directory> directory;
  uint64_t last_ns = 0, armed_ns = 0;
  baton_driver slots{};
  Queue queue;
};

namespace {
uint32_t poll_slot(void* ctx, void*, uint32_t) { return static_cast<Discovery::Impl*>(ctx)->poll(); }
}  // namespace

Discovery::Discovery(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
Discovery::Discovery(Discovery&&) noexcept = default;
Discovery& Discovery::operator=(Discovery&&) noexcept = default;
Discovery::~Discovery() = default;

Result<Discovery> Discovery::open(const Instance& in, DiscoveryOptions o) {
  auto d = std::make_unique<Impl>();
  d->instance = in.get();
  if (o.source.empty()) return Error(BATON_INVALID_ARGUMENT, "discovery without a source", "give a JSON file of workers, or an etcd URL as in http://127.0.0.1:2379");
  BATON_ASSIGN(d->epoll, epoll_new());
  d->timer = Fd(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!d->timer) return io_error("timerfd_create", errno);
  epoll_add(d->epoll.get(), d->timer.get(), EPOLLIN, UINT64_MAX);
  const bool etcd = o.source.starts_with("http://") || o.source.starts_with("https://");
  if (etcd) { BATON_ASSIGN(d->directory, open_etcd(o, d->table, d->epoll.get())); }
  else { BATON_ASSIGN(d->directory, open_file(o, d->table)); }
  d->slots.struct_size = sizeof d->slots;
  d->slots.abi_version = BATON_ABI_VERSION;
  d->slots.scheme = "discovery";
  d->slots.description = "workers of a cluster";
  d->slots.submit = submit_slot;
  d->slots.poll = poll_slot;
  Error e;
  baton_queue* q = nullptr;
  if (baton_queue_from_table(in.get(), "discovery", &d->slots, d.get(), d->epoll.get(), &q, &e)) return e;
  d->queue = Queue(q);
  d->arm();
  return Discovery(std::move(d));
}

Status Discovery::announce(const Worker& w, uint64_t deadline_ns) {
  const char* why = nullptr;
  if (!worker_from(w.id, worker_json(w), why)) return Error(BATON_INVALID_ARGUMENT, fmt::format("a worker whose {} others would not accept", why), "see the limits in worker.hpp");
  BATON_TRY(impl_->directory->announce(w));
  if (deadline_ns && !impl_->drive(deadline_ns, [&] { return impl_->directory->announced(); })) {
    if (Status s = status(); !s.ok()) return s;
    return Error(BATON_DEADLINE, fmt::format("{} was not registered before the deadline", w.id), "is the source reachable? it is tried further");
  }
  return {};
}

Status Discovery::withdraw(uint64_t deadline_ns) {
  BATON_TRY(impl_->directory->withdraw());
  if (impl_->drive(deadline_ns, [&] { return impl_->directory->withdrawn(); })) return {};
  return Error(BATON_DEADLINE, "the worker's entry was not withdrawn before the deadline", "it goes when its lease ends");
}

bool Discovery::announced() const { return impl_->directory->announced(); }
std::optional<WorkerEvent> Discovery::next() { return impl_->table.next(); }
const std::map<std::string, Worker>& Discovery::workers() const { return impl_->table.workers(); }
const std::map<std::string, uint64_t>& Discovery::skipped() const { return impl_->table.skipped(); }
Status Discovery::status() const { return impl_->directory->status(); }
bool Discovery::complete() const { return impl_->directory->complete(); }

}  // namespace baton::transport
