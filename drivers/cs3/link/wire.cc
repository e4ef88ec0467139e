#include "drivers/cs3/link/wire.h"

#include <cstring>

namespace baton::cs3 {
namespace {

template <size_t N>
bool terminated(const char (&s)[N]) {
  return std::memchr(s, 0, N) != nullptr;
}

bool known(uint16_t op) {
  const auto in = [op](Op first, Op last) { return op >= uint16_t(first) && op <= uint16_t(last); };
  return in(Op::info, Op::fault) || in(Op::peer_key, Op::clock) || in(Op::nop, Op::receive);
}

}  // namespace

const char* op_name(uint16_t op) {
  switch (Op(op)) {
    case Op::info: return "info";
    case Op::telemetry: return "telemetry";
    case Op::get_id: return "get_id";
    case Op::run: return "run";
    case Op::stop: return "stop";
    case Op::reset: return "reset";
    case Op::alloc: return "alloc";
    case Op::free: return "free";
    case Op::region_add: return "region_add";
    case Op::region_drop: return "region_drop";
    case Op::load_begin: return "load_begin";
    case Op::load_program: return "load_program";
    case Op::load_constant: return "load_constant";
    case Op::load_chunk: return "load_chunk";
    case Op::load_finish: return "load_finish";
    case Op::unload: return "unload";
    case Op::cancel: return "cancel";
    case Op::load: return "load";
    case Op::symbol: return "symbol";
    case Op::port: return "port";
    case Op::fault: return "fault";
    case Op::peer_key: return "peer_key";
    case Op::peer_open: return "peer_open";
    case Op::clock: return "clock";
    case Op::nop: return "nop";
    case Op::memcpy_h2d: return "memcpy_h2d";
    case Op::memcpy_d2h: return "memcpy_d2h";
    case Op::copy: return "copy";
    case Op::fill: return "fill";
    case Op::launch: return "launch";
    case Op::send: return "send";
    case Op::receive: return "receive";
  }
  return "unknown";
}

uint32_t inline_bytes(const Submission& s) {
  const Op op = Op(s.op);
  const bool answer = op == Op::memcpy_d2h || op == Op::receive || op == Op::info || op == Op::telemetry || op == Op::peer_key || (op == Op::fault && s.arg0 == 0);
  return s.where == uint8_t(Where::arena) && !answer ? s.payload_bytes : 0;
}

const char* check(const Submission& s) {
  if (!known(s.op)) return "unknown op";
  if (s.id == 0) return "id 0";
  if (s.where > uint8_t(Where::region)) return "unknown payload place";
  if (s.zero0 || s.zero1 || s.zero) return "reserved bytes are not zero";
  if (s.payload_bytes > kMaxPayload) return "payload over 1 MiB";
  if (s.where == uint8_t(Where::arena)) {
    if (s.payload_offset > kArenaBytes || s.payload_bytes > kArenaBytes - s.payload_offset) return "payload outside the arena";
  } else if (s.payload_bytes || (s.where == uint8_t(Where::none) && s.payload_offset)) {
    return "payload place or bytes without a payload";
  }
  const Op op = Op(s.op);
  if (is_transfer(op)) {
    if (s.where == uint8_t(Where::none)) return "a transfer without host memory";
    if (s.where == uint8_t(Where::arena) && s.bytes != s.payload_bytes) return "a transfer's size is not the payload's";
    if (s.element_bits != 0 && s.element_bits != 16 && s.element_bits != 32) return "element bits are not 16 or 32";
    if (s.order > uint8_t(Order::column_major)) return "unknown order";
    if (s.channels > kMaxChannels) return "more than 16 channels";
    if (s.bytes > s.total) return "chunk over the total";
    if ((s.flags & kAlongRows) && (s.flags & kAlongColumns)) return "a broadcast along rows and columns at once";
    if ((s.flags & (kAlongRows | kAlongColumns)) && op != Op::memcpy_h2d) return "a broadcast from the wafer";
    if ((s.row_stride > 1 || s.col_stride > 1) && (op != Op::memcpy_h2d || (s.flags & (kAlongRows | kAlongColumns)))) return "a stride in a broadcast, or from the wafer";
  } else if (s.where == uint8_t(Where::region)) {
    return "a region where none is used";
  }
  if (op == Op::fault && s.arg0 > 1) return "neither reads nor writes the fault plan";
  if (op == Op::port && s.arg0 > 1) return "a port is neither in nor out";
  if (op == Op::fill && s.arg1 != 1 && s.arg1 != 2 && s.arg1 != 4) return "fill pattern is not 1, 2 or 4 bytes";
  return nullptr;
}

const char* check(const Completion& c) {
  if (c.kind < uint8_t(Kind::done) || c.kind > uint8_t(Kind::lost)) return "unknown kind of completion";
  if (c.zero0) return "reserved byte is not zero";
  if (c.text_bytes > kTextBytes) return "error text over 512 bytes";
  if (c.payload_bytes > kMaxPayload) return "answer over 1 MiB";
  if (c.payload_bytes && c.kind != uint8_t(Kind::done)) return "an answer before the end";
  if ((c.id == 0) != (c.kind == uint8_t(Kind::lost))) return "completion without a command";
  return nullptr;
}

const char* check(const Hello& h) {
  if (std::memcmp(h.magic, kMagic, sizeof kMagic) != 0) return "not a wafer link";
  if (h.hello_bytes != sizeof(Hello)) return "hello of another size";
  if (h.carrier > uint8_t(CarrierKind::stage)) return "unknown carrier";
  if (!terminated(h.program)) return "program name without an end";
  return nullptr;
}

const char* check(const PeerFrame& f) {
  if (f.bytes > kMaxStageBytes) return "a message of a stage over 256 MiB";
  if (f.slot >= kMaxSlots) return "unknown slot";
  if (f.kind < uint8_t(StageSays::data) || f.kind > uint8_t(StageSays::failed)) return "unknown kind of message";
  for (const uint8_t z : f.zero)
    if (z) return "reserved bytes are not zero";
  return nullptr;
}

const char* check(const Welcome& w) {
  if (std::memcmp(w.magic, kMagic, sizeof kMagic) != 0) return "not a wafer link";
  if (!terminated(w.text) || !terminated(w.unix_name)) return "text without an end";
  return nullptr;
}

}  // namespace baton::cs3
