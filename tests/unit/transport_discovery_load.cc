// Workers come, drain and go while requests are handed over to those that are there: nothing is lost, and nothing is wrong. By the file and by etcd.
#include "transport_etcd.hpp"

#include <memory>

namespace baton::transport {
namespace {

using Kind = WorkerEvent::Kind;

constexpr int kRequests = kSanitized ? 40 : 150;
constexpr uint64_t kTokens = 40;

KvLayout layout() { return small_layout(KvOrder::token_major, 16, 12); }

// The source of all of them: a file that whoever changes something writes anew, or etcd, where each registers itself.
class Source {
 public:
  explicit Source(bool etcd) {
    if (etcd) server_.emplace().start();
    else write();
  }
  Discovery open(const Instance& in) const {
    return must(Discovery::open(in, {.source = server_ ? server_->url() : path_, .look_ns = 1'000'000, .lease_ns = 5'000'000'000}));
  }
  void set(const Worker& w) { // for the file: its keeper's part
    entries_[w.id] = worker_json(w);
    entries_[w.id]["id"] = w.id;
    write();
  }
  void remove(const std::string& id) {
    entries_.erase(id);
    write();
  }
  std::string log() const { return server_ ? server_->log() : ""; }

 private:
  void write() {
    if (server_) return;
    auto all = nlohmann::json::array();
    for (auto& [id, e] : entries_) all.push_back(e);
    std::ofstream(path_ + ".new", std::ios::trunc) << nlohmann::json{{"workers", all}}.dump();
    std::filesystem::rename(path_ + ".new", path_);
  }
  baton::test::TempDir dir_;
  std::string path_ = dir_.path() + "/workers.json";
  std::map<std::string, nlohmann::json> entries_;
  std::optional<EtcdServer> server_;
};

// A decode worker: hands out a ticket for each request that it takes, and compares what has landed.
class DecodeWorker {
 public:
  DecodeWorker(const Instance& in, const Device& host, Source& source, const Key& key, int number)
      : in_(in), source_(source), ep_(must(Endpoint::open(in, {.listen = "127.0.0.1:0", .key = key, .name = "decode"}))), memory_(must(host.alloc(layout().bytes()))),
        sink_(must(KvSink::create(in, ep_, memory_, layout(), "m"))), discovery_(source.open(in)), me_(worker("decode-" + std::to_string(number), ep_.address())) {
    me_.epoch = ep_.epoch();
    tell();
  }
  // The order of an honest end: say so, finish, be gone for everybody, then close.
  void drain() {
    me_.state = WorkerState::draining;
    tell();
  }
  bool draining() const { return me_.state == WorkerState::draining; }
  bool idle() const { return !incoming_; }
  void leave() {
    source_.remove(me_.id);
    ASSERT_OK(discovery_.withdraw(deadline_in_ms(kSoon)));
  }
  const std::string& id() const { return me_.id; }
  void step() {
    while (auto s = ep_.accept()) sessions_.push_back(std::move(s));
    for (auto& s : sessions_)
      while (auto m = s->receive()) {
        if (draining() || incoming_) {
          ASSERT_OK(s->send({"elsewhere", {}, {}}));
          continue;
        }
        asker_ = s.get();
        salt_ = m->body["salt"];
        incoming_.emplace(must(sink_.expect(blocks_, kTokens)));
        ASSERT_OK(s->send({"ticket", {{"ticket", incoming_->ticket()}}, {}}));
      }
    if (!incoming_) return;
    if (auto sealed = incoming_->sealed()) {
      const uint64_t wrong = wrong_kv(memory_, layout(), blocks_, kTokens, salt_);
      incoming_.reset();
      ASSERT_OK(asker_->send({"done", {{"wrong", wrong}}, {}}));
    }
  }

 private:
  void tell() {
    source_.set(me_);
    // The keeper of the file has written; by etcd this waits until it is registered.
    ASSERT_OK(discovery_.announce(me_, deadline_in_ms(kSoon)));
  }
  const Instance& in_;
  Source& source_;
  Endpoint ep_;
  Buffer memory_;
  KvSink sink_;
  Discovery discovery_;
  Worker me_;
  std::vector<std::unique_ptr<Session>> sessions_;
  std::optional<Incoming> incoming_;
  Session* asker_ = nullptr;
  uint32_t salt_ = 0;
  const std::vector<int32_t> blocks_{7, 2, 5};
};

class Load : public testing::TestWithParam<bool> {};

TEST_P(Load, NothingIsLostWhileWorkersComeDrainAndGo) {
  if (GetParam() && EtcdServer::missing()) GTEST_SKIP() << "etcd is not installed (Debian: etcd-server)";
  Source source(GetParam());
  Instance in = must(Instance::create());
  Device host = must(in.open("host://"));
  const Key key = random_key();
  Endpoint prefill = must(Endpoint::open(in, {.key = key, .name = "prefill"}));
  Discovery view = source.open(in);
  std::vector<std::unique_ptr<DecodeWorker>> workers;
  std::map<std::string, Worker> ready;           // what the view has told
  std::map<std::string, std::unique_ptr<Session>> sessions; // by address
  std::mt19937 rng(11);
  int made = 0, gone = 0, joined = 0, left = 0, elsewhere = 0, moved = 0;
  auto add = [&] { workers.push_back(std::make_unique<DecodeWorker>(in, host, source, key, made++)); };
  bool churning = false;
  // One turn of everybody: workers answer; sometimes one comes, drains, or, drained and idle, leaves.
  auto turn = [&](bool churn) {
    for (auto& w : workers) w->step();
    if (churn && !std::exchange(churning, true)) {
      if (workers.size() < 4 && rng() % 40 == 0) add();
      if (workers.size() > 2 && rng() % 40 == 0) workers[rng() % workers.size()]->drain();
      for (size_t i = 0; i < workers.size(); ++i)
        if (workers.size() > 1 && workers[i]->draining() && workers[i]->idle()) {
          workers[i]->leave();
          workers.erase(workers.begin() + long(i));
          ++gone;
          break;
        }
      churning = false;
    }
    while (auto e = view.next()) {
      joined += e->kind == Kind::joined;
      left += e->kind == Kind::left;
      if (e->kind == Kind::left || e->worker.state == WorkerState::draining) ready.erase(e->worker.id);
      else ready[e->worker.id] = e->worker;
    }
  };
  auto until = [&](auto done, bool churn = true) {
    return poll_until(in, [&] {
      turn(churn);
      return HasFatalFailure() || done();
    }, kSoon);
  };
  add(), add();
  const KvLayout l = layout();
  Buffer memory = must(host.alloc(l.bytes()));
  const std::vector<int32_t> blocks{1, 8, 3};
  for (int r = 0; r < kRequests; ++r) {
    fill_kv(memory, l, blocks, kTokens, uint32_t(r));
    for (bool done = false; !done;) {
      ASSERT_TRUE(until([&] { return !ready.empty(); })) << source.log();
      ASSERT_FALSE(HasFatalFailure());
      auto it = ready.begin();
      std::advance(it, rng() % ready.size());
      const Worker to = it->second;
      auto& s = sessions[to.address];
      if (s && !s->alive().ok()) s.reset();
      if (!s) {
        auto fresh = prefill.connect(to.address, deadline_in_ms(kSoon));
        if (!fresh.ok()) { // it went between what was told and the connect: another is asked
          ++elsewhere;
          ready.erase(to.id);
          continue;
        }
        EXPECT_EQ((*fresh)->peer_epoch(), to.epoch) << "what was announced is whom it met";
        s = std::move(*fresh);
      }
      if (!s->send({"ask", {{"salt", r}}, {}}).ok()) continue;
      std::optional<Message> m;
      ASSERT_TRUE(until([&] { return (m = s->receive()).has_value() || !s->alive().ok(); })) << "request " << r;
      ASSERT_FALSE(HasFatalFailure());
      if (!m || m->type == "elsewhere") {
        ++elsewhere;
        continue;
      }
      // From here on the request is that worker's: it may drain, and must not leave.
      auto t = KvTransfer::open(in, *s, m->body["ticket"], {{&memory, l, blocks}}, kTokens, {.fabric = "mapped", .model = "m"}, deadline_in_ms(kSoon));
      ASSERT_OK(t);
      Timeline sent = must(in.timeline("sent"));
      std::vector<Op> ops;
      for (uint32_t layer = 0; layer < l.layers; ++layer) ops.push_back(t->copy(0, layer));
      ops.back().signal(sent, 1);
      ASSERT_OK(t->queue().submit(ops));
      ASSERT_TRUE(until([&] { return sent.wait_until(1, now_ns()).ok(); }));
      ASSERT_OK(t->seal({"first", {{"token", r}}, {}}, deadline_in_ms(kSoon)));
      m.reset();
      ASSERT_TRUE(until([&] { return (m = s->receive()).has_value() || !s->alive().ok(); })) << "request " << r;
      ASSERT_TRUE(m) << "request " << r << " was lost: " << s->alive().error().text();
      ASSERT_EQ(m->type, "done");
      ASSERT_EQ(m->body["wrong"], 0) << "request " << r;
      ++moved;
      done = true;
    }
  }
  while (workers.size() > 1) { // all but one leave
    workers[0]->drain();
    ASSERT_TRUE(until([&] { return workers[0]->idle(); }, false));
    workers[0]->leave();
    workers.erase(workers.begin());
    ++gone;
  }
  ASSERT_TRUE(until([&] { return view.workers().size() == 1; }, false)) << source.log();
  EXPECT_EQ(view.workers().begin()->first, workers[0]->id());
  EXPECT_EQ(moved, kRequests);
  EXPECT_GT(gone, 2);
  EXPECT_EQ(joined - left, 1);
  EXPECT_TRUE(view.skipped().empty());
  std::printf("%d requests to %d workers, %d gone, %d joins and %d leaves seen, %d asked elsewhere\n", moved, made, gone, joined, left, elsewhere);
}

INSTANTIATE_TEST_SUITE_P(By, Load, testing::Bool(), [](const auto& i) { return std::string(i.param ? "Etcd" : "File"); });

}  // namespace
}  // namespace baton::transport
