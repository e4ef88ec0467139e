// workload.h: a program whose length one may choose: y = x 2^layers, a mark after each layer. For progress, telemetry and resets.
//
// Owner    value.   Threads  one.   Cost  a layer is a matmul of kRows x kWidth x kWidth: some 10 us to 1 ms.
// Errors   the constructor stops the case (must).
//
//     Work w(f, 20);
//     must(q.submit(w.launch().progress(marks).signal(done, 1)));
#pragma once

#include "tests/cts/launch.h"

#include <optional>

namespace baton::cts {

class Work {
 public:
  static constexpr uint32_t kRows = 16, kWidth = 256;
  Work(Fixture& f, uint32_t layers) {
    program::Builder b("work");
    b.program().max_tokens = kRows;
    b.program().args = {program::Arg::tokens};
    const uint32_t x = b.value("x", DType::f32, program::Storage::input, {program::kTokens, kWidth});
    const uint32_t y = b.value("y", DType::f32, program::Storage::output, {program::kTokens, kWidth}), w = b.constant("w", DType::f32, {kWidth, kWidth});
    uint32_t h = x;
    for (uint32_t i = 0; i < layers; ++i) {
      h = b.matmul(h, w, program::Act::f32, 1, -1, i + 1 == layers ? int64_t(y) : -1);
      b.mark();
    }
    std::vector<float> two(kWidth * kWidth);
    for (uint32_t i = 0; i < kWidth; ++i) two[i * kWidth + i] = 2;
    program_ = load(f, must(std::move(b).finish()), {{"w", {DType::f32, {kWidth, kWidth}, two}}});
    values_.emplace(f, std::map<std::string, Bytes>{{"x", bytes_of(std::vector<float>(kRows * kWidth, 1.0f))}, {"y", Bytes(kRows * kWidth * 4)}});
  }
  Op launch() const { return baton::launch(program_, values_->bindings(), args_); }
  std::vector<float> result() const { return values_->floats("y"); }

 private:
  baton::Program program_;
  std::optional<Values> values_;
  std::vector<int64_t> args_{kRows};
};

}  // namespace baton::cts
