// Lets Python say what callgrind counts; count_instructions.py compiles and calls it.
#include <valgrind/callgrind.h>

extern "C" {

void start_counting() {
  CALLGRIND_START_INSTRUMENTATION;
  CALLGRIND_ZERO_STATS;
}

// The counts since start_counting() go to a file of their own under this name.
void stop_counting(const char* name) {
  CALLGRIND_DUMP_STATS_AT(name);
  CALLGRIND_STOP_INSTRUMENTATION;
}
}
