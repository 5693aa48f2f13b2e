// One hyperparameter of all groups: a few distinct programs, and for every group which of them times which
// scale.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.hpp"
#include "program.hpp"

namespace fastsched {

struct Row {
  std::vector<std::vector<Instruction>> programs;  // the distinct curves
  std::vector<std::int32_t> column;                // per group: index into programs
  std::vector<double> scale;                       // per group: its base value

  // out[g] = scale[g] * programs[column[g]](step). Each distinct program is evaluated once; `scratch` holds
  // programs.size().
  void at(double step, double* scratch, double* out) const;
};

}  // namespace fastsched
