// A self-test: what a device computes of a schedule and of one update, for the host to compare bits.
#pragma once

#include "cuda/grid.hpp"
#include "cuda/tables.hpp"

namespace fastsched::cuda {

// Eight bytes each, so that Python can write it as one array of 64-bit numbers.
struct ProbeArgs {
  const Instruction* code;
  std::int64_t size;  // of the program, in instructions
  const double* samples;
  const double* steps;
  double* values;  // of the program at `steps`
  std::int64_t count;
  float* element;  // gradient, parameter, exp_avg, exp_avg_sq; AdamW updates the last three
  double lr, beta1, beta2, eps, weight_decay;
  double update;  // its number, from 1 on
};

FASTSCHED_DEVICE void probe_update(const ProbeArgs& args) {
  double value[hypers] = {};
  value[Hyper::lr] = args.lr, value[Hyper::weight_decay] = args.weight_decay;
  value[Hyper::beta1] = args.beta1, value[Hyper::beta2] = args.beta2;
  Constants group;
  group.eps = args.eps;
  group.decoupled = true;
  Numbers n = numbers_of(Settings(), value, group, Scaling(), 1);
  correct(n, bias_corrections(n, args.update));
  float* const e = args.element;
  float none = 0;
  adam<false, false>(adam_rule<float>(n), e[0], e[1], e[2], e[3], none);
}

// scheduled: the program too, and with it every curve is compiled.
template <bool scheduled>
FASTSCHED_KERNEL(block_threads, 1)
probe(const ProbeArgs args) {
  const Program program = {args.code, args.size, args.samples};
  last_of_all_threads<block_threads>([&](int thread) {
    if constexpr (scheduled) {
      for (std::int64_t i = thread; i < args.count; i += block_threads)
        args.values[i] = value(program, args.steps[i]);
    }
    if (thread == 0) probe_update(args);
  });
}

}  // namespace fastsched::cuda
