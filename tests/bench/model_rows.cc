// Prefill and decode of two models on host://, beside what the machine's memory and arithmetic would allow.
#include "hal/program/program.hpp"
#include "tests/bench/groups.h"
#include "tools/model/programs.hpp"
#include "tools/model/synthetic.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace baton::bench {
namespace {

using program::DType;
using program::OpCode;
using program::Program;

constexpr uint32_t kBlockTokens = 16;
constexpr uint64_t kPatienceMs = 120'000;  // for one launch
constexpr char kAmxNote[] =
    "The aims of prefill, 400 tok/s on one thread and 750 on two, are for CPUs with AMX; this one's bound is the yardstick beside it.";

// What a launch must do at least, counted from the program: bytes of matrices read, floating-point operations.
struct Work {
  double weight_bytes = 0, flops = 0;
};

Work work_of(const Program& p, uint32_t rows, double context) {
  Work w;
  for (auto& op : p.ops) {
    const auto& out = p.values[op.out.empty() ? 0 : op.out[0]];
    bool many = !out.shape.empty() && out.shape[0] == program::kTokens;
    double n = many ? rows : 1;
    if (op.code == OpCode::matmul) {
      const auto& m = p.values[op.in[1]];
      double elements = double(m.shape[0]) * double(m.shape[1]);
      w.weight_bytes += elements * program::dtype_bytes(m.dtype);
      w.flops += 2 * elements * n;
    } else if (op.code == OpCode::attention) {
      w.flops += 4.0 * op.heads * op.head_dim * context * n;  // scores and sums over the keys that a row sees on average
    }
  }
  return w;
}

struct Case {
  std::string name;
  const model::Model& m;
  uint32_t prompt, steps;  // tokens of a prefill, tokens of a decode launch
  bool big;                // the 1.1B, for which there are aims
};

// One model on host:// with so many threads: cache, prompt and token buffers, and one program at a time.
class Stage {
 public:
  static Result<Stage> open(const Instance& in, const Case& c, uint32_t threads) {
    Stage s(c);
    BATON_ASSIGN(s.device_, in.open(fmt::format("host://?threads={}", threads)));
    BATON_ASSIGN(s.queue_, s.device_.queue(0));
    BATON_ASSIGN(s.done_, in.timeline("bench"));
    BATON_ASSIGN(s.numbers_, model::Numbers::of(c.m, model::Precision::automatic));
    BATON_ASSIGN(s.shard_, model::Shard::make(c.m.config, 0, 1));
    uint32_t context = c.prompt + c.steps, blocks = (context + kBlockTokens - 1) / kBlockTokens;
    s.layout_ = model::kv_layout(c.m.config, s.numbers_, s.shard_, transport::KvOrder::token_major, kBlockTokens, blocks);
    s.bounds_ = {c.prompt, context};
    BATON_ASSIGN(s.cache_, s.device_.alloc(s.layout_.bytes()));
    BATON_ASSIGN(s.table_, s.filled(blocks, [](uint32_t i) { return int32_t(i); }));
    uint32_t vocab = c.m.config.vocab;
    BATON_ASSIGN(s.ids_, s.filled(c.prompt, [vocab](uint32_t i) { return int32_t((i * 2654435761u + 7) % vocab); }));
    BATON_ASSIGN(s.token_, s.filled(1, [](uint32_t) { return 0; }));
    BATON_ASSIGN(s.tokens_, s.filled(c.steps + 1, [](uint32_t) { return 1; }));
    return s;
  }

  Result<Work> load_prefill() {
    program_.reset();
    BATON_ASSIGN(Program p, model::prefill_program(case_.m, numbers_, shard_, {layout_}, bounds_));
    BATON_TRY(load(p));
    return work_of(p, case_.prompt, (case_.prompt + 1) / 2.0);
  }
  Result<Work> load_decode() {
    program_.reset();
    BATON_ASSIGN(Program p, model::decode_program(case_.m, numbers_, shard_, {layout_}, bounds_));
    BATON_TRY(load(p));
    return work_of(p, 1, case_.prompt + case_.steps / 2.0);
  }
  double prefill() {  // tokens/s
    int64_t args[] = {case_.prompt, 0, float_arg(0), float_arg(1), 0};
    baton_binding b[] = {bind("ids", ids_), bind("table", table_), bind("cache", cache_), bind("token", token_)};
    return case_.prompt / timed(launch(program_, b, args));
  }
  double decode() {  // tokens/s
    int64_t args[] = {case_.prompt, case_.steps, float_arg(0), float_arg(1), 0, 0};
    baton_binding b[] = {bind("tokens", tokens_), bind("table", table_), bind("cache", cache_)};
    return case_.steps / timed(launch(program_, b, args));
  }
  const Status& status() const { return status_; }  // of the launches so far

 private:
  explicit Stage(const Case& c) : case_(c) {}
  template <class F>
  Result<Buffer> filled(uint32_t count, F&& value) const {
    BATON_ASSIGN(Buffer b, device_.alloc(count * 4ull));
    BATON_ASSIGN(void* p, b.map());
    for (uint32_t i = 0; i < count; ++i) static_cast<int32_t*>(p)[i] = value(i);
    return b;
  }
  Status load(const Program& p) {
    BATON_ASSIGN(auto constants, model::Constants::gather(case_.m, shard_));
    BATON_ASSIGN(program_, device_.load(program::serialize(p), constants.list()));
    return {};
  }
  double timed(Op op) {  // seconds
    uint64_t start = now_ns();
    Status s = queue_.submit(op.signal(done_, ++value_));
    if (s.ok()) s = done_.wait_until(value_, deadline_in_ms(kPatienceMs));
    if (!s.ok() && status_.ok()) status_ = s;
    return double(now_ns() - start) / 1e9;
  }

  const Case& case_;
  Device device_;
  Queue queue_;
  Timeline done_;
  uint64_t value_ = 0;
  Status status_;
  model::Numbers numbers_;
  model::Shard shard_;
  transport::KvLayout layout_;
  model::Bounds bounds_;
  Buffer cache_, table_, ids_, token_, tokens_;
  baton::Program program_;
};


std::string threads_text(uint32_t n) { return fmt::format("{} thread{}", n, n > 1 ? "s" : ""); }

Status prefill_row(const Settings& s, Report& report, Stage& stage, const Case& c, uint32_t threads, const Machine& machine) {
  BATON_ASSIGN(Work work, stage.load_prefill());
  progress(fmt::format("model: prefill of {} tokens, {}, {}", c.prompt, c.name, threads_text(threads)));
  stage.prefill();
  double flops_per_token = work.flops / c.prompt;
  FmaRate fma(threads);
  AmxRate amx(threads);
  auto bound = [&] { return (machine.amx_bf16 ? amx.once() : fma.once()) / flops_per_token; };
  auto p = interleave(s.repeats(c.big ? 3 : 9), [&] { return stage.prefill(); }, bound);
  BATON_TRY(Status(stage.status()));
  Row r{.group = "model", .figure = fmt::format("prefill {}, {}, {}", c.prompt, c.name, threads_text(threads)), .unit = "tok/s", .value = p.figure,
        .yardstick = fmt::format("{} / flops a token", machine.amx_bf16 ? "AMX bf16" : FmaRate::path()), .against = p.yardstick, .ratio = p.ratio.median};
  if (c.big && machine.amx_bf16) r.aim_on = AimOn::value_above, r.aim = threads == 1 ? 400 : 750;
  if (c.big && !machine.amx_bf16) r.note = kAmxNote;
  report.add(std::move(r));
  return {};
}

Status decode_row(const Settings& s, Report& report, Stage& stage, const Case& c, uint32_t threads, ReadBandwidth* memory) {
  BATON_ASSIGN(Work work, stage.load_decode());
  progress(fmt::format("model: decode of {} tokens, {}, {}", c.steps, c.name, threads_text(threads)));
  stage.decode();
  // The tiny model's weights stay in the cache: its bandwidth is measured over as many bytes.
  ReadBandwidth same(c.big ? 1024 : size_t(work.weight_bytes) / 4096 * 4096, threads);
  auto p = interleave(s.repeats(c.big ? 5 : 9), [&] { return stage.decode(); }, [&] { return (c.big ? *memory : same).once() / work.weight_bytes; });
  BATON_TRY(Status(stage.status()));
  Row r{.group = "model", .figure = fmt::format("decode, {}, {}", c.name, threads_text(threads)), .unit = "tok/s", .value = p.figure,
        .yardstick = fmt::format("{} read / {:.1f} MB a token", c.big ? "memory" : "cache", work.weight_bytes / 1e6), .against = p.yardstick,
        .ratio = p.ratio.median};
  if (c.big) r.aim_on = AimOn::ratio_above, r.aim = 0.9;
  report.add(std::move(r));
  return {};
}

Status case_rows(const Settings& s, Report& report, const Case& c, const Machine& machine) {
  for (uint32_t threads = 1; threads <= std::min(2u, machine.cores); ++threads) {
    BATON_ASSIGN(Instance in, Instance::create());
    BATON_ASSIGN(Stage stage, Stage::open(in, c, threads));
    BATON_TRY(prefill_row(s, report, stage, c, threads, machine));  // leaves a cache that decode can read
    std::optional<ReadBandwidth> memory;
    if (c.big) memory.emplace(512u << 20, threads);
    BATON_TRY(decode_row(s, report, stage, c, threads, memory ? &*memory : nullptr));
  }
  return {};
}

}  // namespace

Status model_rows(const Settings& s, Report& report) {
  Machine machine = probe_machine();
  {
    BATON_ASSIGN(auto tiny, model::Model::load(s.model));
    BATON_TRY(case_rows(s, report, {"baton-tiny", tiny, std::min(256u, tiny.config.max_context / 2), 64, false}, machine));
  }
  constexpr uint64_t kNeeds = 4ull << 30;  // packed weights, the pool that they come from, the yardstick's memory
  if (machine.available_bytes < kNeeds)
    return Error(BATON_CAPACITY, fmt::format("the 1.1B model needs {} GiB, {:.1f} are free", kNeeds >> 30, double(machine.available_bytes) / (1u << 30)),
                 "end what holds memory, or measure --only kv,submit,ttft");
  progress("model: making 1.1B random bf16 weights");
  BATON_ASSIGN(auto big, model::synthetic_model(model::tinyllama_shape(), "BF16", 1));
  return case_rows(s, report, {"1.1B", big, machine.amx_bf16 ? 512u : s.quick ? 64u : 256u, 8, true}, machine);
}

}  // namespace baton::bench
