// Form "neuron-core": one lane of a NeuronCore device. An op takes its fixed cost plus the longer of what the engine that computes it
// needs and what HBM needs to feed it. Weights and KV come from HBM; activations stay in SBUF unless they are larger than it.
#include "emulators/timing/forms.h"

#include <fmt/format.h>

#include <algorithm>

namespace baton::timing {
namespace {

using engine::OpWork;
using program::OpCode;

constexpr double kNs = 1e9; // per second

class NeuronCore : public engine::CostModel {
 public:
  static Result<std::unique_ptr<engine::CostModel>> make(const ModelFile& m, std::string_view where) {
    auto c = std::make_unique<NeuronCore>();
    c->name_ = fmt::format("{} {} (modelled)", m.name, m.version);
    BATON_TRY(take_constants(m, where, c->fields()));
    return std::unique_ptr<engine::CostModel>(std::move(c));
  }
  std::string name() const override { return name_; }
  double launch_ns() const override { return launch_; }
  double copy_ns(uint64_t bytes, bool to_device) const override {
    return copy_fixed_ + double(bytes) / (to_device ? copy_in_ : copy_out_) * kNs;
  }

  double op_ns(const OpWork& w) const override {
    if (w.code == OpCode::mark) return 0;
    if (w.code == OpCode::all_reduce) return link_fixed_ + double(w.act_bytes) / link_ * kNs;
    const double spilled = double(w.act_bytes) > sbuf_ ? double(w.act_bytes) : 0;
    const double memory = (double(w.weight_bytes) + double(w.kv_bytes) + spilled) / (hbm_ * hbm_efficiency_);
    return op_fixed_ + std::max(compute_seconds(w), memory) * kNs;
  }

 private:
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
      case OpCode::silu_mul: return 2;
      default: return 1;
    }
  }

  std::vector<Field> fields() {
    return {{"tensor_bf16", "flop/s", &tensor_bf16_},
            {"tensor_f32", "flop/s", &tensor_f32_},
            {"matmul_efficiency", "ratio", &matmul_efficiency_},
            {"attention_efficiency", "ratio", &attention_efficiency_},
            {"vector_f32", "flop/s", &vector_},
            {"hbm", "byte/s", &hbm_},
            {"hbm_efficiency", "ratio", &hbm_efficiency_},
            {"sbuf", "byte", &sbuf_},
            {"launch", "ns", &launch_},
            {"op_fixed", "ns", &op_fixed_},
            {"link", "byte/s", &link_},
            {"link_fixed", "ns", &link_fixed_},
            {"copy_in", "byte/s", &copy_in_},
            {"copy_out", "byte/s", &copy_out_},
            {"copy_fixed", "ns", &copy_fixed_}};
  }

  std::string name_;
  double tensor_bf16_, tensor_f32_, matmul_efficiency_, attention_efficiency_, vector_, hbm_, hbm_efficiency_, sbuf_, launch_,
      op_fixed_, link_, link_fixed_, copy_in_, copy_out_, copy_fixed_;
};

}  // namespace

Result<std::unique_ptr<engine::CostModel>> make_neuron_core(const ModelFile& m, std::string_view where) { return NeuronCore::make(m, where); }

}  // namespace baton::timing
