// one_device.hpp: prefill and decode on one device with one KV-cache: no hand-over. What a hand-over is compared with.
//
// Owner    owns both engines.   Threads  as the Instance.   Cost  open packs the weights twice (one program each).
// Errors   as prefill_engine.hpp and decode_engine.hpp.
//
//     BATON_ASSIGN(auto one, OneDevice::open(shelf, log, "host://", model, options));
//     BATON_ASSIGN(Answer a, one->generate(ids, params, {}, BATON_NO_DEADLINE, nullptr));
#pragma once

#include "tools/baton/answer.hpp"
#include "tools/baton/prefill_engine.hpp"

#include <functional>
#include <memory>

namespace baton::runtime {

class OneDevice {
 public:
  static Result<std::unique_ptr<OneDevice>> open(Shelf&, SpanLog&, const std::string& uri, const model::Model&, EngineOptions);
  Result<Answer> generate(std::span<const int32_t> ids, const Params&, const std::function<void(const Token&)>& on_token, uint64_t deadline_ns,
                          const volatile int* stop);
  uint32_t context() const { return prefill_->context(); }

 private:
  OneDevice(Shelf& shelf, SpanLog& log) : shelf_(shelf), log_(log) {}
  Status prefill(std::span<const int32_t> ids, const Params&, const Blocks&, Answer&, uint64_t deadline_ns, const volatile int* stop);
  Shelf& shelf_;
  SpanLog& log_;
  std::unique_ptr<PrefillEngine> prefill_;
  std::unique_ptr<DecodeEngine> decode_; // shares prefill_'s cache: goes first
  uint32_t vocab_ = 0;
};

}  // namespace baton::runtime
