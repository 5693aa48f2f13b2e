// A schedule as a short flat program: plain data, executed alike by host and device, without recursion.
//
// Instructions run forward only. A curve pushes its value; multiply, add and scale work on the top of the
// stack; a branch chooses between what comes before and after an edge, so a chain of n pieces is a binary
// tree of branches, O(log n).
#pragma once

#include "curves.hpp"

namespace fastsched {

#define FASTSCHED_OPERATIONS(X)                                                  \
  X(branch)   /* from step `offset` on, go to `next`; before it, fall through */ \
  X(multiply) /* the two topmost values */                                       \
  X(add)      /* the two topmost values */                                       \
  X(scale)    /* the topmost value, by curve.start */

enum class Code : std::int32_t {
#define FASTSCHED_NAME(name) name,
  FASTSCHED_CURVES(FASTSCHED_NAME) FASTSCHED_OPERATIONS(FASTSCHED_NAME)
#undef FASTSCHED_NAME
      count
};

struct Instruction {
  Code code;
  std::int32_t next;  // the index to go on with, always larger than this one's; the program's size to end
  double offset;      // the step at which a curve begins, or a branch's edge: an integer
  Curve curve;
};

static_assert(sizeof(Instruction) == 64, "Python writes programs as arrays of this layout");

struct Program {
  const Instruction* code;
  std::int64_t size;
};

// The compiler in schedule.py evaluates the deeper operand first: depth d takes at least 2**(d-1) curves.
constexpr int stack_size = 32;
// Steps and horizons are at most this: every integer up to it is a double.
constexpr double largest_step = 9007199254740992.0;

// The curves whose formula differs only by the nearer end: see Half.
FASTSCHED_SHARED constexpr bool has_halves(Code code) {
  return code == Code::linear || code == Code::half_cosine;
}

FASTSCHED_SHARED double inside(Code code, const Curve& c, double t) {
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

// What a curve holds from its last step on: `end`, but a cosine may end anywhere in its cycle.
FASTSCHED_SHARED double held(Code code, const Curve& c) {
  return code == Code::cosine || code == Code::shaped_cosine ? inside(code, c, c.steps) : c.end;
}

FASTSCHED_SHARED double curve_value(Code code, const Curve& c, double t) {
  return t < c.steps ? inside(code, c, t) : held(code, c);
}

// The value at a step, an integer or a fraction, 0 <= step <= 2**53, of a program that `find_fault` accepts.
FASTSCHED_SHARED_CALL double value(const Program& program, double step) {
  double stack[stack_size];
  int depth = 0;
  for (std::int64_t i = 0; i < program.size;) {
    const Instruction& in = program.code[i];
    std::int64_t next = in.next;
    switch (in.code) {
      case Code::branch:
        next = step < in.offset ? i + 1 : next;
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
      default:
        stack[depth++] = curve_value(in.code, in.curve, step - in.offset);
    }
    i = next;
  }
  return stack[0];
}

}  // namespace fastsched
