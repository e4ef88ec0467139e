#include "hal/core/validate_memory.h"

#include "hal/core/queue.h"
#include "hal/core/validate.h"

#include <algorithm>

namespace baton::core {
namespace {

bool empty(const Bytes& b) { return b.first >= b.second; }
bool overlap(const Bytes& a, const Bytes& b) { return a.first < b.second && b.first < a.second; }
std::string text(const Bytes& b) { return std::to_string(b.first) + ".." + std::to_string(b.second); }

std::string text(const Bytes& bytes, const baton_buffer* b, const char* binding) {
  return "bytes " + text(bytes) + " of " + describe(b) + (binding ? std::string(" (binding '") + binding + "')" : "");
}

// Where in `b` a side begins.
uint64_t offset_in(const baton_driver_side& side, const baton_buffer* b) {
  return side.mem ? side.offset : uint64_t(static_cast<const uint8_t*>(side.ptr) - static_cast<const uint8_t*>(b->address));
}

Bytes within(uint64_t begin, uint64_t bytes, const baton_driver_binding& b) {
  const uint64_t first = std::min(begin, b.bytes), last = bytes < b.bytes - first ? first + bytes : b.bytes;
  return {b.offset + first, b.offset + last};
}

}  // namespace

void Pieces::add(Bytes b) {
  if (empty(b)) return;
  auto it = ends_.upper_bound(b.first);
  if (it != ends_.begin() && std::prev(it)->second >= b.first) --it;
  while (it != ends_.end() && it->first <= b.second) {
    b = {std::min(b.first, it->first), std::max(b.second, it->second)};
    it = ends_.erase(it);
  }
  ends_.emplace(b.first, b.second);
  if (ends_.size() > kMost) ends_ = {{0, UINT64_MAX}};
}

std::optional<Bytes> Pieces::missing(Bytes in) const {
  if (empty(in)) return std::nullopt;
  auto it = ends_.upper_bound(in.first);
  if (it != ends_.begin()) in.first = std::max(in.first, std::prev(it)->second);
  if (empty(in)) return std::nullopt;
  if (it != ends_.end()) in.second = std::min(in.second, it->first);
  return in;
}

bool Pieces::any(Bytes in) const {
  auto it = ends_.lower_bound(in.second);
  return it != ends_.begin() && std::prev(it)->second > in.first;
}

void MemoryWatch::loaded(const baton_program* p, const void* bytes, uint64_t count) {
  if (auto use = ProgramUse::of(bytes, count)) programs_.insert_or_assign(p, std::move(*use));
}

void MemoryWatch::written_elsewhere(const baton_buffer* b) { buffers_[b].written.add({0, b->bytes}); }

std::vector<MemoryWatch::Side> MemoryWatch::sides_of(const Op* op) const {
  std::vector<Side> sides;
  if (op->opcode == BATON_OP_COPY && !op->planned && op->bytes) {
    const uint64_t src = offset_in(op->u.copy.src, op->buffer[0]), dst = offset_in(op->u.copy.dst, op->buffer[1]);
    sides.push_back({op->buffer[0], nullptr, {src, src + op->bytes}});
    sides.push_back({op->buffer[1], nullptr, {}, {dst, dst + op->bytes}});
  } else if (op->opcode == BATON_OP_FILL && op->bytes) {
    sides.push_back({op->buffer[1], nullptr, {}, {op->u.fill.offset, op->u.fill.offset + op->bytes}});
  } else if (op->opcode == BATON_OP_LAUNCH) {
    auto program = programs_.find(op->program);
    for (size_t i = 0; i < op->bindings.size(); ++i) {
      const baton_driver_binding& b = op->bindings[i];
      const Touch t = program == programs_.end() ? Touch{} : program->second.touch(b.name, op->args);
      sides.push_back({op->bound[i], b.name, within(t.read_begin, t.read_bytes, b), within(0, t.write_bytes, b),
                       within(0, t.may_write ? b.bytes : 0, b), t.attended});
    }
  }
  return sides;
}

void MemoryWatch::check_read(const Op* op, const Side& s) {
  if (s.buffer->heap == UINT32_MAX) return;  // imported
  Pieces& written = buffers_[s.buffer].written;
  if (const auto gap = written.missing(s.reads)) {
    const bool all = *gap == s.reads;
    findings_.report(rule::read_before_write, describe(op) + " reads " + text(s.reads, s.buffer, s.binding) +
                                                  (all ? ", which nobody has written" : ", of which nobody has written " + text(*gap)));
    written.add(s.reads);  // once is enough
  }
  if (s.attended && !written.any(s.may_write))
    findings_.report(rule::read_before_write, describe(op) + " attends to " + std::to_string(s.attended) + " earlier tokens in " +
                                                  text(s.may_write, s.buffer, s.binding) + ", which nobody has written");
}

void MemoryWatch::check_overlap(const Op* op, const Side& s, Bytes bytes, bool write) {
  if (empty(bytes) || op->queue->kind == QueueKind::table || op->progress) return;
  std::vector<Use>& others = buffers_[s.buffer].in_flight;
  for (const Use& u : others) {
    if (u.op->queue == op->queue || !(u.write || write) || !overlap(u.bytes, bytes)) continue;
    findings_.report(rule::unordered_overlap, describe(op) + (write ? " writes " : " reads ") + text(bytes, s.buffer, s.binding) + " while " +
                                                  describe(u.op) + (u.write ? " writes " : " reads ") + text(u.bytes) +
                                                  ", and neither waits for the other");
    break;
  }
  others.push_back({op, bytes, write});
}

void MemoryWatch::issued(const Op* op) {
  if (op->opcode == BATON_OP_NOP || op->opcode == BATON_OP_HOST || !issued_.insert(op).second) return;
  const std::vector<Side> sides = sides_of(op);
  for (const Side& s : sides) check_read(op, s);
  for (const Side& s : sides) {
    check_overlap(op, s, s.reads, false);
    check_overlap(op, s, s.writes, true);
    Pieces& written = buffers_[s.buffer].written;
    written.add(s.writes);
    written.add(s.may_write);
  }
}

void MemoryWatch::ended(const Op* op) {
  if (!issued_.erase(op)) return;
  auto drop = [&](const baton_buffer* b) {
    auto it = buffers_.find(b);
    if (it != buffers_.end()) std::erase_if(it->second.in_flight, [&](const Use& u) { return u.op == op; });
  };
  for (const baton_buffer* b : op->buffer) drop(b);
  for (const baton_buffer* b : op->bound) drop(b);
}

}  // namespace baton::core
