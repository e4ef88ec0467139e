// program.hpp: Baton's portable program: what a device can LAUNCH, as data.
//
// A program is a flat list of ops over named values. It is built (builder.hpp), verified (verify), shown (dump) and sent as
// FlatBuffers bytes (serialize / parse, which refuses malformed bytes with a reason). Devices execute it with the engine or
// compile it. Values have static shapes but for two axes that a launch decides: kTokens (rows of this launch) and kSteps (one
// row for each iteration of the loop).
//
// Owner    plain data, owned by whoever holds it.   Threads  none of its own; const use from any.
// Errors   CORRUPT for bytes, INVALID_ARGUMENT for a program that does not verify; the text names the op and the value.
//
// The numbers are defined, not incidental (see emulators/engine/README.md): a matmul sums bf16 products in the order of
// TDPBF16PS within each of `segments` equal runs of K, then adds the segments as a balanced binary tree, so that any
// power-of-two sharding of K followed by all_reduce, or by reduce_scatter and all_gather, gives the same bits.
//
//     BATON_ASSIGN(Program p, std::move(builder).finish());
//     std::vector<uint8_t> bytes = serialize(p);
//     BATON_ASSIGN(Program same, parse(bytes));
#pragma once

#include "hal/baton.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace baton::program {

// ---- values ----

// What an element is. The numbers are of the serialized form and never change; neither do those of the enums below.
// The f8 types are those of a KV-cache that is moved or kept (OFP8 1.0): no value of a program has them.
enum class DType : uint8_t { f32 = 1, bf16 = 2, f16 = 3, i32 = 4, f8e4m3 = 5, f8e5m2 = 6 };
inline uint32_t dtype_bytes(DType t) { return t == DType::f32 || t == DType::i32 ? 4 : t >= DType::f8e4m3 ? 1 : 2; } // of an element
const char* dtype_name(DType t);                                                             // "f32"

// Where a value lives, and who provides it.
enum class Storage : uint8_t {
  input = 1,  // bound at launch, read
  output,     // bound at launch, written; `optional` outputs may be left unbound
  inout,      // bound at launch, read and written (token buffers)
  cache,      // bound at launch: a paged KV-cache, addressed by KvView
  constant,   // given at load, packed by the device
  scratch,    // the device's own; undefined at the start of a launch
};

inline constexpr int64_t kTokens = -1; // axis: rows of this launch, 1 .. max_tokens
inline constexpr int64_t kSteps = -2;  // axis: loop iterations, 1 .. max_steps; an op reads and writes row `iteration`

// One named value: what a launch binds, a load passes, or an op leaves for the next.
struct Value {
  std::string name;                   // unique in the program; the name to bind or pass
  DType dtype = DType::f32;           // of each element
  Storage storage = Storage::scratch; // who provides it
  bool optional = false;              // output: may be left unbound
  std::vector<int64_t> shape;         // row-major; kTokens and kSteps stand for what a launch decides
};

// How one device keeps the KV-cache of a program, in ELEMENTS of the cache's dtype: the element of (layer, k or v, block,
// token in block, head, d) is at
//   layer*layer_stride + (v ? v_offset : 0) + block*block_stride + token*token_stride + head*head_stride + d
struct KvView {
  uint64_t layer_stride = 0;  // elements from a layer to the next
  uint64_t v_offset = 0;      // elements from K to V of one layer
  uint64_t block_stride = 0;  // elements from a block to the next
  uint64_t token_stride = 0;  // elements from a token to the next in its block
  uint64_t head_stride = 0;   // elements from a head to the next
  uint32_t block_tokens = 16; // tokens in a block
  bool operator==(const KvView&) const = default; // all of them
};

// ---- ops ----

// in -> out by index into Program::values. Shapes: T = kTokens rows (1 in a loop), H hidden.
enum class OpCode : uint8_t {
  embed = 1,   // [ids i32[T], table[V,H]] -> x f32[T,H].  In a loop ids is the token buffer i32[kSteps+1...]: reads ids[iteration].
               //   A loop with arg stop that begins with one of `stops`, or with -1, makes no step: so a launch may be queued behind one that stops
  rms_norm,    // [x f32[T,W], weight[D]] -> y f32[T,W]; rows of D: W is a multiple of D (Qwen3 q/k norm: D = head_dim); eps
  matmul,      // [x f32[T,K], w[N,K], (bias[N])] -> y f32[T,N] (leading axis may be kSteps: row `iteration`); segments, act
  rope,        // [x f32[T,heads*head_dim], inv_freq f32[head_dim/2]] -> same shape; rotates (i, i+head_dim/2) by
               //   (position + row) * inv_freq[i], times `scale` (attention factor; 1 for plain RoPE)
  kv_store,    // [k f32[T,kv_heads*head_dim], v same, block_table i32[blocks]] -> cache; layer, view: rounds to the cache's dtype
  attention,   // [q f32[T,heads*head_dim], cache, block_table] -> y f32[T,heads*head_dim]; causal, GQA; scale, layer, view, window
  silu_mul,    // [gate f32[T,N], up f32[T,N]] -> f32[T,N]
  add,         // [a f32[T,H], b f32[T,H]] -> f32[T,H]
  all_reduce,  // [x f32[T,H]] -> f32[T,H]; sum over the ranks of the group, as a balanced binary tree in rank order
  take_last,   // [x f32[T,H]] -> f32[1,H]: the last row
  sample,      // [logits f32[1 or kSteps,V]] -> token i32[1], or in a loop the token buffer: writes [iteration+1].
               //   args temperature (0: greedy, lowest index wins), top_p, seed, position; stop ends the loop after this iteration
               //   and leaves -1 in the rest of the buffer
  mark,        // [] -> []: progress. Mark k of a launch is the k-th executed
  all_gather,     // [x f32[T,N]] -> f32[T,ranks*N]: of each row, the columns of all ranks in rank order
  reduce_scatter, // [x f32[T,ranks*N]] -> f32[T,N]: this rank's columns of what all_reduce gives, bit for bit
};
inline constexpr OpCode kLastOpCode = OpCode::reduce_scatter; // the highest number
const char* opcode_name(OpCode c); // "rms_norm"
// Whether all ranks of the program meet in it.
inline bool is_collective(OpCode c) { return c == OpCode::all_reduce || c == OpCode::all_gather || c == OpCode::reduce_scatter; }

// Activations of a matmul or attention: bf16 rounds them (RNE) before multiplying (AMX); f32 keeps them.
enum class Act : uint8_t { f32 = 1, bf16 = 2 };

// One op over the values of its program. A field is read by the ops that it names.
struct Op {
  OpCode code = OpCode::mark; // what it does; the operands' order stands there
  std::vector<uint32_t> in;   // operands read, by index into Program::values
  std::vector<uint32_t> out;  // operands written
  Act act = Act::f32;         // matmul, attention
  uint32_t segments = 1;  // matmul: equal runs of K, a power of two
  float eps = 0;          // rms_norm
  float scale = 1;        // attention: 1/sqrt(head_dim); rope: attention factor
  uint32_t heads = 0;     // rope, attention: of this rank's shard
  uint32_t kv_heads = 0;  // kv_store, attention: of this rank's shard
  uint32_t head_dim = 0;  // rope, kv_store, attention
  uint32_t layer = 0;     // kv_store, attention
  uint32_t window = 0;    // attention: sliding window in tokens, 0: none
  KvView view;            // kv_store, attention
  std::vector<int32_t> stops; // sample; embed in a loop: stop tokens
};

// What a launch passes, in the order of Program::args, as int64 (floats as the bits of a double).
enum class Arg : uint8_t {
  tokens = 1,   // rows of this launch
  position,     // position of row 0 (tokens already in the cache)
  steps,        // loop iterations
  temperature,  // double
  top_p,        // double, 0 < p <= 1
  seed,
  stop,         // 1: stop tokens end the loop
};
const char* arg_name(Arg a); // "top_p"

// ---- programs ----

// What a device can launch: ops in order, over values by index. Plain data.
struct Program {
  std::string name;         // shown in errors
  uint32_t ranks = 1;       // lanes that run it together (all_reduce, all_gather, reduce_scatter)
  bool loop = false;        // all ops run arg `steps` times, position + iteration each time; T = 1
  uint32_t max_tokens = 1;  // bound of kTokens
  uint32_t max_steps = 1;   // bound of kSteps
  uint32_t max_context = 0; // bound of position + tokens (or + steps)
  std::vector<Arg> args;     // what a launch passes, in this order
  std::vector<Value> values; // operands by index
  std::vector<Op> ops;       // executed in this order
};

// Shapes, dtypes, storage, definition before use, arguments present, strides in range. First violation, with op and value names.
Status verify(const Program&);
// One line for each value and op; stable enough to diff.
std::string dump(const Program&);
// The bytes that baton_load takes. A program that does not verify is serialized all the same, and refused by parse.
std::vector<uint8_t> serialize(const Program&);
// 32 hex digits of serialized bytes (FNV-1a, 128 bits): the program's name where something made of it is kept. Static shapes are part of it: a
// program for other bounds is another. No defence against somebody who looks for two of one name.
std::string fingerprint(std::span<const uint8_t> bytes);
// Checks the bytes (FlatBuffers verifier, version), then verify(). Safe on hostile bytes.
// Errors   CORRUPT, VERSION for the bytes; INVALID_ARGUMENT as verify.
Result<Program> parse(std::span<const uint8_t> bytes);

// Builds programs without index juggling: values by name, ops as functions that return the output value (its index), a new scratch value
// of the shape that OpCode gives. Nothing is judged before finish().
// Threads  one.
//
//     Builder b("double");
//     uint32_t x = b.value("x", DType::f32, Storage::input, {1, 8});
//     uint32_t y = b.value("y", DType::f32, Storage::output, {1, 8});
//     b.program().ops.push_back({.code = OpCode::add, .in = {x, x}, .out = {y}});
//     BATON_ASSIGN(Program p, std::move(b).finish());
class Builder {
 public:
  // An empty program of that name.
  explicit Builder(std::string name);
  // What has been built so far, for the fields that no function sets (args, bounds, ranks, loop) and ops with given outputs.
  Program& program() { return p_; }
  // A value that a launch binds; returns its index.
  uint32_t value(std::string name, DType, Storage, std::vector<int64_t> shape, bool optional = false);
  // A value that a load passes; returns its index.
  uint32_t constant(std::string name, DType, std::vector<int64_t> shape);

  uint32_t embed(uint32_t ids, uint32_t table, std::vector<int32_t> stops = {}); // OpCode::embed
  uint32_t rms_norm(uint32_t x, uint32_t weight, float eps); // OpCode::rms_norm
  // OpCode::matmul. bias -1: none. into: the value to write, -1: a new one.
  uint32_t matmul(uint32_t x, uint32_t w, Act, uint32_t segments = 1, int64_t bias = -1, int64_t into = -1);
  // OpCode::rope
  uint32_t rope(uint32_t x, uint32_t inv_freq, uint32_t heads, uint32_t head_dim, float scale);
  // OpCode::kv_store
  void kv_store(uint32_t k, uint32_t v, uint32_t block_table, uint32_t cache, uint32_t layer, uint32_t kv_heads, uint32_t head_dim,
                const KvView&);
  // OpCode::attention
  uint32_t attention(uint32_t q, uint32_t cache, uint32_t block_table, Act, uint32_t layer, uint32_t heads, uint32_t kv_heads,
                     uint32_t head_dim, float scale, uint32_t window, const KvView&);
  uint32_t silu_mul(uint32_t gate, uint32_t up); // OpCode::silu_mul
  uint32_t add(uint32_t a, uint32_t b);          // OpCode::add
  uint32_t all_reduce(uint32_t x);               // OpCode::all_reduce
  uint32_t all_gather(uint32_t x);               // OpCode::all_gather; set ranks before
  uint32_t reduce_scatter(uint32_t x);           // OpCode::reduce_scatter; set ranks before
  uint32_t take_last(uint32_t x);                // OpCode::take_last
  void sample(uint32_t logits, uint32_t token, std::vector<int32_t> stops); // OpCode::sample
  void mark();                                                              // OpCode::mark
  // Verifies and hands the program over.
  Result<Program> finish() &&;

 private:
  uint32_t emit(Op op, DType, std::vector<int64_t> shape);
  Program p_;
};

}  // namespace baton::program
