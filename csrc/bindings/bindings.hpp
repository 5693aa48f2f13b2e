// One function per part of the module.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdlib>
#include <new>

#include "cpu/row.hpp"

namespace fastsched {

// pybind11 gives a method of an object that was made by __new__ alone memory that no constructor has seen.
// Zeroed, it is an empty vector, a null object, a false flag: such an object is refused or does nothing, and
// never crashes.
struct Zeroed {
  static void* operator new(std::size_t size) {
    if (void* memory = std::calloc(1, size)) return memory;
    throw std::bad_alloc();
  }
  static void* operator new(std::size_t, void* place) { return place; }
  static void operator delete(void* memory) { std::free(memory); }
};

struct RowObject : Zeroed, Row {};

void bind_schedule(pybind11::module_& m);   // schedule.cpp: programs, rows and tables
void bind_optimizer(pybind11::module_& m);  // optimizer.cpp: the fused step
void bind_scheduler(pybind11::module_& m);  // scheduler.cpp: what schedulers write into groups
void bind_cuda(pybind11::module_& m);       // cuda.cpp: what `fastsched doctor` asks of the driver

}  // namespace fastsched
