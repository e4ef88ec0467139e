// Names of the enums, as dumps and errors show them.
#include "hal/program/program.hpp"

namespace baton::program {

const char* dtype_name(DType t) {
  switch (t) {
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::f16: return "f16";
    case DType::i32: return "i32";
    case DType::f8e4m3: return "f8e4m3";
    case DType::f8e5m2: return "f8e5m2";
  }
  return "dtype?";
}

const char* opcode_name(OpCode c) {
  switch (c) {
    case OpCode::embed: return "embed";
    case OpCode::rms_norm: return "rms_norm";
    case OpCode::matmul: return "matmul";
    case OpCode::rope: return "rope";
    case OpCode::kv_store: return "kv_store";
    case OpCode::attention: return "attention";
    case OpCode::silu_mul: return "silu_mul";
    case OpCode::add: return "add";
    case OpCode::all_reduce: return "all_reduce";
    case OpCode::take_last: return "take_last";
    case OpCode::sample: return "sample";
    case OpCode::mark: return "mark";
    case OpCode::all_gather: return "all_gather";
    case OpCode::reduce_scatter: return "reduce_scatter";
  }
  return "op?";
}

const char* arg_name(Arg a) {
  switch (a) {
    case Arg::tokens: return "tokens";
    case Arg::position: return "position";
    case Arg::steps: return "steps";
    case Arg::temperature: return "temperature";
    case Arg::top_p: return "top_p";
    case Arg::seed: return "seed";
    case Arg::stop: return "stop";
  }
  return "arg?";
}

}  // namespace baton::program
