// snapshot: every reading of this machine in one document, which --from shows again elsewhere.
#include "tools/devctl/verbs.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <ctime>
#include <fstream>

namespace baton::devctl {

json take_snapshot(const Context& c, bool open) {
  char host[256] = "?";
  gethostname(host, sizeof host - 1);
  json documents = json::object();
  for (const Reading& r : readings()) {
    auto doc = open && std::string_view(r.name) == "topo" ? opened_topo_document(c, {"all"}) : r.read(c);
    json& at = documents[r.name] = {{"schema", fmt::format("baton.devctl.{}/1", r.name)}};
    if (doc) at.update(*doc);
    else at = {{"error", error_json(doc.error())}};
  }
  return {{"taken", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))}, {"host", host}, {"documents", documents}};
}

int snapshot(const Context& c, const SnapshotCall& call) {
  json body = take_snapshot(c, call.open);
  size_t failed = 0;
  for (auto& [name, doc] : body["documents"].items()) {
    if (!doc.contains("error")) continue;
    ++failed;
    c.out.note(fmt::format("devctl: {} could not be read: {}", name, doc["error"]["what"].get<std::string>()));
  }
  const std::string text = document_text("snapshot", body);
  if (call.file.empty()) {
    c.out.print(text);
  } else {
    std::ofstream file(call.file);
    file << text;
    if (!file.flush()) return c.out.fail(Error(BATON_IO, fmt::format("{}: cannot be written", call.file), "name a file in a folder that exists and is writable"));
    if (!c.out.is_json()) c.out.print(fmt::format("{}\nnext: devctl --from {} list\n", call.file, call.file));
  }
  return failed ? kPartly : kOk;
}

}  // namespace baton::devctl
