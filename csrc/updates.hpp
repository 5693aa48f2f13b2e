// The update rules: one element each, no addressing. The same functions serve every number type, instruction
// set and CUDA.
#pragma once

#include "scalar.hpp"

namespace fastsched {

enum class Rule : std::int32_t { adam, sgd, lion, none };

// What one tensor's update needs beside its elements: computed in float64 once per tensor and step, rounded
// once to the type that a rule computes in.
struct Numbers {
  double grad_scale;    // sign (negative to maximize), unscaling and clipping
  double grad_limit;    // clipping by value; infinity for none
  double coupled;       // weight decay that joins the gradient (L2)
  double decay;         // weight decay that leaves the parameter beside the update
  double step_size;     // lr; Adam's is lr / (1 - beta1**t)
  double beta1, beta2;  // decay of the first and second average
  double bias2;         // Adam: 1 / sqrt(1 - beta2**t)
  double epsilon;       // Adam
  double momentum;      // SGD
  double undampened;    // SGD: 1 - dampening, the weight of a gradient in the buffer
  double ema;           // decay of the weights' average
  bool nesterov;        // SGD
  bool cautious;        // `decay` only where it has the update's sign
  bool amsgrad;         // Adam
  bool first_momentum;  // SGD: the buffer starts as the gradient, undampened
};

// The gradient as a rule sees it.
template <class Real>
struct Gradient {
  Real scale, limit, coupled;
};

template <class Real>
FASTSCHED_SHARED Gradient<Real> gradient_rule(const Numbers& n) {
  return {static_cast<Real>(n.grad_scale), static_cast<Real>(n.grad_limit), static_cast<Real>(n.coupled)};
}

template <class Real>
FASTSCHED_SHARED Real seen(const Gradient<Real>& rule, Real grad, Real param) {
  Real g = grad * rule.scale;
  g = rule.limit < g ? rule.limit : g;  // NaN stays
  g = -rule.limit > g ? -rule.limit : g;
  // Without decay an infinite parameter must not become 0 * infinity, NaN.
  return g + choose(rule.coupled != Real(0), rule.coupled * param, Real(0));
}

// A running average that moves towards a new value: old + (1 - beta) * (now - old), or from the other end
// where that one is nearer. beta * old + (1 - beta) * now would, in float32 with beta = 0.999, settle 3e-5
// away: its two rounded weights do not add up to 1.
template <class Real>
struct Average {
  Real weight;    // 1 - beta; -beta where from_now
  bool from_now;  // beta < 1/2
};

template <class Real>
FASTSCHED_SHARED Average<Real> average(double beta) {
  const bool from_now = beta < 0.5;
  return {static_cast<Real>(from_now ? -beta : 1.0 - beta), from_now};
}

// `slow`: no beta here is below 1/2, which a loop need not ask for each element then.
template <bool slow = false, class Real>
FASTSCHED_SHARED Real moved(const Average<Real>& average, Real old, Real now) {
  return (slow ? old : choose(average.from_now, now, old)) + average.weight * (now - old);
}

// Decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101); cautious: only where it does not work
// against the update (arXiv 2510.12402).
template <class Real>
struct Decay {
  Real shrink;
  Real from;  // decays where update * param reaches it: NaN for nowhere, since 0 * infinity would be NaN
};

template <class Real>
FASTSCHED_SHARED Decay<Real> decay_rule(const Numbers& n) {
  return {static_cast<Real>(n.decay), static_cast<Real>(n.decay == 0 ? not_a_number()
                                                        : n.cautious ? 0.0
                                                                     : -infinity())};
}

// Decay and update leave the parameter together, so that it is rounded once. An infinite one becomes NaN,
// where torch's stays: every element would have to be asked.
template <class Real>
FASTSCHED_SHARED Real descended(const Decay<Real>& decay, Real update, Real param) {
  const Real shrunk = decay.shrink * param;
  return param - ((update * param >= decay.from ? shrunk : Real(0)) + update);
}

// 1 - beta**update, the share of a running average that has come in after `update` updates.
FASTSCHED_SHARED double bias_correction(double beta, double update) { return 1.0 - power(beta, update); }

// Adam (Kingma & Ba 2015, arXiv 1412.6980), with AMSGrad (Reddi et al. 2018) on request.
template <class Real>
struct Adam {
  Gradient<Real> gradient;
  Average<Real> first, second;
  Decay<Real> decay;
  Real step_size, bias2, epsilon;
};

template <class Real>
FASTSCHED_SHARED Adam<Real> adam_rule(const Numbers& n) {
  return {gradient_rule<Real>(n),      average<Real>(n.beta1),         average<Real>(n.beta2),
          decay_rule<Real>(n),         static_cast<Real>(n.step_size), static_cast<Real>(n.bias2),
          static_cast<Real>(n.epsilon)};
}

template <bool amsgrad, bool slow, class Real>
FASTSCHED_SHARED void adam(const Adam<Real>& rule, Real grad, Real& param, Real& exp_avg, Real& exp_avg_sq,
                           Real& max_exp_avg_sq) {
  grad = seen(rule.gradient, grad, param);
  const Real square = grad * grad;
  exp_avg = moved<slow>(rule.first, exp_avg, grad);
  // A second moment that has overflowed stays infinite, as in torch, and its parameter at rest; its distance
  // would be NaN.
  const bool overflowed = exp_avg_sq - exp_avg_sq != Real(0);
  exp_avg_sq = overflowed ? exp_avg_sq + square : moved<slow>(rule.second, exp_avg_sq, square);
  Real second = exp_avg_sq;
  if (amsgrad) {
    // Written so that a NaN on either side stays, as in torch.maximum.
    max_exp_avg_sq = (max_exp_avg_sq >= second || max_exp_avg_sq != max_exp_avg_sq) ? max_exp_avg_sq : second;
    second = max_exp_avg_sq;
  }
  const Real denominator = root(second) * rule.bias2 + rule.epsilon;
  param = descended(rule.decay, rule.step_size * exp_avg / denominator, param);
}

// Stochastic gradient descent with momentum (Sutskever et al. 2013) in torch's form: the learning rate
// multiplies the buffer when it is applied.
template <class Real>
struct Sgd {
  Gradient<Real> gradient;
  Decay<Real> decay;
  Real lr, momentum, kept, taken;  // kept, taken: weights of the buffer and of the gradient in the new buffer
  bool nesterov;
};

template <class Real>
FASTSCHED_SHARED Sgd<Real> sgd_rule(const Numbers& n) {
  const bool first = n.first_momentum;
  return {gradient_rule<Real>(n),
          decay_rule<Real>(n),
          static_cast<Real>(n.step_size),
          static_cast<Real>(n.momentum),
          first ? Real(0) : static_cast<Real>(n.momentum),
          first ? Real(1) : static_cast<Real>(n.undampened),
          n.nesterov};
}

template <bool with_momentum, class Real>
FASTSCHED_SHARED void sgd(const Sgd<Real>& rule, Real grad, Real& param, Real& buffer) {
  Real update = seen(rule.gradient, grad, param);
  if (with_momentum) {
    buffer = rule.kept * buffer + rule.taken * update;
    update = rule.nesterov ? update + rule.momentum * buffer : buffer;
  }
  param = descended(rule.decay, rule.lr * update, param);
}

// Lion (Chen et al. 2023, arXiv 2302.06675).
template <class Real>
struct Lion {
  Gradient<Real> gradient;
  Average<Real> direction, average;
  Decay<Real> decay;
  Real lr;
};

template <class Real>
FASTSCHED_SHARED Lion<Real> lion_rule(const Numbers& n) {
  return {gradient_rule<Real>(n), average<Real>(n.beta1), average<Real>(n.beta2), decay_rule<Real>(n),
          static_cast<Real>(n.step_size)};
}

template <class Real>
FASTSCHED_SHARED void lion(const Lion<Real>& rule, Real grad, Real& param, Real& exp_avg) {
  grad = seen(rule.gradient, grad, param);
  const Real direction = moved(rule.direction, exp_avg, grad);
  const Real sign = direction > Real(0) ? Real(1) : direction < Real(0) ? Real(-1) : Real(0);
  param = descended(rule.decay, rule.lr * sign, param);
  exp_avg = moved(rule.average, exp_avg, grad);
}

}  // namespace fastsched
