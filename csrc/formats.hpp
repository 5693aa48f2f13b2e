// The number formats that memory holds, and how they become numbers to compute with: exactly when read,
// rounded to nearest even or at random when written. Integer arithmetic without branches: loops over it
// vectorise.
#pragma once

#include "host_device.hpp"

namespace fastsched {

enum class Format : std::int32_t { float32, float64, bfloat16, float16 };

FASTSCHED_SHARED std::int64_t bytes_of(Format format) {
  return format == Format::float64 ? 8 : format == Format::float32 ? 4 : 2;
}

// Values as they lie in memory: a struct per format, so that a function knows which one it was given.
struct Bfloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

// Calls call() with a value of the type that a format has.
template <class Call>
FASTSCHED_SHARED void with_format(Format format, Call call) {
  switch (format) {
    case Format::float32:
      return call(float{});
    case Format::float64:
      return call(double{});
    case Format::bfloat16:
      return call(Bfloat16{});
    case Format::float16:
      return call(Float16{});
  }
}

FASTSCHED_SHARED float widened(Bfloat16 value) {
  return float_from_bits(static_cast<std::uint32_t>(value.bits) << 16);
}

FASTSCHED_SHARED float widened(Float16 value) {
  const std::uint32_t magnitude = value.bits & 0x7fffu;
  const std::uint32_t exponent = magnitude & 0x7c00u;
  // Below the normal numbers the value is an integer times 2**-24.
  const std::uint32_t subnormal =
      bits_of(static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f);
  const std::uint32_t special = exponent == 0x7c00u ? 0x38000000u : 0u;  // infinity and NaN
  const std::uint32_t normal = (magnitude << 13) + 0x38000000u + special;
  return float_from_bits((exponent == 0u ? subnormal : normal) |
                         (static_cast<std::uint32_t>(value.bits & 0x8000u) << 16));
}

FASTSCHED_SHARED float widened(float value) { return value; }
FASTSCHED_SHARED double widened(double value) { return value; }

// To nearest, ties to even; NaN stays one.
FASTSCHED_SHARED void narrow(float value, Bfloat16& out) {
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out.bits = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}

FASTSCHED_SHARED void narrow(float value, Float16& out) {
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const std::uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  // Adding 1/2 leaves the multiple of 2**-24 in the low bits, rounded by the hardware.
  const std::uint32_t subnormal = bits_of(float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
  const std::uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const std::uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  out.bits =
      static_cast<std::uint16_t>((magnitude >= 0x477ff000u ? special : finite) | ((bits >> 16) & 0x8000u));
}

FASTSCHED_SHARED void narrow(float value, float& out) { out = value; }
FASTSCHED_SHARED void narrow(double value, float& out) { out = static_cast<float>(value); }
FASTSCHED_SHARED void narrow(double value, double& out) { out = value; }
FASTSCHED_SHARED void narrow(double value, Bfloat16& out) { narrow(static_cast<float>(value), out); }
FASTSCHED_SHARED void narrow(double value, Float16& out) { narrow(static_cast<float>(value), out); }

// The bfloat16 above or below, as the upper half of a float: up with the probability that makes the mean
// exact. `random` holds 16 uniform bits: added below the last bit that stays, they carry into it in that
// share of all cases, and are cut off again: infinity, which has nothing there that could carry, would be NaN
// with them. NaN stays one.
FASTSCHED_SHARED float rounded_at_random(float value, std::uint32_t random) {
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t rounded = (bits + (random & 0xffffu)) & 0xffff0000u;
  return float_from_bits((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : rounded);
}

FASTSCHED_SHARED Bfloat16 upper_half(float value) {
  return {static_cast<std::uint16_t>(bits_of(value) >> 16)};
}

// The random bits of one tensor at one update.
struct Stream {
  std::uint32_t first, second;
};

// Of the 2**32 elements whose index has these upper bits.
FASTSCHED_SHARED Stream stream_part(const Stream& stream, std::uint32_t high) {
  return {stream.first, stream.second + high * 0xcc9e2d51u};
}

// 32 bits for the element with these lower bits. A fixed element's are uniform over the keys, since every
// operation is one to one; what multiplication and shifts mix is neighbours.
FASTSCHED_SHARED std::uint32_t random_bits(const Stream& part, std::uint32_t low) {
  std::uint32_t h = low * 0x9e3779b1u + part.first;
  h = (h ^ (h >> 16)) * 0x85ebca6bu + part.second;
  return h ^ (h >> 15);
}

}  // namespace fastsched
