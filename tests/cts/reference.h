// reference.h: an independent interpreter of portable programs in double precision, for tests alone. It rounds where the
// definition rounds (bf16 activations, the cache's dtype) and sums plainly; a device agrees with it within a tolerance.
//
// Owner    borrows the Program.   Threads  one.   Cost  slow on purpose: plain loops.
// Errors   none: the program has been verified. `sample` is greedy.
//
//     Reference ref(program);
//     ref.constants(weights);
//     ref.data("x").assign(x.begin(), x.end());
//     ref.run({tokens, position});              // ref.data("y")
#pragma once

#include "hal/program/kv_view.hpp"
#include "tests/cts/tensor.h"

#include <algorithm>
#include <cmath>

namespace baton::cts {

using program::Act;
using program::Arg;

class Reference {
 public:
  using Doubles = std::vector<double>;
  explicit Reference(const program::Program& p) : p_(p), data_(p.values.size()), ints_(p.values.size()) {}

  Doubles& data(const std::string& name) { return data_[index(name)]; }
  std::vector<int32_t>& ints(const std::string& name) { return ints_[index(name)]; }
  void constants(const Weights& w) {
    for (const auto& [name, t] : w)
      for (uint32_t i = 0; i < p_.values.size(); ++i)
        if (p_.values[i].name == name) data_[i].assign(t.data.begin(), t.data.end());
  }

  void run(std::vector<int64_t> args) {
    for (size_t i = 0; i < args.size(); ++i) args_[p_.args[i]] = args[i];
    tokens_ = p_.loop ? 1 : std::max<int64_t>(1, args_[Arg::tokens]);
    const int64_t steps = p_.loop ? args_[Arg::steps] : 1;
    for (iteration_ = 0; iteration_ < steps; ++iteration_)
      for (const program::Op& op : p_.ops) execute(op);
  }

 private:
  uint32_t index(const std::string& name) const {
    for (uint32_t i = 0; i < p_.values.size(); ++i)
      if (p_.values[i].name == name) return i;
    return UINT32_MAX;
  }
  int64_t rows(uint32_t v) const {
    const int64_t d = p_.values[v].shape[0];
    return d == program::kTokens ? tokens_ : d == program::kSteps ? 1 : d;
  }
  int64_t width(uint32_t v) const { return p_.values[v].shape[1]; }
  int64_t position() { return args_[Arg::position] + iteration_; }
  static double act(double x, Act a) { return a == Act::bf16 ? rounded(float(x), DType::bf16) : x; }
  // Row `iteration` of an S axis, else from the first row.
  double* at(uint32_t v) {
    const int64_t first = p_.values[v].shape[0] == program::kSteps ? iteration_ : 0;
    data_[v].resize(std::max<size_t>(data_[v].size(), size_t((first + rows(v)) * width(v))));
    return data_[v].data() + first * width(v);
  }

  void execute(const program::Op& op) {
    using enum program::OpCode;
    switch (op.code) {
      case embed: return do_embed(op);
      case rms_norm: return do_norm(op);
      case matmul: return do_matmul(op);
      case rope: return do_rope(op);
      case kv_store: return do_store(op);
      case attention: return do_attention(op);
      case silu_mul: return each(op, [](double g, double u) { return g / (1 + std::exp(-g)) * u; });
      case add: return each(op, [](double a, double b) { return a + b; });
      case take_last: {
        const double* x = at(op.in[0]) + (rows(op.in[0]) - 1) * width(op.in[0]);
        std::copy_n(x, width(op.in[0]), at(op.out[0]));
        return;
      }
      case sample: return do_argmax(op);
      default: return;
    }
  }

  template <class F>
  void each(const program::Op& op, F f) {
    double* y = at(op.out[0]);
    const double *a = at(op.in[0]), *b = at(op.in[1]);
    for (int64_t i = 0; i < rows(op.in[0]) * width(op.in[0]); ++i) y[i] = f(a[i], b[i]);
  }

  void do_embed(const program::Op& op) {
    const int64_t h = width(op.in[1]);
    for (int64_t r = 0; r < rows(op.out[0]); ++r)
      std::copy_n(&data_[op.in[1]][ints_[op.in[0]][p_.loop ? iteration_ : r] * h], h, at(op.out[0]) + r * h);
  }

  void do_norm(const program::Op& op) {
    const int64_t d = p_.values[op.in[1]].shape[0], n = rows(op.in[0]) * width(op.in[0]) / d;
    double* y = at(op.out[0]);
    const double *x = at(op.in[0]), *w = data_[op.in[1]].data();
    for (int64_t r = 0; r < n; ++r) {
      double sum = 0;
      for (int64_t i = 0; i < d; ++i) sum += x[r * d + i] * x[r * d + i];
      for (int64_t i = 0; i < d; ++i) y[r * d + i] = x[r * d + i] / std::sqrt(sum / double(d) + op.eps) * w[i];
    }
  }

  void do_matmul(const program::Op& op) {
    const int64_t n = p_.values[op.in[1]].shape[0], k = p_.values[op.in[1]].shape[1];
    double* y = at(op.out[0]);
    const double *x = at(op.in[0]), *w = data_[op.in[1]].data();
    for (int64_t r = 0; r < rows(op.in[0]); ++r)
      for (int64_t j = 0; j < n; ++j) {
        double sum = op.in.size() == 3 ? data_[op.in[2]][j] : 0;
        for (int64_t i = 0; i < k; ++i) sum += act(x[r * k + i], op.act) * w[j * k + i];
        y[r * n + j] = sum;
      }
  }

  void do_rope(const program::Op& op) {
    const int64_t d = op.head_dim, half = d / 2;
    double* y = at(op.out[0]);
    const double* x = at(op.in[0]);
    for (int64_t r = 0; r < rows(op.in[0]); ++r)
      for (int64_t h = 0; h < op.heads; ++h)
        for (int64_t i = 0; i < half; ++i) {
          const double a = double(position() + r) * data_[op.in[1]][i], c = std::cos(a) * op.scale, s = std::sin(a) * op.scale;
          const int64_t lo = (r * op.heads + h) * d + i, hi = lo + half;
          const double u = x[lo], v = x[hi];
          y[lo] = u * c - v * s;
          y[hi] = v * c + u * s;
        }
  }

  uint64_t element(const program::Op& op, bool v, int64_t pos, int64_t head) {
    const int64_t b = ints_[op.in[2]][pos / op.view.block_tokens];
    return program::kv_element(op.view, op.layer, v, uint64_t(b), uint32_t(pos % op.view.block_tokens), uint32_t(head));
  }

  void do_store(const program::Op& op) {
    for (int64_t r = 0; r < rows(op.in[0]); ++r)
      for (int v = 0; v < 2; ++v)
        for (int64_t h = 0; h < op.kv_heads; ++h)
          for (int64_t d = 0; d < op.head_dim; ++d)
            data_[op.out[0]][element(op, v, position() + r, h) + d] =
                rounded(float(at(op.in[v])[(r * op.kv_heads + h) * op.head_dim + d]), p_.values[op.out[0]].dtype);
  }

  void do_attention(const program::Op& op) {
    const Doubles& cache = data_[op.in[1]];
    const int64_t d = op.head_dim;
    for (int64_t r = 0; r < rows(op.in[0]); ++r)
      for (int64_t h = 0; h < op.heads; ++h) {
        const double* q = at(op.in[0]) + (r * op.heads + h) * d;
        double* y = at(op.out[0]) + (r * op.heads + h) * d;
        const int64_t last = position() + r, first = op.window ? std::max<int64_t>(0, last + 1 - op.window) : 0, kvh = h * op.kv_heads / op.heads;
        Doubles s;
        for (int64_t j = first; j <= last; ++j) {
          double dot = 0;
          for (int64_t i = 0; i < d; ++i) dot += act(q[i], op.act) * cache[element(op, false, j, kvh) + i];
          s.push_back(dot * op.scale);
        }
        const double m = *std::max_element(s.begin(), s.end());
        double l = 0;
        std::fill_n(y, d, 0);
        for (int64_t j = first; j <= last; ++j) {
          const double p = act(std::exp(s[j - first] - m), op.act);
          l += p;
          for (int64_t i = 0; i < d; ++i) y[i] += p * cache[element(op, true, j, kvh) + i];
        }
        for (int64_t i = 0; i < d; ++i) y[i] /= l;
      }
  }

  void do_argmax(const program::Op& op) {
    const double* x = at(op.in[0]);
    const int32_t best = int32_t(std::max_element(x, x + width(op.in[0])) - x);
    auto& to = ints_[op.out[0]];
    const size_t where = p_.loop ? iteration_ + 1 : 0;
    if (to.size() <= where) to.resize(where + 1);
    to[where] = best;
  }

  const program::Program& p_;
  std::vector<Doubles> data_;
  std::vector<std::vector<int32_t>> ints_;
  std::map<Arg, int64_t> args_;
  int64_t tokens_ = 1, iteration_ = 0;
};

}  // namespace baton::cts
