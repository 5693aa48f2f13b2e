// What lies in a device's memory between and during steps, as host and kernels both see it. A device holds
// the truth of what it advances itself: position, skipped updates, hyperparameters, and every tensor's number
// of updates. The host sends edits, and reads back when somebody asks.
#pragma once

#include "numbers.hpp"
#include "program.hpp"
#include "tensors.hpp"

namespace fastsched::cuda {

// Every kernel runs with this many threads in a block, but `control` in a single, larger block.
constexpr int block_threads = 256;
constexpr int control_threads = 256;  // of 512, each would have too few registers for the curves
// Elements that one block of an update works on.
constexpr std::int64_t chunk = 8192;
// Blocks of the norm's launch at most, each of which leaves one partial result: their number must not depend
// on the device, or the norm's last bits would.
constexpr int most_partials = 2048;

// ---- what the device keeps

// One scheduled hyperparameter: as Row in cpu/row.hpp. `programs` is null where none is scheduled.
struct DeviceRow {
  const Program* programs;
  double* values;              // scratch, one per program
  const std::int32_t* column;  // per group; -1: the value is the scale itself
  const double* scale;         // per group; NaN: this group lacks the name, and keeps what it holds
  std::int32_t program_count;
};

constexpr int ema_row = hypers;  // of one group: the decay of the weights' average

struct Control {
  std::int64_t position;  // the update about to be made
  std::int64_t skipped;   // updates that were not, for gradients that were not finite
  double grad_norm;       // at the latest step that took one; NaN: none yet
  double ema_decay;       // of the update being made
  DeviceRow row[hypers + 1];
  std::int32_t skip;      // the update being made changes nothing
  std::int64_t sequence;  // how often `control` has run
};

// The same for the host, in its own page-locked memory: what `control` left when it last ran. `sequence` is
// written after the rest.
struct Report {
  std::int64_t position, skipped;
  double grad_norm;
  std::int64_t sequence;
};

// Of a parameter, or of a tensor whose average alone moves, from step to step.
enum Fresh : std::uint32_t { fresh_momentum = 1, fresh_ema = 2, fresh_master = 4 };  // hold nothing yet
struct Slot {
  std::int64_t steps;   // updates made; exact where the float32 tensor is not. -1: take the tensor's
  std::uint32_t fresh;  // of Fresh
};

// ---- what the host sends

// `group`'s hyperparameter, as somebody has written it.
struct HyperEdit {
  std::int32_t group, hyper;
  double value;
};

struct SlotEdit {
  std::int32_t slot;
  std::uint32_t fresh;
  std::int64_t steps;
};

// An lr that lies in a tensor of the group (capturable): read by each update, and where it is scheduled
// written for the next one. Null: there is none, and the lr is kept beside the other hyperparameters.
struct LrTensor {
  char* at;
  Format format;
};

// One tensor of this step. Operands that are not used are null.
struct DeviceTensor {
  char* at[operands];
  float* step;  // the number of updates as state[p] shows it; null for tensors whose average alone moves
  std::int64_t count;
  double share;          // what this rank counts of its gradient in a sum over ranks
  std::int64_t strided;  // where its layout begins among `layouts`; -1: one dense layout for all operands
  Format format[operands];
  std::int32_t group, slot;
  std::uint32_t place;  // among all parameters of the optimizer
  bool averaged_only;   // no update: its average follows it
  bool zero_grad;
  bool param_at_random;  // how a bfloat16 parameter without master is rounded
};

// A layout among `layouts`: the number of dimensions d, then d lengths, then d strides (in elements) each of
// the parameter, of the gradient and of everything else. Elements are counted in this order of dimensions,
// the last one fastest.
enum Layout : std::int32_t { of_param, of_grad, of_state, layout_operands };

// What one block of an update works on: elements [index * chunk, (index + 1) * chunk) of a tensor.
struct Portion {
  std::int32_t tensor, index;
};

// ---- from kernel to kernel within a step

// Of one tensor, made by `control` for the update that follows.
struct Prepared {
  Numbers numbers;
  Streams bits;
  std::uint32_t fresh;
};

// ---- what kernels are called with

// For each of `count` blocks: the terms of the gradients' elements, joined over a share of the portions, into
// partials[block]. A tensor's sum counts `share` times; a largest size counts whole.
struct NormArgs {
  const DeviceTensor* tensors;
  const std::int64_t* layouts;
  const Portion* portions;  // of tensors with gradients only
  std::int32_t portion_count;
  double* partials;
};

// Where ranks join their gradients: the partials, joined into joined[0]; joined[1] is set to `made`.
struct JoinArgs {
  const double* partials;
  std::int32_t partial_count;
  double made;
  double* joined;
};

enum class Phase : std::int32_t {
  whole,    // everything of a step
  tensors,  // one parameter of many at the same position: the update is made, the position stays
  advance,  // the end of such an update
  probe,    // no update: averages and masters that hold nothing start as the parameters
  edits     // nothing but the edits
};

struct ControlArgs {
  Settings settings;
  Phase phase;
  Control* control;
  Report* report;
  double* values;  // [group][hypers]
  const Constants* constants;
  const LrTensor* lr_tensors;  // per group; null: none
  std::int32_t group_count;
  Slot* slots;
  const DeviceTensor* tensors;
  Prepared* prepared;
  std::int32_t tensor_count;
  // Edits come first, in any phase.
  const HyperEdit* hyper_edits;
  const SlotEdit* slot_edits;
  std::int32_t hyper_edit_count, slot_edit_count;
  std::int64_t set_position;  // -1: leave it
  // The norm, if there is one: partials of this device; or `joined`, what ranks joined; or a number given on
  // the device; or the host's, NaN for none. One that is not finite skips the update.
  const double* partials;
  std::int32_t partial_count;
  const double* joined;       // joined[1] == 0: no rank makes an update, and nothing happens
  const void* given_norm_at;  // a float32 or float64 number on the device, after unscaling; null: none
  Format given_norm_format;
  double given_norm;        // after unscaling too
  bool skip;                // the host knows already that this update is to be skipped
  const float* grad_scale;  // of a GradScaler; null: none, and `unscale` stands
  const float* found_inf;
  double unscale;
};

struct UpdateArgs {
  const Control* control;
  const DeviceTensor* tensors;
  const Prepared* prepared;
  const std::int64_t* layouts;
  const Portion* portions;  // of this launch
  bool only_zero;           // zero the gradients, whatever else was decided
};

// ---- what an update is compiled for

enum class Kind : std::int32_t { adam, amsgrad, sgd, momentum, lion, none, kinds };

struct Variant {
  Kind kind;
  Format param;
  bool other_state;  // averages in another format than numbers are computed in
  bool strided;
};

FASTSCHED_SHARED constexpr int code_of(const Variant& v) {
  return static_cast<int>(v.kind) * 16 + static_cast<int>(v.param) * 4 + (v.other_state ? 2 : 0) +
         (v.strided ? 1 : 0);
}

FASTSCHED_SHARED constexpr Variant variant_of(int code) {
  return {static_cast<Kind>(code / 16), static_cast<Format>(code / 4 % 4), code / 2 % 2 != 0, code % 2 != 0};
}

// Kinds without averages need no second form for their format.
FASTSCHED_SHARED constexpr bool is_variant(int code) {
  const Kind kind = variant_of(code).kind;
  return kind < Kind::kinds && !(variant_of(code).other_state && (kind == Kind::sgd || kind == Kind::none));
}

constexpr int variant_codes = static_cast<int>(Kind::kinds) * 16;

}  // namespace fastsched::cuda
