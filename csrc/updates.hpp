// The update rules: one element each, no addressing. The same functions serve every instruction set and CUDA.
#pragma once

#include "host_device.hpp"

namespace fastsched {

// What AdamW needs beside its element: computed in float64 once per tensor and step, rounded once to Real.
template <class Real>
struct AdamW {
  Real grad_sign;    // -1 to maximize, else 1
  Real beta1_decay;  // 1 - beta1
  Real beta2_decay;  // 1 - beta2
  Real step_size;    // lr / (1 - beta1**t)
  Real bias2;        // 1 / sqrt(1 - beta2**t)
  Real epsilon;
  Real shrink;  // lr * weight_decay
};

FASTSCHED_SHARED float square_root(float x) { return __builtin_sqrtf(x); }
FASTSCHED_SHARED double square_root(double x) { return __builtin_sqrt(x); }

// Decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101), with AMSGrad (Reddi et al. 2018) on
// request. Both averages move by a multiple of their distance to the new value: beta2 * v + (1 - beta2) *
// g**2 in float32 would settle 3e-5 away, because its two rounded weights do not add up to 1. The decay and
// the update leave the parameter together, so it is rounded once.
template <bool amsgrad, class Real>
FASTSCHED_SHARED void adamw(const AdamW<Real>& rule, Real grad, Real& param, Real& exp_avg, Real& exp_avg_sq,
                            Real& max_exp_avg_sq) {
  grad = grad * rule.grad_sign;
  exp_avg = exp_avg + rule.beta1_decay * (grad - exp_avg);
  exp_avg_sq = exp_avg_sq + rule.beta2_decay * (grad * grad - exp_avg_sq);
  Real second = exp_avg_sq;
  if (amsgrad) {
    // Written so that a NaN on either side stays, as in torch.maximum.
    max_exp_avg_sq = (max_exp_avg_sq >= second || max_exp_avg_sq != max_exp_avg_sq) ? max_exp_avg_sq : second;
    second = max_exp_avg_sq;
  }
  const Real denominator = square_root(second) * rule.bias2 + rule.epsilon;
  param = param - (rule.shrink * param + rule.step_size * exp_avg / denominator);
}

}  // namespace fastsched
