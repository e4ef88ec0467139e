// answer.hpp: what is asked of the runtime and what comes back, the same for one device and for a hand-over.
//
// Owner    plain data.   Threads  any.   Errors  none.
//
//     Answer a = ...;   for (const Token& t : a.tokens) ...   a.times.ttft(Clock::wall)
#pragma once

#include "tools/baton/decode_engine.hpp"

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace baton::runtime {

struct Params {
  uint32_t max_tokens = 128;
  Sampling sampling;
  bool ignore_eos = false;
  bool logits = false;
  bool first_by_decode = false; // the decode side makes the first token too, of the prompt's last, whose KV does not travel
};

struct Leg { // a device and what it did
  std::string role, where, title, timing; // "prefill", "baton://127.0.0.1:7000" or the device's URI, "Trainium2 neuron://0, emulated", "trn2 ..."
  uint32_t ranks = 1;
  std::vector<Span> spans;
};
nlohmann::json to_json(const Leg&);
Leg leg_from_json(const nlohmann::json&);

struct Transfer {
  std::string fabric; // "": no hand-over
  uint64_t bytes = 0, segments = 0;
  std::vector<Span> spans; // one for each (rank, layer)
  struct Rail {
    std::string nic, peer_nic;
    uint64_t bytes = 0, failures = 0;
  };
  std::vector<Rail> rails; // empty: the session's interface alone
};

// Nanoseconds since the request began, on the wall and on the modelled clock (0: not modelled).
struct Moment {
  uint64_t wall = 0, modelled = 0;
};

struct Answer {
  uint32_t prompt_tokens = 0;
  std::vector<Token> tokens;    // times absolute
  bool first_by_decode = false;
  std::vector<float> logits;    // a row a token, if asked for
  uint32_t vocab = 0;
  std::string finish;           // "length": max_tokens or context; "stop": a stop token
  bool context_full = false;    // fewer than max_tokens fit
  Moment began;                 // absolute
  Leg prefill, decode;
  Transfer transfer;
};

}  // namespace baton::runtime
