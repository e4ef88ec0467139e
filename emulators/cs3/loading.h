// loading.h: one program on its way to the wafer, and then on it: bytes, constants one by one in chunks, packed as each is whole.
//
// Owner    The session.   Threads  the event loop's.
// Cost     Each chunk is one copy; packing a whole constant happens inside the call that brings its last chunk (a 1 GB matrix: about
//          half a second, a guess), during which the loop serves nobody.
// Errors   the first error ends the load and is given again to every later chunk; CAPACITY before the first constant is sent.
//
//     Loading l(wafer, bytes, constants);
//     l.program_chunk(...); l.begin_constant(name, n); l.constant_chunk(...); l.finish(options);
#pragma once

#include "emulators/cs3/wafer.h"
#include "emulators/engine/engine.hpp"
#include "hal/program/program.hpp"

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace baton::cs3 {

class Loading {
 public:
  // bad_rows: of those that programs may use; the program is laid out around them.
  Loading(Wafer& wafer, engine::Options options, uint64_t program_bytes, std::span<const uint16_t> bad_rows = {});
  ~Loading();
  Loading(const Loading&) = delete;
  Status program_chunk(uint64_t offset, std::span<const uint8_t>);
  Status begin_constant(std::string name, uint64_t bytes);
  Status constant_chunk(uint64_t offset, std::span<const uint8_t>);
  Status finish();
  const engine::Executable* executable() const { return executable_ ? &*executable_ : nullptr; }  // once finished
  // A launch begins or ends. Launches that are on at once have scratch of their own, charged when there are more than ever before.
  Status begin_run();
  void end_run() { --runs_; }
  bool running() const { return runs_ > 0; }

 private:
  Status keep(Status);  // the first error stays
  Status parse_program();
  Status lay_out(const program::Program&);
  Status add_constant();

  Wafer& wafer_;
  engine::Options options_;
  std::vector<uint32_t> bad_rows_;  // of the fabric
  Error error_;
  uint64_t charged_ = 0;
  std::vector<uint8_t> bytes_;
  uint64_t program_bytes_ = 0;
  std::optional<program::Program> program_;
  std::unique_ptr<engine::CostModel> cost_;  // of the program where it lies
  std::optional<engine::Loader> loader_;
  std::string constant_;
  std::unique_ptr<uint8_t[]> staging_;  // of the largest constant so far; touched as chunks come
  uint64_t staging_bytes_ = 0, constant_bytes_ = 0, constant_received_ = 0;
  bool in_constant_ = false;
  uint32_t runs_ = 0, most_runs_ = 1;
  std::optional<engine::Executable> executable_;
};

}  // namespace baton::cs3
