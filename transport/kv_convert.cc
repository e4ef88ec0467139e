// Branch-free scalar loops that the compiler makes vectors of (CMakeLists.txt has its options): once for each instruction set.
#include "transport/kv_convert.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cfloat>

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
  [[gnu::always_inline]] static float unpack(Code c) { return std::bit_cast<float>(uint32_t(c) << 16); }
  [[gnu::always_inline]] static Code pack(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x), a = u & kMagnitude, sign = u ^ a;
    const uint32_t c = (a + 0x7fff + ((a >> 16) & 1)) >> 16;
    return Code((a > kInf ? kNan >> 16 : c) | sign >> 16);
  }
};

struct F32 {
  using Code = float;
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

template <class From>
[[gnu::always_inline]] inline uint32_t largest(const void* src, size_t n) {
  const auto* s = static_cast<const uint8_t*>(src);
  uint32_t most = 0;
  for (size_t i = 0; i < n; ++i) {
    typename From::Code c;
    __builtin_memcpy(&c, s + i * sizeof c, sizeof c);
    uint32_t a = std::bit_cast<uint32_t>(From::unpack(c)) & kMagnitude;
    a = choose(a < kInf, a, 0);
    most = a > most ? a : most;
  }
  return most;
}

template <class To>
constexpr bool kFp8 = sizeof(typename To::Code) == 1;

// What an instruction set has of one pair.
template <class From, class To>
struct Baseline {
  static void run(void* d, const void* s, size_t n, float scale) { convert<From, To>(d, s, n, kFp8<To> ? 1 / scale : scale); }
  static uint32_t most(const void* s, size_t n) { return largest<From>(s, n); }
};

#if defined(__x86_64__)
#define BATON_AVX2 gnu::target("avx2")
#define BATON_AVX512 gnu::target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
template <class From, class To>
struct Avx2 {
  [[BATON_AVX2]] static void run(void* d, const void* s, size_t n, float scale) { convert<From, To>(d, s, n, kFp8<To> ? 1 / scale : scale); }
  [[BATON_AVX2]] static uint32_t most(const void* s, size_t n) { return largest<From>(s, n); }
};
template <class From, class To>
struct Avx512 {
  [[BATON_AVX512]] static void run(void* d, const void* s, size_t n, float scale) { convert<From, To>(d, s, n, kFp8<To> ? 1 / scale : scale); }
  [[BATON_AVX512]] static uint32_t most(const void* s, size_t n) { return largest<From>(s, n); }
};
#else
template <class From, class To>
using Avx2 = Baseline<From, To>;
template <class From, class To>
using Avx512 = Baseline<From, To>;
#endif

struct Pair {
  DType from, to;
  ConvertFn run[3]; // by ConvertIsa
  uint32_t (*most[3])(const void*, size_t);
};

template <class From, class To>
constexpr Pair pair(DType from, DType to) {
  return {from, to, {Baseline<From, To>::run, Avx2<From, To>::run, Avx512<From, To>::run}, {Baseline<From, To>::most, Avx2<From, To>::most, Avx512<From, To>::most}};
}

constexpr Pair kPairs[] = {
    pair<F32, E4m3>(DType::f32, DType::f8e4m3),   pair<E4m3, F32>(DType::f8e4m3, DType::f32),   pair<F32, E5m2>(DType::f32, DType::f8e5m2),
    pair<E5m2, F32>(DType::f8e5m2, DType::f32),   pair<Bf16, E4m3>(DType::bf16, DType::f8e4m3), pair<E4m3, Bf16>(DType::f8e4m3, DType::bf16),
    pair<Bf16, E5m2>(DType::bf16, DType::f8e5m2), pair<E5m2, Bf16>(DType::f8e5m2, DType::bf16), pair<F16, E4m3>(DType::f16, DType::f8e4m3),
    pair<E4m3, F16>(DType::f8e4m3, DType::f16),   pair<F16, E5m2>(DType::f16, DType::f8e5m2),   pair<E5m2, F16>(DType::f8e5m2, DType::f16),
};

const Pair* find(DType from, DType to) {
  const auto* p = std::find_if(std::begin(kPairs), std::end(kPairs), [&](const Pair& x) { return x.from == from && x.to == to; });
  return p == std::end(kPairs) ? nullptr : p;
}

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

Result<ConvertFn> kv_converter(DType from, DType to, ConvertIsa isa) {
  if (isa > convert_isa())
    return Error(BATON_UNSUPPORTED, fmt::format("this CPU cannot run the {} conversion", isa_name(isa)), fmt::format("use {} or less", isa_name(convert_isa())));
  const Pair* p = find(from, to);
  if (!p)
    return Error(BATON_UNSUPPORTED, fmt::format("no conversion of KV from {} to {}", program::dtype_name(from), program::dtype_name(to)),
                 "f32, bf16 and f16 go to f8e4m3 and f8e5m2 and back");
  return p->run[size_t(isa)];
}

float kv_scale(DType from, const void* src, size_t n, DType to) {
  const Pair* p = find(from, to);
  const float top = to == DType::f8e4m3 ? 448 : 57344;
  const uint32_t most = p ? p->most[size_t(convert_isa())](src, n) : 0;
  return most ? std::max(std::bit_cast<float>(most) / top, FLT_MIN) : 1;
}

}  // namespace baton::transport
