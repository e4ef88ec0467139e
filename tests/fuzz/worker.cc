// Entries of workers, as a file or etcd gives them: what is accepted keeps its limits and is the same when it is written and read; the table tells each
// change once.
//
// An input is lines: the first byte chooses (s: set, e: erase, b: a snapshot begins, f: it ends), then id, a space, JSON.
#include "tests/fuzz/fuzz.h"
#include "transport/discovery/worker.hpp"

#include <algorithm>

using namespace baton;
using namespace baton::transport;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  WorkerTable table;
  std::map<std::string, Worker> told;
  auto hear = [&] {
    while (auto e = table.next()) {
      const bool known = told.contains(e->worker.id);
      FUZZ_CHECK(known == (e->kind != WorkerEvent::Kind::joined));
      if (e->kind == WorkerEvent::Kind::left) told.erase(e->worker.id);
      else told[e->worker.id] = e->worker;
    }
    FUZZ_CHECK(told == table.workers());
  };
  while (!in.empty()) {
    const std::string_view line = in.line('\n');
    if (line.empty()) continue;
    const std::string_view rest = line.substr(1), id = rest.substr(0, rest.find(' '));
    const std::string_view json = id.size() < rest.size() ? rest.substr(id.size() + 1) : std::string_view();
    if (line[0] == 's') {
      const char* why = nullptr;
      const auto w = parse_worker(id, json, why);
      FUZZ_CHECK(w || (why && *why));
      if (w) {
        FUZZ_CHECK(w->id.size() <= 64 && w->address.size() <= 255 && w->model.size() <= 128);
        for (const std::string* s : {&w->id, &w->role, &w->address, &w->device, &w->model, &w->layout})
          FUZZ_CHECK(std::all_of(s->begin(), s->end(), [](char c) { return c > ' ' && c <= '~'; }));
        const auto again = parse_worker(id, worker_json(*w).dump(), why);
        FUZZ_CHECK(again && *again == *w);
      }
      table.set(id, json);
    } else if (line[0] == 'e') table.erase(id);
    else if (line[0] == 'b') table.begin_snapshot();
    else if (line[0] == 'f') table.end_snapshot();
    else hear();
  }
  hear();
  return 0;
}
