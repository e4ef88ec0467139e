// reading.h: the verbs that read: what is seen is one JSON document, and the text is made from the document alone. So what was captured
// (devctl snapshot) shows the same with --from FILE as the machine itself did.
//
// Owner    plain functions; a Snapshot owns the documents of a file.   Threads  one.
// Cost     a reading costs what the machine's answer costs; from a snapshot nothing.
// Errors   of the reading; NOT_FOUND for a document that a snapshot lacks; CORRUPT for a file that is none, json::exception for one whose
//          documents have another shape than devctl's (main() makes it exit code 2).
//
//     BATON_ASSIGN(json doc, reading(c, "list", list_document));
//     c.out.print(list_text(c.out, doc));
#pragma once

#include "tools/devctl/output.h"

#include <span>

namespace baton::devctl {

struct Context;
using Reader = Result<json> (*)(const Context&);

// A verb that reads, and what it reads of a whole machine without disturbing anybody.
struct Reading {
  const char* name;
  Reader read;
};
std::span<const Reading> readings();  // in the order of a snapshot

bool reads(std::string_view verb);    // --from is for it

class Snapshot {
 public:
  static Result<Snapshot> load(const std::string& file);
  Result<json> document(std::string_view name) const;
  std::string origin() const;  // "HOST at TIME"

 private:
  std::string file_;
  json all_;
};

// The document of `name`: from the snapshot, if the context has one.
Result<json> reading(const Context&, std::string_view name, Reader);
// The rows of `list` whose name or address the selector means ("" and "all": every one); NOT_FOUND if that is none.
Result<json> chosen(const json& list, const std::string& selector);

json take_snapshot(const Context&, bool open);  // the body of a snapshot

Result<json> summary_document(const Context&);
Result<json> list_document(const Context&);
Result<json> info_document(const Context&);
Result<json> topo_document(const Context&);
Result<json> opened_topo_document(const Context&, const std::vector<std::string>& selectors);  // with the paths
Result<json> fabric_document(const Context&);
Result<json> version_document(const Context&);
Result<json> who_document(const Context&);
Result<json> stats_document(const Context&);
json live_document(const Context&);   // of it what changes from second to second: without chips, whose counters are thousands of files
json chips_document(const Context&);  // and those
Result<json> health_document(const Context&);
Result<json> env_document(const Context&);

}  // namespace baton::devctl
