// baton-cts: runs the conformance suites against devices. See run.h; devctl cts is this program.
#include "tests/cts/run.h"
#include "tests/cts/subject_file.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace baton::cts {
namespace {

using json = nlohmann::ordered_json;
enum Exit : int { kOk = 0, kFinding = 1, kUsage = 2 };

struct Arguments {
  std::vector<std::string> subjects;
  std::vector<std::pair<std::string, std::string>> pairs;  // from, to
  RunOptions run;
  bool list = false;
  std::string output = "text";
  bool is_json() const { return output == "json"; }
};

int fail(const Error& e) {
  std::fprintf(stderr, "baton-cts: %s\nnext: %s\n", e.text().c_str(), e.next[0] ? e.next : "baton-cts --help");
  return kUsage;
}

// A driver that is not installed: the library looks into its folder first.
void prefer(const DriverFile& driver) {
  const char* before = getenv("BATON_DRIVER_PATH");
  setenv("BATON_DRIVER_PATH", (driver.folder + (before ? std::string(":") + before : "")).c_str(), 1);
}

// A pair is excused from nothing.
Result<Subject> read_pair(const std::string& from, const std::string& to) {
  BATON_ASSIGN(Subject a, subject_of(from));
  BATON_ASSIGN(Subject b, subject_of(to));
  return Subject{.name = a.name + "-" + b.name, .uri = a.uri, .peer = b.uri};
}

Result<std::vector<Subject>> read_subjects(const Arguments& given) {
  std::vector<Subject> subjects;
  for (const auto& [from, to] : given.pairs) {
    BATON_ASSIGN(Subject s, read_pair(from, to));
    subjects.push_back(std::move(s));
  }
  std::vector<DriverFile> drivers;
  for (const std::string& a : given.subjects) {
    if (a.ends_with(".so")) {
      BATON_ASSIGN(DriverFile d, driver_file(a));
      prefer(d);
      drivers.push_back(d);
    } else {
      BATON_ASSIGN(Subject s, subject_of(a));
      subjects.push_back(std::move(s));
    }
  }
  for (const DriverFile& d : subjects.empty() ? drivers : std::vector<DriverFile>()) {
    BATON_ASSIGN(Subject s, find_device(d));
    subjects.push_back(std::move(s));
  }
  for (size_t i = 0; i < subjects.size(); ++i)  // names tell subjects apart
    for (size_t j = 0; j < i; ++j)
      if (subjects[j].name == subjects[i].name) subjects[i].name += "." + std::to_string(i + 1);
  return subjects;
}

void print(const Finding& f) {
  constexpr const char* kWords[] = {"ok   ", "skip ", "xfail", "FAIL "};
  std::string line = std::string(kWords[size_t(f.outcome)]) + " " + f.subject + "/" + f.test;
  if (!f.reason.empty()) line += ": " + f.reason;
  else line += " (" + std::to_string(f.ms) + " ms)";
  for (const std::string& text : f.failures)
    if (f.outcome == Outcome::failed) line += "\n      " + text;
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

std::string summary(const Report& r) {
  std::string s = std::to_string(r.findings.size()) + " tests: ";
  for (Outcome o : {Outcome::passed, Outcome::skipped, Outcome::expected_failure, Outcome::failed})
    s += (o == Outcome::passed ? "" : ", ") + std::to_string(r.count(o)) + " " + outcome_name(o);
  return s;
}

json document(const Report& r, const Arguments& a, const std::vector<Subject>& subjects) {
  json tests = json::array(), all = json::array();
  for (const Subject& s : subjects) all.push_back({{"name", s.name}, {"uri", s.uri}});
  for (const Finding& f : r.findings)
    tests.push_back({{"subject", f.subject}, {"test", f.test}, {"outcome", outcome_name(f.outcome)}, {"reason", f.reason},
                     {"failures", f.failures}, {"ms", f.ms}});
  return {{"schema", "baton.cts/1"}, {"subjects", all}, {"seed", a.run.seed}, {"passed", r.count(Outcome::passed)},
          {"skipped", r.count(Outcome::skipped)}, {"expected_failures", r.count(Outcome::expected_failure)},
          {"failed", r.count(Outcome::failed)}, {"tests", tests}};
}

int list(const Arguments& a) {
  json names = json::array();
  for (const std::string& n : test_names())
    if (matches(a.run.filter, n)) names.push_back(n);
  if (a.is_json()) std::printf("%s\n", json({{"schema", "baton.cts.list/1"}, {"tests", names}}).dump(2).c_str());
  else for (const auto& n : names) std::printf("%s\n", n.get<std::string>().c_str());
  return kOk;
}

int execute(Arguments& a) {
  if (a.list) return list(a);
  auto subjects = read_subjects(a);
  if (!subjects) return fail(subjects.error());
  if (subjects->empty()) return fail(Error(BATON_INVALID_ARGUMENT, "no subject", "name an address, a subject's .json or a driver's .so"));
  if (!a.is_json()) {
    a.run.on_end = print;
    if (isatty(1)) a.run.on_begin = [](const std::string& s, const std::string& t) { std::printf("...   %s/%s\r", s.c_str(), t.c_str()), std::fflush(stdout); };
  }
  const Report r = run(*subjects, a.run);
  if (a.is_json()) std::printf("%s\n", document(r, a, *subjects).dump(2, ' ', false, json::error_handler_t::replace).c_str());
  else std::printf("%s (seed %llu)\n", summary(r).c_str(), static_cast<unsigned long long>(a.run.seed));
  if (r.findings.empty()) return fail(Error(BATON_INVALID_ARGUMENT, "no test matches '" + a.run.filter + "'", "baton-cts --list"));
  return r.failed() ? kFinding : kOk;
}

int parse(int argc, char** argv) {
  Arguments a;
  CLI::App app("baton-cts: does a device keep the promises of baton.h?", "baton-cts");
  app.footer("A driver's .so that is not installed is found in its folder; alone, its first device is tested.\n"
             "Exit codes: 0 as promised, 1 a test failed, 2 usage.");
  app.set_version_flag("--version", std::string("baton-cts ") + baton_version());
  app.add_option("SUBJECT", a.subjects, "Addresses (emu+cs3://0), subject files (.json), drivers (.so)");
  app.add_option("--pair", a.pairs, "From one device to another: the suites of pairs, in that direction")->type_name("FROM TO");
  app.add_flag("--faults", a.run.faults, "The suites of faults: each kind at each call and op, injected by the fault layer");
  app.add_option("--filter", a.run.filter, "Which tests, as in memory.* or *.*Reset*")->capture_default_str();
  app.add_option("--seed", a.run.seed, "Of everything random")->capture_default_str();
  app.add_option("--patience", a.run.patience_ms, "Milliseconds after which what should have happened is a failure")
      ->check(CLI::Range(1, 3'600'000))->capture_default_str();
  app.add_flag("--list", a.list, "Print the tests' names and end");
  app.add_option("-o,--output", a.output, "text or json")->check(CLI::IsMember({"text", "json"}))->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    return fail(Error(BATON_INVALID_ARGUMENT, e.what()));
  }
  return execute(a);
}

}  // namespace
}  // namespace baton::cts

int main(int argc, char** argv) { return baton::cts::parse(argc, argv); }
