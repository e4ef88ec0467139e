// Discovery by a real etcd: leases, restarts, lost data, hostile entries, users, TLS.
#include "transport_etcd.hpp"

#include <sys/stat.h>

namespace baton::transport {
namespace {

using testing::HasSubstr;
using testing::Not;
using Kind = WorkerEvent::Kind;

struct Etcd : testing::Test {
  void SetUp() override {
    if (EtcdServer::missing()) GTEST_SKIP() << "etcd is not installed (Debian: etcd-server)";
    etcd.start();
  }
  DiscoveryOptions options() const { return {.source = etcd.url(), .lease_ns = 2'000'000'000}; }
  Discovery open() { return must(Discovery::open(in, options())); }
  template <class F>
  bool soon(F f) {
    return poll_until(in, f, kSoon);
  }
  WorkerEvent event(Discovery& d) {
    std::optional<WorkerEvent> e;
    EXPECT_TRUE(soon([&] { return (e = d.next()).has_value(); })) << etcd.log();
    return e.value_or(WorkerEvent{});
  }
  EtcdServer etcd;
  Instance in = must(Instance::create());
};

TEST_F(Etcd, AWorkerJoinsDrainsAndLeaves) {
  Discovery a = open(), b = open();
  Worker w = worker("decode-1", "127.0.0.1:7001");
  ASSERT_OK(a.announce(w, deadline_in_ms(kSoon)));
  EXPECT_TRUE(a.announced());
  WorkerEvent e = event(b);
  EXPECT_EQ(e.kind, Kind::joined);
  EXPECT_EQ(e.worker, w);
  w.state = WorkerState::draining;
  ASSERT_OK(a.announce(w, deadline_in_ms(kSoon)));
  e = event(b);
  EXPECT_EQ(e.kind, Kind::changed);
  EXPECT_EQ(e.worker.state, WorkerState::draining);
  ASSERT_OK(a.withdraw(deadline_in_ms(kSoon)));
  e = event(b);
  EXPECT_EQ(e.kind, Kind::left);
  EXPECT_EQ(e.worker.id, "decode-1");
  // And again, by the same Discovery.
  w.state = WorkerState::ready;
  ASSERT_OK(a.announce(w, deadline_in_ms(kSoon)));
  EXPECT_EQ(event(b).kind, Kind::joined);
  EXPECT_EQ(open().announce(worker("x y", "h:1")).error().code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(a.announce(worker("other", "h:1")).error().code, BATON_BUSY);
}

TEST_F(Etcd, AnIdleWorkerOutlivesItsLeaseAndADeadOneGoesWithIt) {
  std::optional<Discovery> a = open();
  Discovery b = open();
  ASSERT_OK(a->announce(worker("w", "h:1"), deadline_in_ms(kSoon)));
  EXPECT_EQ(event(b).kind, Kind::joined);
  const uint64_t until = deadline_in_ms(4500);
  poll_until(in, [&] { return now_ns() > until; }, kSoon);
  EXPECT_FALSE(b.next()) << "two leases later it is still there";
  a.reset(); // as if it had died
  EXPECT_EQ(event(b).kind, Kind::left);
}

TEST_F(Etcd, ARestartIsLivedThrough) {
  Discovery a = open(), b = open();
  Worker w = worker("w", "h:1");
  ASSERT_OK(a.announce(w, deadline_in_ms(kSoon)));
  event(b);
  etcd.kill();
  ASSERT_TRUE(soon([&] { return !a.status().ok() && !b.status().ok(); }));
  EXPECT_EQ(b.status().error().code, BATON_IO) << b.status().error().text();
  EXPECT_EQ(b.workers().size(), 1u) << "what was known stays";
  etcd.start();
  ASSERT_TRUE(soon([&] { return a.status().ok() && b.status().ok(); })) << a.status().error().text();
  w.state = WorkerState::draining;
  ASSERT_OK(a.announce(w, deadline_in_ms(kSoon)));
  ASSERT_TRUE(soon([&] { return b.workers().contains("w") && b.workers().at("w").state == WorkerState::draining; }));
  Discovery c = open();
  ASSERT_OK(c.announce(worker("new", "h:2"), deadline_in_ms(kSoon)));
  EXPECT_TRUE(soon([&] { return b.workers().contains("new"); }));
}

TEST_F(Etcd, AnEtcdThatLostEverythingHearsOfTheWorkerAgain) {
  Discovery a = open(), b = open();
  ASSERT_OK(a.announce(worker("w", "h:1"), deadline_in_ms(kSoon)));
  event(b);
  etcd.kill();
  etcd.forget();
  etcd.start();
  const auto there = [&] { return etcd.ask("/v3/kv/range", {{"key", EtcdServer::base64("/baton/workers/w")}}).contains("kvs"); };
  ASSERT_TRUE(soon(there));
  ASSERT_TRUE(soon([&] { return b.status().ok() && b.workers().contains("w"); }));
}

TEST_F(Etcd, ALostLeaseAndARemovedEntryAreMadeAnew) {
  Discovery a = open(), b = open();
  ASSERT_OK(a.announce(worker("w", "h:1"), deadline_in_ms(kSoon)));
  event(b);
  const auto revision = [&] { // of the entry's making
    const auto j = etcd.ask("/v3/kv/range", {{"key", EtcdServer::base64("/baton/workers/w")}});
    return j.contains("kvs") ? j["kvs"][0].value("create_revision", std::string()) : std::string();
  };
  const std::string first = revision();
  ASSERT_FALSE(first.empty());
  const auto leases = etcd.ask("/v3/lease/leases", nlohmann::json::object());
  ASSERT_TRUE(leases.contains("leases")) << leases.dump();
  for (const auto& l : leases["leases"]) etcd.ask("/v3/lease/revoke", {{"ID", l["ID"]}});
  ASSERT_TRUE(soon([&] { return !revision().empty() && revision() != first; }));
  const std::string second = revision();
  etcd.ask("/v3/kv/deleterange", {{"key", EtcdServer::base64("/baton/workers/w")}});
  ASSERT_TRUE(soon([&] { return !revision().empty() && revision() != second; }));
  EXPECT_TRUE(soon([&] { return b.workers().contains("w"); }));
}

TEST_F(Etcd, AnIdInUseIsBusyUntilItsHolderGoes) {
  std::optional<Discovery> a = open();
  Discovery b = open();
  ASSERT_OK(a->announce(worker("w", "h:1"), deadline_in_ms(kSoon)));
  ASSERT_OK(b.announce(worker("w", "h:2")));
  ASSERT_TRUE(soon([&] { return !b.status().ok(); }));
  EXPECT_EQ(b.status().error().code, BATON_BUSY);
  EXPECT_THAT(b.status().error().what, HasSubstr("h:1"));
  EXPECT_FALSE(b.announced());
  a.reset();
  ASSERT_TRUE(soon([&] { return b.announced(); })) << b.status().error().text();
  EXPECT_OK(b.status());
  // A worker that comes back at its address takes its entry over at once.
  Discovery again = open();
  ASSERT_OK(again.announce(worker("w", "h:2"), deadline_in_ms(kSoon)));
}

TEST_F(Etcd, HostileEntriesAreSkippedAndCounted) {
  Discovery b = open();
  etcd.put("/baton/workers/good", worker_json(worker("good", "h:1")).dump());
  etcd.put("/baton/workers/json", "}{");
  etcd.put("/baton/workers/large", std::string(100'000, 'x'));
  etcd.put("/baton/workers/nul", std::string("\0\1\2", 3));
  etcd.put("/baton/workers/a/b", "{}");
  etcd.put("/baton/workers/\x1b[31m", "{}");
  etcd.put("/baton/workers/", "{}");
  etcd.put("/other/x", "{}");
  etcd.put("/baton/workers/last", worker_json(worker("last", "h:2")).dump());
  ASSERT_TRUE(soon([&] { return b.workers().contains("last"); }));
  EXPECT_EQ(b.workers().size(), 2u);
  EXPECT_EQ(b.skipped().at("json"), 2u);
  EXPECT_EQ(b.skipped().at("size"), 1u);
  EXPECT_EQ(b.skipped().at("id"), 3u);
  EXPECT_OK(b.status());
  Discovery c = open(); // the same, seen as a snapshot
  ASSERT_TRUE(soon([&] { return c.complete(); }));
  EXPECT_EQ(c.workers().size(), 2u);
  EXPECT_EQ(c.skipped(), b.skipped());
}

TEST_F(Etcd, AskingNobodySaysSo) {
  Discovery d = must(Discovery::open(in, {.source = "http://127.0.0.1:1"}));
  const Status s = d.announce(worker("w", "h:1"), deadline_in_ms(1000));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code, BATON_IO);
  EXPECT_THAT(s.error().what, HasSubstr("127.0.0.1:1"));
  // Of several the next is asked.
  Discovery two = must(Discovery::open(in, {.source = "http://127.0.0.1:1," + etcd.url(), .lease_ns = 2'000'000'000}));
  EXPECT_OK(two.announce(worker("w", "h:1"), deadline_in_ms(kSoon)));
  for (const char* bad : {"http://", "http://h", "https://h:99999", "http://h:1,ftp://h:1"}) EXPECT_EQ(Discovery::open(in, {.source = bad}).error().code, BATON_INVALID_ARGUMENT) << bad;
  EXPECT_EQ(Discovery::open(in, {.source = etcd.url(), .lease_ns = 1}).error().code, BATON_INVALID_ARGUMENT);
  EXPECT_EQ(Discovery::open(in, {.source = etcd.url(), .ca = "/none"}).error().code, BATON_NOT_FOUND);
  EXPECT_THAT(Discovery::open(in, {.source = "http://etcd:2379", .user = "u", .password_file = "/dev/null"}).error().what, HasSubstr("unencrypted"));
}

TEST_F(Etcd, AUserAndItsPassword) {
  const std::string password = "correct horse battery staple";
  etcd.ask("/v3/auth/user/add", {{"name", "root"}, {"password", password}});
  etcd.ask("/v3/auth/user/grant", {{"user", "root"}, {"role", "root"}});
  etcd.ask("/v3/auth/role/add", {{"name", "root"}});
  etcd.ask("/v3/auth/user/grant", {{"user", "root"}, {"role", "root"}});
  etcd.ask("/v3/auth/enable", nlohmann::json::object());
  Discovery none = open();
  ASSERT_TRUE(soon([&] { return !none.status().ok(); }));
  EXPECT_EQ(none.status().error().code, BATON_PERMISSION) << none.status().error().text();
  auto o = options();
  o.user = "root", o.password_file = etcd.folder() + "/password";
  std::ofstream(o.password_file) << "wrong" << "\n";
  chmod(o.password_file.c_str(), 0600);
  Discovery d = must(Discovery::open(in, o));
  ASSERT_TRUE(soon([&] { return !d.status().ok(); }));
  EXPECT_EQ(d.status().error().code, BATON_PERMISSION) << d.status().error().text();
  EXPECT_THAT(d.status().error().what, Not(HasSubstr("wrong")));
  std::ofstream(o.password_file) << password << "\n"; // it is read at each try
  ASSERT_OK(d.announce(worker("w", "h:1"), deadline_in_ms(kSoon)));
  ASSERT_TRUE(soon([&] { return d.workers().contains("w"); }));
  EXPECT_OK(d.status());
  chmod(o.password_file.c_str(), 0644);
  Discovery loose = must(Discovery::open(in, o));
  ASSERT_TRUE(soon([&] { return !loose.status().ok(); }));
  EXPECT_THAT(loose.status().error().next, HasSubstr("chmod 600"));
}

TEST(EtcdTls, AuthoritiesAndCertificatesAreHeldTo) {
  if (EtcdServer::missing()) GTEST_SKIP() << "etcd is not installed (Debian: etcd-server)";
  if (std::system("command -v openssl >/dev/null 2>&1")) GTEST_SKIP() << "openssl is not installed";
  baton::test::TempDir dir;
  const std::string d = dir.path();
  const std::string make = "cd " + d + " && for n in ca other; do openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $n.key -out $n.pem -days 2 -subj /CN=$n; done && "
                           "for n in server client; do openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $n.key -out $n.csr -subj /CN=$n && "
                           "printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' > ext && "
                           "openssl x509 -req -in $n.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $n.pem; done";
  ASSERT_EQ(std::system(("(" + make + ") >" + d + "/openssl.log 2>&1").c_str()), 0);
  EtcdServer etcd({"--cert-file " + d + "/server.pem --key-file " + d + "/server.key --client-cert-auth --trusted-ca-file " + d + "/ca.pem"}, "https");
  etcd.tls = {d + "/ca.pem", d + "/client.pem", d + "/client.key"};
  etcd.start();
  Instance in = must(Instance::create());
  DiscoveryOptions o{.source = etcd.url(), .lease_ns = 2'000'000'000, .ca = d + "/ca.pem", .cert = d + "/client.pem", .key = d + "/client.key"};
  Discovery good = must(Discovery::open(in, o));
  ASSERT_OK(good.announce(worker("w", "h:1"), deadline_in_ms(kSoon)));
  auto fails = [&](DiscoveryOptions bad) {
    Discovery x = must(Discovery::open(in, bad));
    EXPECT_TRUE(poll_until(in, [&] { return !x.status().ok(); }, kSoon));
    EXPECT_FALSE(x.complete());
    return x.status().ok() ? Error() : x.status().error();
  };
  auto other = o;
  other.ca = d + "/other.pem";
  EXPECT_EQ(fails(other).code, BATON_PERMISSION) << "an authority that did not sign the server";
  auto nobody = o;
  nobody.cert = nobody.key = "";
  EXPECT_NE(fails(nobody).code, BATON_OK) << "no certificate of this side";
}

}  // namespace
}  // namespace baton::transport
