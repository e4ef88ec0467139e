// model: what the timing model of a device says of a model: its prefill and decode programs are loaded without weights and launched as a
// server would, the prompt in chunks and then token by token. One rank stands for all: they do the same work at the same time.
#include "tools/devctl/verbs.h"
#include "tools/model/synthetic.hpp"
#include "tools/model/wafers.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace baton::devctl {
namespace {

constexpr uint64_t kPatienceMs = 600'000;  // for the whole run
constexpr uint32_t kBlockTokens = 16;

struct Modelled {
  DeviceInfo device{};
  std::string title;
  uint64_t weight_bytes = 0, kv_bytes = 0;  // of one rank
  double ttft_ns = 0, tpot_ns = 0, wall_ns = 0;
  uint32_t per_launch = 1;
};

// One rank of the model on lane 0.
class Rank {
 public:
  static Result<Rank> open(const Context& c, const Device& d, const model::Model& m, const ModelCall& call) {
    Rank r;
    r.device_ = &d;
    BATON_ASSIGN(r.numbers_, model::Numbers::of(m, model::Precision::automatic));
    BATON_ASSIGN(r.shard_, model::Shard::make(m.config, 0, call.tp));
    const uint32_t context = call.input + call.output, blocks = (context + kBlockTokens - 1) / kBlockTokens;
    const auto whole = kv_layout(m.config, r.numbers_, r.shard_, transport::KvOrder::token_major, kBlockTokens, blocks);
    BATON_TRY(whole.check());
    BATON_ASSIGN(r.order_, c.devices.instance().timeline("model"));
    BATON_ASSIGN(DeviceInfo info, d.info());
    r.layouts_ = {whole};
    if (model::has_wafers(info) && info.heap_count > 1) {  // a stage on each wafer
      BATON_ASSIGN(const cs3::Shape shape, model::decode_shape(m, r.numbers_, r.shard_));
      BATON_ASSIGN(const cs3::Placement p, model::place_on(info, shape, {.wafers = std::min(info.heap_count, m.config.layers), .context = uint64_t(blocks) * kBlockTokens}));
      r.layouts_ = model::cut_layers(whole, p);
    }
    for (uint32_t i = 0; i < r.layouts_.size(); ++i) {
      BATON_ASSIGN(Buffer kv, d.alloc(r.layouts_[i].bytes(), i));
      BATON_ASSIGN(Buffer table, d.alloc(uint64_t(blocks) * 4, i));
      r.kv_.push_back(std::move(kv));
      r.tables_.push_back(std::move(table));
    }
    BATON_ASSIGN(r.tokens_, d.alloc(uint64_t(context + 1) * 4));
    BATON_ASSIGN(r.token_, d.alloc(4, uint32_t(r.layouts_.size()) - 1)); // where the last layers are
    if (!call.decode_alone) {
      BATON_ASSIGN(program::Program prefill, prefill_program(m, r.numbers_, r.shard_, r.layouts_, {std::min(call.chunk, call.input), context}));
      BATON_ASSIGN(r.prefill_, d.load(program::serialize(prefill), {}, 0, 0, call.tp));
    }
    BATON_ASSIGN(program::Program decode, decode_program(m, r.numbers_, r.shard_, r.layouts_, {1, context}));
    BATON_ASSIGN(r.decode_, d.load(program::serialize(decode), {}, 0, 0, call.tp));
    BATON_ASSIGN(r.queue_, d.queue(0));
    BATON_TRY(r.prepare(c, blocks));
    return r;
  }

  // The prompt, in chunks: to the first token.
  Result<double> prefill(const ModelCall& call) {
    const double before = now();
    for (uint32_t at = 0; at < call.input; at += call.chunk) {
      const uint32_t rows = std::min(call.chunk, call.input - at);
      std::vector<baton_binding> b = {bind("ids", tokens_, uint64_t(at) * 4, uint64_t(rows) * 4), bind("token", token_)};
      const std::vector<std::string> names = bind_caches(b);
      int64_t args[] = {rows, at, float_arg(0), float_arg(1), 0};
      BATON_TRY(queue_.submit(next(launch(prefill_, b, args))));
      BATON_TRY(settled());
    }
    return now() - before;
  }

  // One launch for so many tokens: 1 as a host that samples or batches would, all as a device that does so by itself.
  Result<double> decode(const ModelCall& call, uint32_t per_launch) {
    const double before = now();
    for (uint32_t i = 0; i < call.output && !interrupted(); i += per_launch) {
      const uint32_t steps = std::min(per_launch, call.output - i);
      std::vector<baton_binding> b = {bind("tokens", tokens_, uint64_t(i) * 4, uint64_t(steps + 1) * 4)};
      const std::vector<std::string> names = bind_caches(b);
      int64_t args[] = {int64_t(call.input) + i, steps, float_arg(0), float_arg(1), 0, 0};
      BATON_TRY(queue_.submit(next(launch(decode_, b, args))));
      BATON_TRY(settled());
    }
    return (now() - before) / call.output;
  }

  uint64_t kv_bytes() const {
    uint64_t n = 0;
    for (const auto& l : layouts_) n += l.bytes();
    return n;
  }
  uint64_t weight_bytes(const model::Model& m) const {
    uint64_t n = 0;
    for (const model::WeightPart& p : weight_parts(m.config, shard_)) {
      uint64_t elements = 1;
      for (int64_t d : p.shape) elements *= uint64_t(d);
      n += elements * program::dtype_bytes(m.weights.all().at(p.tensor).type());
    }
    return n;
  }

 private:
  // A device whose memories are one behind the other, as wafers are; a chip's are beside each other, for its lanes.
  // The names, which are to outlive the launch.
  std::vector<std::string> bind_caches(std::vector<baton_binding>& b) const {
    std::vector<std::string> names;
    for (size_t i = 0; i < layouts_.size(); ++i)
      for (const char* what : {"table", "cache"}) names.push_back(model::binding_name(what, i, layouts_.size()));
    for (size_t i = 0; i < layouts_.size(); ++i) {
      b.push_back(bind(names[2 * i].c_str(), tables_[i]));
      b.push_back(bind(names[2 * i + 1].c_str(), kv_[i]));
    }
    return names;
  }
  Op next(Op op) {
    if (value_) op.wait(order_, value_);
    return op.signal(order_, ++value_);
  }
  Status settled() { return order_.wait_until(value_, deadline_in_ms(kPatienceMs)); }
  double now() const { return double(order_.modelled_ns(value_)); }  // asked at once: a timeline forgets the times of old values
  // Token ids 0, and blocks in order.
  Status prepare(const Context& c, uint32_t blocks) {
    BATON_ASSIGN(Device host, c.devices.open("host://"));
    BATON_ASSIGN(Buffer table, host.alloc(uint64_t(blocks) * 4));
    BATON_ASSIGN(void* at, table.map());
    for (uint32_t i = 0; i < blocks; ++i) static_cast<int32_t*>(at)[i] = int32_t(i);
    BATON_TRY(queue_.submit(next(fill(tokens_, 0, tokens_.bytes(), 0))));
    for (size_t i = 0; i < tables_.size(); ++i) {
      BATON_ASSIGN(Queue to, device_->queue(tables_.size() > 1 ? uint32_t(i) : 0));
      BATON_TRY(to.submit(next(copy(table, 0, tables_[i], 0, uint64_t(blocks) * 4))));
      BATON_TRY(settled());
    }
    return settled();
  }

  model::Numbers numbers_;
  model::Shard shard_;
  const Device* device_ = nullptr;
  model::Layouts layouts_; // one, or one for each stage
  Timeline order_;
  uint64_t value_ = 0;
  std::vector<Buffer> kv_, tables_; // by stage
  Buffer tokens_, token_;
  Program prefill_, decode_;
  Queue queue_;
};

Result<Modelled> measure(const Context& c, const ModelCall& call) {
  BATON_ASSIGN(model::ModelConfig config, model::load_config(call.folder));
  if (uint64_t(call.input) + call.output > config.max_context)
    return Error(BATON_INVALID_ARGUMENT, fmt::format("{} + {} tokens are beyond the model's context of {}", call.input, call.output, config.max_context), "ask for fewer tokens");
  BATON_ASSIGN(model::Model m, model::shapes_alone(config, call.dtype));
  BATON_ASSIGN(Device d, c.devices.open(call.device));
  Modelled r;
  BATON_ASSIGN(r.device, d.info());
  if (!r.device.modelled || !std::strstr(r.device.firmware, "mode=timing"))
    return Error(BATON_UNSUPPORTED, fmt::format("{} does not run by its timing model alone", call.device), "use an emulator with mode=timing, as emu+neuron://0?mode=timing");
  const uint64_t start = now_ns();
  BATON_ASSIGN(Rank rank, Rank::open(c, d, m, call));
  if (!call.decode_alone) {
    BATON_ASSIGN(r.ttft_ns, rank.prefill(call));
  }
  r.per_launch = call.per_launch ? call.per_launch : std::string_view(r.device.driver) == "cs3" ? call.output : 1;
  BATON_ASSIGN(r.tpot_ns, rank.decode(call, r.per_launch));
  r.wall_ns = double(now_ns() - start);
  r.title = m.title();
  r.kv_bytes = rank.kv_bytes();
  r.weight_bytes = rank.weight_bytes(m);
  return r;
}

}  // namespace

int model_time(const Context& c, const ModelCall& call) {
  auto r = measure(c, call);
  if (!r) return c.out.fail(r.error());
  if (c.out.is_json()) {
    c.out.document("model", {{"model", r->title},
                             {"device", r->device.uri},
                             {"timing", r->device.timing},
                             {"modelled", true},
                             {"tp", call.tp},
                             {"input_tokens", call.input},
                             {"output_tokens", call.output},
                             {"chunk_tokens", call.chunk},
                             {"per_launch_tokens", r->per_launch},
                             {"ttft_ns", call.decode_alone ? json(nullptr) : json(r->ttft_ns)},
                             {"tpot_ns", r->tpot_ns},
                             {"weight_bytes_per_lane", r->weight_bytes},
                             {"kv_bytes_per_lane", r->kv_bytes},
                             {"wall_ns", r->wall_ns}});
    return kOk;
  }
  Table t({"model", r->title});
  t.row({"device", fmt::format("{}, {} lane{}", clean(r->device.model), call.tp, call.tp == 1 ? "" : "s")});
  t.row({"time by", clean(r->device.timing)});
  t.row({"tokens", fmt::format("{} in by {}, {} out", call.input, call.chunk, call.output)});
  t.row({"a lane holds", fmt::format("{} of weights, {} of KV-cache", bytes_text(r->weight_bytes), bytes_text(r->kv_bytes))});
  if (!call.decode_alone) t.row({"first token", ns_text(r->ttft_ns) + " (modelled)"});
  t.row({"each after it", fmt::format("{}, {:.0f} token/s (modelled), {} in a launch", ns_text(r->tpot_ns), 1e9 / r->tpot_ns, r->per_launch)});
  c.out.print(t.text());
  return kOk;
}

}  // namespace baton::devctl
