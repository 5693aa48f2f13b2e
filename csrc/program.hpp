// A schedule as a short flat program: plain data, executed alike by host and device, without recursion.
//
// Instructions run forward only. A curve or a sample pushes its value; multiply, add, scale, clip and noise
// work on the top of the stack; a branch chooses between what comes before and after an edge, so a chain of n
// pieces is a binary tree of branches, O(log n). Cycle or pace and resume enclose what repeats or runs faster
// or slower: in between, time is that within the cycle, or at that pace.
#pragma once

#include "curves.hpp"
#include "noise.hpp"

namespace fastsched {

#define FASTSCHED_OPERATIONS(X)                                                                             \
  X(sample)   /* push samples[curve.p + t], t rounded down and at most steps - 1 */                         \
  X(branch)   /* from step `offset` on, go to `next`; before it, fall through */                            \
  X(multiply) /* the two topmost values */                                                                  \
  X(add)      /* the two topmost values */                                                                  \
  X(scale)    /* the topmost value, by curve.start */                                                       \
  X(clip)     /* the topmost value, to curve.start .. curve.end */                                          \
  X(noise)  /* the topmost value, by 1 + e; curve.p and q: the seed's halves; start: limit; r: steepness */ \
  X(cycle)  /* keep time and set it to that within a cycle of curve.p steps, from `offset` on; at `steps`,  \
               the last cycle's end, it stops */                                                            \
  X(pace)   /* keep time and set it to curve.p / curve.q times that from `offset` on; from `steps` on, to   \
               curve.r */                                                                                   \
  X(resume) /* the time kept */

enum class Code : std::int32_t {
#define FASTSCHED_NAME(name) name,
  FASTSCHED_CURVES(FASTSCHED_NAME) FASTSCHED_OPERATIONS(FASTSCHED_NAME)
#undef FASTSCHED_NAME
      count
};

struct Instruction {
  Code code;
  std::int32_t next;  // the index to go on with, always larger than this one's; the program's size to end
  double offset;      // the step at which a curve begins, perhaps before 0, or a branch's edge: an integer
  Curve curve;
};

static_assert(sizeof(Instruction) == 88, "Python writes programs as arrays of this layout");

struct Program {
  const Instruction* code;
  std::int64_t size;
  const double* samples;
};

// The compiler in _program.py evaluates the deeper operand first: depth d takes at least 2**(d-1) curves.
constexpr int stack_size = 32;
// Each cycle inside another at least halves the steps that are left: 53 of them reach 1. With changes of pace
// between them there could be more; schedule.py refuses those.
constexpr int most_cycles = 64;
// Steps and horizons are at most this: every integer up to it is a double. Time that would go further stops.
constexpr double largest_step = 9007199254740992.0;
constexpr std::int64_t largest_position = std::int64_t{1} << 53;  // the same, where updates are counted

FASTSCHED_SHARED_INNER double inside(Code code, const Curve& c, double t) {
  const bool wide = crosses_zero(c);
  switch (code) {
#define FASTSCHED_CASE(name) \
  case Code::name:           \
    return wide ? name<Wide>(c, t) : name<double>(c, t);
    FASTSCHED_CURVES(FASTSCHED_CASE)
#undef FASTSCHED_CASE
    default:
      return 0.0;
  }
}

// What a curve holds from its last step on: `end`, but a cosine may end anywhere in its cycle and a tanh
// never quite arrives.
FASTSCHED_SHARED double held(Code code, const Curve& c) {
  const bool ends_elsewhere = code == Code::cosine || code == Code::shaped_cosine || code == Code::tanh;
  return ends_elsewhere ? inside(code, c, c.steps) : c.end;
}

FASTSCHED_SHARED double curve_value(Code code, const Curve& c, double t) {
  return t < c.steps ? inside(code, c, t) : held(code, c);
}

FASTSCHED_SHARED double sample_value(const Program& program, const Curve& c, double t) {
  const double last = c.steps - 1.0;
  return program.samples[static_cast<std::int64_t>(c.p + floor_positive(t < last ? t : last))];
}

FASTSCHED_SHARED double clipped(const Curve& c, double value) {
  const double floored = value < c.start ? c.start : value;
  return floored > c.end ? c.end : floored;
}

FASTSCHED_SHARED double noisy(const Curve& c, double value, double t) {
  const std::uint64_t seed = static_cast<std::uint64_t>(c.p) << 32 | static_cast<std::uint64_t>(c.q);
  const double step = t < c.steps ? floor_positive(t) : c.steps;
  return value * (1.0 + noise(seed, static_cast<std::uint64_t>(step), c.start, c.r));
}

FASTSCHED_SHARED double at_most_largest_step(double t) { return t < largest_step ? t : largest_step; }

// Steps since an instruction's beginning; a program that asks for a curve ahead of it gets its first value.
FASTSCHED_SHARED double since(const Instruction& in, double time) {
  return time > in.offset ? at_most_largest_step(time - in.offset) : 0.0;
}

// Time within a cycle, t steps after the first one's beginning.
FASTSCHED_SHARED double cycled(const Curve& c, double t) {
  return t < c.steps ? fused(-whole_turns(t, c.p), c.p, t) : c.p;
}

// Time at another pace, t steps after its beginning: rounded once where p * t is an integer up to 2**53.
FASTSCHED_SHARED double paced(const Curve& c, double t) {
  return t < c.steps ? at_most_largest_step(c.p * t / c.q) : c.r;
}

// The value at a step, an integer or a fraction, 0 <= step <= 2**53, of a program that `find_fault` accepts.
FASTSCHED_SHARED_CALL double value(const Program& program, double step) {
  double stack[stack_size], kept[most_cycles];
  int depth = 0, cycles = 0;
  double time = step;
  for (std::int64_t i = 0; i < program.size;) {
    const Instruction& in = program.code[i];
    std::int64_t next = in.next;
    switch (in.code) {
      case Code::sample:
        stack[depth++] = sample_value(program, in.curve, since(in, time));
        break;
      case Code::branch:
        next = time < in.offset ? i + 1 : next;
        break;
      case Code::multiply:
        --depth;
        stack[depth - 1] *= stack[depth];
        break;
      case Code::add:
        --depth;
        stack[depth - 1] += stack[depth];
        break;
      case Code::scale:
        stack[depth - 1] *= in.curve.start;
        break;
      case Code::clip:
        stack[depth - 1] = clipped(in.curve, stack[depth - 1]);
        break;
      case Code::noise:
        stack[depth - 1] = noisy(in.curve, stack[depth - 1], since(in, time));
        break;
      case Code::cycle:
        kept[cycles++] = time;
        time = cycled(in.curve, since(in, time));
        break;
      case Code::pace:
        kept[cycles++] = time;
        time = paced(in.curve, since(in, time));
        break;
      case Code::resume:
        time = kept[--cycles];
        break;
      default:
        stack[depth++] = curve_value(in.code, in.curve, since(in, time));
    }
    i = next;
  }
  return stack[0];
}

}  // namespace fastsched
