// A prompt's KV in bulk against layer by layer: what each takes here, what the link's model says of each, and which of the two it chooses.
//
// One process with both ends. Here: every layer is there from the start, so that the cost of a layer's own note and completion shows. By the model:
// layer l is made at (l + 1) * kMadeNs, and the figure is when the last one has landed.
#include "tests/bench/groups.h"
#include "transport/kv_link.hpp"

#include <fmt/format.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

namespace baton::bench {
namespace {

using namespace baton::transport;

constexpr uint64_t kMadeNs = 100'000; // a layer's prefill, modelled: guess, of the order of a short prompt's on Trn2
constexpr uint64_t kPatienceMs = 60'000;

// The layers of one wafer of several: 8 of 8 heads of 128, 32 KiB a token.
KvLayout layout() {
  KvLayout l;
  l.layers = 8, l.kv_heads = l.head_count = 8, l.head_dim = 128, l.blocks = 64;
  return l;
}

struct Moved {
  double us = 0;       // from the first submit to the seal seen over there
  double modelled_us = 0;
  bool bulk = false;
};

class Ends {
 public:
  static Result<std::unique_ptr<Ends>> open() {
    std::unique_ptr<Ends> e(new Ends);
    BATON_ASSIGN(e->in_, Instance::create());
    BATON_ASSIGN(e->host_, e->in_.open("host://"));
    const Key key = random_key();
    BATON_ASSIGN(Endpoint d, Endpoint::open(e->in_, {.listen = "127.0.0.1:0", .key = key, .name = "decode", .lease_ns = 30'000'000'000}));
    BATON_ASSIGN(Endpoint p, Endpoint::open(e->in_, {.key = key, .name = "prefill", .lease_ns = 30'000'000'000}));
    e->decode_.emplace(std::move(d)), e->prefill_.emplace(std::move(p));
    BATON_ASSIGN(e->to_, e->prefill_->connect(e->decode_->address(), deadline_in_ms(kPatienceMs)));
    while (!(e->from_ = e->decode_->accept())) e->in_.poll();
    BATON_ASSIGN(e->source_, e->host_.alloc(layout().bytes()));
    BATON_ASSIGN(e->target_, e->host_.alloc(layout().bytes()));
    BATON_ASSIGN(void* base, e->source_.map());
    std::memset(base, 3, layout().bytes());
    BATON_ASSIGN(KvSink sink, KvSink::create(e->in_, *e->decode_, e->target_, layout(), "m"));
    e->sink_.emplace(std::move(sink));
    return e;
  }

  Result<Moved> move(uint64_t tokens, const char* fabric, TransferOptions::Bulk bulk) {
    const KvLayout l = layout();
    std::vector<int32_t> blocks((tokens + l.block_tokens - 1) / l.block_tokens);
    std::iota(blocks.begin(), blocks.end(), 0);
    BATON_ASSIGN(Incoming in, sink_->expect(blocks, tokens));
    BATON_ASSIGN(KvTransfer t, KvTransfer::open(in_, *to_, in.ticket(), {{&source_, l, blocks}}, tokens, {.fabric = fabric, .model = "m", .bulk = bulk}, deadline_in_ms(kPatienceMs)));
    BATON_ASSIGN(Timeline made, in_.timeline("made"));
    for (uint32_t i = 0; i < l.layers; ++i) made.signal(i + 1, (i + 1) * kMadeNs);
    const uint64_t begin_ns = now_ns();
    for (uint32_t i = 0; i < l.layers; ++i) BATON_TRY(t.queue().submit(t.copy(0, i).wait(made, i + 1)));
    BATON_TRY(t.seal({"end", {}, {}}, deadline_in_ms(kPatienceMs)));
    while (!in.sealed()) {
      if (Status s = t.alive(); !s.ok()) return s.error();
      in_.poll();
    }
    return Moved{double(now_ns() - begin_ns) / 1e3, double(in.stats().landed_modelled_ns.back()) / 1e3, t.stats().bulk};
  }

 private:
  Ends() = default;
  Instance in_;
  Device host_;
  std::optional<Endpoint> decode_, prefill_;
  Buffer source_, target_;
  std::unique_ptr<Session> from_, to_;
  std::optional<KvSink> sink_;
};

}  // namespace

Status bulk_rows(const Settings& s, Report& report) {
  using Bulk = TransferOptions::Bulk;
  BATON_ASSIGN(auto ends, Ends::open());
  for (const char* fabric : {"mapped", "tcp"}) {
    if (s.fabrics != "all" && s.fabrics != fabric) continue;
    for (uint64_t tokens : {8, 128, 1024}) {
      progress(fmt::format("bulk: {} tokens over {}", tokens, fabric));
      BATON_ASSIGN(const Moved chosen, ends->move(tokens, fabric, Bulk::model));
      Status status;
      Moved last[2];
      auto once = [&](bool bulk) {
        auto m = ends->move(tokens, fabric, bulk ? Bulk::always : Bulk::never);
        if (!m.ok() && status.ok()) status = m.error();
        last[bulk] = m.ok() ? *m : Moved{};
        return last[bulk].us;
      };
      auto p = interleave(s.repeats(41), [&] { return once(true); }, [&] { return once(false); });
      BATON_TRY(std::move(status));
      report.add({.group = "bulk", .figure = fmt::format("{} tokens, 8 layers, {}, in bulk{}", tokens, fabric, chosen.bulk ? " (the model's choice)" : ""), .unit = "us", .value = p.figure,
                  .yardstick = fmt::format("layer by layer{}", chosen.bulk ? "" : " (the model's choice)"), .against = p.yardstick, .ratio = p.ratio.median,
                  .note = fmt::format("efa-trn2 by its model, a layer made each {} us: the last has landed after {:.0f} us in bulk, {:.0f} us layer by layer.", kMadeNs / 1000, last[1].modelled_us,
                                      last[0].modelled_us)});
    }
  }
  return {};
}

}  // namespace baton::bench
