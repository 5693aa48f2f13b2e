// What host and device disagree on: how shared code is marked, and how the few primitives below arithmetic
// are spelt.
#pragma once

#if !defined(__CUDACC_RTC__)
#include <cstdint>
#else
// NVRTC brings no standard headers; these are the widths that every CUDA target has.
namespace std {
using int32_t = int;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using int64_t = long long;
using uint64_t = unsigned long long;
}  // namespace std
#endif

// `static`: each translation unit keeps its own copy. Were these functions plain `inline`, the linker would
// keep one copy for all, perhaps the AVX-512 one, and the baseline path would run instructions that the
// machine does not have. FASTSCHED_SHARED_CALL is for what is long and rare: inlined into every loop it would
// only be size. FASTSCHED_SHARED_INNER is for what many formulas are made of: part of their loops on the CPU,
// a call on a device, which computes one value at a time (inlined, all curves take NVRTC twice as long).
#if defined(__CUDACC__)
#define FASTSCHED_SHARED static __host__ __device__ __forceinline__
#define FASTSCHED_SHARED_CALL static __host__ __device__ __noinline__
#define FASTSCHED_SHARED_INNER FASTSCHED_SHARED_CALL
#elif defined(__GNUC__)
#define FASTSCHED_SHARED static inline __attribute__((always_inline))
#define FASTSCHED_SHARED_CALL static inline __attribute__((noinline))
#define FASTSCHED_SHARED_INNER FASTSCHED_SHARED
#else
#define FASTSCHED_SHARED static inline
#define FASTSCHED_SHARED_CALL static inline
#define FASTSCHED_SHARED_INNER FASTSCHED_SHARED
#endif

namespace fastsched {

// a * b + c, rounded once: an instruction where there is one, else libm's exact emulation.
FASTSCHED_SHARED double fused(double a, double b, double c) {
#if defined(__CUDACC_RTC__)
  return fma(a, b, c);
#else
  return __builtin_fma(a, b, c);
#endif
}

FASTSCHED_SHARED float root(float a) {
#if defined(__CUDACC_RTC__)
  return sqrtf(a);
#else
  return __builtin_sqrtf(a);
#endif
}

FASTSCHED_SHARED double root(double a) {
#if defined(__CUDACC_RTC__)
  return sqrt(a);
#else
  return __builtin_sqrt(a);
#endif
}

FASTSCHED_SHARED std::uint64_t bits_of(double a) {
#if defined(__CUDACC_RTC__)
  return static_cast<std::uint64_t>(__double_as_longlong(a));
#else
  std::uint64_t bits;
  __builtin_memcpy(&bits, &a, sizeof bits);
  return bits;
#endif
}

FASTSCHED_SHARED double from_bits(std::uint64_t bits) {
#if defined(__CUDACC_RTC__)
  return __longlong_as_double(static_cast<long long>(bits));
#else
  double a;
  __builtin_memcpy(&a, &bits, sizeof a);
  return a;
#endif
}

FASTSCHED_SHARED double infinity() { return from_bits(0x7ff0000000000000u); }
FASTSCHED_SHARED double not_a_number() { return from_bits(0x7ff8000000000000u); }

FASTSCHED_SHARED std::uint32_t bits_of(float a) {
#if defined(__CUDACC_RTC__)
  return __float_as_uint(a);
#else
  std::uint32_t bits;
  __builtin_memcpy(&bits, &a, sizeof bits);
  return bits;
#endif
}

FASTSCHED_SHARED float float_from_bits(std::uint32_t bits) {
#if defined(__CUDACC_RTC__)
  return __uint_as_float(bits);
#else
  float a;
  __builtin_memcpy(&a, &bits, sizeof a);
  return a;
#endif
}

// first ? a : b without a branch. Written as ?:, the compiler follows each outcome on its own and computes a
// whole polynomial twice (a cosine table took 1.9 times as long).
FASTSCHED_SHARED double choose(bool first, double a, double b) {
  const std::uint64_t mask = std::uint64_t{0} - static_cast<std::uint64_t>(first);
  return from_bits((bits_of(a) & mask) | (bits_of(b) & ~mask));
}

FASTSCHED_SHARED float choose(bool first, float a, float b) {
  const std::uint32_t mask = std::uint32_t{0} - static_cast<std::uint32_t>(first);
  return float_from_bits((bits_of(a) & mask) | (bits_of(b) & ~mask));
}

}  // namespace fastsched
