// progress.h: how far long work has come: a bar on stderr, if that is a terminal; nothing else.
//
// Owner    the verb; the line is wiped by the destructor.   Threads  one.   Cost  a write a step.   Errors  none.
//
//     Progress p(tests.size()); p.step("memory neuron://0");
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace baton::devctl {

class Progress {
 public:
  explicit Progress(size_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void step(const std::string& what);  // that begins now

 private:
  bool terminal_;
  size_t total_, done_ = 0;
  uint64_t start_ns_;
};

}  // namespace baton::devctl
