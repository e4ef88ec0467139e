#include "emulators/cs3/loading.h"

#include "emulators/cs3/ground.h"
#include "hal/program/limits.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace baton::cs3 {
namespace {

Error out_of_order(const char* what) { return Error(BATON_INVALID_ARGUMENT, what, "send chunks in order, each once"); }

uint64_t dense_bytes(const program::Value& v) {
  uint64_t n = program::dtype_bytes(v.dtype);
  for (const int64_t d : v.shape) n *= uint64_t(d);
  return n;
}

}  // namespace

Loading::Loading(Wafer& wafer, engine::Options options, uint64_t program_bytes, std::span<const uint16_t> bad_rows) : wafer_(wafer), options_(options) {
  for (const uint16_t row : bad_rows) bad_rows_.push_back(wafer.data().reserved_north + row);
  if (program_bytes == 0 || program_bytes > program::kMaxBytes)
    error_ = Error(BATON_INVALID_ARGUMENT, fmt::format("a program of {} bytes", program_bytes), "1 byte to 256 MiB");
  else
    program_bytes_ = program_bytes;  // held as it comes: what is announced costs nothing
}

Loading::~Loading() { wafer_.uncharge(charged_); }

Status Loading::keep(Status s) {
  if (!s.ok() && error_.code == BATON_OK) error_ = s.error();
  return s;
}

Status Loading::program_chunk(uint64_t offset, std::span<const uint8_t> data) {
  if (error_.code != BATON_OK) return error_;
  if (offset != bytes_.size() || data.size() > program_bytes_ - bytes_.size()) return keep(out_of_order("a chunk of the program out of order"));
  bytes_.insert(bytes_.end(), data.begin(), data.end());
  return bytes_.size() == program_bytes_ ? keep(parse_program()) : Status();
}

// Before any weight travels: does it fit?
Status Loading::parse_program() {
  auto p = program::parse(bytes_);
  if (!p) return p.error();
  if (p->ranks != 1)
    return Error(BATON_UNSUPPORTED, fmt::format("'{}' has {} ranks: a CS-3 has one lane, so no collectives", p->name, p->ranks),
                 "build the decode program with ranks = 1");
  uint64_t weights = 0;
  for (const program::Value& v : p->values)
    if (v.storage == program::Storage::constant) weights += dense_bytes(v);
  BATON_TRY(lay_out(*p));
  BATON_TRY(wafer_.charge(weights, p->name));
  charged_ = weights;
  auto loader = engine::Loader::begin(bytes_, options_);
  if (!loader) return loader.error();
  loader_.emplace(std::move(*loader));
  program_.emplace(std::move(*p));
  bytes_ = {};
  program_bytes_ = 0;
  return {};
}

// On rectangles of PEs, each of which holds what its layer keeps; the time of an op goes by the one on which it runs.
Status Loading::lay_out(const program::Program& p) {
  BATON_ASSIGN(const Shape shape, shape_of(p));
  BATON_ASSIGN(const Placement placement, place(wafer_.data(), shape, {.wafers = 1, .bad_rows = bad_rows_}));
  if (!wafer_.cost()) return {};
  BATON_ASSIGN(cost_, wafer_.cost()->placed(p, grounds_of(shape, placement)));
  options_.cost = cost_.get();
  return {};
}

Status Loading::begin_constant(std::string name, uint64_t bytes) {
  if (error_.code != BATON_OK) return error_;
  if (!loader_ || in_constant_) return keep(out_of_order("a constant begins before what precedes it is whole"));
  const auto v = std::find_if(program_->values.begin(), program_->values.end(),
                              [&](const program::Value& x) { return x.storage == program::Storage::constant && x.name == name; });
  if (v == program_->values.end())
    return keep(Error(BATON_MISMATCH, fmt::format("'{}' declares no constant '{}'", program_->name, name), "load the constants that the program declares"));
  if (bytes != dense_bytes(*v))
    return keep(Error(BATON_MISMATCH, fmt::format("constant '{}' has {} bytes, '{}' declares {}", name, bytes, program_->name, dense_bytes(*v)),
                      "give it dense, in the dtype and shape that the program declares"));
  constant_ = std::move(name);
  constant_bytes_ = bytes;
  constant_received_ = 0;
  if (staging_bytes_ < bytes) {
    staging_ = nullptr;
    staging_ = std::make_unique_for_overwrite<uint8_t[]>(bytes);
    staging_bytes_ = bytes;
  }
  in_constant_ = true;
  return bytes == 0 ? keep(add_constant()) : Status();
}

Status Loading::constant_chunk(uint64_t offset, std::span<const uint8_t> data) {
  if (error_.code != BATON_OK) return error_;
  if (!in_constant_ || offset != constant_received_ || data.size() > constant_bytes_ - constant_received_)
    return keep(out_of_order("a chunk of a constant out of order"));
  if (!data.empty()) std::memcpy(staging_.get() + constant_received_, data.data(), data.size());
  constant_received_ += data.size();
  return constant_received_ == constant_bytes_ ? keep(add_constant()) : Status();
}

Status Loading::add_constant() {
  in_constant_ = false;
  return loader_->add({constant_, std::span<const uint8_t>(staging_.get(), constant_bytes_)});
}

Status Loading::begin_run() {
  if (runs_ == most_runs_) {
    BATON_TRY(wafer_.charge(executable_->scratch_bytes(), program_->name));
    charged_ += executable_->scratch_bytes();
    ++most_runs_;
  }
  ++runs_;
  return {};
}

Status Loading::finish() {
  if (error_.code != BATON_OK) return error_;
  if (!loader_ || in_constant_) return keep(out_of_order("the load ends before what it announced has come"));
  staging_ = nullptr;
  staging_bytes_ = 0;
  auto exe = std::move(*loader_).finish();
  loader_.reset();
  if (!exe) return keep(exe.error());
  const uint64_t whole = exe->constant_bytes() + exe->scratch_bytes();  // as packed
  wafer_.uncharge(charged_);
  charged_ = 0;
  BATON_TRY(keep(wafer_.charge(whole, program_->name)));
  charged_ = whole;
  executable_.emplace(std::move(*exe));
  return {};
}

}  // namespace baton::cs3
