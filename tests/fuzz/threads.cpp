// The threaded loops under the thread sanitizer. libgomp is not instrumented, so what follows its joins would
// look like races; its three functions that the loops call stand here on std::thread, which is.
#include <omp.h>

#include <cstdio>
#include <thread>
#include <vector>

#include "program_bytes.hpp"
#include "work.hpp"

namespace {

thread_local int number_in_team = 0, team = 1;
constexpr int threads = 4;

}  // namespace

extern "C" {

void GOMP_parallel(void (*body)(void*), void* data, unsigned count, unsigned) {
  const auto run = [=](int number) {
    number_in_team = number, team = static_cast<int>(count);
    body(data);
  };
  std::vector<std::thread> others;
  for (unsigned t = 1; t < count; ++t) others.emplace_back(run, static_cast<int>(t));
  run(0);
  number_in_team = 0, team = 1;
  for (std::thread& other : others) other.join();
}
int omp_get_thread_num() { return number_in_team; }
int omp_get_num_threads() { return team; }
int omp_get_max_threads() { return threads; }
}

namespace {

using namespace fastsched;

// A warmup and a cosine, repeated.
Source program() {
  const double steps = 1000;
  Instruction cycle{}, branch{}, line{}, arc{}, resume{};
  cycle.code = Code::cycle, cycle.next = 1, cycle.curve.p = steps, cycle.curve.steps = infinity();
  branch.code = Code::branch, branch.next = 3, branch.offset = 100;
  line.code = Code::linear, line.next = 4, line.curve = {0, 1, 100, 1 / 100.0, 0, 0, 0, 0, 0};
  arc.code = Code::half_cosine, arc.next = 4, arc.offset = 100,
  arc.curve = {1, 0, 900, 1 / 810000.0, 0, 0, 0, 0, 0};
  resume.code = Code::resume, resume.next = 5;
  return {{cycle, branch, line, arc, resume}, {}};
}

template <class T>
unsigned long long table(const Source& source, std::int64_t steps, std::int64_t groups, bool by_column,
                         void (*kernel)(const TableRequest&, T*)) {
  const Program code = source.program();
  std::vector<std::int32_t> column(static_cast<std::size_t>(groups), 0);
  column.back() = groups > 1 ? -1 : 0;
  const std::vector<double> scale(static_cast<std::size_t>(groups), 0.5);
  std::vector<T> out(static_cast<std::size_t>(steps * groups));
  kernel({&code, 1, column.data(), scale.data(), groups, 3, steps, by_column ? 1 : groups,
          by_column ? steps : 1},
         out.data());
  fuzz::Hash hash;
  for (const T value : out) hash.add(static_cast<double>(value));
  return hash.value();
}

unsigned long long tables() {
  const Source source = program();
  const TableKernels& kernels = instruction_set().table;
  fuzz::Hash hash;
  for (const bool by_column : {false, true}) {
    hash.add_word(table<float>(source, 40000, 9, by_column, kernels.table_f32));
    hash.add_word(table<double>(source, 40000, 5, by_column, kernels.table_f64));
  }
  hash.add_word(table<double>(source, 300000, 1, false, kernels.table_f64));
  return hash.value();
}

unsigned long long steps(int count) {
  const auto work = fuzz::every_tensor(3);
  std::vector<TensorUpdate> all;
  for (const auto& tensor : work) all.push_back(tensor->update);
  const auto size = static_cast<std::int64_t>(all.size());
  fuzz::Hash hash;
  for (const NormKind kind : {NormKind::one, NormKind::two, NormKind::infinity}) {
    // Also of each alone: among all there is an infinite gradient.
    hash.add(instruction_set().step.power_sum(all.data(), size, nullptr, kind, count));
    for (const TensorUpdate& u : all) hash.add(instruction_set().step.power_sum(&u, 1, nullptr, kind, count));
  }
  for (int step = 0; step < 3; ++step) instruction_set().step.step(all.data(), size, count);
  for (const auto& tensor : work) fuzz::add(hash, *tensor);
  return hash.value();
}

}  // namespace

int main() {
  instruction_set();  // the first call lists them, in Python under the GIL
  const unsigned long long one = steps(1), several = steps(threads);
  unsigned long long first = 0, second = 0;
  std::thread beside(
      [&] { first = tables() ^ steps(threads); });  // two Python threads that let go of the GIL
  second = tables() ^ steps(threads);
  beside.join();
  std::printf("steps %016llx %016llx, side by side %016llx %016llx\n", one, several, first, second);
  return one == several && first == second ? 0 : 1;
}
