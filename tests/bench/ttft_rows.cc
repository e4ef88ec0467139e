// Time to first token: prefill on one emulator and decode on another, against one device doing both.
#include "tests/bench/groups.h"
#include "tools/baton/client.hpp"
#include "tools/baton/decode_service.hpp"
#include "tools/baton/one_device.hpp"
#include "tools/baton/prefill_service.hpp"

#include <fmt/format.h>

#include <optional>

namespace baton::bench {
namespace {

using namespace baton::runtime;

constexpr char kPrefill[] = "emu+neuron://0", kDecode[] = "emu+cs3://0";
constexpr uint64_t kPatienceMs = 60'000;

// Both ways of answering, open at once, so that requests can alternate.
class Both {
 public:
  static Result<std::unique_ptr<Both>> open(const model::Model& m) {
    std::unique_ptr<Both> b(new Both);
    BATON_ASSIGN(b->in_, Instance::create());
    b->log_.emplace(b->in_);
    b->shelf_.emplace(b->in_);
    b->pump_.emplace(b->in_);
    EngineOptions engine;
    ServiceOptions service;
    service.key = transport::random_key();
    service.fabric = "mapped";
    service.engine = engine;
    BATON_ASSIGN(b->prefill_, PrefillService::open(*b->shelf_, *b->log_, kPrefill, m, service));
    BATON_ASSIGN(b->decode_, DecodeService::open(*b->shelf_, *b->log_, kDecode, m, service));
    b->pump_->add(*b->prefill_);
    b->pump_->add(*b->decode_);
    ClientOptions client;
    client.key = service.key;
    client.prefill = {b->prefill_->address(), kPrefill};
    client.decode = {b->decode_->address(), kDecode};
    client.model = model_identity(m, engine.precision);
    client.vocab = m.config.vocab;
    BATON_ASSIGN(b->client_, Client::connect(*b->pump_, std::move(client)));
    BATON_ASSIGN(b->one_, OneDevice::open(*b->shelf_, *b->log_, kPrefill, m, engine));
    return b;
  }
  Result<Answer> handed_over(std::span<const int32_t> ids, bool first_by_decode = false) {
    Params p = params();
    p.first_by_decode = first_by_decode;
    return client_->generate(ids, p, {});
  }
  Result<Answer> one_device(std::span<const int32_t> ids) { return one_->generate(ids, params(), {}, deadline_in_ms(kPatienceMs), nullptr); }

 private:
  Both() = default;
  static Params params() { return {.max_tokens = 4, .ignore_eos = true}; }
  Instance in_;
  std::optional<SpanLog> log_;
  std::optional<Shelf> shelf_;
  std::optional<Pump> pump_;
  std::unique_ptr<OneDevice> one_;
  std::unique_ptr<PrefillService> prefill_;
  std::unique_ptr<DecodeService> decode_;
  std::unique_ptr<Client> client_;
};

struct Times {
  double first_ms = -1, second_ms = -1;
};
Times times(const Answer& a) {
  auto since = [&](size_t i) { return i < a.tokens.size() ? double(a.tokens[i].wall_ns - a.began.wall) / 1e6 : -1; };
  return {since(0), since(1)};
}

}  // namespace

Status ttft_rows(const Settings& s, Report& report) {
  BATON_ASSIGN(auto m, model::Model::load(s.model));
  std::vector<int32_t> ids;
  for (uint32_t i = 0; i < std::min(200u, m.config.max_context - 8); ++i) ids.push_back(int32_t((i * 2654435761u + 7) % m.config.vocab));
  progress("ttft: opening both devices");
  BATON_ASSIGN(auto both, Both::open(m));
  Status status;
  std::vector<double> second, second_one;
  auto once = [&](bool handed_over) {
    auto a = handed_over ? both->handed_over(ids) : both->one_device(ids);
    if (!a && status.ok()) status = a.error();
    Times t = a ? times(*a) : Times{};
    (handed_over ? second : second_one).push_back(t.second_ms);
    return t.first_ms;
  };
  once(true);
  once(false);
  BATON_TRY(Status(status));
  second.clear();
  second_one.clear();
  progress(fmt::format("ttft: {} tokens, {} -> {} and {} alone, in turn", ids.size(), kPrefill, kDecode, kPrefill));
  auto p = interleave(s.repeats(31), [&] { return once(true); }, [&] { return once(false); });
  BATON_TRY(Status(status));
  std::string what = fmt::format("neuron -> cs3, mapped, {} tokens", ids.size());
  report.add({.group = "ttft", .figure = "first token, " + what, .unit = "ms", .value = p.figure, .yardstick = "the same on emu+neuron://0 alone",
              .against = p.yardstick, .ratio = p.ratio.median, .aim_on = AimOn::ratio_below, .aim = 1.1});
  auto by = interleave(s.repeats(31), [&] {
    auto a = both->handed_over(ids, true);
    if (!a && status.ok()) status = a.error();
    return a ? times(*a).first_ms : -1.0;
  }, [&] { return once(true); });
  BATON_TRY(Status(status));
  report.add({.group = "ttft", .figure = "first token by decode, " + what, .unit = "ms", .value = by.figure, .yardstick = "first token by prefill, the same hand-over",
              .against = by.yardstick, .ratio = by.ratio.median});
  Sample a = summarize(std::move(second)), b = summarize(std::move(second_one));
  report.add({.group = "ttft", .figure = "second token, " + what, .unit = "ms", .value = a, .yardstick = "the same on emu+neuron://0 alone", .against = b,
              .ratio = b.median > 0 ? a.median / b.median : 0});
  return {};
}

}  // namespace baton::bench
