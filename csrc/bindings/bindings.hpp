// One function per part of the module.
#pragma once

#include <pybind11/pybind11.h>

namespace fastsched {

void bind_schedule(pybind11::module_& m);   // schedule.cpp: programs, rows and tables
void bind_optimizer(pybind11::module_& m);  // optimizer.cpp: the fused step

}  // namespace fastsched
