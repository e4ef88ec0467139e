// recorder.h: the file that the record layer writes: JSON, one call a line, in the order in which they were made.
//
//   {"schema":"baton.record/1","inline":4194304}
//   {"call":"open","device":1,"uri":"cs3://...","driver":"cs3","emulated":true,"result":"OK"}
//   {"call":"alloc","device":1,"heap":0,"bytes":64,"mem":2,"result":"OK"}
//   {"blob":"<xxh3-128>","bytes":64,"base64":"..."}                       contents, once, before the first line that names it
//   {"call":"submit","queue":3,"op":4,"what":"COPY","tag":0,"src":{"host":"<xxh3>"},"dst":{"mem":2,"offset":0},"bytes":64}
//   {"call":"complete","op":4,"cost_ns":0,"result":"OK","holds":["<xxh3>"]}   contents of what it wrote, null where out of reach
//
// Contents above the limit are named by their hash alone, and cannot be replayed.
//
// Owner    the record layer, one an instance.   Threads  any: one lock.
// Cost     a line a call, a hash of all contents that pass, base64 of those that are new.   Errors  create: as OutputFile.
#pragma once

#include "hal/layers/output_file.h"

#include <nlohmann/json.hpp>

#include <mutex>
#include <set>

namespace baton::layers {

class Recorder {
 public:
  Recorder(OutputFile file, uint64_t inline_bytes, bool mapped);
  ~Recorder();
  void line(const nlohmann::ordered_json&);
  std::string contents(const void* data, uint64_t bytes);  // their hash; recorded if new and small enough
  uint64_t number();                                       // of a device, memory, queue, program or op: unique in the file
  void flush();
  bool mapped() const { return mapped_; }  // contents of mapped memory that ops read and launches wrote are recorded too

 private:
  void write(const std::string& text);
  std::mutex mu_;
  OutputFile file_;
  const uint64_t inline_bytes_;
  const bool mapped_;
  uint64_t last_ = 0;
  std::string text_;
  std::set<std::string> known_;
};

}  // namespace baton::layers
