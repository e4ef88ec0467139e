#include "hal/core/validate_program.h"

#include "hal/program/program_generated.h"

#include <algorithm>

namespace baton::core {
namespace {

namespace wire = baton::program::wire;

// Numbers of program.hpp's enums; they are of the serialized form and never change.
enum Storage : uint8_t { kInput = 1, kOutput = 2, kInout = 3, kCache = 4 };
enum OpCode : uint8_t { kEmbed = 1, kRmsNorm, kMatmul, kRope, kKvStore, kAttention, kSiluMul, kAdd, kAllReduce, kTakeLast, kAllGather = 13, kReduceScatter = 14 };
enum Arg : uint8_t { kArgTokens = 1, kArgPosition = 2 };
constexpr int64_t kAxisTokens = -1;  // of a shape; other negative axes are not known here

// As the program's own reader bounds it: tables may share one long vector, so that a small file can name much.
constexpr uint32_t kDepth = 4, kMaxTables = 1u << 21, kMaxArgs = 7, kMaxName = 255, kMaxAxes = 8, kMaxOperands = 8;

// Reads all of its activations and writes all of its output.
bool whole(uint8_t opcode) {
  return opcode == kRmsNorm || opcode == kMatmul || opcode == kRope || opcode == kSiluMul || opcode == kAdd || opcode == kAllReduce || opcode == kAllGather ||
         opcode == kReduceScatter;
}

}  // namespace

// Which part of an operand an op reads whatever the data are.
void ProgramUse::note_input(uint8_t opcode, size_t place, ValueUse& v, uint32_t window, uint32_t block_tokens) const {
  if (whole(opcode)) v.read_whole = true;
  if (opcode == kEmbed && place == 0) (loop_ ? v.read_first : v.read_whole) = true;
  if ((opcode == kKvStore && place < 2) || (opcode == kAttention && place == 0)) v.read_whole = true;
  if (opcode == kAttention && place == 1 && !window) v.attended = true;
  if (opcode == kKvStore && place == 2) v.block_tokens = block_tokens;
}

std::optional<ProgramUse> ProgramUse::of(const void* bytes, uint64_t count) {
  const auto* data = static_cast<const uint8_t*>(bytes);
  if (count < 8 || count >= FLATBUFFERS_MAX_BUFFER_SIZE || !wire::ProgramBufferHasIdentifier(data)) return std::nullopt;
  flatbuffers::Verifier verifier(data, count, kDepth, kMaxTables);
  if (!wire::VerifyProgramBuffer(verifier)) return std::nullopt;
  const wire::Program* p = wire::GetProgram(data);
  if (!p->values() || !p->ops()) return std::nullopt;
  ProgramUse use;
  use.loop_ = p->loop();
  if (p->args() && p->args()->size() > kMaxArgs) return std::nullopt;
  for (uint32_t i = 0; p->args() && i < p->args()->size(); ++i) {
    if (p->args()->Get(i) == kArgTokens) use.tokens_ = int(i);
    if (p->args()->Get(i) == kArgPosition) use.position_ = int(i);
  }
  for (const wire::Value* w : *p->values()) {
    if (w->name()->size() > kMaxName || (w->shape() && w->shape()->size() > kMaxAxes)) return std::nullopt;
    ValueUse v;
    v.name = w->name()->str();
    v.storage = w->storage();
    v.element_bytes = w->dtype() == 1 || w->dtype() == 4 ? 4 : 2;
    if (w->shape()) v.shape.assign(w->shape()->begin(), w->shape()->end());
    use.values_.push_back(std::move(v));
  }
  for (const wire::Op* op : *p->ops()) {
    for (const auto* operands : {op->inputs(), op->outputs()})
      if (operands && operands->size() > kMaxOperands) return std::nullopt;
    const uint32_t block_tokens = op->view() ? op->view()->block_tokens() : 0;
    for (uint32_t k = 0; op->inputs() && k < op->inputs()->size(); ++k)
      if (const uint32_t at = op->inputs()->Get(k); at < use.values_.size())
        use.note_input(op->code(), k, use.values_[at], op->window(), block_tokens);
    for (uint32_t k = 0; op->outputs() && k < op->outputs()->size(); ++k)
      if (const uint32_t at = op->outputs()->Get(k); at < use.values_.size() && (whole(op->code()) || op->code() == kTakeLast))
        use.values_[at].written_whole = !use.loop_;
  }
  return use;
}

std::optional<int64_t> ProgramUse::argument(int index, std::span<const int64_t> args) const {
  if (index < 0 || size_t(index) >= args.size() || args[size_t(index)] < 0) return std::nullopt;
  return args[size_t(index)];
}

// 0: not known.
uint64_t ProgramUse::bytes_of(const ValueUse& v, int64_t tokens) {
  uint64_t bytes = v.element_bytes;
  for (int64_t axis : v.shape) {
    if (axis == kAxisTokens) axis = tokens;
    if (axis < 0 || __builtin_mul_overflow(bytes, uint64_t(axis), &bytes)) return 0;
  }
  return bytes;
}

Touch ProgramUse::touch(std::string_view name, std::span<const int64_t> args) const {
  auto v = std::find_if(values_.begin(), values_.end(), [&](const ValueUse& u) { return u.name == name; });
  if (v == values_.end()) return {};
  Touch t;
  t.may_write = v->storage != kInput;
  const int64_t tokens = loop_ ? 1 : argument(tokens_, args).value_or(-1);  // -1: an axis of tokens is not known
  const auto position = argument(position_, args);
  if (v->storage == kInput && v->block_tokens && position && tokens > 0) {  // the blocks that this launch stores to
    const uint64_t first = uint64_t(*position) / v->block_tokens, last = (uint64_t(*position) + uint64_t(tokens) - 1) / v->block_tokens;
    t.read_begin = first * v->element_bytes;
    t.read_bytes = (last - first + 1) * v->element_bytes;
  } else if (v->storage == kInput && v->read_whole) {
    t.read_bytes = bytes_of(*v, tokens);
  } else if ((v->storage == kInput || v->storage == kInout) && v->read_first) {
    t.read_bytes = v->element_bytes;
  }
  if (v->storage == kOutput && v->written_whole) t.write_bytes = bytes_of(*v, tokens);
  if (v->storage == kCache && v->attended && position) t.attended = uint64_t(*position);
  return t;
}

}  // namespace baton::core
