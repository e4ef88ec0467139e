// devctl_test.hpp: devctl as a person or a script runs it, and machines out of files for it to look at.
//
// Owner    plain functions.   Threads  one.   Errors  failures of the test that calls.
//
//     Ran r = devctl({"list", "-o", "json"}, {{"BATON_SYSFS_ROOT", unpack("roce", dir.path())}});
#pragma once

#include <gtest/gtest.h>

#include "tests/support/process.h"
#include "tests/unit/devctl_schema.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace baton::test {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kPatienceMs = 120'000;
#else
constexpr int kPatienceMs = 60'000;
#endif

// What a baton::Result has.
template <class R>
auto must(R r) {
  if (!r) {
    ADD_FAILURE() << r.error().text();
    std::abort();
  }
  return std::move(*r);
}

struct Ran {
  int code = -1;
  std::string out, err;
};

using Env = std::map<std::string, std::string>;

inline Ran devctl(std::vector<std::string> args, Env env = {}) {
  args.insert(args.begin(), tool("devctl"));
  Process p(args, std::move(env));
  p.close_stdin();
  Exit e = p.wait(kPatienceMs);
  EXPECT_TRUE(e.ended) << "hangs";
  return {e.code, p.out(), p.err()};
}

// stdout as one document, valid by its own schema, which is `schema`.
inline nlohmann::json document(const std::vector<std::string>& args, const std::string& schema, const Env& env = {}, int code = 0) {
  std::vector<std::string> all = {"-o", "json"};
  all.insert(all.end(), args.begin(), args.end());
  Ran r = devctl(all, env);
  EXPECT_EQ(r.code, code) << r.err;
  nlohmann::json j = nlohmann::json::parse(r.out, nullptr, false);
  EXPECT_FALSE(j.is_discarded()) << r.out;
  EXPECT_EQ(j.is_object() ? j.value("schema", "") : "", "baton.devctl." + schema + "/1");
  EXPECT_EQ(schema_problem(j), "");
  return j;
}

// An error is one line and a next: line on stderr, and nothing on stdout.
inline void refused(const std::vector<std::string>& args, int code, const std::string& says = "", const Env& env = {}) {
  Ran r = devctl(args, env);
  SCOPED_TRACE(testing::PrintToString(args));
  EXPECT_EQ(r.code, code) << r.err;
  EXPECT_EQ(r.out, "");
  EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 2) << r.err;
  EXPECT_EQ(r.err.rfind("devctl: ", 0), 0u) << r.err;
  EXPECT_NE(r.err.find("\nnext: "), std::string::npos) << r.err;
  EXPECT_NE(r.err.find(says), std::string::npos) << r.err;
}

// tests/unit/machines/NAME.tree as files below `folder`; returns folder.
inline std::string unpack(const std::string& name, const std::string& folder) {
  namespace fs = std::filesystem;
  std::ifstream in(std::string(BATON_SOURCE_DIR) + "/tests/unit/machines/" + name + ".tree");
  EXPECT_TRUE(in) << name;
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    const size_t link = line.find(" -> "), file = line.find(" = ");
    const fs::path path = fs::path(folder) / line.substr(0, std::min(link, file));
    fs::create_directories(path.parent_path());
    if (link < file) fs::create_symlink(line.substr(link + 4), path);
    else std::ofstream(path) << line.substr(file + 3) << "\n";
  }
  return folder;
}

}  // namespace baton::test
