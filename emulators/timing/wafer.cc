// Form "wafer". Sums are brought together by allreduces: a fixed number of cycles, and hops that grow with the sides of the op's rectangle.
// Between them each PE works on its tile, a vector operation at a time: starting one costs more than the few elements that it has.
// Reckoned in cycles and converted by the clock at the end, because sources disagree on the clock alone.
#include "emulators/timing/forms.h"
#include "emulators/timing/wafer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <set>

namespace baton::timing {
namespace {

using engine::OpWork;
using program::OpCode;

constexpr double kNs = 1e9;  // per second

// What one PE of so many along a side has of n.
double share(double n, double side) { return std::ceil(n / side); }

class Wafer : public WaferModel {
 public:
  static Result<std::unique_ptr<WaferModel>> make(const ModelFile& m, std::string_view where, const WaferSettings& settings) {
    auto c = std::make_unique<Wafer>();
    c->name_ = fmt::format("{} {} (modelled)", m.name, m.version);
    BATON_TRY(take_constants(m, where, c->fields()));
    c->clock_hz_->store(settings.clock_hz > 0 ? settings.clock_hz : c->clock_);
    if (settings.mac_rate > 0) c->mac_rate_ = settings.mac_rate;
    c->fuse_ = settings.fused;
    return std::unique_ptr<WaferModel>(std::move(c));
  }
  std::string name() const override { return name_; }
  double clock_hz() const override { return clock_hz_->load(std::memory_order_relaxed); }
  void set_clock_hz(double hz) override { clock_hz_->store(hz, std::memory_order_relaxed); }
  double launch_ns() const override { return launch_; }
  double copy_ns(uint64_t bytes, bool to_device) const override {
    const double rate = channels_ * channel_rate_ / 8 * (to_device ? ingress_efficiency_ : egress_efficiency_);  // bit -> byte
    return transaction_ + double(bytes) / rate * kNs;
  }
  double hop_ns(uint64_t bytes) const override { return wafer_hop_ + double(bytes) / (channels_ * channel_rate_ / 8) * kNs; }

  double op_ns(const OpWork& w) const override {
    const Ground& g = w.op < grounds_.size() ? grounds_[w.op] : whole_;
    const double hop = g.hops ? g.hops * hop_ns(uint64_t(w.tokens) * w.n * 2) : 0;  // activations of two bytes
    return cycles(w, g) / clock_hz() * kNs + hop;
  }

  Result<std::unique_ptr<engine::CostModel>> placed(const program::Program& p, std::vector<Ground> grounds) const override {
    if (grounds.size() != p.ops.size())
      return Error(BATON_INVALID_ARGUMENT, fmt::format("'{}' has {} ops on {} rectangles", p.name, p.ops.size(), grounds.size()), "give one rectangle an op");
    for (const Ground& g : grounds)
      if (g.width == 0 || g.height == 0) return Error(BATON_INVALID_ARGUMENT, fmt::format("'{}' has an op on a rectangle without PEs", p.name), "give each op a rectangle");
    auto c = std::make_unique<Wafer>(*this);
    c->grounds_ = std::move(grounds);
    c->joins_.assign(p.ops.size(), false);
    std::set<uint32_t> inputs;  // of the products so far
    for (size_t i = 0; i < p.ops.size(); ++i)
      if (p.ops[i].code == OpCode::matmul) c->joins_[i] = !inputs.insert(p.ops[i].in[0]).second && fuse_;
    return std::unique_ptr<engine::CostModel>(std::move(c));
  }

 private:
  // To the middle of a side and back; `part` of the side where fewer elements meet.
  double allreduce(const Ground& g, double part = 1) const { return allreduce_fixed_ + hops_ * part * (g.width + g.height) / 2; }
  // A tile of a x b products: vector operations over the longer side.
  double vectors(double a, double b) const { return std::min(a, b) * (vector_start_ + std::max(a, b) / mac_rate_); }

  // One row: weights stay, the row and the sums cross the mesh. Either axis of the matrix may lie along either side.
  double gemv(double n, double k, const Ground& g) const {
    return std::min(vectors(share(n, g.width), share(k, g.height)), vectors(share(n, g.height), share(k, g.width)));
  }
  // Many rows: as many steps as a side has PEs, in each a tile of both operands goes one PE on (MeshGEMM).
  double gemm(double tokens, double n, double k, const Ground& g) const {
    const double side = std::sqrt(double(g.width) * g.height);
    double t[] = {share(tokens, side), share(n, side), share(k, side)};
    std::sort(t, t + 3);
    return side * (step_fixed_ + t[0] * t[1] * (vector_start_ + t[2] / mac_rate_));
  }

  double cycles(const OpWork& w, const Ground& g) const {
    const double tokens = std::max(1u, w.tokens);
    switch (w.code) {
      case OpCode::mark: return 0;
      case OpCode::matmul: {
        const double row = gemv(double(w.n), double(w.k), g);
        if (tokens == 1) return row + (w.op < joins_.size() && joins_[w.op] ? 0 : allreduce(g));
        return std::min(tokens * (allreduce(g) + row), gemm(tokens, double(w.n), double(w.k), g));
      }
      case OpCode::attention: {  // scores, their maximum, their sum, the weighted values (WaferLLM decode.csl)
        const double keys = share(double(w.n), g.height), width = share(double(w.k), g.width);
        const double by_row = tokens * (4 * allreduce(g) + keys * (key_fixed_ + 2 * width / mac_rate_));
        return tokens > 1 ? std::min(by_row, 2 * allreduce(g) + 2 * gemm(tokens, double(w.n), double(w.k), g)) : by_row;
      }
      case OpCode::rms_norm: return allreduce(g, w.n ? std::min(1.0, double(w.k) / double(w.n)) : 1) + elementwise(w, g);
      case OpCode::embed:
      case OpCode::sample:
      case OpCode::take_last:
      case OpCode::all_reduce:
      case OpCode::all_gather:
      case OpCode::reduce_scatter: return allreduce(g) + elementwise(w, g);
      default: return local_fixed_ + elementwise(w, g);
    }
  }
  double elementwise(const OpWork& w, const Ground& g) const { return double(w.act_bytes) / sizeof(float) / (double(g.width) * g.height); }  // one a cycle

  std::vector<Field> fields() {
    return {{"clock", "Hz", &clock_},
            {"mac_rate", "MAC/cycle/PE", &mac_rate_},
            {"allreduce_fixed", "cycles", &allreduce_fixed_},
            {"hops", "cycles/PE", &hops_},
            {"vector_start", "cycles", &vector_start_},
            {"key_fixed", "cycles", &key_fixed_},
            {"step_fixed", "cycles", &step_fixed_},
            {"local_fixed", "cycles", &local_fixed_},
            {"wafer_hop", "ns", &wafer_hop_},
            {"launch", "ns", &launch_},
            {"transaction", "ns", &transaction_},
            {"channels", "count", &channels_},
            {"channel_rate", "bit/s", &channel_rate_},
            {"ingress_efficiency", "ratio", &ingress_efficiency_},
            {"egress_efficiency", "ratio", &egress_efficiency_}};
  }

  std::string name_;
  double clock_, mac_rate_, allreduce_fixed_, hops_, vector_start_, key_fixed_, step_fixed_, local_fixed_, wafer_hop_, launch_, transaction_, channels_,
      channel_rate_, ingress_efficiency_, egress_efficiency_;
  std::shared_ptr<std::atomic<double>> clock_hz_ = std::make_shared<std::atomic<double>>();  // shared by what is placed; clock_: as the file says
  bool fuse_ = true;
  std::vector<Ground> grounds_;  // of the program's ops
  std::vector<bool> joins_;      // the op's product is one with an earlier one
  const Ground whole_{};
};

}  // namespace

Result<std::unique_ptr<engine::CostModel>> make_wafer(const ModelFile& m, std::string_view where) {
  BATON_ASSIGN(std::unique_ptr<WaferModel> made, Wafer::make(m, where, {}));
  return std::unique_ptr<engine::CostModel>(std::move(made));
}

Result<std::unique_ptr<WaferModel>> load_wafer_model(std::string_view name_or_path, const WaferSettings& settings) {
  BATON_ASSIGN(const ModelFile m, load_model_file(name_or_path));
  if (m.form != "wafer") return Error(BATON_MISMATCH, fmt::format("timing model {} has the form '{}', a wafer needs 'wafer'", name_or_path, m.form), "use cs3, or a file of that form");
  return Wafer::make(m, name_or_path, settings);
}

}  // namespace baton::timing
