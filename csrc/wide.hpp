// Numbers of about 155 bits, for the few pieces that need them: a curve from a positive to a negative value
// passes zero so closely (2**-53 of its ends, at long horizons) that even pairs run out of digits. Speed is
// no concern here: one value takes microseconds.
#pragma once

#include "scalar.hpp"

namespace fastsched {

struct Wide {
  double a, b, c;
};

// The sum of N doubles: each sweep is exact and moves the value towards the front.
template <int N>
FASTSCHED_SHARED_INNER Wide distill(double (&v)[N]) {
  for (int sweep = 0; sweep < 3; ++sweep) {
    for (int i = N - 2; i >= 0; --i) {
      const Pair s = sum(v[i], v[i + 1]);
      v[i] = s.high;
      v[i + 1] = s.low;
    }
  }
  double rest = 0.0;
  for (int i = N - 1; i >= 2; --i) rest += v[i];
  return {v[0], v[1], rest};
}

FASTSCHED_SHARED Wide widen(double x) { return {x, 0.0, 0.0}; }
FASTSCHED_SHARED Wide widen(Pair x) { return {x.high, x.low, 0.0}; }
FASTSCHED_SHARED double narrow(Wide x) { return x.a + (x.b + x.c); }
FASTSCHED_SHARED double narrow(double x) { return x; }

FASTSCHED_SHARED_CALL Wide operator+(Wide x, Wide y) {
  double v[] = {x.a, y.a, x.b, y.b, x.c, y.c};
  return distill(v);
}

FASTSCHED_SHARED Wide operator-(Wide x) { return {-x.a, -x.b, -x.c}; }
FASTSCHED_SHARED Wide operator-(Wide x, Wide y) { return x + -y; }
FASTSCHED_SHARED Wide operator-(double x, Wide y) { return widen(x) + -y; }

FASTSCHED_SHARED_CALL Wide operator*(Wide x, Wide y) {
  const Pair aa = product(x.a, y.a), ab = product(x.a, y.b), ba = product(x.b, y.a), bb = product(x.b, y.b);
  const double ac = x.a * y.c + x.c * y.a, bc = x.b * y.c + x.c * y.b;
  double v[] = {aa.high, aa.low, ab.high, ba.high, ab.low, ba.low, bb.high, ac, bb.low, bc};
  return distill(v);
}

FASTSCHED_SHARED Wide operator*(double x, Wide y) { return widen(x) * y; }

FASTSCHED_SHARED_CALL Wide operator/(Wide x, Wide y) {
  double quotient[4];
  for (double& digit : quotient) {  // long division, 53 bits at a time
    digit = x.a / y.a;
    x = x - digit * y;
  }
  return distill(quotient);
}

FASTSCHED_SHARED Wide operator/(Wide x, double y) { return x / widen(y); }

// Two Newton steps from the double's 53 bits; 0 for 0.
FASTSCHED_SHARED_CALL Wide root(Wide x) {
  if (!(x.a > 0.0)) return {0.0, 0.0, 0.0};
  Wide result = widen(root(x.a));
  for (int i = 0; i < 2; ++i) result = result + (x - result * result) / (2.0 * result.a);
  return result;
}

FASTSCHED_SHARED Wide scale_by_power_of_two(Wide x, double s) { return {x.a * s, x.b * s, x.c * s}; }

// Zero where it underflows, also where y is a product that fell below all numbers, which is NaN; infinite
// where it overflows.
FASTSCHED_SHARED_CALL Wide exp2(Wide y) {
  if (!(y.a >= -1022.0)) return widen(0.0);
  if (y.a > 1024.0) return widen(infinity());
  const Wide ln2 = {0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56, 0x1.7b57a079a1934p-111};
  const double whole = nearest_integer(y.a);
  const Wide x = scale_by_power_of_two((y - widen(whole)) * ln2, 0x1p-6);  // at most 0.0055
  Wide result = widen(1.0);
  for (double n = 16.0; n >= 1.0; n -= 1.0) result = widen(1.0) + (x * result) / n;
  for (int i = 0; i < 6; ++i) result = result * result;
  return scale_by_power_of_two(result, from_bits(static_cast<std::uint64_t>(1023.0 + whole) << 52));
}

// One Newton step from the pair's 65 bits.
FASTSCHED_SHARED_CALL Wide log2(Wide x) {
  const Wide inverse_ln2 = {0x1.71547652b82fep+0, 0x1.777d0ffda0d24p-56, -0x1.60bb8a5442ab9p-110};
  const Wide guess = widen(log2_ratio({x.a, 0.0}, {1.0, 0.0}, x.a));
  const Wide rest = x * exp2(-guess) - widen(1.0);
  return guess + inverse_ln2 * (rest - scale_by_power_of_two(rest * rest, 0.5));
}

// log2(1 + x), x > -1, and 2**y - 1: accurate to their own last bits where they are next to 0.
FASTSCHED_SHARED_CALL Wide log2_of_1_plus(Wide x) {
  if (x.a > 0x1p-8 || x.a < -0x1p-8) return log2(widen(1.0) + x);
  const Wide two_over_ln2 = {0x1.71547652b82fep+1, 0x1.777d0ffda0d24p-55, -0x1.60bb8a5442ab9p-109};
  const Wide s = x / (widen(2.0) + x);
  const Wide square = s * s;
  Wide series = widen(0.0);
  for (double n = 19.0; n >= 1.0; n -= 2.0) series = widen(1.0) / n + square * series;
  return two_over_ln2 * (s * series);
}

FASTSCHED_SHARED_CALL Wide exp2_minus_1(Wide y) {
  if (!(y.a <= 0x1p-8 && y.a >= -0x1p-8)) return exp2(y) - widen(1.0);
  const Wide ln2 = {0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56, 0x1.7b57a079a1934p-111};
  const Wide x = y * ln2;
  Wide series = widen(1.0);
  for (double n = 16.0; n >= 2.0; n -= 1.0) series = widen(1.0) + (x * series) / n;
  return x * series;
}

// sin(pi/2 * y)**2 for 0 <= y <= 1/2: the series of (1 - cos)/2.
FASTSCHED_SHARED_CALL Wide haversine_of(Wide y) {
  const Wide pi = {0x1.921fb54442d18p+1, 0x1.1a62633145c07p-53, -0x1.f1976b7ed8fbcp-109};
  const Wide angle = pi * y;
  const Wide square = angle * angle;
  Wide series = widen(1.0);
  for (double n = 40.0; n >= 4.0; n -= 2.0) series = widen(1.0) - (square * series) / (n * (n - 1.0));
  return scale_by_power_of_two(square * series, 0.25);
}

}  // namespace fastsched
