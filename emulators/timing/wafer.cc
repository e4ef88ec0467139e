// Form "wafer": a layer runs on a square of side P of the mesh. What costs is bringing partial sums together: an allreduce takes a
// fixed number of cycles plus hops that grow with P; the arithmetic between them is spread over P*P processing elements. Reckoned in
// cycles and converted by the clock at the end, because sources disagree on the clock alone.
#include "emulators/timing/forms.h"

#include <fmt/format.h>

#include <algorithm>

namespace baton::timing {
namespace {

using engine::OpWork;
using program::OpCode;

constexpr double kNs = 1e9; // per second

class Wafer : public engine::CostModel {
 public:
  static Result<std::unique_ptr<engine::CostModel>> make(const ModelFile& m, std::string_view where) {
    auto c = std::make_unique<Wafer>();
    c->name_ = fmt::format("{} {} (modelled)", m.name, m.version);
    BATON_TRY(take_constants(m, where, c->fields()));
    return std::unique_ptr<engine::CostModel>(std::move(c));
  }
  std::string name() const override { return name_; }
  double launch_ns() const override { return launch_; }
  double copy_ns(uint64_t bytes, bool to_device) const override {
    const double rate = channels_ * channel_rate_ / 8 * (to_device ? ingress_efficiency_ : egress_efficiency_); // bit -> byte
    return transaction_ + double(bytes) / rate * kNs;
  }
  double op_ns(const OpWork& w) const override { return cycles(w) / clock_ * kNs; }

 private:
  double allreduce() const { return allreduce_fixed_ + hops_ * side_; }
  double spread(double work, double rate) const { return work / (side_ * side_ * rate); }

  double cycles(const OpWork& w) const {
    switch (w.code) {
      case OpCode::mark: return 0;
      case OpCode::matmul: {
        // Several rows run as a matrix product, or row by row where that is faster.
        const double gemv = std::max(1u, w.tokens) * allreduce() + spread(double(w.macs), gemv_rate_);
        const double gemm = allreduce() + spread(double(w.macs), gemm_rate_);
        return w.tokens > 1 ? std::min(gemv, gemm) : gemv;
      }
      case OpCode::attention: // scores, their maximum, their sum, the weighted values (WaferLLM decode.csl)
        return 4 * allreduce() + spread(double(w.macs), attention_rate_);
      case OpCode::embed:
      case OpCode::rms_norm:
      case OpCode::sample:
      case OpCode::take_last:
      case OpCode::all_reduce: return allreduce() + elementwise(w);
      default: return local_fixed_ + elementwise(w);
    }
  }
  double elementwise(const OpWork& w) const { return spread(double(w.act_bytes) / sizeof(float), 1); } // one element a cycle

  std::vector<Field> fields() {
    return {{"clock", "Hz", &clock_},
            {"side", "PE", &side_},
            {"hops", "cycles/PE", &hops_},
            {"allreduce_fixed", "cycles", &allreduce_fixed_},
            {"local_fixed", "cycles", &local_fixed_},
            {"gemv_rate", "MAC/cycle/PE", &gemv_rate_},
            {"gemm_rate", "MAC/cycle/PE", &gemm_rate_},
            {"attention_rate", "MAC/cycle/PE", &attention_rate_},
            {"launch", "ns", &launch_},
            {"transaction", "ns", &transaction_},
            {"channels", "count", &channels_},
            {"channel_rate", "bit/s", &channel_rate_},
            {"ingress_efficiency", "ratio", &ingress_efficiency_},
            {"egress_efficiency", "ratio", &egress_efficiency_}};
  }

  std::string name_;
  double clock_, side_, hops_, allreduce_fixed_, local_fixed_, gemv_rate_, gemm_rate_, attention_rate_, launch_, transaction_,
      channels_, channel_rate_, ingress_efficiency_, egress_efficiency_;
};

}  // namespace

Result<std::unique_ptr<engine::CostModel>> make_wafer(const ModelFile& m, std::string_view where) { return Wafer::make(m, where); }

}  // namespace baton::timing
