// Every curve: its value t steps after its beginning. The place for a formula.
//
// Most curves mix their ends with two weights that add to 1, BOTH accurate to a few ulp of themselves. They
// get there by counting from the nearer end: the remaining steps n - t are as exact as t. Number is double,
// or Wide for a curve whose ends differ in sign, where the two terms cancel.
#pragma once

#include "scalar.hpp"
#include "wide.hpp"

namespace fastsched {

// One curve: plain data, shared with Python (curves.py names the fields alike). 0 <= t < steps inside it;
// what it holds after that, see `held`.
struct Curve {
  double start, end;
  double steps;             // infinity where it never ends
  double p, q, r, s, u, v;  // what the kind needs, rounded once from exact values by Python
};

// What the caller may know of a curve and the steps that it asks for: which end is nearer, or which formula
// serves an exponent. A table finds that out once for many steps; choosing at every step costs as much as the
// formula does.
constexpr int unknown = -1;
constexpr int first_half = 0, second_half = 1;

template <class Number>
struct Weights {
  Number from, to;
};

FASTSCHED_SHARED double mix(double start, double end, Weights<double> w) {
  return fused(end, w.to, start * w.from);
}
FASTSCHED_SHARED_INNER double mix(double start, double end, Weights<Wide> w) {
  return narrow(start * w.from + end * w.to);
}
template <class Number>
FASTSCHED_SHARED double mix(const Curve& c, Weights<Number> w) {
  return mix(c.start, c.end, w);
}

// The same from the smaller weight alone, that of the farther end: at most 1/2, so nothing cancels between
// ends of one sign.
FASTSCHED_SHARED double mix_nearer(double start, double end, double smaller, bool near_start) {
  const double near = choose(near_start, start, end), far = choose(near_start, end, start);
  return fused(far - near, smaller, near);
}
FASTSCHED_SHARED_INNER double mix_nearer(double start, double end, Wide smaller, bool near_start) {
  const Wide larger = 1.0 - smaller;
  return mix(start, end, near_start ? Weights<Wide>{larger, smaller} : Weights<Wide>{smaller, larger});
}

// The same with sin(pi/2 * sqrt(z))**2 as the smaller weight.
FASTSCHED_SHARED double arc_from(double start, double end, double z, bool near_start) {
  const double near = choose(near_start, start, end), far = choose(near_start, end, start);
  return fused(z, haversine(z, far - near), near);
}

template <class Number>
constexpr bool is_wide = false;
template <>
inline constexpr bool is_wide<Wide> = true;

FASTSCHED_SHARED bool opposite(double a, double b) { return (a < 0.0 && b > 0.0) || (a > 0.0 && b < 0.0); }
FASTSCHED_SHARED bool crosses_zero(const Curve& c) { return opposite(c.start, c.end); }

template <class Number, int known = unknown>
FASTSCHED_SHARED double constant(const Curve& c, double) {
  return c.start;
}

// ---- Legs: from one value to another between two times. Lines and half cosines are one; the kinds that go
// up and down are several. ----

struct Leg {
  double start, end;
  double begin, finish;  // may have fractions
  double inverse;        // 1 / (finish - begin); of a cosine, its square
};

enum class Shape { line, cosine };

FASTSCHED_SHARED bool near_start(const Leg& leg, double t) { return t - leg.begin < leg.finish - t; }

// The steps to the nearer end; a pair, because the difference need not be a double where t has a fraction.
template <int half>
FASTSCHED_SHARED Pair steps_to_nearer(const Leg& leg, double t) {
  if constexpr (half == first_half) return {t - leg.begin, 0.0};
  if constexpr (half == second_half) return {leg.finish - t, 0.0};
  return near_start(leg, t) ? sum(t, -leg.begin) : sum(leg.finish, -t);
}

template <int half>
FASTSCHED_SHARED bool is_near_start(const Leg& leg, double t) {
  return half == unknown ? near_start(leg, t) : half == first_half;
}

// Weight of the farther end: x, the progress from the nearer one.
template <class Number, int half>
FASTSCHED_SHARED double line(const Leg& leg, double t) {
  const Pair steps = steps_to_nearer<half>(leg, t);
  const bool start = is_near_start<half>(leg, t);
  if constexpr (is_wide<Number>) {
    const Wide length = widen(sum(leg.finish, -leg.begin));
    return mix_nearer(leg.start, leg.end, widen(steps) / length, start);
  } else {
    const double near = choose(start, leg.start, leg.end), far = choose(start, leg.end, leg.start);
    return fused((far - near) * leg.inverse, steps.high, near);
  }
}

// Weight of the farther end: sin(pi/2 * x)**2.
template <class Number, int half>
FASTSCHED_SHARED double arc(const Leg& leg, double t) {
  const Pair steps = steps_to_nearer<half>(leg, t);
  const bool start = is_near_start<half>(leg, t);
  if constexpr (is_wide<Number>) {
    const Wide length = widen(sum(leg.finish, -leg.begin));
    return mix_nearer(leg.start, leg.end, haversine_of(widen(steps) / length), start);
  } else {
    return arc_from(leg.start, leg.end, steps.high * steps.high * leg.inverse, start);
  }
}

template <class Number, int half = unknown>
FASTSCHED_SHARED double leg_value(Shape shape, const Leg& leg, double t) {
  return shape == Shape::line ? line<Number, half>(leg, t) : arc<Number, half>(leg, t);
}

// The leg that a step falls on, and the step from which its times count: next to the largest step, only small
// times are exact.
struct Phase {
  Leg leg;
  Shape shape;
  double origin;
};

FASTSCHED_SHARED_INNER double value_on(const Phase& phase, double t) {
  const bool wide = opposite(phase.leg.start, phase.leg.end);
  return wide ? leg_value<Wide>(phase.shape, phase.leg, t - phase.origin)
              : leg_value<double>(phase.shape, phase.leg, t - phase.origin);
}

// p = 1/n.
FASTSCHED_SHARED Phase phase_of_linear(const Curve& c, double) {
  return {{c.start, c.end, 0.0, c.steps, c.p}, Shape::line, 0.0};
}

// p = 1/n**2.
FASTSCHED_SHARED Phase phase_of_half_cosine(const Curve& c, double) {
  return {{c.start, c.end, 0.0, c.steps, c.p}, Shape::cosine, 0.0};
}

// 1 / n**2, rounded once but for the last bit: the square of a long n is no double.
FASTSCHED_SHARED_INNER double inverse_square(double n) {
  const Pair square = product(n, n);
  const double about = 1.0 / square.high;
  return fused(about, fused(-about, square.high, 1.0) - about * square.low, about);
}

FASTSCHED_SHARED Phase leg_between(double start, double end, double begin, double finish, Shape shape,
                                   double origin = 0.0) {
  // A leg may be shorter than any number of steps that its square could measure.
  const double length = choose(finish - begin > 0x1p-500, finish - begin, 0x1p-500);
  const double inverse = shape == Shape::line ? 1.0 / length : inverse_square(length);
  return {{start, end, begin, finish, inverse}, shape, origin};
}

// start to p at time q, to `end` at the end. r: 1 where the legs are lines; s: 1 where the middle leg returns
// to start at 2 * q.
FASTSCHED_SHARED Phase phase_of_one_cycle(const Curve& c, double t) {
  const Shape shape = c.r == 0.0 ? Shape::cosine : Shape::line;
  if (t < c.q) return leg_between(c.start, c.p, 0.0, c.q, shape);
  if (c.s == 0.0) return leg_between(c.p, c.end, c.q, c.steps, shape);
  if (t < 2.0 * c.q) return leg_between(c.p, c.start, c.q, 2.0 * c.q, shape);
  return leg_between(c.start, c.end, 2.0 * c.q, c.steps, shape);
}

// floor(t / r), exactly: the remainder's sign is exact, so the count is.
FASTSCHED_SHARED_INNER double whole_turns(double t, double r) {
  const double about = floor_positive(t / r);
  const double rest = fused(-about, r, t);
  return about + (choose(rest >= r, 1.0, 0.0) - choose(rest < 0.0, 1.0, 0.0));
}

// 2**((p + q) * t + exponent), the significand times it.
FASTSCHED_SHARED_INNER double grown(Scaled start, double p, double q, double t) {
  const Pair y = product(p, t);
  Pair total = sum(start.exponent, y.high);
  total.low += y.low + q * t;
  return start.significand * exp2(total);
}

// Cycle i: a half cosine from start * 2**((s + u) * i) to `end` over p * q**i steps.
FASTSCHED_SHARED Phase phase_of_restarts(const Curve& c, double t) {
  double cycle = 0.0, begin = 0.0, length = c.p;
  if (c.q == 1.0) {
    cycle = whole_turns(t, length);
    begin = cycle * length;
  } else {  // at most 53 cycles: lengths at least double
    while (t - begin >= length) {
      begin += length;
      length *= c.q;
      cycle += 1.0;
    }
  }
  if (c.s == 0.0 || c.start == 0.0) return leg_between(c.start, c.end, 0.0, length, Shape::cosine, begin);
  const double largest =
      0x1.fffffffffffffp+1022;  // half the largest number: peaks may grow beyond all bounds
  const double peak = grown(scaled(c.start), c.s, c.u, cycle);
  const double start = peak > largest ? largest : peak < -largest ? -largest : peak;
  return leg_between(start, c.end, 0.0, length, Shape::cosine, begin);
}

// Up over p steps from `start` to `end` and down over q. r: 1 where the peak's height halves with every
// cycle; s + u: log2 of the height's ratio between neighbouring steps, see `damped`.
FASTSCHED_SHARED Phase phase_of_triangle(const Curve& c, double t) {
  const double period = c.p + c.q, cycle = whole_turns(t, period), origin = cycle * period;
  double peak = c.end;
  if (c.r != 0.0 && cycle > 0.0) {
    const double height = exp2(Pair{-cycle, 0.0});
    peak = mix(c.start, c.end, Weights<double>{1.0 - height, height});
  }
  return t - origin < c.p ? leg_between(c.start, peak, 0.0, c.p, Shape::line, origin)
                          : leg_between(peak, c.start, c.p, period, Shape::line, origin);
}

#define FASTSCHED_PHASED(name)                             \
  template <class Number, int known = unknown>             \
  FASTSCHED_SHARED double name(const Curve& c, double t) { \
    return value_on(phase_of_##name(c, t), t);             \
  }

FASTSCHED_PHASED(linear)
FASTSCHED_PHASED(half_cosine)
FASTSCHED_PHASED(one_cycle)
FASTSCHED_PHASED(restarts)
FASTSCHED_PHASED(triangle)
#undef FASTSCHED_PHASED

// ---- Curves between two values. ----

// The remaining steps; of whole ones, as a table has them, exactly one double.
template <int known>
FASTSCHED_SHARED Pair rest_of(const Curve& c, double t) {
  if constexpr (known != unknown) return {c.steps - t, 0.0};
  return sum(c.steps, -t);
}

FASTSCHED_SHARED Weights<double> complements(Power2 w) {
  return {fused(w.scale, w.fraction, w.scale), fused(-w.scale, w.fraction, 1.0 - w.scale)};
}

// start * 2**((p + q) * t), for the multiples of r.
FASTSCHED_SHARED_INNER double exponential_anchor(const Curve& c, double t) {
  return grown(scaled(c.start), c.p, c.q, t);
}

// 2**((p + q) * t), for 0 <= t < r. Where r > 1, the exponent is less than 512.
template <int known>
FASTSCHED_SHARED_INNER double exponential_ratio(const Curve& c, double t) {
  const Pair y = product(c.p, t);
  const Pair exact = {y.high, fused(c.q, t, y.low)};
  return known == unknown ? exp2(exact) : exp2_in_range(exact);
}

// A staircase as an exponential whose steps are its stairs.
FASTSCHED_SHARED Curve stairs_of_staircase(const Curve& c) {
  Curve stairs = c;
  stairs.r = c.s;
  return stairs;
}

// p = 1/n**2, q = cycles, r = 1/n. w = sin(pi * cycles * t/n)**2. The phase is reduced to half a cycle
// without error, so that the weights stay accurate next to each of their zeros.
template <class Number, int known = unknown>
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
    const Wide smaller = haversine_of(scale_by_power_of_two(widen(steps), 2.0) / c.steps);
    return mix_nearer(c.start, c.end, smaller, near_top);
  } else {
    const double square = fused(steps.high, steps.high, 2.0 * steps.high * steps.low);
    const double z = 4.0 * square * c.p;
    return mix_nearer(c.start, c.end, z * haversine(z, 1.0), near_top);
  }
}

// log2(t/n), t > 0; inverse = 1/n. Where what is below a step would underflow, it is taken 2**120 times.
template <class Number>
FASTSCHED_SHARED auto log2_of_progress(double t, double steps, double inverse) {
  const bool tiny = t < 0x1p-900;
  const double normal = tiny ? t * 0x1p120 : t, shift = tiny ? -120.0 : 0.0;
  if constexpr (is_wide<Number>) {
    return log2(widen(normal) / steps) + widen(shift);
  } else {
    const Pair log = log2_ratio({normal, 0.0}, {steps, 0.0}, normal * inverse);
    const Pair shifted = sum(log.high, shift);
    return Pair{shifted.high, shifted.low + log.low};
  }
}

// p = cycles, q = exponent, r = k. from = cos(pi * cycles * (t/n)**k)**(2 * exponent). Both powers amplify
// what is below them, so this one is always wide.
template <class Number, int known = unknown>
FASTSCHED_SHARED double shaped_cosine(const Curve& c, double t) {
  if (!(t > 0.0)) return c.start;
  const Wide turned =
      c.p * (c.r == 1.0 ? widen(t) / c.steps : exp2(c.r * log2_of_progress<Wide>(t, c.steps, 0.0)));
  const Wide phase = turned - widen(nearest_integer(turned.a));
  const Wide from_top = phase.a < 0.0 ? -phase : phase;
  const bool near_top = from_top.a < 0.25;
  const Wide distance = near_top ? from_top : widen(0.5) - from_top;
  const Wide smaller = haversine_of(scale_by_power_of_two(distance, 2.0));
  if (c.q == 1.0) return mix_nearer(c.start, c.end, smaller, near_top);
  if (!(smaller.a > 0.0)) return near_top ? c.start : c.end;
  const Wide y = c.q * (near_top ? log2_of_1_plus(-smaller) : log2(smaller));
  return mix(c, Weights<Wide>{exp2(y), -exp2_minus_1(y)});
}

// x**power by squaring.
template <int power>
FASTSCHED_SHARED Pair pair_power(Pair x) {
  if constexpr (power == 1) {
    return x;
  } else if constexpr (power % 2 == 0) {
    const Pair half = pair_power<power / 2>(x);
    const Pair square = product(half.high, half.high);
    return {square.high, fused(2.0 * half.high, half.low, square.low)};
  } else {
    return multiply(pair_power<power - 1>(x), x);
  }
}

// Small whole powers of x = rest/n = 1 - past/n, by multiplication. What rounding took from x and past/n is
// carried along, since the power amplifies it: to first order, and from 5 on by pairs.
template <int power>
FASTSCHED_SHARED double whole_power(Pair rest, double steps, double inverse) {
  const double x = rest.high * inverse, x_low = inverse * (fused(-x, steps, rest.high) + rest.low);
  if constexpr (power > 4) {
    const Pair result = pair_power<power>({x, x_low});
    return result.high + result.low;
  }
  double below = 1.0;
  for (int k = 1; k < power; ++k) below *= x;
  return fused(power * x_low, below, below * x);
}

// 1 - x**power = (1 - x)(1 + x + ... + x**(power-1)), without cancellation. Where this is less than 1/2,
// past/n is small and 1 - past/n nearly exact.
template <int power>
FASTSCHED_SHARED double one_minus_whole_power(Pair past, double steps, double inverse) {
  const double d = past.high * inverse, x = 1.0 - d;
  const double d_low = inverse * (fused(-d, steps, past.high) + past.low);
  double series = 1.0;
  for (int k = 1; k < power; ++k) series = fused(series, x, 1.0);
  return fused(series, d, series * d_low);
}

// Whether x**power is the larger weight: the start is nearer.
template <int power>
FASTSCHED_SHARED bool whole_power_near_start(double rest, double inverse) {
  double x = rest * inverse, result = x;
  for (int k = 1; k < power; ++k) result *= x;
  return result > 0.5;
}

template <int power, int half>
FASTSCHED_SHARED double whole_power_mix(double start, double end, Pair past, Pair rest, double steps,
                                        double inverse) {
  const bool near = half == unknown ? whole_power_near_start<power>(rest.high, inverse) : half == first_half;
  if (near) {
    return mix_nearer(start, end, one_minus_whole_power<power>(past, steps, inverse), true);
  }
  return mix_nearer(start, end, whole_power<power>(rest, steps, inverse), false);
}

// The powers that multiplication serves; all others take a logarithm.
#define FASTSCHED_WHOLE_POWERS(X) X(2) X(3) X(4) X(5) X(6) X(7) X(8)

// (rest/n)**power = 2**y.
template <bool whole = false>
FASTSCHED_SHARED Pair real_exponent(double power, Pair rest, double steps, double inverse) {
  return multiply(power, log2_ratio<whole>(rest, {steps, 0.0}, rest.high * inverse));
}

FASTSCHED_SHARED_INNER double real_power_mix(double start, double end, Pair y) {
  return mix(start, end, complements(exp2_parts_falling(y)));
}

// end + (start - end) * (rest/n)**power; inverse = 1/n.
template <class Number, int known>
FASTSCHED_SHARED_INNER double power_mix(double start, double end, double power, Pair past, Pair rest,
                                        double steps, double inverse) {
  if constexpr (is_wide<Number>) {
    const Wide y = power * log2_of_1_plus(-(widen(past) / steps));
    return mix(start, end, Weights<Wide>{exp2(y), -exp2_minus_1(y)});
  } else {
    if constexpr (known == unknown) {
#define FASTSCHED_CASE(n) \
  if (power == n) return whole_power_mix<n, unknown>(start, end, past, rest, steps, inverse);
      FASTSCHED_WHOLE_POWERS(FASTSCHED_CASE)
#undef FASTSCHED_CASE
    }
    return real_power_mix(start, end, real_exponent(power, rest, steps, inverse));
  }
}

// From x**k = 2**y.
FASTSCHED_SHARED double warped_cosine_from(const Curve& c, Pair y) {
  const PairPower2 w = exp2_pair_falling(y);
  // x**k or 1 - x**k, the smaller, with the digits that one double has no room for: its square doubles the
  // error.
  const bool near_start = fused(w.scale, w.fraction.high, w.scale) < 0.5;
  const double sign = choose(near_start, w.scale, -w.scale),
               base = choose(near_start, w.scale, 1.0 - w.scale);
  const double high = fused(sign, w.fraction.high, base);
  const double low = fused(sign, w.fraction.low, fused(sign, w.fraction.high, base - high));
  return arc_from(c.start, c.end, fused(high, high, 2.0 * high * low), near_start);
}

// p = k, q = 1/n. from = cos(pi/2 * x**k)**2.
template <class Number, int known = unknown>
FASTSCHED_SHARED double warped_cosine(const Curve& c, double t) {
  if constexpr (is_wide<Number>) {
    return shaped_cosine<Wide>({c.start, c.end, c.steps, 0.5, 1.0, c.p, 0.0, 0.0, 0.0}, t);
  } else {
    if (!(t > 0.0)) return c.start;
    return warped_cosine_from(c, multiply(c.p, log2_of_progress<double>(t, c.steps, c.q)));
  }
}

// y, where cos(pi/2 * x)**2 ** p = 2**y.
template <int known>
FASTSCHED_SHARED Pair cosine_exponent(const Curve& c, double t) {
  const Pair rest = rest_of<known>(c, t);
  const bool near_start = t < rest.high;
  const double steps = choose(near_start, t, rest.high), steps_low = choose(near_start, 0.0, rest.low);
  const double x = steps * c.q, x_low = c.q * (fused(-x, c.steps, steps) + steps_low);
  const Pair square = product(x, x);
  const Pair w = multiply(Pair{square.high, fused(2.0 * x, x_low, square.low)}, haversine_pair(square.high));
  const Pair rest_of_1 = sum(1.0, -w.high);
  const double high = choose(near_start, rest_of_1.high, w.high);
  const double low = choose(near_start, rest_of_1.low - w.low, w.low);
  return multiply(c.p, log2_ratio({high, low}, {1.0, 0.0}, high));
}

// p = exponent, q = 1/n. from = cos(pi/2 * x)**(2 * p).
template <class Number, int known = unknown>
FASTSCHED_SHARED double cosine_power(const Curve& c, double t) {
  if constexpr (is_wide<Number>) {
    return shaped_cosine<Wide>({c.start, c.end, c.steps, 0.5, c.p, 1.0, 0.0, 0.0, 0.0}, t);
  } else {
    return real_power_mix(c.start, c.end, cosine_exponent<known>(c, t));
  }
}

// p = power, q = 1/n. from = (1 - t/n)**p.
template <class Number, int known = unknown>
FASTSCHED_SHARED double polynomial(const Curve& c, double t) {
  return power_mix<Number, known>(c.start, c.end, c.p, {t, 0.0}, rest_of<known>(c, t), c.steps, c.q);
}

// p = power, q = 1/n. to = (t/n)**p.
template <class Number, int known = unknown>
FASTSCHED_SHARED double power_rise(const Curve& c, double t) {
  if (!(t > 0.0)) return c.start;
  if constexpr (is_wide<Number>) {
    const Wide y = c.p * log2_of_progress<Wide>(t, c.steps, c.q);
    return mix(c, Weights<Wide>{-exp2_minus_1(y), exp2(y)});
  } else {
    if (t < 0x1p-900) {
      return real_power_mix(c.end, c.start, multiply(c.p, log2_of_progress<double>(t, c.steps, c.q)));
    }
    return power_mix<double, known>(c.end, c.start, c.p, rest_of<known>(c, t), {t, 0.0}, c.steps, c.q);
  }
}

// Whether the powers of (1 - x**k)**power amplify what pairs lack of their bases.
FASTSCHED_SHARED bool amplifies(double k, double power) { return k > 64.0 || power > 6.0; }

// y, where (1 - x**k)**power = 2**y, from x**k = 2**warped.
FASTSCHED_SHARED Pair warped_polynomial_exponent(double power, Pair warped) {
  const PairPower2 w = exp2_pair_falling(warped);
  const Pair one_plus = fast_sum(1.0, w.fraction.high);
  const Pair rest = sum(1.0, -w.scale * one_plus.high);
  // Next to the last step x**k is 1 and the fraction: this is all that is left.
  const bool near_end = w.scale == 1.0;
  const double high = choose(near_end, -w.fraction.high, rest.high);
  const double low =
      choose(near_end, -w.fraction.low, fused(-w.scale, one_plus.low + w.fraction.low, rest.low));
  return multiply(power, log2_ratio({high, low}, {1.0, 0.0}, high));
}

// p = k, q = 1/n, r = power. from = (1 - (t/n)**p)**r.
template <class Number, int known = unknown>
FASTSCHED_SHARED double warped_polynomial(const Curve& c, double t) {
  if (!(t > 0.0)) return c.start;
  if (is_wide<Number> || amplifies(c.p, c.r)) {
    const Wide warped = c.p * log2_of_progress<Wide>(t, c.steps, c.q);
    const Wide gone = exp2(warped);
    const Wide y = c.r * (gone.a < 0.5 ? log2_of_1_plus(-gone) : log2(-exp2_minus_1(warped)));
    return mix(c, Weights<Wide>{exp2(y), -exp2_minus_1(y)});
  }
  const Pair warped = multiply(c.p, log2_of_progress<double>(t, c.steps, c.q));
  return real_power_mix(c.start, c.end, warped_polynomial_exponent(c.r, warped));
}

// p + q = log2 of the ratio between neighbouring steps; start * 2**((p + q) * t). r = a power of two: the
// exponent is split at the last multiple of r, and the two powers are multiplied. A table takes the second
// from a list of r.
template <class Number, int known = unknown>
FASTSCHED_SHARED double exponential(const Curve& c, double t) {
  const double anchor = c.r * floor_positive(t / c.r);
  return exponential_anchor(c, anchor) * exponential_ratio<known>(c, t - anchor);
}

// A triangle whose height decays with every step: up over p steps and down over q, the weight of `end` is
// x * 2**((s + u) * t). v = the exponential's r.
FASTSCHED_SHARED Curve decay_of_damped(const Curve& c) {
  return {1.0, 1.0, c.steps, c.s, c.u, c.v, 0.0, 0.0, 0.0};
}

// One leg of it: x = (t - foot) * slope, where the triangle is 0 at its foot.
struct Slope {
  double foot, slope, top;
};

FASTSCHED_SHARED Slope slope_of(const Curve& c, const Leg& leg) {
  const bool rising = leg.start == c.start;
  return rising ? Slope{leg.begin, leg.inverse, leg.finish} : Slope{leg.finish, -leg.inverse, leg.begin};
}

// Whether the peak is the larger end: then nothing cancels.
FASTSCHED_SHARED bool is_damped_peak(const Curve& c) {
  return (c.end > 0.0 && c.end >= c.start) || (c.end < 0.0 && c.end <= c.start);
}

// `local`: t within its cycle.
FASTSCHED_SHARED double damped_peak(const Curve& c, Slope leg, double local, double decay) {
  return fused(c.end - c.start, (local - leg.foot) * leg.slope * decay, c.start);
}

// Else 1 - x * decay is needed to its own last bits.
template <class Number>
FASTSCHED_SHARED double damped_dip(const Curve& c, Slope leg, double local, double t, double decay) {
  if constexpr (is_wide<Number>) {
    const Wide x = widen(sum(local, -leg.foot)) / (leg.top - leg.foot);
    const Wide weight = x * exp2(t * widen(Pair{c.s, c.u}));
    return mix(c, Weights<Wide>{1.0 - weight, weight});
  } else {
    const Pair y = product(c.s, t);
    const double fall = one_minus_exp2({y.high, fused(c.u, t, y.low)});
    const double x = (local - leg.foot) * leg.slope, rest = (leg.top - local) * leg.slope;
    return mix(c, Weights<double>{fused(x, fall, rest), x * decay});
  }
}

template <class Number, int known = unknown>
FASTSCHED_SHARED double damped(const Curve& c, double t) {
  const Phase phase = phase_of_triangle(c, t);
  const Slope leg = slope_of(c, phase.leg);
  const double local = t - phase.origin, decay = exponential<double>(decay_of_damped(c), t);
  return is_damped_peak(c) && !is_wide<Number> ? damped_peak(c, leg, local, decay)
                                               : damped_dip<Number>(c, leg, local, t, decay);
}

// r = the length of a stair, p + q = log2 of the ratio between neighbouring stairs, s = the exponential's r.
template <class Number, int known = unknown>
FASTSCHED_SHARED double staircase(const Curve& c, double t) {
  return exponential<Number>(stairs_of_staircase(c), whole_turns(t, c.r));
}

// p = rate / every. start / (1 + rate * t / every).
template <class Number, int known = unknown>
FASTSCHED_SHARED double inverse_time(const Curve& c, double t) {
  return c.start / fused(c.p, t, 1.0);
}

// r = the length of a stair, p = rate.
template <class Number, int known = unknown>
FASTSCHED_SHARED double inverse_staircase(const Curve& c, double t) {
  return inverse_time<Number>(c, whole_turns(t, c.r));
}

// p = timescale, q + r = timescale + shift. start / sqrt((t + q + r) / p).
template <class Number, int known = unknown>
FASTSCHED_SHARED double inverse_sqrt(const Curve& c, double t) {
  const Pair moved = sum(t, c.q);
  return c.start * root(c.p / (moved.high + (moved.low + c.r)));
}

// The exponent of start joins the power's: neither then leaves the range of numbers where their product does
// not.
FASTSCHED_SHARED Pair power_law_exponent(const Curve& c, double t) {
  const Pair y = real_exponent(c.p, sum(t, c.q), c.q, c.r);
  const Pair total = sum(scaled(c.start).exponent, y.high);
  return {total.high, total.low + y.low};
}

FASTSCHED_SHARED double power_law_from(const Curve& c, Pair y) {
  return scaled(c.start).significand * exp2(y);
}

// p = -exponent, q = timescale, r = 1/timescale. start * (1 + t/q)**p.
template <class Number, int known = unknown>
FASTSCHED_SHARED double power_law(const Curve& c, double t) {
  return power_law_from(c, power_law_exponent(c, t));
}

// p + q + r and s + u + v: y = (p + q + r) + (s + u + v) * t, 2**y = exp(2 z). from = (1 - tanh z)/2 = 1/(1 +
// 2**y).
template <class Number, int known = unknown>
FASTSCHED_SHARED double tanh(const Curve& c, double t) {
  if constexpr (is_wide<Number>) {
    const Wide power = exp2(Wide{c.p, c.q, c.r} + t * Wide{c.s, c.u, c.v});
    const Wide from = widen(1.0) / (widen(1.0) + power);
    return mix(c, Weights<Wide>{from, power * from});
  } else {
    const Pair slope = product(c.s, t);
    Pair y = sum(c.p, slope.high);
    y.low += c.q + fused(c.u, t, slope.low);
    const double power = exp2_in_range(y);  // lower and upper are at most 300 in size
    const double from = 1.0 / (1.0 + power);
    return mix(c, Weights<double>{from, power * from});
  }
}

// from = (1 - x)/(1 - x/2).
template <class Number, int known = unknown>
FASTSCHED_SHARED double rex(const Curve& c, double t) {
  const Pair rest = rest_of<known>(c, t);
  if constexpr (is_wide<Number>) {
    const Wide from = scale_by_power_of_two(widen(rest), 2.0) / (widen(c.steps) + widen(rest));
    return mix(c, Weights<Wide>{from, 1.0 - from});
  } else {
    const double to = t, from = 2.0 * rest.high, whole = c.steps + rest.high;
    const bool near_start = to < from;
    const double near = choose(near_start, c.start, c.end), far = choose(near_start, c.end, c.start);
    return fused((far - near) / whole, choose(near_start, to, from), near);
  }
}

// p = 1/n. from = 1 - sqrt(x) = (n - t)/(n + sqrt(n t)).
template <class Number, int known = unknown>
FASTSCHED_SHARED double one_minus_sqrt(const Curve& c, double t) {
  if constexpr (is_wide<Number>) {
    const Wide to = root(widen(t) / c.steps);
    return mix(c, Weights<Wide>{1.0 - to, to});
  } else {
    const double middle = root(c.steps * t);
    return mix(c, Weights<double>{rest_of<known>(c, t).high / (c.steps + middle), middle * c.p});
  }
}

// p = 1/n. from = 2 * 0.5**x - 1 = 2**(1 - x) - 1.
template <class Number, int known = unknown>
FASTSCHED_SHARED double half_decay(const Curve& c, double t) {
  const Pair rest = rest_of<known>(c, t);
  if constexpr (is_wide<Number>) {
    const Wide from = exp2_minus_1(widen(rest) / c.steps);
    return mix(c, Weights<Wide>{from, 1.0 - from});
  } else {
    const double x = rest.high * c.p;
    const Power2 w = exp2_parts_in_range({x, c.p * (fused(-x, c.steps, rest.high) + rest.low)});
    return mix(c, Weights<double>{fused(w.scale, w.fraction, w.scale - 1.0),
                                  fused(-w.scale, w.fraction, 2.0 - w.scale)});
  }
}

// p = 1/log2(1 + n). w = log(1 + t) / log(1 + n).
template <class Number, int known = unknown>
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
    return mix_nearer(c.start, c.end, log.high * c.p, is_start);
  }
}

// Every curve by name, in the order of its code in a program.
#define FASTSCHED_CURVES(X) \
  X(constant)               \
  X(cosine)                 \
  X(shaped_cosine)          \
  X(logarithmic)            \
  X(inverse_time)           \
  X(inverse_sqrt)           \
  X(power_law)              \
  X(tanh)                   \
  X(rex)                    \
  X(one_minus_sqrt)         \
  X(half_decay)             \
  X(damped)                 \
  X(polynomial)             \
  X(power_rise)             \
  X(exponential)            \
  X(linear)                 \
  X(half_cosine)            \
  X(one_cycle)              \
  X(restarts)               \
  X(triangle)               \
  X(staircase)              \
  X(inverse_staircase)      \
  X(warped_cosine)          \
  X(cosine_power)           \
  X(warped_polynomial)

// The curves made of legs, and those whose table is nothing but their formula at every step.
#define FASTSCHED_PHASED_CURVES(X) X(linear) X(half_cosine) X(one_cycle) X(restarts) X(triangle)
#define FASTSCHED_PLAIN_CURVES(X) \
  X(constant)                     \
  X(cosine)                       \
  X(shaped_cosine)                \
  X(logarithmic)                  \
  X(inverse_time)                 \
  X(inverse_sqrt)                 \
  X(tanh)                         \
  X(rex)                          \
  X(one_minus_sqrt)               \
  X(half_decay)

}  // namespace fastsched
