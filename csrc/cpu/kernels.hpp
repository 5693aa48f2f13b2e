// What an instruction set offers: plain function pointers, filled once by each translation unit of step.cpp
// and table.cpp.
#pragma once

#include <cstdint>

#include "numbers.hpp"
#include "program.hpp"
#include "tensors.hpp"

namespace fastsched {

// A table of `steps` rows and `groups` columns: out[i * row_stride + g * column_stride] =
// scale[g] * value(programs[column[g]], start + i), rounded once to the table's type. A column of -1 is the
// constant scale[g].
struct TableRequest {
  const Program* programs;
  std::int64_t program_count;
  const std::int32_t* column;
  const double* scale;
  std::int64_t groups;
  std::int64_t start, steps;
  std::int64_t row_stride, column_stride;  // in elements
};

struct TableKernels {
  // The value of one program at one step (an integer or a fraction, >= 0, at most 2**53).
  double (*value)(const Program& program, double step);
  // out[i] = value(program, steps[i]).
  void (*values)(const Program& program, const double* steps, std::int64_t count, double* out);
  // Large tables are shared between OpenMP's threads; the bits do not depend on how.
  void (*table_f64)(const TableRequest& request, double* out);
  void (*table_f32)(const TableRequest& request, float* out);
};

struct StepKernels {
  // One update of every tensor in `work` (see tensors.hpp), spread over `threads` threads in equal shares of
  // elements.
  void (*step)(const TensorUpdate* work, std::int64_t count, int threads);
  // Of all gradients in `work` as they lie in memory: the sum of the elements' sizes, of their squares, or
  // the largest size. Each tensor's counts `weight` times (null: once). The bits do not depend on threads or
  // order.
  double (*power_sum)(const TensorUpdate* work, std::int64_t count, const double* weight, NormKind kind,
                      int threads);
};

struct InstructionSet {
  const char* name;
  TableKernels table;
  StepKernels step;
};

// How many threads a kernel may use: OpenMP's number, which torch.set_num_threads sets; one in a forked
// child, where OpenMP's threads are gone and a parallel region would wait for them forever.
int usable_threads();

// The instruction set in use: the widest that the machine has, or the one that FASTSCHED_ISA names.
const InstructionSet& instruction_set();
// The names usable on this machine, narrowest first; nullptr ends the list.
const char* const* instruction_set_names();
// Switches; false where the name is unknown or the machine lacks it. For tests and benchmarks: not while a
// kernel runs.
bool use_instruction_set(const char* name);

}  // namespace fastsched
