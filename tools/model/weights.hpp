// weights.hpp: named tensors of a checkpoint: safetensors files, mapped, or made on the spot.
//
// Owner    Weights owns the mappings; a TensorView lives as long as its Weights.
// Threads  const use from any.
// Cost     opening reads the headers; data is paged in when it is used.
// Errors   INVALID_ARGUMENT: missing file or tensor; CORRUPT: truncated file, malformed header, wrong dtype or shape. One line, with
//          names and numbers.
//
//     BATON_ASSIGN(Weights w, Weights::open("models/baton-tiny"));
//     BATON_ASSIGN(TensorView t, w.tensor("model.norm.weight", {hidden}));
#pragma once

#include "hal/baton.hpp"
#include "hal/program/program.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace baton::model {

struct TensorView {
  std::string dtype;                 // as the file says: "BF16"
  std::vector<uint64_t> shape;       // row-major
  std::span<const uint8_t> data;     // aligned to its element
  program::DType type() const;       // of BF16, F16, F32
};

class Weights {
 public:
  // dir/model.safetensors, or the files that dir/model.safetensors.index.json names.
  static Result<Weights> open(const std::string& dir);
  // Tensors in memory that the caller keeps alive in `owner`.
  static Weights from_memory(std::string name, std::map<std::string, TensorView> tensors, std::shared_ptr<void> owner);
  Weights(Weights&&) noexcept;
  Weights& operator=(Weights&&) noexcept;
  ~Weights();

  // The tensor, if it has this shape and one of BF16, F16, F32.
  Result<TensorView> tensor(const std::string& name, const std::vector<uint64_t>& shape) const;
  bool has(const std::string& name) const;
  const std::map<std::string, TensorView>& all() const { return tensors_; }
  uint64_t bytes() const;            // of all tensors
  // Hash over names, dtypes, shapes and bytes. Tensors over 1 MiB are sampled: 64 windows of 4 KiB, evenly spaced, first and last included.
  uint64_t hash() const;

 private:
  struct Mapping;
  Weights();
  Status add_file(const std::string& path, const std::map<std::string, std::string>* expected);
  std::string where_;
  std::vector<std::unique_ptr<Mapping>> files_;
  std::vector<std::vector<uint8_t>> realigned_;
  std::map<std::string, TensorView> tensors_;
  std::shared_ptr<void> owner_;
};

}  // namespace baton::model
