#include "transport/bench/kv_place.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace baton::transport {

namespace {
constexpr uint64_t kPatienceMs = 60'000;
}

Result<KvPlace> KvPlace::open(const Instance& in, const std::string& uri) {
  KvPlace p;
  BATON_ASSIGN(p.device_, in.open(uri));
  BATON_ASSIGN(DeviceInfo info, p.device_.info());
  p.modelled_ = info.modelled;
  BATON_ASSIGN(p.pool_, p.device_.alloc(kPool));
  const bool reached = info.heap_count && info.heaps[0].mappable && info.heaps[0].exportable;
  if (!reached) {
    BATON_ASSIGN(p.host_, in.open("host://"));
    BATON_ASSIGN(p.stage_, p.host_.alloc(kPool));
    BATON_ASSIGN(p.up_, in.link(p.host_, p.device_));
    BATON_ASSIGN(p.down_, in.link(p.device_, p.host_));
    BATON_ASSIGN(p.done_, in.timeline("kv_move stage"));
  }
  BATON_ASSIGN(void* base, p.reach().map());
  p.base_ = static_cast<uint8_t*>(base);
  std::memset(p.base_, 1, kPool);
  std::vector<int32_t> all(kPool / shapes()[0].block_bytes()); // what is moved later is not all filled before
  std::iota(all.begin(), all.end(), 0);
  BATON_TRY(p.to_device(shapes()[0], all));
  return p;
}

Status KvPlace::move(const Shape& s, const std::vector<int32_t>& table, const Queue& queue, const Buffer& from, const Buffer& to, const Timeline* after) {
  copied_modelled_ns_ = 0;
  if (!stage_) return {};
  const KvLayout l = s.layout();
  BATON_ASSIGN(KvPlan plan, KvPlan::compile(l, l));
  BATON_ASSIGN(KvMove blocks, plan.instantiate(table, table, 0, table.size() * 16));
  std::vector<Op> ops;
  const uint64_t before = done_.modelled_ns(value_);
  for (const KvSegment& g : blocks.layer(0)) {
    Op op = copy(from, g.src, to, g.dst, g.bytes);
    if (after && ops.empty()) op.wait(*after, 1);
    if (value_) op.wait(done_, value_); // in order, as one queue on a wafer is anyway
    ops.push_back(op.signal(done_, ++value_));
  }
  BATON_TRY(queue.submit(ops));
  BATON_TRY(done_.wait_until(value_, deadline_in_ms(kPatienceMs)));
  copied_modelled_ns_ = double(done_.modelled_ns(value_)) - double(std::max(before, after ? after->modelled_ns(1) : 0));
  return {};
}

Status KvPlace::fill(const Shape& s, const std::vector<int32_t>& table, uint64_t salt) {
  transport::fill(base_, s, table, salt);
  BATON_TRY(to_device(s, table));
  if (staged()) std::memset(base_, 1, kPool); // so that what leaves here has been to the device
  return {};
}

Result<uint64_t> KvPlace::wrong(const Shape& s, const std::vector<int32_t>& table, uint64_t salt) {
  if (staged()) std::memset(base_, 1, kPool);
  BATON_TRY(to_stage(s, table));
  return transport::wrong(base_, s, table, salt);
}

}  // namespace baton::transport
