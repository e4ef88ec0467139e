// decode_batch.hpp: several sequences decoded at once on one engine, from an empty cache: what one engine makes of them must equal what
// another one does, token for token and logit for logit.
#pragma once

#include "tests/pair/generate_fixture.hpp"

#include <algorithm>
#include <functional>

namespace baton::runtime {

struct Sequence {
  int32_t first;      // token to begin with
  uint32_t steps;
  Sampling sampling = {};
  bool stop = false;
  bool logits = true;
};

struct Decoded {
  std::vector<Token> tokens;
  std::vector<float> logits;
  bool stopped = false;
};

// All sequences in flight at once. `each` is called after every turn of the loop; `partly` has what was made before a failure.
inline Result<std::vector<Decoded>> decode_batch(World& w, DecodeEngine& e, const std::vector<Sequence>& batch, uint64_t deadline_ns,
                                                 const std::function<void(size_t tokens)>& each = {}, std::vector<Decoded>* partly = nullptr) {
  struct On {
    Blocks blocks;
    std::unique_ptr<DecodeRun> run;
  };
  std::vector<On> on;
  for (const Sequence& s : batch) {
    On o;
    BATON_ASSIGN(o.blocks, e.pool().take(e.pool().blocks_for(s.steps)));
    DecodeJob job;
    job.blocks.assign(o.blocks.ids().begin(), o.blocks.ids().end());
    job.steps = s.steps;
    job.sampling = s.sampling;
    job.stop = s.stop;
    job.logits = s.logits;
    BATON_ASSIGN(o.run, e.start(std::move(job)));
    on.push_back(std::move(o));
  }
  for (size_t i = 0; i < on.size(); ++i) BATON_TRY(on[i].run->begin(batch[i].first, 0, nullptr, 0));
  const auto made = [&] {
    std::vector<Decoded> out;
    for (On& o : on) out.push_back({o.run->tokens(), o.run->logits(), o.run->stopped()});
    return out;
  };
  for (;;) {
    bool all = true;
    size_t tokens = 0;
    for (On& o : on) {
      const RunState s = o.run->step();
      if (s == RunState::failed) {
        if (partly) *partly = made();
        return o.run->error();
      }
      all = all && s == RunState::done;
      tokens += o.run->tokens().size();
    }
    if (each) each(tokens);
    if (all) break;
    if (now_ns() >= deadline_ns) return Error(BATON_DEADLINE, "the batch took too long");
    w.in.poll_wait(std::min(deadline_ns, deadline_in_ms(20)));
  }
  return made();
}

// The same on host://, where there is no wafer.
inline std::vector<Decoded> on_host(const std::vector<Sequence>& batch) {
  static World* w = new World; // lives as long as the process: its devices are this process's memory
  auto e = DecodeEngine::open(*w->shelf, *w->log, "host://", demo(), {}, nullptr);
  EXPECT_TRUE(e.ok()) << e.error().text();
  std::vector<Decoded> all;
  for (const Sequence& s : batch) { // one after the other: that they are together elsewhere must not show
    auto one = decode_batch(*w, **e, {s}, BATON_NO_DEADLINE);
    EXPECT_TRUE(one.ok()) << one.error().text();
    if (one.ok()) all.push_back(std::move((*one)[0]));
  }
  return all;
}

}  // namespace baton::runtime
