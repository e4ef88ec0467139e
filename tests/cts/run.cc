#include "tests/cts/run.h"

#include "tests/cts/fixture.h"
#include "tests/cts/suite.h"

#include <gtest/gtest-spi.h>

#include <algorithm>
#include <memory>

namespace baton::cts {
namespace {

constexpr char kExpected[] = "expected_failure";  // the property that carries the reason

// One instance a subject, made by its first case: an emulator is started once.
struct Session {
  const Subject& subject;
  uint64_t seed;
  std::vector<std::pair<std::string, std::string>> misuse;  // code and text, of the case that runs
  Instance in;

  const Instance& instance() {
    if (in) return in;
    in = must(Instance::create());
    auto note = [](void* to, const baton_finding* f) {
      static_cast<Session*>(to)->misuse.emplace_back(f->code, std::string(f->code) + " [" + f->blame + "'s]: " + f->what + "; next: " + f->next);
    };
    (void)in.on_finding(note, this);  // only below BATON_LAYERS=validate
    return in;
  }
};

// What cases do on purpose and validation, where it is on, rightly names.
struct OnPurpose {
  const char* tests;
  const char* code;
  const char* reason;
};
constexpr OnPurpose kOnPurpose[] = {
    {"memory.NewMemoryNeverShowsOldBytes", "read-before-write", "looks at what new memory holds"},
    {"reset.OldBytesDoNotSurvive", "read-before-write", "looks at what memory made after a reset holds"},
    {"memory.ABufferFreedInFlightLivesUntilTheOpIsOver", "free-in-flight", "its subject"},
    {"timeline.ATimelineDestroyedUnderOpsCancelsThem", "free-in-flight", "its subject"},
    {"progress.AProgramUnloadedInFlightRunsToItsEnd", "free-in-flight", "its subject"},
    {"pair_loss.ClosingCancelsWhatIsInFlight", "free-in-flight", "its buffers go before its queue"},
    {"queue.ClosingWithWorkInFlightCancelsIt", "orphan-wait", "its work waits for what never comes"},
    {"pair_loss.ClosingCancelsWhatIsInFlight", "orphan-wait", "its work waits for what never comes"},
    {"timeline.AnOpJoinsTwoTimelinesAndSignalsTwo", "orphan-wait", "sees that one of two waits is not enough, by a deadline"},
    {"timeline.ADeadlineEndsTheWaitAlone", "orphan-wait", "its subject is the deadline"},
    {"timeline.TheWatermarkOnlyRises", "late-signal", "its subject: a lower value is ignored"},
};
bool on_purpose(const std::string& test, const std::string& code) {
  return std::any_of(std::begin(kOnPurpose), std::end(kOnPurpose), [&](const OnPurpose& p) { return matches(p.tests, test) && code == p.code; });
}

class RunCase : public testing::Test {
 public:
  RunCase(Session& session, const Case& c, std::string name) : session_(session), case_(c), name_(std::move(name)) {}

 private:
  void TestBody() override {
    if (const Entry* e = find(session_.subject.unsupported, name_)) GTEST_SKIP() << e->reason;
    const Entry* expected = find(session_.subject.expected_failures, name_);
    if (!expected) return run();
    testing::TestPartResultArray seen;
    {
      using Reporter = testing::ScopedFakeTestPartResultReporter;
      Reporter instead(Reporter::INTERCEPT_ALL_THREADS, &seen);
      run();
    }
    bool failed = false;
    std::string texts;
    for (int i = 0; i < seen.size(); ++i) {
      const testing::TestPartResult& part = seen.GetTestPartResult(i);
      if (part.skipped()) GTEST_SKIP() << part.message();
      failed |= part.failed();
    }
    if (failed)
      RecordProperty(kExpected, expected->reason);
    else
      ADD_FAILURE() << "listed as an expected failure ('" << expected->tests << "': " << expected->reason << ") and passes: remove the entry";
  }

  void run() {
    session_.misuse.clear();
    try {
      Fixture f(session_.instance(), session_.subject, case_.needs, session_.seed);
      case_.run(f);
      f.check_memory();
    } catch (const Stop&) {
      // reported where it was found
    } catch (const Skip& s) {
      GTEST_SKIP() << s.reason;
    }
    for (const auto& [code, text] : session_.misuse)
      if (!on_purpose(name_, code)) ADD_FAILURE() << text;
  }

  Session& session_;
  const Case& case_;
  const std::string name_;
};

std::string part_text(const testing::TestPartResult& part) {
  std::string at = part.file_name() ? std::string(part.file_name()) + ":" + std::to_string(part.line_number()) + ": " : "";
  return at + part.message();
}

// Turns GoogleTest's events into findings.
class Listener : public testing::EmptyTestEventListener {
 public:
  Listener(Report& report, const RunOptions& options) : report_(report), options_(options) {}

 private:
  static Finding named(const testing::TestInfo& t) {
    const std::string suite = t.test_suite_name();  // "subject/suite"
    const size_t slash = suite.rfind('/');
    Finding f;
    f.subject = suite.substr(0, slash);
    f.test = suite.substr(slash + 1) + "." + t.name();
    return f;
  }
  void OnTestStart(const testing::TestInfo& t) override {
    const Finding f = named(t);
    if (options_.on_begin) options_.on_begin(f.subject, f.test);
  }
  void OnTestEnd(const testing::TestInfo& t) override {
    Finding f = named(t);
    const testing::TestResult& r = *t.result();
    f.ms = uint64_t(r.elapsed_time());
    for (int i = 0; i < r.test_property_count(); ++i)
      if (std::string_view(r.GetTestProperty(i).key()) == kExpected) {
        f.outcome = Outcome::expected_failure;
        f.reason = r.GetTestProperty(i).value();
      }
    for (int i = 0; i < r.total_part_count(); ++i) {
      const testing::TestPartResult& part = r.GetTestPartResult(i);
      if (part.skipped()) f.reason = part.message();
      if (part.failed()) f.failures.push_back(part_text(part));
    }
    if (r.Failed()) f.outcome = Outcome::failed;
    else if (r.Skipped()) f.outcome = Outcome::skipped;
    while (f.reason.ends_with('\n')) f.reason.pop_back();
    if (options_.on_end) options_.on_end(f);
    report_.findings.push_back(std::move(f));
  }
  Report& report_;
  const RunOptions& options_;
};

bool applies(const Suite& suite, const Subject& s, const RunOptions& options) {
  return suite.about == (!s.peer.empty() ? About::pair : options.faults ? About::faults : About::device);
}

// Entries that excuse nothing are findings too.
void check_entries(const Subject& s, const RunOptions& options, Report& report) {
  std::vector<std::string> names;
  for (const Suite* suite : suites())
    if ((suite->about == About::pair) == !s.peer.empty())
      for (const Case& c : suite->cases) names.push_back(std::string(suite->name) + "." + c.name);
  for (const auto* list : {&s.unsupported, &s.expected_failures})
    for (const Entry& e : *list) {
      if (std::any_of(names.begin(), names.end(), [&](const std::string& n) { return matches(e.tests, n); })) continue;
      Finding f{s.name, e.tests, Outcome::failed, "", {"this entry of the subject matches no test: correct or remove it"}, 0};
      if (options.on_end) options.on_end(f);
      report.findings.push_back(std::move(f));
    }
}

}  // namespace

const char* outcome_name(Outcome o) {
  constexpr const char* kNames[] = {"passed", "skipped", "expected failure", "failed"};
  return kNames[size_t(o)];
}

size_t Report::count(Outcome o) const {
  return size_t(std::count_if(findings.begin(), findings.end(), [o](const Finding& f) { return f.outcome == o; }));
}

std::vector<std::string> test_names() {
  std::vector<std::string> names;
  for (const Suite* suite : suites())
    for (const Case& c : suite->cases) names.push_back(std::string(suite->name) + "." + c.name);
  return names;
}

Report run(std::span<const Subject> subjects, const RunOptions& options) {
  testing::InitGoogleTest();
  patience_ms = options.patience_ms;
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  delete listeners.Release(listeners.default_result_printer());
  Report report;
  auto* listener = new Listener(report, options);
  listeners.Append(listener);
  std::vector<std::unique_ptr<Session>> sessions;
  for (const Subject& s : subjects) {
    check_entries(s, options, report);
    Session& session = *sessions.emplace_back(new Session{s, options.seed, {}, {}});
    for (const Suite* suite : suites())
      for (const Case& c : suite->cases) {
        if (!applies(*suite, s, options)) continue;
        std::string name = std::string(suite->name) + "." + c.name;
        if (!matches(options.filter, name)) continue;
        testing::RegisterTest((s.name + "/" + suite->name).c_str(), c.name, nullptr, nullptr, suite->name, 0,
                              [&session, &c, name]() -> testing::Test* { return new RunCase(session, c, name); });
      }
  }
  [[maybe_unused]] const int code = RUN_ALL_TESTS();  // the findings say it
  delete listeners.Release(listener);
  return report;
}

}  // namespace baton::cts
