// What a tensor is to a kernel: addresses, a length, number formats, and strides where it is not one dense
// block.
#pragma once

#include "formats.hpp"
#include "updates.hpp"

namespace fastsched {

// first, second, top: exp_avg, exp_avg_sq and max_exp_avg_sq of Adam; `first` is also SGD's momentum buffer
// and Lion's average. ema: the average of the weights. master: float32 weights of a half parameter.
enum Operand { param, grad, first, second, top, ema, master, operands };

// The layout of one update's operands where they don't share a dense one; strides count elements. Dimensions
// of length 1 are left out, so there are fewer than 64.
struct Strided {
  int dims;
  const std::int64_t* shape;
  const std::int64_t* strides[operands];  // null where the rule doesn't use the operand
};

// The update of one tensor.
struct TensorUpdate {
  char* at[operands];  // null where not used
  Format format[operands];
  std::int64_t count;      // elements
  const Strided* strided;  // null: all operands have the same dense layout, so one linear sweep serves
  Rule rule;
  Numbers numbers;
  bool fresh_ema, fresh_master;  // they hold nothing yet, and start as the parameter
  bool zero_grad;
  bool param_at_random;           // how a bfloat16 parameter without master is rounded
  Stream param_bits, state_bits;  // bfloat16 state is always rounded at random
};

// Values are computed in float64 for float64 parameters, else in float32.
FASTSCHED_SHARED bool is_double(const TensorUpdate& update) {
  return update.format[param] == Format::float64;
}

}  // namespace fastsched
