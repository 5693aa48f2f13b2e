// What an optimizer was made with, and what it holds of every parameter.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

#include "bindings/group.hpp"
#include "bindings/tensor.hpp"
#include "numbers.hpp"
#include "tensors.hpp"

namespace fastsched {

// What an optimizer was made with, beside its groups.
struct Options : Settings {
  bool zero_grads = false, amp = false, ema = false, master_weights = false, stochastic_rounding = false;
  bool state_given = false;  // else the averages are float32, or float64 for float64 parameters
  Format state = Format::float32;
};

using Mask = unsigned;  // of operands
constexpr Mask bit(int operand) { return Mask{1} << operand; }

inline PyObject* state_key(Rule rule, int operand) {
  switch (operand) {
    case first:
      return rule == Rule::sgd ? names().momentum_buffer : names().exp_avg;
    case second:
      return names().exp_avg_sq;
    case top:
      return names().max_exp_avg_sq;
    case ema:
      return names().ema;
    default:
      return names().master_param;
  }
}

// The tensors of state[p] that this engine owns, or has adopted: then they are torch's, whose memory may move
// between two steps, and their addresses are read again at each.
struct State {
  bool adopted = false;
  int device = on_cpu;  // what follows lies there; on a CUDA device the host reads none of it
  Memory memory;
  pybind11::object step_tensor, tensors[operands];
  float* step = nullptr;  // null: not bound. float32, as torch has it
  char* at[operands] = {};
  Format format[operands] = {};
  Mask held = 0;
  std::int64_t steps = 0;  // the same, exact past 2**24
  bool complex = false;
  std::vector<std::int64_t> shape, strides;                              // strides are dense
  bool fresh_momentum = false, fresh_ema = false, fresh_master = false;  // hold nothing yet
  bool told = false;  // the CUDA device knows `steps` and what is fresh, and goes on by itself

  std::int64_t count() const {
    std::int64_t elements = 1;
    for (const std::int64_t length : shape) elements *= length;
    return elements;
  }
};

struct Param {
  pybind11::object object;
  Watched dict;  // state[p]
  State state;
  bool sharded = false;            // a DTensor: what this rank holds of it is updated
  bool repeated = false;           // stands earlier too; torch has warned of it, and it is updated once
  PyObject* plain_grad = nullptr;  // the gradient last seen without torch's negative bit; only compared
  void* plain_data = nullptr;
};

}  // namespace fastsched
