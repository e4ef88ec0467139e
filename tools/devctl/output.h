// output.h: how devctl speaks: data on stdout (text or one JSON document), errors on stderr, exit codes.
//
// Owner    main() owns the one Output.   Threads  one.   Cost  -   Errors  none: what cannot be written is lost.
//
//     out.document("list", {{"devices", rows}});      // with -o json
//     Table t({"NAME", "URI"});                       // else
//     t.row({"host0", "host://"});
//     out.print(t.text());
//     return out.fail(error);                         // one line, a next: line, and the exit code
#pragma once

#include "hal/baton.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace baton::devctl {

using json = nlohmann::ordered_json;  // the schema stays first

// The same codes as baton's.
enum Exit : int {
  kOk = 0,
  kFinding = 1,  // it ran, and what it found is bad
  kUsage = 2,    // the call, or bytes that it names, are malformed
  kNoDevice = 3,
  kPermission = 4,
  kBusy = 5,     // held by somebody, or full
  kUnsupported = 6,
  kLost = 7,
  kTimeout = 8,
  kVersion = 9,  // two sides do not fit each other
  kPartly = 10,  // some of several were done
  kInterrupted = 130,
};
int exit_code(int32_t baton_code);

class Output {
 public:
  Output(bool json_mode, bool colour) : json_(json_mode), colour_(colour) {}
  bool is_json() const { return json_; }
  // {"schema": "baton.devctl.VERB/1", ...body}
  void document(std::string_view verb, json body) const;
  // A reading: its document with -o json, else the text that is made of it.
  int show(std::string_view verb, const Result<json>& doc, const std::function<std::string(const json&)>& text) const {
    if (!doc) return fail(doc.error());
    if (is_json()) document(verb, *doc);
    else print(text(*doc));
    return kOk;
  }
  void print(std::string_view text) const;   // stdout, as it is
  void note(std::string_view line) const;    // stderr, one line
  int fail(const Error& error) const;        // stderr; returns the exit code
  int fail(int exit, std::string_view what, std::string_view next) const;
  std::string bold(std::string_view s) const { return paint("1", s); }
  std::string dim(std::string_view s) const { return paint("2", s); }

 private:
  std::string paint(const char* sgr, std::string_view s) const;
  bool json_, colour_;
};

json error_json(const Error&);
std::string document_text(std::string_view verb, const json& body);  // with its schema, as document() prints it

// Columns as wide as their widest cell (counted in code points); the last column is not padded.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void right(size_t column) { right_.push_back(column); }
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  bool empty() const { return rows_.size() == 1; }
  std::string text(std::string_view indent = "") const;

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<size_t> right_;
};

std::string bytes_text(uint64_t bytes);       // "23.5 GiB", "512 B"
std::string ns_text(double ns);               // "2.31 us"
std::string rate_text(double bytes_per_s);    // "11.9 GB/s"
// A device's text may hold what a hostile peer put there: control characters become '?'.
std::string clean(std::string_view s);

}  // namespace baton::devctl
