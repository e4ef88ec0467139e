// Branch-free scalar loops that the compiler makes vectors of (CMakeLists.txt has its options). AVX-512 has kernels of its own.
#include "transport/kv_convert.hpp"

#include "transport/kv_convert_kernels.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cfloat>
#include <iterator>

namespace baton::transport {
namespace {

using program::DType;

constexpr uint32_t kInf = 0x7f800000, kNan = 0x7fc00000, kMagnitude = 0x7fffffff; // of f32

// By masks, where one side is arithmetic on floats: the compiler would make a branch of it, and that ends the vectors. Elsewhere ?: is a blend.
[[gnu::always_inline]] inline uint32_t choose(bool which, uint32_t yes, uint32_t no) { return no ^ ((yes ^ no) & -uint32_t(which)); }

// A binary format of Bits bits: a sign, an exponent of bias Bias, a mantissa of M bits. Magnitudes up to Top are numbers or, where Ieee, infinity.
template <class C, int M, int Bias, uint32_t Top, uint32_t Nan, bool Ieee>
struct Small {
  using Code = C;
  using Bits = C;
  static constexpr uint32_t kLargest = Ieee ? Top - 1 : Top;
  static constexpr int kBits = sizeof(C) * 8, kDrop = 23 - M;
  static constexpr uint32_t kSign = 1u << (kBits - 1), kNormal = 1u << M;       // the smallest normal magnitude
  static constexpr uint32_t kNormalF32 = uint32_t(127 + 1 - Bias) << 23;        // the same as f32
  static constexpr uint32_t kMagic = uint32_t(127 + 23 + 1 - Bias - M) << 23;   // f32 whose last bit is worth the smallest subnormal
  static constexpr float kLeast = std::bit_cast<float>(uint32_t(127 + 1 - Bias - M) << 23);

  [[gnu::always_inline]] static float unpack(Code c) {
    const uint32_t mag = c & (kSign - 1), sign = uint32_t(c & kSign) << (32 - kBits);
    const uint32_t normal = (mag << kDrop) + (uint32_t(127 - Bias) << 23);
    const uint32_t subnormal = std::bit_cast<uint32_t>(float(int32_t(mag)) * kLeast);
    uint32_t u = mag < kNormal ? subnormal : normal;
    if (Ieee) u = mag >= Top ? kInf | mag << kDrop : u; // infinity, or a NaN that pack() makes the one of its format
    else u = mag > Top ? kNan : u;
    return std::bit_cast<float>(u | sign);
  }
  [[gnu::always_inline]] static Code pack(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x), a = u & kMagnitude, sign = (u ^ a) >> (32 - kBits);
    const uint32_t normal = ((a + ((1u << (kDrop - 1)) - 1) + ((a >> kDrop) & 1)) >> kDrop) - (uint32_t(127 - Bias) << M);
    const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(a) + std::bit_cast<float>(kMagic)) - kMagic; // the adder rounds
    uint32_t c = choose(a < kNormalF32, subnormal, normal);
    c = c > Top ? Top : c;
    c = a > kInf ? Nan : c;
    return Code(c | sign);
  }
};

using E4m3 = Small<uint8_t, 3, 7, 0x7e, 0x7f, false>;
using E5m2 = Small<uint8_t, 2, 15, 0x7c, 0x7f, true>;
using F16 = Small<uint16_t, 10, 15, 0x7c00, 0x7e00, true>;

struct Bf16 {
  using Code = uint16_t;
  using Bits = uint16_t;
  static constexpr uint32_t kLargest = 0x7f7f;
  [[gnu::always_inline]] static float unpack(Code c) { return std::bit_cast<float>(uint32_t(c) << 16); }
  [[gnu::always_inline]] static Code pack(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x), a = u & kMagnitude, sign = u ^ a;
    const uint32_t c = (a + 0x7fff + ((a >> 16) & 1)) >> 16;
    return Code((a > kInf ? kNan >> 16 : c) | sign >> 16);
  }
};

struct F32 {
  using Code = float;
  using Bits = uint32_t;
  static constexpr uint32_t kLargest = 0x7f7fffff;
  [[gnu::always_inline]] static float unpack(float c) { return c; }
  [[gnu::always_inline]] static float pack(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x), a = u & kMagnitude;
    return std::bit_cast<float>((a > kInf ? kNan : a) | (u ^ a));
  }
};

template <class From, class To>
[[gnu::always_inline]] inline void convert(void* dst, const void* src, size_t n, float factor) {
  const auto* __restrict s = static_cast<const uint8_t*>(src);
  auto* __restrict d = static_cast<uint8_t*>(dst);
  for (size_t i = 0; i < n; ++i) {
    typename From::Code c;
    __builtin_memcpy(&c, s + i * sizeof c, sizeof c); // no alignment is asked for
    const typename To::Code out = To::pack(From::unpack(c) * factor);
    __builtin_memcpy(d + i * sizeof out, &out, sizeof out);
  }
}

// Magnitudes are ordered as their codes are.
template <class From>
[[gnu::always_inline]] inline float largest(const void* src, size_t n) {
  using Bits = typename From::Bits;
  constexpr Bits magnitude = Bits(Bits(~Bits(0)) >> 1);
  const auto* s = static_cast<const uint8_t*>(src);
  Bits most = 0;
  for (size_t i = 0; i < n; ++i) {
    Bits a;
    __builtin_memcpy(&a, s + i * sizeof a, sizeof a);
    a = Bits(a & magnitude);
    a = Bits(a & -Bits(a <= From::kLargest)); // neither infinity nor NaN; ?: would end the vectors
    most = a > most ? a : most;
  }
  return From::unpack(std::bit_cast<typename From::Code>(most));
}
template <class From>
[[gnu::always_inline]] inline void largest(const Heads& g, float* most) {
  std::fill(most, most + g.heads, 0.0f);
  for (size_t row = 0; row < g.rows; ++row)
    for (size_t h = 0; h < g.heads; ++h) most[h] = std::max(most[h], largest<From>(g.src + row * g.row_step + h * g.head_step, g.n));
}

// What an instruction set has.
template <class From, class To>
struct Baseline {
  static void run(void* d, const void* s, size_t n, float factor) { convert<From, To>(d, s, n, factor); }
};
template <class From>
struct BaselineMost {
  static void run(const Heads& g, float* most) { largest<From>(g, most); }
};

#if defined(__x86_64__)
#define BATON_AVX2 gnu::target("avx2")
#define BATON_AVX512 gnu::target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
template <class From, class To>
struct Avx2 {
  [[BATON_AVX2]] static void run(void* d, const void* s, size_t n, float factor) { convert<From, To>(d, s, n, factor); }
};
template <class From>
struct Avx2Most {
  [[BATON_AVX2]] static void run(const Heads& g, float* most) { largest<From>(g, most); }
};
template <class From>
struct Avx512Most { // of 16-bit numbers: kv_convert_avx512.cc
  [[BATON_AVX512]] static void run(const Heads& g, float* most) { largest<From>(g, most); }
};
#else
template <class From, class To>
using Avx2 = Baseline<From, To>;
template <class From>
using Avx2Most = BaselineMost<From>;
template <class From>
using Avx512Most = BaselineMost<From>;
#endif

// The dtypes that convert, in this order everywhere below.
constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::f16, DType::f8e4m3, DType::f8e5m2};
constexpr size_t kCount = std::size(kTypes);

struct Kernels {
  ConvertFn run[2]; // baseline, AVX2
};
template <class From, class To>
constexpr Kernels kernels = {{Baseline<From, To>::run, Avx2<From, To>::run}};

struct Row {
  Kernels to[kCount];
  LargestFn most[3]; // by ConvertIsa
};
template <class From>
constexpr Row row = {{kernels<From, F32>, kernels<From, Bf16>, kernels<From, F16>, kernels<From, E4m3>, kernels<From, E5m2>},
                     {BaselineMost<From>::run, Avx2Most<From>::run, Avx512Most<From>::run}};
constexpr Row kRows[kCount] = {row<F32>, row<Bf16>, row<F16>, row<E4m3>, row<E5m2>};

size_t index(DType t) { return size_t(std::find(std::begin(kTypes), std::end(kTypes), t) - std::begin(kTypes)); }

} // namespace

const char* isa_name(ConvertIsa i) {
  switch (i) {
    case ConvertIsa::baseline: return "baseline";
    case ConvertIsa::avx2: return "avx2";
    case ConvertIsa::avx512: return "avx512";
  }
  return "unknown";
}

ConvertIsa convert_isa() {
  static const ConvertIsa isa = [] {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
      return ConvertIsa::avx512;
    if (__builtin_cpu_supports("avx2")) return ConvertIsa::avx2;
#endif
    return ConvertIsa::baseline;
  }();
  return isa;
}

bool kv_convertible(DType from, DType to) { return index(from) < kCount && index(to) < kCount; }

Result<ConvertFn> kv_converter(DType from, DType to, ConvertIsa isa) {
  if (isa > convert_isa())
    return Error(BATON_UNSUPPORTED, fmt::format("this CPU cannot run the {} conversion", isa_name(isa)), fmt::format("use {} or less", isa_name(convert_isa())));
  if (!kv_convertible(from, to))
    return Error(BATON_UNSUPPORTED, fmt::format("no conversion of KV from {} to {}", program::dtype_name(from), program::dtype_name(to)),
                 "f32, bf16, f16, f8e4m3 and f8e5m2 convert to one another");
  if (isa == ConvertIsa::avx512) return avx512_converter(from, to);
  if (const ConvertFn own = isa == ConvertIsa::avx2 ? avx2_converter(from, to) : nullptr) return own;
  return kRows[index(from)].to[index(to)].run[size_t(isa)];
}

RowsFn kv_row_converter(DType from, DType to) { return table_converter(from, to); }

LargestFn kv_largest(DType t, ConvertIsa isa) {
  if (index(t) >= kCount || isa > convert_isa()) return nullptr;
  const LargestFn own = isa == ConvertIsa::avx512 ? avx512_largest(t) : nullptr;
  return own ? own : kRows[index(t)].most[size_t(isa)];
}

float kv_scale(float largest, DType to) { return largest > 0 ? std::max(largest / (to == DType::f8e4m3 ? 448.0f : 57344.0f), FLT_MIN) : 1; }

float kv_scale(DType from, const void* src, size_t n, DType to) {
  float largest = 0;
  if (const LargestFn f = kv_largest(from)) f({static_cast<const uint8_t*>(src), n}, &largest);
  return kv_scale(largest, to);
}

}  // namespace baton::transport
