// The bits of tables and steps as one hash a line, for every instruction set that the machine has: compared
// between compilers and processors. Arguments: files of programs, as corpus.py writes them.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

#include "program_bytes.hpp"
#include "work.hpp"

namespace {

using namespace fastsched;

constexpr std::int64_t steps = 1500;

void print(const char* what, int index, const fuzz::Hash& hash) {
  std::printf("%s %d %016llx\n", what, index, hash.value());
}

fuzz::Hash hash_of(const Source& source) {
  fuzz::Hash hash;
  const Program program = source.program();
  const TableKernels& kernels = instruction_set().table;
  const std::int32_t column = 0;
  const double scale = 1.0;
  std::vector<double> out(static_cast<std::size_t>(steps));
  for (const std::int64_t start : {std::int64_t{0}, (std::int64_t{1} << 53) - steps}) {
    kernels.table_f64({&program, 1, &column, &scale, 1, start, steps, 1, steps}, out.data());
    for (const double value : out) hash.add(value);
  }
  for (int i = 0; i < 500; ++i) hash.add(kernels.value(program, 0.37 * i));
  return hash;
}

Source read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  fuzz::Bytes bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
  fuzz::read_asked(bytes);
  return fuzz::read_program(bytes);
}

void print_steps() {
  auto work = fuzz::every_tensor(1);
  for (std::size_t i = 0; i < work.size(); ++i) {
    fuzz::Hash hash;
    for (int step = 0; step < 3; ++step) instruction_set().step.step(&work[i]->update, 1, 1);
    fuzz::add(hash, *work[i]);
    print("step", static_cast<int>(i), hash);
  }
}

// Of each tensor alone: among all there is an infinite gradient.
void print_norms() {
  const auto work = fuzz::every_tensor(2);
  for (const NormKind kind : {NormKind::one, NormKind::two, NormKind::infinity}) {
    fuzz::Hash hash;
    for (const auto& tensor : work)
      hash.add(instruction_set().step.power_sum(&tensor->update, 1, nullptr, kind, 1));
    print("norm", static_cast<int>(kind), hash);
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (const char* const* name = instruction_set_names(); *name != nullptr; ++name) {
    use_instruction_set(*name);
    std::printf("# %s\n", *name);
    for (int i = 1; i < argc; ++i) print("table", i, hash_of(read(argv[i])));
    print_steps();
    print_norms();
  }
  return 0;
}
