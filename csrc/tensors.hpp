// What a tensor is to a kernel: an address, a length, and strides where it is not one dense block.
#pragma once

#include "updates.hpp"

namespace fastsched {

enum Operand { param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, operands };

// The layout of one update's operands where they don't share a dense one; strides count elements.
struct Strided {
  int dims;
  const std::int64_t* shape;
  const std::int64_t* strides[operands];  // null where the rule doesn't use the operand
};

// The update of one tensor.
struct AdamWork {
  float* at[operands];     // `grad` is only read; max_exp_avg_sq is null without amsgrad
  std::int64_t count;      // elements
  const Strided* strided;  // null: all operands have the same dense layout, so one linear sweep serves
  AdamW<float> rule;
};

}  // namespace fastsched
