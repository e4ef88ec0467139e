// report.hpp: an Answer for people (a block of lines), for programs (JSON, schema "baton.generate/1") and for a trace viewer (Chrome's
// format: two processes, wall and modelled, a thread for each lane and link).
//
//     fputs(stats_text(answer).c_str(), stdout);
#pragma once

#include "tools/baton/answer.hpp"

#include <nlohmann/json.hpp>

#include <optional>
#include <string>

namespace baton::runtime {

struct Check { // against one device
  std::string device;
  bool same_tokens = false, same_logits = false;
  uint32_t steps = 0;
  double ttft_ms = 0; // wall
  std::string text() const;
};

std::string stats_text(const Answer&);
nlohmann::json answer_json(const Answer&, const std::string& prompt_model, const std::string& text, const std::optional<Check>&);
std::string chrome_trace(const Answer&);

}  // namespace baton::runtime
