// The native module's table of contents. Nothing here computes.
#include <cstdlib>
#include <string>

#include "bindings/bindings.hpp"
#include "cpu/kernels.hpp"

namespace {

void use_isa(const std::string& name) {
  if (fastsched::use_instruction_set(name.c_str())) return;
  std::string known;
  for (auto it = fastsched::instruction_set_names(); *it != nullptr; ++it) {
    known += (known.empty() ? "" : ", ") + std::string(*it);
  }
  throw pybind11::value_error("FASTSCHED_ISA: this machine has " + known + "; got '" + name +
                              "'; unset it to use the widest");
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "Native kernels of fastsched; use the names of the package instead.";
  const char* const isa = std::getenv("FASTSCHED_ISA");
  if (isa != nullptr && *isa != '\0') use_isa(isa);  // empty is unset, as for FASTSCHED_BACKEND

  m.def("isa", [] { return fastsched::instruction_set().name; }, "Name of the instruction set in use.");
  m.def("use_isa", &use_isa, pybind11::arg("name"),
        "Switches the instruction set, for tests and benchmarks.");
  m.def(
      "isas",
      [] {
        pybind11::list names;
        for (auto it = fastsched::instruction_set_names(); *it != nullptr; ++it) names.append(*it);
        return names;
      },
      "Names of the instruction sets that this machine has, narrowest first.");

  fastsched::bind_schedule(m);
  fastsched::bind_optimizer(m);
  fastsched::bind_scheduler(m);
  fastsched::bind_cuda(m);
}
