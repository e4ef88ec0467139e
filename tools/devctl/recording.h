// recording.h: a file that the layer `record` wrote, read back: its calls, line by line, and the contents that they name.
//
// Owner    value type.   Threads  one.   Cost  the file in memory, once as JSON.
// Errors   NOT_FOUND, CORRUPT with the line; UNSUPPORTED if contents that a replay needs are in the file by their hash alone.
//
//     BATON_ASSIGN(Recording r, read_recording("/tmp/calls.jsonl"));
//     for (const RecordedCall& c : r.calls) ...
#pragma once

#include "hal/baton.hpp"

#include <nlohmann/json.hpp>

#include <map>
#include <set>
#include <string>
#include <vector>

namespace baton::devctl {

struct RecordedCall {
  size_t line = 0;
  std::string name;  // "submit"
  nlohmann::json fields;
};

struct Recording {
  std::vector<RecordedCall> calls;
  std::map<std::string, std::string> contents;  // by hash
  std::set<uint64_t> with_queues;               // devices that ops were submitted to
  std::set<uint64_t> returned;                  // ops that a full driver did not take: they come again under another number
};
Result<Recording> read_recording(const std::string& path);

}  // namespace baton::devctl
