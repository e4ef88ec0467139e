// top.h: what `top` shows, as lines: a function of two documents, so that it can be tested without a terminal.
//
// Owner    plain functions.   Threads  one.   Cost  linear in rows.   Errors  json::exception for documents of another shape.
//
//     screen.draw(top_lines(out, now, delta, {screen.width(), screen.height()}));
#pragma once

#include "tools/devctl/output.h"

#include <string>
#include <vector>

namespace baton::devctl {

struct TopView {
  size_t width = 80, height = 24;
  bool help = false, paused = false, busy_only = false;
  std::string host = {}, clock = {};
  std::string chips = {};  // chips_line()
};

// "64 Trn2 chips, 12 executions/s, ..." of two chips_document()s, `seconds` apart; `before` null: without rates. "": there are none.
std::string chips_line(const json& before, const json& now, double seconds);
// What each port carried between two documents of stats: {"rdmap16s27/1": {"sent_per_s", "received_per_s"}}, for top_lines in `delta["nics"]`.
json nic_rates(const json& before, const json& now, double seconds);

// `now`: a document of stats. `delta`: stats_delta() of it and the one before; null for the first frame.
std::vector<std::string> top_lines(const Output& out, const json& now, const json& delta, const TopView& view);

}  // namespace baton::devctl
