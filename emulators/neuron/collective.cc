#include "emulators/neuron/collective.hpp"

#include "drivers/neuron/nrt_abi.hpp"
#include "emulators/engine/columns.hpp"
#include "emulators/engine/kernels.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace baton::neuron_emu {
namespace {

// How often a waiting rank looks whether it was asked to stop; a cancel is felt within this time.
constexpr auto kStopCheck = std::chrono::milliseconds(1);

}  // namespace

Group::Group(uint32_t ranks, std::string signature) : signature_(std::move(signature)), seats_(ranks) {}

bool Group::sit(uint32_t rank) {
  std::lock_guard lock(mutex_);
  if (seats_[rank].taken) return false;
  seats_[rank].taken = true;
  return true;
}

void Group::leave(uint32_t rank) {
  std::lock_guard lock(mutex_);
  seats_[rank].taken = false;
}

void Group::begin(uint32_t rank, uint64_t fingerprint, std::function<Status()> stop) {
  std::lock_guard lock(mutex_);
  Seat& s = seats_[rank];
  s.executing = true;
  s.aborted.clear();
  s.fingerprint = fingerprint;
  s.stop = std::move(stop);
}

void Group::end(uint32_t rank, bool failed) {
  std::lock_guard lock(mutex_);
  Seat& me = seats_[rank];
  me.executing = false;
  me.stop = nullptr;
  me.arrived = false;
  if (!failed) return;
  for (Seat& s : seats_)
    if (s.executing && s.aborted.empty()) s.aborted = "rank " + std::to_string(rank) + " of " + std::to_string(ranks()) + " failed or was cancelled";
  changed_.notify_all();
}

Status Group::meet(uint32_t rank, const Call& call) {
  std::unique_lock lock(mutex_);
  Seat& me = seats_[rank];
  if (!me.aborted.empty()) return Error(BATON_FAILED, "collective: " + me.aborted);
  me.call = call;
  me.arrived = true;
  uint64_t round = round_;
  if (complete()) {
    if (agree()) {
      work();
      for (Seat& s : seats_) s.arrived = false;
      ++round_;
    } else {
      for (Seat& s : seats_) s.aborted = "the ranks run different launches (arguments, token ids or sizes differ)";
    }
    changed_.notify_all();
  }
  while (round_ == round) {
    if (!me.aborted.empty()) return Error(BATON_FAILED, "collective: " + me.aborted);
    if (Status stop = me.stop ? me.stop() : Status(); !stop.ok()) return stop;
    changed_.wait_for(lock, kStopCheck);
  }
  return {};
}

Status Group::all_reduce(uint32_t rank, float* x, uint64_t count) {
  BATON_TRY(meet(rank, {Kind::reduce, x, 1, count}));
  std::memcpy(x, result_.data(), count * sizeof(float));
  return {};
}

Status Group::reduce_scatter(uint32_t rank, const float* x, uint64_t rows, uint64_t width, float* out) {
  BATON_TRY(meet(rank, {Kind::reduce, x, rows, width}));
  engine::take_columns({result_.data(), 0, rows * width}, width / ranks(), ranks(), rank, out);
  return {};
}

Status Group::all_gather(uint32_t rank, const float* x, uint64_t rows, uint64_t width, float* out) {
  BATON_TRY(meet(rank, {Kind::gather, x, rows, width}));
  std::memcpy(out, result_.data(), rows * width * ranks() * sizeof(float));
  return {};
}

bool Group::complete() const {
  return std::all_of(seats_.begin(), seats_.end(), [](const Seat& s) { return s.arrived && s.aborted.empty(); });
}

bool Group::agree() const {
  const Seat& first = seats_[0];
  return std::all_of(seats_.begin(), seats_.end(), [&](const Seat& s) {
    return s.fingerprint == first.fingerprint && s.call.kind == first.call.kind && s.call.rows == first.call.rows && s.call.width == first.call.width;
  });
}

void Group::work() {
  const Call& call = seats_[0].call;
  const uint64_t count = call.rows * call.width, results = call.kind == Kind::gather ? count * ranks() : count;
  if (result_.size() < results) result_.resize(results);
  if (call.kind == Kind::gather) {
    for (uint32_t r = 0; r < ranks(); ++r) engine::put_columns({seats_[r].call.x, 0, count}, call.width, ranks(), r, result_.data());
    return;
  }
  std::vector<const float*> parts;
  for (const Seat& s : seats_) parts.push_back(s.call.x);
  tree_sum(parts, count, result_.data());
}

void tree_sum(std::span<const float* const> parts, uint64_t count, float* out) {
  engine::FlushDenormals flush;
  constexpr uint64_t kRun = 1024;
  std::vector<float> level(parts.size() * kRun);
  for (uint64_t at = 0; at < count; at += kRun) {
    const uint64_t n = std::min(kRun, count - at);
    for (size_t r = 0; r < parts.size(); ++r) std::memcpy(&level[r * kRun], parts[r] + at, n * sizeof(float));
    for (size_t left = parts.size(); left > 1; left /= 2)
      for (size_t r = 0; r < left / 2; ++r)
        for (uint64_t i = 0; i < n; ++i) level[r * kRun + i] = level[2 * r * kRun + i] + level[(2 * r + 1) * kRun + i];
    std::memcpy(out + at, level.data(), n * sizeof(float));
  }
}

std::shared_ptr<Group> Groups::join(uint32_t rank, uint32_t ranks, const std::string& signature) {
  std::lock_guard lock(mutex_);
  std::erase_if(groups_, [](const auto& g) { return g.expired(); });
  for (const auto& weak : groups_)
    if (auto g = weak.lock(); g && g->ranks() == ranks && g->signature() == signature && g->sit(rank)) return g;
  auto g = std::make_shared<Group>(ranks, signature);
  g->sit(rank);
  groups_.push_back(g);
  return g;
}

int32_t HostRounds::all_gather(uint32_t rank, uint32_t ranks, uint32_t bytes, const void* in, void* out, uint64_t timeout_s) {
  std::unique_lock lock(mutex_);
  if (!arrived_) {
    gathering_.assign(uint64_t(ranks) * bytes, 0);
    ranks_ = ranks;
    bytes_ = bytes;
  }
  if (ranks != ranks_ || bytes != bytes_) return nrt::kInvalid;
  if (bytes) std::memcpy(gathering_.data() + uint64_t(rank) * bytes, in, bytes);
  uint64_t round = round_;
  if (++arrived_ == ranks) {
    done_.swap(gathering_);
    arrived_ = 0;
    ++round_;
    changed_.notify_all();
  } else if (!changed_.wait_for(lock, std::chrono::seconds(timeout_s), [&] { return round_ != round; })) {
    --arrived_;
    return nrt::kTimeout;
  }
  if (bytes) std::memcpy(out, done_.data(), uint64_t(ranks) * bytes);
  return nrt::kSuccess;
}

}  // namespace baton::neuron_emu
