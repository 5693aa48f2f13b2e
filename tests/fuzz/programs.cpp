// Programs of hostile instructions: what the module's check accepts must run to its end within its memory, at
// every step and in every table. That tables hold the bits of single values is a law of programs that
// schedules compile to, which the tests of those have; numbers that no schedule has may overflow in one and
// not in the other.
//
// Includes the binding for its check, as Python's arrays reach it; no interpreter runs.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "bindings/schedule.cpp"
#include "program_bytes.hpp"

namespace fastsched {

namespace baseline {
extern const TableKernels table_kernels;
}

// dispatch.cpp's, which lists instruction sets that a harness does not build.
int usable_threads() { return 1; }
const InstructionSet& instruction_set() {
  static const InstructionSet only = {"baseline", baseline::table_kernels, {}};
  return only;
}

}  // namespace fastsched

namespace {

using namespace fastsched;

void require_same(double one, double in_array, double step) {
  if (bits_of(one) == bits_of(in_array) || (one != one && in_array != in_array)) return;
  std::fprintf(stderr, "step %.17g: the value is %a, in an array it is %a\n", step, one, in_array);
  std::abort();
}

template <class T>
std::vector<T> table_of(const Program& program, std::int64_t start, const fuzz::Asked& asked,
                        std::int64_t groups, void (*kernel)(const TableRequest&, T*)) {
  std::vector<std::int32_t> column(static_cast<std::size_t>(groups), 0);
  if (groups > 2) column[2] = -1;
  const std::vector<double> scale(static_cast<std::size_t>(groups), 1.0);
  std::vector<T> out(static_cast<std::size_t>(asked.steps * groups));
  kernel({&program, 1, column.data(), scale.data(), groups, start, asked.steps, asked.by_column ? 1 : groups,
          asked.by_column ? asked.steps : 1},
         out.data());
  return out;
}

void run_table(const Program& program, std::int64_t start, const fuzz::Asked& asked) {
  const TableKernels& kernels = baseline::table_kernels;
  table_of<double>(program, start, asked, 1, kernels.table_f64);
  table_of<float>(program, start, asked, asked.groups, kernels.table_f32);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Bytes bytes(data, size);
  const fuzz::Asked asked = fuzz::read_asked(bytes);
  const Source source = fuzz::read_program(bytes);
  if (!find_fault(source).empty()) return 0;
  const Program program = source.program();
  for (const double step : asked.at) {
    if (!(step >= 0 && step <= largest_step)) continue;
    double through_array;
    baseline::table_kernels.values(program, &step, 1, &through_array);
    require_same(baseline::table_kernels.value(program, step), through_array, step);
  }
  if (!(asked.at[1] >= 0 && asked.at[1] + static_cast<double>(asked.steps) <= largest_step)) return 0;
  run_table(program, static_cast<std::int64_t>(asked.at[1]), asked);
  return 0;
}
