// One hyperparameter of all groups: a few distinct programs, and for every group which of them times which
// scale.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/kernels.hpp"
#include "program.hpp"

namespace fastsched {

// What owns a program's memory.
struct Source {
  std::vector<Instruction> code;
  std::vector<double> samples;

  Program program() const { return {code.data(), static_cast<std::int64_t>(code.size()), samples.data()}; }
};

using SharedSource = std::shared_ptr<const Source>;

struct Row {
  std::vector<SharedSource> programs;  // the distinct curves
  std::vector<std::int32_t> column;  // per group: index into programs; -1 where the value is the scale itself
  std::vector<double> scale;         // per group: its base value; NaN where the group lacks the name

  std::size_t groups() const { return scale.size(); }

  // out[g] = scale[g] * programs[column[g]](step). Each distinct program is evaluated once; `scratch` holds
  // programs.size().
  void at(double step, double* scratch, double* out) const {
    const auto value = instruction_set().table.value;
    for (std::size_t p = 0; p < programs.size(); ++p) scratch[p] = value(programs[p]->program(), step);
    for (std::size_t g = 0; g < scale.size(); ++g) {
      out[g] = column[g] < 0 ? scale[g] : scale[g] * scratch[column[g]];
    }
  }
};

}  // namespace fastsched
