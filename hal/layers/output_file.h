// output_file.h: a file that a layer writes from begin to end, valid after every append.
//
// "%p" in the name is the process's number, and "-2", "-3", ... follows it if that file exists: several processes and instances then each
// have their own. Without it a file that another instance is still writing is refused; an older one is replaced.
//
// Owner    a layer.   Threads  one at a time.   Cost  a system call or two an append.
// Errors   open: IO, BUSY. An append that fails (no space) ends the writing: good() is false.
//
//     BATON_ASSIGN(OutputFile f, OutputFile::open("/tmp/t-%p.json"));
//     f.append(events, "]}");   // the tail is overwritten by the next append
#pragma once

#include "hal/baton.hpp"

#include <string>
#include <string_view>

namespace baton::layers {

class OutputFile {
 public:
  static Result<OutputFile> open(const std::string& name);
  OutputFile(OutputFile&& o) noexcept : fd_(std::exchange(o.fd_, -1)), end_(o.end_), good_(o.good_) {}
  ~OutputFile();
  void append(std::string_view body, std::string_view tail = {});
  bool good() const { return good_; }

 private:
  explicit OutputFile(int fd) : fd_(fd) {}
  void put(std::string_view text, uint64_t at);
  int fd_ = -1;
  uint64_t end_ = 0;  // without the tail
  bool good_ = true;
};

}  // namespace baton::layers
