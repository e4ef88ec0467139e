// chrome_trace.h: events in the JSON that Perfetto (ui.perfetto.dev) and chrome://tracing read. The one writer of that format here.
//
// Owner    who traces.   Threads  one at a time.   Cost  one append to a text an event.   Errors  none.
//
//     ChromeTrace t;   t.process(1, "wall");
//     t.span(1, t.lane(1, "neuron://0 lane 0"), "LAUNCH", begin_us, end_us - begin_us, "\"tag\":7");
//     file << ChromeTrace::kHead << t.take() << ChromeTrace::kTail;
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>

namespace baton::layers {

class ChromeTrace {
 public:
  static constexpr std::string_view kHead = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  static constexpr std::string_view kTail = "\n]}\n";
  void process(int pid, std::string_view name);
  // The number of a lane within a process; announces it when it is new.
  int lane(int pid, std::string_view name);
  // `arguments`: members of a JSON object, "" if there are none.
  void span(int pid, int lane, std::string_view name, double at_us, double us, std::string_view arguments = {});
  void mark(int pid, int lane, std::string_view name, double at_us);
  size_t bytes() const { return text_.size(); }
  // What came since the last take; in the file these follow one another.
  std::string take() { return std::exchange(text_, {}); }

 private:
  void begin(const char* phase, int pid, int lane, std::string_view name);
  bool first_ = true;
  std::string text_;
  std::map<std::pair<int, std::string>, int> lanes_;
};

}  // namespace baton::layers
