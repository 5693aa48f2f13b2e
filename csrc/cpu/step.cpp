// The fused step: every thread sweeps an equal share of the elements of all tensors. Compiled once per
// instruction set.
#include <algorithm>

#include "cpu/kernels.hpp"

namespace fastsched::FASTSCHED_ISA {
namespace {

template <bool amsgrad>
void sweep(const AdamW<float>& rule, std::int64_t count, float* __restrict p, const float* __restrict g,
           float* __restrict m, float* __restrict v, float* __restrict top) {
  const AdamW<float> r = rule;  // a copy of its own stays in registers
  for (std::int64_t i = 0; i < count; ++i) {
    float none = 0;
    adamw<amsgrad>(r, g[i], p[i], m[i], v[i], amsgrad ? top[i] : none);
  }
}

void sweep(const AdamWork& work, float* const* at, std::int64_t first, std::int64_t count) {
  float* const top = at[max_exp_avg_sq];
  if (top == nullptr) {
    sweep<false>(work.rule, count, at[param] + first, at[grad] + first, at[exp_avg] + first,
                 at[exp_avg_sq] + first, nullptr);
  } else {
    sweep<true>(work.rule, count, at[param] + first, at[grad] + first, at[exp_avg] + first,
                at[exp_avg_sq] + first, top + first);
  }
}

// Gathers a block of each operand, updates it, scatters what changed: any strides, the same formula.
void sweep_strided(const AdamWork& work, std::int64_t first, std::int64_t count) {
  constexpr std::int64_t block = 256;
  float buffer[operands][block];
  std::int64_t offset[operands][block];
  const Strided& layout = *work.strided;
  for (std::int64_t done = 0; done < count; done += block) {
    const std::int64_t length = std::min(block, count - done);
    float* rows[operands] = {};
    for (int o = 0; o < operands; ++o) {
      if (work.at[o] == nullptr) continue;
      rows[o] = buffer[o];
      for (std::int64_t i = 0; i < length; ++i) {
        std::int64_t rest = first + done + i, place = 0;
        for (int d = layout.dims - 1; d >= 0; --d) {
          place += rest % layout.shape[d] * layout.strides[o][d];
          rest /= layout.shape[d];
        }
        offset[o][i] = place;
        buffer[o][i] = work.at[o][place];
      }
    }
    sweep(work, rows, 0, length);
    for (int o = 0; o < operands; ++o) {
      if (rows[o] == nullptr || o == grad) continue;
      for (std::int64_t i = 0; i < length; ++i) work.at[o][offset[o][i]] = buffer[o][i];
    }
  }
}

// Elements [begin, end) of the concatenation of all tensors.
void share(const AdamWork* work, std::int64_t count, std::int64_t begin, std::int64_t end) {
  std::int64_t start = 0;
  for (const AdamWork* w = work; w != work + count && start < end; start += w->count, ++w) {
    const std::int64_t first = std::max<std::int64_t>(begin - start, 0);
    const std::int64_t last = std::min(end - start, w->count);
    if (first >= last) continue;
    if (w->strided == nullptr) {
      sweep(*w, w->at, first, last - first);
    } else {
      sweep_strided(*w, first, last - first);
    }
  }
}

void adamw_step(const AdamWork* work, std::int64_t count, int threads) {
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < count; ++i) total += work[i].count;
  if (threads <= 1) return share(work, count, 0, total);
  // Shares end at multiples of 64 elements, so that two threads write to no cache line of a large tensor
  // together.
  const std::int64_t portion = ((total + threads - 1) / threads + 63) & ~std::int64_t{63};
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) {
    share(work, count, std::min(t * portion, total), std::min((t + 1) * portion, total));
  }
}

}  // namespace

extern const StepKernels step_kernels;
const StepKernels step_kernels = {adamw_step};

}  // namespace fastsched::FASTSCHED_ISA
