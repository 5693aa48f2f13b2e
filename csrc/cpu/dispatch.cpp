// Picks the instruction set once, when the module is imported.
#include <omp.h>
#include <pthread.h>

#include <cstring>

#include "cpu/kernels.hpp"

namespace fastsched {

#define FASTSCHED_DECLARE(isa)             \
  namespace isa {                          \
  extern const TableKernels table_kernels; \
  extern const StepKernels step_kernels;   \
  }

FASTSCHED_DECLARE(baseline)
#if defined(FASTSCHED_X86)
FASTSCHED_DECLARE(avx2)
FASTSCHED_DECLARE(avx512)
#endif

namespace {

constexpr int most = 3;
InstructionSet sets[most];
const char* names[most + 1];
const InstructionSet* current = nullptr;

// Not in a static initialiser: the order of those across translation units is unspecified.
void list_sets() {
  int count = 0;
  sets[count++] = {"baseline", baseline::table_kernels, baseline::step_kernels};
#if defined(FASTSCHED_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    sets[count++] = {"avx2", avx2::table_kernels, avx2::step_kernels};
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
      sets[count++] = {"avx512", avx512::table_kernels, avx512::step_kernels};
    }
  }
#endif
  for (int i = 0; i < count; ++i) names[i] = sets[i].name;
  current = &sets[count - 1];
}

}  // namespace

int usable_threads() {
  static bool forked = false;
  static const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
  return forked || registered != 0 ? 1 : omp_get_max_threads();
}

const char* const* instruction_set_names() {
  if (current == nullptr) list_sets();
  return names;
}

const InstructionSet& instruction_set() {
  if (current == nullptr) list_sets();
  return *current;
}

bool use_instruction_set(const char* name) {
  if (current == nullptr) list_sets();
  for (int i = 0; names[i] != nullptr; ++i) {
    if (std::strcmp(name, names[i]) == 0) {
      current = &sets[i];
      return true;
    }
  }
  return false;
}

}  // namespace fastsched
