// engine.hpp: executes a portable program on host memory, with defined numbers, op by op.
//
// Owner    An Executable owns its packed weights. A Run borrows its Executable and everything bound to it.
// Threads  One thread drives all Runs of an Executable, in any order of steps; matmul and attention fan out over its pool
//          (Options::threads, 1: no pool).
// Cost     step() executes one op: microseconds to milliseconds. A Run allocates only where more are on at once than ever before (its scratch).
// Errors   as hal/baton.hpp; a Run that failed stays failed.
//
//     BATON_ASSIGN(auto exe, engine::Executable::load(bytes, constants, {.threads = 2}));
//     engine::Run run(exe, bindings, args, {.on_mark = [&](uint64_t k, uint64_t offset_ns) { return true; }});
//     while (run.step() == engine::Step::more) {}
#pragma once

#include "hal/baton.hpp"
#include "hal/program/program.hpp"

#include <functional>
#include <memory>
#include <span>

namespace baton::engine {

enum class Isa : uint8_t { scalar = 1, avx512, amx }; // paths that give equal bits
const char* isa_name(Isa);
Isa best_isa();                     // by CPUID feature bits and arch_prctl, never by family or model
Result<Isa> parse_isa(std::string_view name); // "scalar" | "avx512" | "amx" | "auto"; UNSUPPORTED if this CPU cannot

// What one executed op was, for the timing model. macs: multiply-accumulates; bytes as the device would move them.
struct OpWork {
  program::OpCode code;
  uint32_t tokens = 0;   // rows
  uint32_t context = 0;  // attention: keys seen by the last row
  uint32_t layer = 0;
  uint32_t op = 0;       // its index in the program
  uint64_t n = 0, k = 0; // matmul: its matrix; attention: keys of the last row, width of a row; rms_norm: width of a row, width that is normed
  uint64_t macs = 0, weight_bytes = 0, kv_bytes = 0, act_bytes = 0;
  uint64_t exps = 0;     // exponentials: attention's softmax, silu
  uint32_t ranks = 1;    // collectives: lanes that meet
  bool bf16 = false;     // matmul, attention: bf16 operands; else: of a program whose matmuls have them
};

// Modelled device time. Deterministic; ns as double so that small ops add up. Implementations: emulators/timing.
class CostModel {
 public:
  virtual ~CostModel() = default;
  virtual std::string name() const = 0;                    // "trn2 2026-11 (modelled)"
  virtual double launch_ns() const = 0;                    // once for each LAUNCH
  virtual double op_ns(const OpWork&) const = 0;
  virtual double copy_ns(uint64_t bytes, bool to_device) const = 0; // host <-> device
  virtual double device_copy_ns(uint64_t) const { return 0; }       // bytes moved within one device's memory; 0: not modelled
  virtual double hop_ns(uint64_t) const { return 0; }               // bytes to the next device of a pipeline; 0: not modelled
  virtual double fill_ns(uint64_t) const { return 0; }              // bytes set on the device; 0: not modelled
};

// Joins the ranks of a program: each call blocks until every rank of the group has made the same. A sum is the balanced binary tree in rank
// order: reduce_scatter gives this rank's columns of what all_reduce gives all of them.
class Collective {
 public:
  virtual ~Collective() = default;
  virtual Status all_reduce(uint32_t rank, float* x, uint64_t count) = 0;
  // x [rows, width] -> out [rows, ranks*width]: of each row, the ranks' in order.
  virtual Status all_gather(uint32_t rank, const float* x, uint64_t rows, uint64_t width, float* out) = 0;
  // x [rows, width] -> out [rows, width/ranks]; width is a multiple of ranks.
  virtual Status reduce_scatter(uint32_t rank, const float* x, uint64_t rows, uint64_t width, float* out) = 0;
};

struct Options {
  Isa isa = best_isa();
  uint32_t threads = 1;
  const CostModel* cost = nullptr; // borrowed
  bool numbers = true;             // false: nothing is computed and no constant is needed, a run has its modelled time alone
};

struct Constant { // as baton_constant
  std::string_view name;
  std::span<const uint8_t> data;
};

struct Binding { // a bound value; `data` is the device memory
  std::string_view name;
  std::span<uint8_t> data;
};

class Executable {
 public:
  // parse(), checks that each constant is there with the right size, packs matrices, allocates scratch.
  static Result<Executable> load(std::span<const uint8_t> program, std::span<const Constant> constants, const Options&);
  Executable(Executable&&) noexcept;
  Executable& operator=(Executable&&) noexcept;
  ~Executable();
  const program::Program& program() const;
  uint64_t constant_bytes() const; // as packed
  uint64_t scratch_bytes() const;  // of one Run
  struct Impl;
  Impl& impl() const { return *impl_; }

 private:
  friend class Loader;
  explicit Executable(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

// Streaming load, for constants that arrive one by one (a wafer link): add each, then finish.
class Loader {
 public:
  static Result<Loader> begin(std::span<const uint8_t> program, const Options&);
  Loader(Loader&&) noexcept;
  ~Loader();
  Status add(const Constant&); // packs at once; the bytes may go
  Result<Executable> finish() &&;

 private:
  explicit Loader(std::unique_ptr<Executable::Impl>);
  std::unique_ptr<Executable::Impl> impl_;
};

enum class Step : uint8_t { more, done, failed };

struct RunHooks {
  std::function<bool(uint64_t k, uint64_t offset_ns)> on_mark; // false: stop with CANCELLED
  Collective* collective = nullptr;
  uint32_t rank = 0;
};

class Run {
 public:
  // Checks bindings (presence, size, block table within the cache) and args against the program before anything runs;
  // a violation makes the first step() fail with INVALID_ARGUMENT.
  Run(const Executable&, std::span<const Binding>, std::span<const int64_t> args, RunHooks);
  ~Run();
  Run(Run&&) noexcept;
  Step step(); // one op
  const Error& error() const;
  uint64_t modelled_ns() const; // since the start of the launch
  uint32_t steps_done() const;  // loop iterations completed
  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::engine
