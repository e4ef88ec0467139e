// Discovery without etcd: entries and their limits, the table's events, the file.
#include "transport_etcd.hpp"

#include <sys/stat.h>

namespace baton::transport {
namespace {

using testing::HasSubstr;
using Kind = WorkerEvent::Kind;

TEST(WorkerEntry, IsReadAsItWasWritten) {
  Worker w = worker("decode-1", "10.0.0.5:7001");
  w.fingerprint = "3f2a-9c01", w.epoch = std::string(32, 'a'), w.state = WorkerState::draining;
  const char* why = "";
  const auto again = parse_worker(w.id, worker_json(w).dump(), why);
  ASSERT_TRUE(again) << why;
  EXPECT_EQ(*again, w);
  const auto least = parse_worker("p", R"({"role":"prefill","address":"[::1]:7000","future":[1]})", why);
  ASSERT_TRUE(least) << why;
  EXPECT_EQ(least->state, WorkerState::ready);
}

TEST(WorkerEntry, WhatIsWrongHasAReason) {
  const std::string id = "w", head = R"({"role":"decode","address":"h:1")";
  const std::pair<std::string, const char*> wrong[] = {
      {"", "json"}, {"[]", "json"}, {"{", "json"}, {std::string(200, '['), "json"}, {std::string(kMaxEntryBytes + 1, ' '), "size"},
      {R"({"address":"h:1"})", "role"}, {R"({"role":"admin","address":"h:1"})", "role"}, {R"({"role":7,"address":"h:1"})", "role"},
      {R"({"role":"decode"})", "address"}, {R"({"role":"decode","address":"h"})", "address"}, {R"({"role":"decode","address":"h:99999"})", "address"},
      {R"({"role":"decode","address":"a b:1"})", "address"}, {head + R"(,"device":"a\u001b[31m"})", "device"}, {head + R"(,"model":")" + std::string(129, 'm') + "\"}", "model"},
      {head + R"(,"layout":"xyz"})", "layout"}, {head + R"(,"fingerprint":"A"})", "fingerprint"}, {head + R"(,"epoch":1})", "epoch"}, {head + R"(,"state":"gone"})", "state"},
      {head + R"(,"capacity":-1})", "capacity"}, {head + R"(,"capacity":1e3})", "capacity"}, {head + R"(,"capacity":9007199254740993})", "capacity"},
      {head + R"(,"requests":"2"})", "requests"}};
  WorkerTable table;
  uint64_t n = 0;
  for (auto& [text, reason] : wrong) {
    const char* why = "";
    EXPECT_FALSE(parse_worker(id, text, why)) << text;
    EXPECT_STREQ(why, reason) << text;
    table.set(id, std::string_view(text));
    uint64_t all = 0;
    for (auto& [r, count] : table.skipped()) all += count;
    EXPECT_EQ(all, ++n);
  }
  for (const std::string& bad : {std::string(), std::string("a/b"), std::string("a b"), std::string(65, 'a'), std::string("\x1b")}) {
    const char* why = "";
    EXPECT_FALSE(parse_worker(bad, head + "}", why));
    EXPECT_STREQ(why, "id");
  }
  EXPECT_FALSE(table.next());
}

TEST(WorkerTable, TellsWhatDiffersFromWhatWasToldLast) {
  WorkerTable t;
  auto set = [&](const Worker& w) { t.set_json(w.id, worker_json(w)); };
  Worker a = worker("a", "h:1"), b = worker("b", "h:2");
  set(a), set(b);
  EXPECT_EQ(t.next()->kind, Kind::joined);
  EXPECT_EQ(t.next()->worker, b);
  EXPECT_FALSE(t.next());
  set(a);
  EXPECT_FALSE(t.next()) << "the same again";
  a.state = WorkerState::draining;
  set(a), t.erase("b"), set(worker("c", "h:3")), t.erase("c");
  auto e = t.next();
  EXPECT_EQ(e->kind, Kind::changed);
  EXPECT_EQ(e->worker.state, WorkerState::draining);
  e = t.next();
  EXPECT_EQ(e->kind, Kind::left);
  EXPECT_EQ(e->worker.id, "b");
  EXPECT_FALSE(t.next()) << "c came and went unheard";
  t.begin_snapshot();
  set(b);
  t.end_snapshot();
  EXPECT_EQ(t.next()->kind, Kind::left); // a
  EXPECT_EQ(t.next()->kind, Kind::joined);
  t.set("b", std::string_view("nonsense"));
  EXPECT_EQ(t.next()->kind, Kind::left) << "an entry that became wrong is no worker";
}

struct FileSource : testing::Test {
  void write(const nlohmann::json& workers) { raw(nlohmann::json{{"workers", workers}}.dump()); }
  void raw(const std::string& text) { // as one should: whole or not at all
    std::ofstream(path + ".new", std::ios::trunc) << text;
    std::filesystem::rename(path + ".new", path);
  }
  static nlohmann::json entry(const Worker& w) {
    auto j = worker_json(w);
    j["id"] = w.id;
    return j;
  }
  Discovery open() { return must(Discovery::open(in, {.source = path, .look_ns = 5'000'000})); }
  WorkerEvent event(Discovery& d) {
    std::optional<WorkerEvent> e;
    EXPECT_TRUE(poll_until(in, [&] { return (e = d.next()).has_value(); }, kSoon));
    return e.value_or(WorkerEvent{});
  }
  baton::test::TempDir dir;
  std::string path = dir.path() + "/workers.json";
  Instance in = must(Instance::create());
};

TEST_F(FileSource, IsReadAgainWhenItHasChanged) {
  const Worker a = worker("a", "h:1"), b = worker("b", "h:2", "prefill");
  write(nlohmann::json::array({entry(a)}));
  Discovery d = open();
  EXPECT_TRUE(d.complete());
  WorkerEvent e = event(d);
  EXPECT_EQ(e.kind, Kind::joined);
  EXPECT_EQ(e.worker, a);
  write({entry(a), entry(b)});
  e = event(d);
  EXPECT_EQ(e.kind, Kind::joined);
  EXPECT_EQ(e.worker, b);
  write(nlohmann::json::array({entry(b)}));
  e = event(d);
  EXPECT_EQ(e.kind, Kind::left);
  EXPECT_EQ(e.worker, a);
}

TEST_F(FileSource, WhatCannotBeReadLeavesWhatWasKnown) {
  EXPECT_EQ(Discovery::open(in, {.source = path}).error().code, BATON_NOT_FOUND);
  EXPECT_EQ(Discovery::open(in, {}).error().code, BATON_INVALID_ARGUMENT);
  raw("{\"workers\": 7}");
  EXPECT_EQ(Discovery::open(in, {.source = path}).error().code, BATON_CORRUPT);
  const Worker a = worker("a", "h:1");
  write(nlohmann::json::array({entry(a)}));
  Discovery d = open();
  event(d);
  raw("{\"work");
  ASSERT_TRUE(poll_until(in, [&] { return !d.status().ok(); }, kSoon));
  EXPECT_EQ(d.status().error().code, BATON_CORRUPT);
  EXPECT_EQ(d.workers().size(), 1u);
  std::filesystem::remove(path);
  ASSERT_TRUE(poll_until(in, [&] { return d.status().error().code == BATON_NOT_FOUND; }, kSoon));
  EXPECT_EQ(d.workers().size(), 1u);
  write(nlohmann::json::array());
  EXPECT_EQ(event(d).kind, Kind::left);
  EXPECT_OK(d.status());
}

TEST_F(FileSource, WrongEntriesAreSkippedAndCounted) {
  auto bad = entry(worker("bad", "h:1"));
  bad["role"] = "root";
  write({entry(worker("a", "h:1")), bad, 7, {{"role", "decode"}}});
  Discovery d = open();
  EXPECT_EQ(d.workers().size(), 1u);
  EXPECT_EQ(d.skipped().at("role"), 1u);
  EXPECT_EQ(d.skipped().at("id"), 2u);
}

TEST_F(FileSource, AnnouncingChecksThatTheWorkerStandsInIt) {
  const Worker a = worker("a", "h:1");
  write(nlohmann::json::array({entry(a)}));
  Discovery d = open();
  EXPECT_OK(d.announce(a, deadline_in_ms(1000)));
  EXPECT_EQ(d.announce(worker("b", "h:2")).error().code, BATON_NOT_FOUND);
  const Status moved = d.announce(worker("a", "h:2"));
  EXPECT_EQ(moved.error().code, BATON_MISMATCH);
  EXPECT_THAT(moved.error().what, HasSubstr("h:1"));
  EXPECT_EQ(d.announce(worker("a b", "h:2")).error().code, BATON_INVALID_ARGUMENT);
  EXPECT_OK(d.withdraw(deadline_in_ms(1000)));
}

}  // namespace
}  // namespace baton::transport
