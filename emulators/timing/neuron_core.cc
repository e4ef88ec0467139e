// Form "neuron-core": one lane of a Neuron chip, which is one physical core or several (LNC). An op takes its fixed cost plus the longest
// of what the engines that compute it need and what HBM needs to feed them. Weights and KV come from HBM; activations stay in SBUF but for
// what is larger than it. Cores that share an HBM stack each have their part of its rate, whether the others work or not.
#include "emulators/timing/forms.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace baton::timing {
namespace {

using engine::OpWork;
using program::OpCode;

constexpr double kNs = 1e9; // per second

class NeuronCore : public engine::CostModel {
 public:
  static Result<std::unique_ptr<engine::CostModel>> make(const ModelFile& m, std::string_view where, uint32_t lane_cores) {
    auto c = std::make_unique<NeuronCore>();
    c->name_ = fmt::format("{} {} (modelled)", m.name, m.version);
    BATON_TRY(take_constants(m, where, c->fields()));
    if (lane_cores) c->lane_ = lane_cores;
    if (c->lane_ < 1 || c->lane_ > c->chip_cores_)
      return Error(BATON_CORRUPT, fmt::format("timing model {}: a lane of {} cores on a chip of {}", where, c->lane_, c->chip_cores_), "correct lane_cores or chip_cores");
    for (double* rate : {&c->tensor_bf16_, &c->tensor_f32_, &c->vector_, &c->scalar_, &c->hbm_, &c->sbuf_, &c->dma_}) *rate *= c->lane_;
    return std::unique_ptr<engine::CostModel>(std::move(c));
  }
  std::string name() const override { return name_; }
  double launch_ns() const override { return launch_; }
  double copy_ns(uint64_t bytes, bool to_device) const override {
    return copy_fixed_ + double(bytes) / (to_device ? copy_in_ : copy_out_) * kNs;
  }
  // The DMA engines read and write HBM: whichever is the slower, they or it.
  double device_copy_ns(uint64_t bytes) const override {
    return dma_fixed_ + std::max(double(bytes) / dma_, 2 * double(bytes) / (hbm_ * hbm_efficiency_)) * kNs;
  }
  double fill_ns(uint64_t bytes) const override {
    return dma_fixed_ + std::max(double(bytes) / dma_, double(bytes) / (hbm_ * hbm_efficiency_)) * kNs;
  }

  double op_ns(const OpWork& w) const override {
    if (w.code == OpCode::mark) return 0;
    // A compiler keeps the activations of a bf16 model in bf16, the engine's are f32.
    const double activations = double(w.act_bytes) / sizeof(float) * (w.bf16 ? activation_ : sizeof(float));
    switch (w.code) {
      case OpCode::all_reduce: return rings_ns(activations / 2, w.ranks, 2);  // in and out
      case OpCode::all_gather:
      case OpCode::reduce_scatter: return rings_ns(activations * w.ranks / (w.ranks + 1), w.ranks, 1);  // a part and the whole
      default: break;
    }
    const double spilled = std::max(0.0, activations - sbuf_);
    const double memory = (double(w.weight_bytes) + double(w.kv_bytes) + spilled) / (hbm_ * hbm_efficiency_);
    return op_fixed_ + std::max({compute_seconds(w), double(w.exps) * exp_flops_ / scalar_, memory}) * kNs;
  }

 private:
  // `rounds` of the rings: reduce-scatter or all-gather is one, all-reduce is both. First between the lanes of a chip through their DMA
  // engines, then around a ring of chips. A step of either ring is one DMA write to the neighbour; a chip's lanes share its links.
  double rings_ns(double bytes, uint32_t ranks, double rounds) const {
    const double lanes = std::min<double>(ranks, std::floor(chip_cores_ / lane_)), chips = std::ceil(double(ranks) / lanes);
    const double steps = rounds * (lanes - 1 + chips - 1);
    const double on_chip = rounds * bytes * (lanes - 1) / lanes / dma_;
    const double between = rounds * bytes * (chips - 1) / chips / (link_ * link_efficiency_);
    return link_fixed_ + steps * dma_fixed_ + (on_chip + between) * kNs;
  }

  double compute_seconds(const OpWork& w) const {
    if (w.code == OpCode::matmul) return 2 * double(w.macs) / ((w.bf16 ? tensor_bf16_ : tensor_f32_) * matmul_efficiency_);
    if (w.code == OpCode::attention) return 2 * double(w.macs) / ((w.bf16 ? tensor_bf16_ : tensor_f32_) * attention_efficiency_);
    return double(w.act_bytes) / sizeof(float) * vector_ops(w.code) / vector_;
  }

  // Arithmetic of the definition in kernels.hpp, counted for each f32 element that is read or written.
  static double vector_ops(OpCode c) {
    switch (c) {
      case OpCode::rms_norm: return 2;
      case OpCode::rope: return 2;
      default: return 1;
    }
  }

  std::vector<Field> fields() {
    return {{"chip_cores", "count", &chip_cores_},
            {"lane_cores", "count", &lane_},
            {"tensor_bf16", "flop/s", &tensor_bf16_},
            {"tensor_f32", "flop/s", &tensor_f32_},
            {"matmul_efficiency", "ratio", &matmul_efficiency_},
            {"attention_efficiency", "ratio", &attention_efficiency_},
            {"vector_f32", "flop/s", &vector_},
            {"scalar_f32", "flop/s", &scalar_},
            {"exp_flops", "flop", &exp_flops_},
            {"hbm", "byte/s", &hbm_},
            {"hbm_efficiency", "ratio", &hbm_efficiency_},
            {"sbuf", "byte", &sbuf_},
            {"activation", "byte", &activation_},
            {"dma", "byte/s", &dma_},
            {"dma_fixed", "ns", &dma_fixed_},
            {"launch", "ns", &launch_},
            {"op_fixed", "ns", &op_fixed_},
            {"link", "byte/s", &link_},
            {"link_efficiency", "ratio", &link_efficiency_},
            {"link_fixed", "ns", &link_fixed_},
            {"copy_in", "byte/s", &copy_in_},
            {"copy_out", "byte/s", &copy_out_},
            {"copy_fixed", "ns", &copy_fixed_}};
  }

  std::string name_;
  double chip_cores_, lane_, tensor_bf16_, tensor_f32_, matmul_efficiency_, attention_efficiency_, vector_, scalar_, exp_flops_, hbm_, hbm_efficiency_,
      sbuf_, activation_, dma_, dma_fixed_, launch_, op_fixed_, link_, link_efficiency_, link_fixed_, copy_in_, copy_out_, copy_fixed_;
};

}  // namespace

Result<std::unique_ptr<engine::CostModel>> make_neuron_core(const ModelFile& m, std::string_view where, uint32_t lane_cores) {
  return NeuronCore::make(m, where, lane_cores);
}

}  // namespace baton::timing
