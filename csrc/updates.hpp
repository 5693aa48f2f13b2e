// The update rules: one element each, no addressing. The same functions serve every instruction set and CUDA.
#pragma once

#include "scalar.hpp"

namespace fastsched {

// A running average that moves towards a new value: old + (1 - beta) * (now - old), or from the other end
// where that one is nearer. beta * old + (1 - beta) * now would, in float32 with beta = 0.999, settle 3e-5
// away: its two rounded weights do not add up to 1.
template <class Real>
struct Average {
  Real weight;    // 1 - beta; -beta where from_now
  bool from_now;  // beta < 1/2
};

template <class Real>
FASTSCHED_SHARED Real moved(const Average<Real>& average, Real old, Real now) {
  return (average.from_now ? now : old) + average.weight * (now - old);
}

// What AdamW needs beside its element: computed in float64 once per tensor and step, rounded once to Real.
template <class Real>
struct AdamW {
  Average<Real> first, second;
  Real grad_sign;  // -1 to maximize, else 1
  Real step_size;  // lr / (1 - beta1**t)
  Real bias2;      // 1 / sqrt(1 - beta2**t)
  Real epsilon;
  Real shrink;  // lr * weight_decay
};

// A group's hyperparameters at one update.
struct AdamWNumbers {
  double lr, beta1, beta2, eps, weight_decay;
  bool maximize;
};

// 1 - beta**update, the share of a running average that has come in after `update` updates.
FASTSCHED_SHARED double bias_correction(double beta, double update) { return 1.0 - power(beta, update); }

template <class Real>
FASTSCHED_SHARED Average<Real> average(double beta) {
  const bool from_now = beta < 0.5;
  return {static_cast<Real>(from_now ? -beta : 1.0 - beta), from_now};
}

template <class Real>
FASTSCHED_SHARED AdamW<Real> adamw_rule(const AdamWNumbers& n, double bias1, double bias2) {
  return {average<Real>(n.beta1),
          average<Real>(n.beta2),
          static_cast<Real>(n.maximize ? -1 : 1),
          static_cast<Real>(n.lr / bias1),
          static_cast<Real>(1.0 / root(bias2)),
          static_cast<Real>(n.eps),
          static_cast<Real>(n.lr * n.weight_decay)};
}

// Decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101), with AMSGrad (Reddi et al. 2018) on
// request. The decay and the update leave the parameter together, so that it is rounded once.
template <bool amsgrad, class Real>
FASTSCHED_SHARED void adamw(const AdamW<Real>& rule, Real grad, Real& param, Real& exp_avg, Real& exp_avg_sq,
                            Real& max_exp_avg_sq) {
  grad = grad * rule.grad_sign;
  const Real square = grad * grad;
  exp_avg = moved(rule.first, exp_avg, grad);
  // A second moment that has overflowed stays infinite, as in torch, and its parameter at rest; its distance
  // would be NaN.
  const bool overflowed = exp_avg_sq - exp_avg_sq != Real(0);
  exp_avg_sq = overflowed ? exp_avg_sq + square : moved(rule.second, exp_avg_sq, square);
  Real second = exp_avg_sq;
  if (amsgrad) {
    // Written so that a NaN on either side stays, as in torch.maximum.
    max_exp_avg_sq = (max_exp_avg_sq >= second || max_exp_avg_sq != max_exp_avg_sq) ? max_exp_avg_sq : second;
    second = max_exp_avg_sq;
  }
  const Real denominator = root(second) * rule.bias2 + rule.epsilon;
  param = param - (rule.shrink * param + rule.step_size * exp_avg / denominator);
}

}  // namespace fastsched
