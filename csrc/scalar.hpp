// Logarithm, exponential, power and haversine from +, *, / and fma alone: the same bits on every machine, and
// loops over them vectorise (no branches, no integer operation that AVX2 lacks). u below is 2**-53, half an
// ulp of 1.
#pragma once

#include "host_device.hpp"

namespace fastsched {

// An unevaluated sum, |low| at most about an ulp of high: about 106 bits.
struct Pair {
  double high, low;
};

// a + b exactly; fast_sum needs |a| >= |b| or a == 0.
FASTSCHED_SHARED Pair sum(double a, double b) {
  const double s = a + b;
  const double t = s - a;
  return {s, (a - (s - t)) + (b - t)};
}

FASTSCHED_SHARED Pair fast_sum(double a, double b) {
  const double s = a + b;
  return {s, b - (s - a)};
}

// a * b exactly, unless the error term underflows.
FASTSCHED_SHARED Pair product(double a, double b) {
  const double p = a * b;
  return {p, fused(a, b, -p)};
}

FASTSCHED_SHARED Pair multiply(Pair a, Pair b) {
  const Pair p = product(a.high, b.high);
  return {p.high, p.low + fused(a.high, b.low, a.low * b.high)};
}

FASTSCHED_SHARED Pair multiply(double a, Pair b) {
  const Pair p = product(a, b.high);
  return {p.high, fused(a, b.low, p.low)};
}

// Adding it pushes the fraction out of the significand, rounding to nearest; the low bits then hold the
// integer.
constexpr double integer_magic = 6755399441055744.0;  // 1.5 * 2**52

FASTSCHED_SHARED double nearest_integer(double a) { return (a + integer_magic) - integer_magic; }

// floor(a) for 0 <= a <= 2**53.
FASTSCHED_SHARED double floor_positive(double a) {
  const double two52 = 4503599627370496.0;
  const double nearest = (a + two52) - two52;
  const double below = nearest - choose(nearest > a, 1.0, 0.0);
  return choose(a < two52, below, a);
}

// 2**y as scale * (1 + fraction), |fraction| < 0.42 with relative error 2u, so that 2**y - 1 keeps its
// leading digits too.
struct Power2 {
  double scale, fraction;
};

// 2**f - 1 for |f| <= 1/2: minimax, relative error 2**-55.7. By pairs of terms, as the logarithm's series is:
// a loop over a chain of eleven would wait for each.
FASTSCHED_SHARED double exp2_fraction(double f) {
  const double f2 = f * f, f4 = f2 * f2;
  const double a0 = fused(f, 0x1.ebfbdff82c598p-3, 0x1.62e42fefa39efp-1);
  const double a1 = fused(f, 0x1.3b2ab6fba1e3fp-7, 0x1.c6b08d704a08ep-5);
  const double a2 = fused(f, 0x1.430913095915ap-13, 0x1.5d87fe78b2161p-10);
  const double a3 = fused(f, 0x1.62bfd4b431462p-20, 0x1.ffcbfc1e8e944p-17);
  const double a4 = fused(f, 0x1.e605d3729b831p-28, 0x1.b525a0bcdd082p-24);
  const double b0 = fused(a1, f2, a0), b1 = fused(a3, f2, a2), b2 = fused(f2, 0x1.e8ca7ce049a27p-32, a4);
  return f * fused(fused(b2, f4, b1), f4, b0);
}

// For |y| <= 1022.
FASTSCHED_SHARED_INNER Power2 exp2_parts_in_range(Pair y) {
  const double shifted = y.high + integer_magic;
  const double f = (y.high - (shifted - integer_magic)) + y.low;
  return {from_bits((bits_of(shifted) + 1023u) << 52), exp2_fraction(f)};
}

// 2**y = scale * (1 + fraction) for y <= 0, the fraction as a pair of relative error about 2**-55.
struct PairPower2 {
  double scale;
  Pair fraction;
};

FASTSCHED_SHARED_INNER PairPower2 exp2_pair_falling(Pair y) {
  const bool under = y.high < -1022.0;
  const double high = choose(under, -1022.0, y.high);
  const double shifted = high + integer_magic;
  const Pair f = fast_sum(high - (shifted - integer_magic), y.low);
  // (2**f - 1) / f - ln 2, the coefficients of exp2_fraction
  double rest = 0x1.e8ca7ce049a27p-32;
  rest = fused(rest, f.high, 0x1.e605d3729b831p-28);
  rest = fused(rest, f.high, 0x1.b525a0bcdd082p-24);
  rest = fused(rest, f.high, 0x1.62bfd4b431462p-20);
  rest = fused(rest, f.high, 0x1.ffcbfc1e8e944p-17);
  rest = fused(rest, f.high, 0x1.430913095915ap-13);
  rest = fused(rest, f.high, 0x1.5d87fe78b2161p-10);
  rest = fused(rest, f.high, 0x1.3b2ab6fba1e3fp-7);
  rest = fused(rest, f.high, 0x1.c6b08d704a08ep-5);
  rest = f.high * fused(rest, f.high, 0x1.ebfbdff82c598p-3);
  const Pair ln2 = {0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56};
  const Pair leading = multiply(f.high, ln2);
  // To first order f.low moves the fraction by its derivative, ln 2 * 2**f.
  const double low = fused(f.low, fused(2.0, rest, ln2.high), fused(f.high, rest, leading.low));
  const Pair fraction = fast_sum(leading.high, low);
  return {choose(under, 0.0, from_bits((bits_of(shifted) + 1023u) << 52)),
          {choose(under, 0.0, fraction.high), choose(under, 0.0, fraction.low)}};
}

// For y <= 0. Underflow goes to zero.
FASTSCHED_SHARED Power2 exp2_parts_falling(Pair y) {
  const bool under = y.high < -1022.0;
  const Power2 power = exp2_parts_in_range({choose(under, -1022.0, y.high), y.low});
  return {choose(under, 0.0, power.scale), choose(under, 0.0, power.fraction)};
}

// Underflow goes to zero, overflow to infinity.
FASTSCHED_SHARED Power2 exp2_parts(Pair y) {
  const double low_end = -1022.0, high_end = 1023.5;
  const bool under = y.high < low_end;
  const bool over = y.high >= high_end;  // it would round to 1024
  const double high = choose(under, low_end, choose(over, high_end, y.high));
  const Power2 power = exp2_parts_in_range({high, y.low});
  return {choose(under, 0.0, power.scale), choose(over, 0x1p1000, choose(under, 0.0, power.fraction))};
}

// value = significand * 2**exponent, the significand in [1, 2) or (-2, -1]; below the normal numbers it is
// the value.
struct Scaled {
  double significand, exponent;
};

FASTSCHED_SHARED Scaled scaled(double value) {
  const std::uint64_t bits = bits_of(value);
  const std::uint64_t biased = (bits >> 52) & 2047u;
  if (biased == 0) return {value, 0.0};
  return {from_bits((bits & 0x800fffffffffffffu) | 0x3ff0000000000000u),
          from_bits(biased | 0x4330000000000000u) - (4503599627370496.0 + 1023.0)};
}

FASTSCHED_SHARED_INNER double exp2(Pair y) {
  const Power2 power = exp2_parts(y);
  return fused(power.scale, power.fraction, power.scale);
}

// The same bits, for |y| <= 1022.
FASTSCHED_SHARED_INNER double exp2_in_range(Pair y) {
  const Power2 power = exp2_parts_in_range(y);
  return fused(power.scale, power.fraction, power.scale);
}

// 1 - 2**y, y <= 0, to a few u of itself.
FASTSCHED_SHARED_INNER double one_minus_exp2(Pair y) {
  const Power2 power = exp2_parts(y);
  return fused(-power.scale, power.fraction, 1.0 - power.scale);
}

// log2(a / b) for positive normal numbers, relative error about 2**-59 also where a / b is next to 1: there
// the numerator a - b is formed exactly. `about` is any approximation of a / b to some ulp. A table's whole
// steps are doubles, not pairs: `whole` says that both lows are 0.
template <bool whole = false>
FASTSCHED_SHARED_INNER Pair log2_ratio(Pair a, Pair b, double about) {
  // exponent + 1023, split so that the rest of the ratio lies in [sqrt(1/2), sqrt(2)]
  const std::uint64_t exponent = (bits_of(about) + (0x3ff0000000000000u - 0x3fe6a09e667f3bcdu)) >> 52;
  const double unscale = from_bits((2046u - exponent) << 52);
  const double e = from_bits(exponent | 0x4330000000000000u) - (4503599627370496.0 + 1023.0);
  const double high = a.high * unscale, low = whole ? 0.0 : a.low * unscale;
  // s = (a - b) / (a + b), then log2(ratio) = s * (2 / ln 2) * (1 + s^2/3 + s^4/5 + ...)
  const Pair difference = whole ? Pair{high - b.high, 0.0} : sum(high - b.high, low - b.low);
  const Pair total = sum(high, b.high);
  const double total_low = whole ? total.low : total.low + (low + b.low);
  const double inverse = 1.0 / total.high;
  const double s = difference.high * inverse;
  const double rounded = fused(-s, total.high, difference.high);
  const double s_low = inverse * fused(-s, total_low, whole ? rounded : rounded + difference.low);
  const double z = s * s;
  const double z2 = z * z;
  const double a0 = fused(z, 0x1.2776c50ef9bfep-1, 0x1.ec709dc3a03fdp-1);
  const double a1 = fused(z, 0x1.484b13d79c2b3p-2, 0x1.a61762a7adfa8p-2);
  const double a2 = fused(z, 0x1.c68f2ef80645cp-3, 0x1.0c9a84bf5d6cfp-2);
  const double a3 = fused(z, 0x1.59e058d3add21p-3, 0x1.89fed465074efp-3);
  const double a4 = 0x1.5a62792534e27p-3;
  const double b1 = fused(fused(a4, z2, a3), z2, a2), b2 = fused(b1, z2, a1);
  const double rest = z * fused(z2, b2, a0);
  // The first coefficient carries the result's leading digits: it is a pair.
  Pair series = fast_sum(0x1.71547652b82fep+1, rest);
  series.low += 0x1.777d0ffda0d24p-55;
  const Pair log = multiply({s, s_low}, series);
  const Pair result = fast_sum(e, log.high);
  return {result.high, result.low + log.low};
}

// x**y for a positive normal x and any finite y, within 0.6 ulp or so; 0 where it falls below 2**-1022. 0**y
// is 0.
FASTSCHED_SHARED double power(double x, double y) {
  const Pair log = log2_ratio({x, 0.0}, {1.0, 0.0}, x);
  const double result = exp2(multiply(y, log));
  return choose(x > 0.0, result, 0.0);
}

// scale * sin(pi/2 * sqrt(z))**2 / z for 0 <= z <= 1/4: minimax, relative error 2**-56. The scale goes into
// the coefficients, which a loop computes once.
FASTSCHED_SHARED_INNER double haversine(double z, double scale) {
  double p = -0x1.178b7956119b5p-19 * scale;
  p = fused(p, z, 0x1.b6a62fde28d65p-15 * scale);
  p = fused(p, z, -0x1.f9d2bd7de5a66p-11 * scale);
  p = fused(p, z, 0x1.a6d1f11ed387bp-7 * scale);
  p = fused(p, z, -0x1.e1f50685fe537p-4 * scale);
  p = fused(p, z, 0x1.55d3c7e3c8d6ep-1 * scale);
  p = fused(p, z, -0x1.03c1f081b5a9cp+1 * scale);
  return fused(p, z, 0x1.3bd3cc9be45dep+1 * scale);
}

// The same with its leading coefficient, pi**2 / 4, as a pair: relative error 2**-55.
FASTSCHED_SHARED_INNER Pair haversine_pair(double z) {
  double p = -0x1.178b7956119b5p-19;
  p = fused(p, z, 0x1.b6a62fde28d65p-15);
  p = fused(p, z, -0x1.f9d2bd7de5a66p-11);
  p = fused(p, z, 0x1.a6d1f11ed387bp-7);
  p = fused(p, z, -0x1.e1f50685fe537p-4);
  p = fused(p, z, 0x1.55d3c7e3c8d6ep-1);
  p = fused(p, z, -0x1.03c1f081b5a9cp+1);
  const Pair rest = product(p, z);
  Pair sum = fast_sum(0x1.3bd3cc9be45dep+1, rest.high);
  sum.low += rest.low + 0x1.692b71366cc04p-53;
  return sum;
}

}  // namespace fastsched
