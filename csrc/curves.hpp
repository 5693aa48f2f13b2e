// Every curve: how much of its start and how much of its end a piece shows, t steps into it. The place for a
// formula.
//
// A curve mixes its ends with two weights that add to 1, BOTH accurate to a few ulp of themselves, so that
// start*from + end*to is accurate next to either end. It gets there by counting from the nearer end: the
// remaining steps n - t are as exact as t. Number is double, or Wide for a piece whose ends differ in sign,
// where the two terms cancel.
#pragma once

#include "scalar.hpp"
#include "wide.hpp"

namespace fastsched {

// One piece: plain data, shared with Python (curves.py names the fields alike). 0 <= t < steps inside it;
// `end` after it.
struct Curve {
  double start, end;
  double steps;    // infinity where it never ends
  double p, q, r;  // what the kind needs, rounded once from exact values by Python
};

template <class Number>
struct Weights {
  Number from, to;
};

FASTSCHED_SHARED double mix(const Curve& c, Weights<double> w) {
  return fused(c.end, w.to, c.start * w.from);
}
FASTSCHED_SHARED double mix(const Curve& c, Weights<Wide> w) {
  return narrow(c.start * w.from + c.end * w.to);
}

// From the smaller weight, and whether it is the end's.
FASTSCHED_SHARED Weights<double> weights(double smaller, bool is_to) {
  const double larger = 1.0 - smaller;
  return {choose(is_to, larger, smaller), choose(is_to, smaller, larger)};
}
FASTSCHED_SHARED Weights<Wide> weights(Wide smaller, bool is_to) {
  const Wide larger = 1.0 - smaller;
  return is_to ? Weights<Wide>{larger, smaller} : Weights<Wide>{smaller, larger};
}

template <class Number>
constexpr bool is_wide = false;
template <>
constexpr bool is_wide<Wide> = true;

// Which end is nearer, where the caller knows: a table takes the two halves one after the other, because
// choosing at every step costs as much as the polynomial does.
enum class Half { unknown, first, second };

// The distance to the nearer end; a pair, because n - t need not be a double where t has a fraction.
struct Nearer {
  Pair steps;
  bool is_start;
};

template <Half half>
FASTSCHED_SHARED Nearer nearer_end(const Curve& c, double t) {
  const Pair rest = sum(c.steps, -t);
  const bool is_start = half == Half::unknown ? t < rest.high : half == Half::first;
  return {{choose(is_start, t, rest.high), choose(is_start, 0.0, rest.low)}, is_start};
}

template <class Number, Half half = Half::unknown>
FASTSCHED_SHARED double constant(const Curve& c, double) {
  return c.start;
}

// p = 1/n. w = t/n.
template <class Number, Half half = Half::unknown>
FASTSCHED_SHARED double linear(const Curve& c, double t) {
  const Nearer near = nearer_end<half>(c, t);
  if constexpr (is_wide<Number>) {
    return mix(c, weights(widen(near.steps) / c.steps, near.is_start));
  } else {
    return mix(c, weights(near.steps.high * c.p, near.is_start));
  }
}

// p = 1/n**2. w = sin(pi/2 * t/n)**2.
template <class Number, Half half = Half::unknown>
FASTSCHED_SHARED double half_cosine(const Curve& c, double t) {
  const Nearer near = nearer_end<half>(c, t);
  if constexpr (is_wide<Number>) {
    return mix(c, weights(haversine_of(widen(near.steps) / c.steps), near.is_start));
  } else {
    return mix(c, weights(haversine(near.steps.high * near.steps.high * c.p), near.is_start));
  }
}

// p = 1/n**2, q = cycles, r = 1/n. w = sin(pi * cycles * t/n)**2. The phase is reduced to half a cycle
// without error, so that the weights stay accurate next to each of their zeros.
template <class Number, Half half = Half::unknown>
FASTSCHED_SHARED double cosine(const Curve& c, double t) {
  const Pair turned = product(c.q, t);
  const double whole = nearest_integer(turned.high * c.r);
  const Pair phase = sum(fused(-whole, c.steps, turned.high), turned.low);  // times n; at most n/2 in size
  const double sign = choose(phase.high < 0.0, -1.0, 1.0);
  const double from_top = sign * phase.high;
  const bool near_top = from_top < 0.25 * c.steps;
  const Pair to_bottom = sum(0.5 * c.steps - from_top, -sign * phase.low);
  const Pair steps = {choose(near_top, from_top, to_bottom.high),
                      choose(near_top, sign * phase.low, to_bottom.low)};
  if constexpr (is_wide<Number>) {
    return mix(c, weights(haversine_of(scale_by_power_of_two(widen(steps), 2.0) / c.steps), near_top));
  } else {
    const double square = fused(steps.high, steps.high, 2.0 * steps.high * steps.low);
    return mix(c, weights(haversine(4.0 * square * c.p), near_top));
  }
}

// p = cycles, q = exponent, r = k. from = cos(pi * cycles * (t/n)**k)**(2 * exponent). Both powers amplify
// what is below them, so this one is always wide.
template <class Number, Half half = Half::unknown>
FASTSCHED_SHARED double shaped_cosine(const Curve& c, double t) {
  if (!(t > 0.0)) return c.start;
  const Wide progress = widen(t > 0x1p-960 ? t : 0x1p-960) / c.steps;  // a normal number, as log2 needs it
  const Wide turned = c.p * (c.r == 1.0 ? progress : exp2(c.r * log2(progress)));
  const Wide phase = turned - widen(nearest_integer(turned.a));
  const Wide from_top = phase.a < 0.0 ? -phase : phase;
  const bool near_top = from_top.a < 0.25;
  const Wide distance = near_top ? from_top : widen(0.5) - from_top;
  const Wide smaller = haversine_of(scale_by_power_of_two(distance, 2.0));
  if (c.q == 1.0) return mix(c, weights(smaller, near_top));
  if (!(smaller.a > 0.0)) return near_top ? c.start : c.end;
  const Wide y = c.q * (near_top ? log2_of_1_plus(-smaller) : log2(smaller));
  return mix(c, Weights<Wide>{exp2(y), -exp2_minus_1(y)});
}

// p = power, q = 1/n. from = (1 - t/n)**power.
template <class Number, Half half = Half::unknown>
FASTSCHED_SHARED double polynomial(const Curve& c, double t) {
  const Pair rest = sum(c.steps, -t);
  if constexpr (is_wide<Number>) {
    const Wide y = c.p * log2_of_1_plus(-(widen(t) / c.steps));
    return mix(c, Weights<Wide>{exp2(y), -exp2_minus_1(y)});
  } else {
    const Pair y = multiply({c.p, 0.0}, log2_ratio(rest, {c.steps, 0.0}, rest.high * c.q));
    return mix(c, Weights<double>{exp2(y), one_minus_exp2(y)});
  }
}

// p + q = log2 of the ratio between neighbouring steps. start * 2**((p + q) * t).
template <class Number, Half half = Half::unknown>
FASTSCHED_SHARED double exponential(const Curve& c, double t) {
  const Pair y = product(c.p, t);
  // The exponent of start joins the power, so that neither leaves the range of numbers where their product
  // does not.
  const Scaled start = scaled(c.start);
  Pair total = sum(start.exponent, y.high);
  total.low += y.low + c.q * t;
  return start.significand * exp2(total);
}

// r = the length of a stair, p + q = log2 of the ratio between neighbouring stairs.
template <class Number, Half half = Half::unknown>
FASTSCHED_SHARED double staircase(const Curve& c, double t) {
  const double about = floor_positive(t / c.r);
  const double rest = fused(-about, c.r, t);  // its sign is exact, so the count of stairs is
  const double stairs = about + (choose(rest >= c.r, 1.0, 0.0) - choose(rest < 0.0, 1.0, 0.0));
  return exponential<Number>(c, stairs);
}

// p = 1/log2(1 + n). w = log(1 + t) / log(1 + n).
template <class Number, Half half = Half::unknown>
FASTSCHED_SHARED double logarithmic(const Curve& c, double t) {
  const Pair here = sum(1.0, t), last = sum(1.0, c.steps);
  if constexpr (is_wide<Number>) {
    const Wide whole = log2_of_1_plus(widen(c.steps));
    const Wide rest = log2_of_1_plus(widen(sum(t, -c.steps)) / widen(last));
    return mix(c, Weights<Wide>{-(rest / whole), log2_of_1_plus(widen(t)) / whole});
  } else {
    const bool is_start = here.high * here.high < last.high;
    const Pair over = {choose(is_start, here.high, last.high), choose(is_start, here.low, last.low)};
    const Pair under = {choose(is_start, 1.0, here.high), choose(is_start, 0.0, here.low)};
    const Pair log = log2_ratio(over, under, over.high / under.high);
    return mix(c, weights(log.high * c.p, is_start));
  }
}

// Every curve by name, in the order of its code in a program.
#define FASTSCHED_CURVES(X) \
  X(constant)               \
  X(linear)                 \
  X(half_cosine)            \
  X(cosine)                 \
  X(shaped_cosine)          \
  X(polynomial)             \
  X(exponential)            \
  X(staircase)              \
  X(logarithmic)

FASTSCHED_SHARED bool crosses_zero(const Curve& c) {
  return (c.start < 0.0 && c.end > 0.0) || (c.start > 0.0 && c.end < 0.0);
}

}  // namespace fastsched
