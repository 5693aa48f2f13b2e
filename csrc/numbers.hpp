// From a group's hyperparameters to the numbers of its tensors' updates: one arithmetic for host and device.
#pragma once

#include "formats.hpp"
#include "noise.hpp"
#include "updates.hpp"

namespace fastsched {

// The hyperparameters that a schedule may drive.
enum Hyper { lr, weight_decay, momentum, beta1, beta2, hypers };

FASTSCHED_SHARED bool has(Rule rule, int hyper) {
  return hyper <= weight_decay || (rule == Rule::sgd) == (hyper == momentum);
}

// What weight decay multiplies; see optim.py.
enum class DecayMode : std::int32_t { own, l2, decoupled, composer, timm, cautious };

enum class NormKind : std::int32_t { one, two, infinity };

// What an optimizer was made with that decides what a step computes.
struct Settings {
  Rule rule = Rule::adam;
  DecayMode decay = DecayMode::own;
  NormKind norm = NormKind::two;
  double max_grad_norm = 0;   // 0: no clipping
  double max_grad_value = 0;  // 0: no clipping
  std::uint64_t seed = 0;     // of stochastic rounding
};

// What a group holds beside what a schedule may drive.
struct Constants {
  double eps = 0, dampening = 0;
  double base = 0;  // the lr that some decay modes measure against
  bool maximize = false, amsgrad = false, nesterov = false, decoupled = false;
};

// What multiplies every gradient, beside its sign.
struct Scaling {
  double unscale = 1, clip = 1;
  bool found_inf = false;
};

// The size of all gradients, from what NormKind says to add or compare.
FASTSCHED_SHARED double norm_of(NormKind kind, double joined) {
  return kind == NormKind::two ? root(joined) : joined;
}

// As torch.nn.utils.clip_grad_norm_.
FASTSCHED_SHARED double clip_factor(double max_grad_norm, double norm) {
  const double factor = max_grad_norm / (norm + 1e-6);
  return factor < 1.0 ? factor : 1.0;
}

// What every tensor of a group shares; `value` holds the group's hyperparameters.
FASTSCHED_SHARED Numbers numbers_of(const Settings& settings, const double* value, const Constants& group,
                                    const Scaling& scaling, double ema_decay) {
  Numbers n{};
  const double rate = value[lr], weight = value[weight_decay], base = group.base;
  n.grad_scale = (group.maximize ? -1 : 1) * scaling.unscale * scaling.clip;
  n.grad_limit = settings.max_grad_value > 0 ? settings.max_grad_value : infinity();
  const bool decoupled = settings.rule == Rule::lion || (settings.rule == Rule::adam && group.decoupled);
  switch (settings.decay == DecayMode::own ? decoupled ? DecayMode::decoupled : DecayMode::l2
                                           : settings.decay) {
    case DecayMode::own:
    case DecayMode::l2:
      n.coupled = weight;
      break;
    case DecayMode::cautious:
      n.cautious = true;
      n.decay = rate * weight;
      break;
    case DecayMode::decoupled:
      n.decay = rate * weight;
      break;
    case DecayMode::composer:
      n.decay = base > 0 ? rate / base * weight : 0;
      break;
    case DecayMode::timm:
      n.decay = base > 0 ? rate * (rate / base) * weight : 0;
      break;
  }
  n.step_size = rate;
  n.beta1 = value[beta1], n.beta2 = value[beta2];
  n.epsilon = group.eps;
  n.amsgrad = group.amsgrad;
  n.momentum = value[momentum], n.undampened = 1 - group.dampening;
  n.nesterov = group.nesterov;
  n.ema = ema_decay;
  return n;
}

// Adam's corrections for averages that started at 0, at a tensor's update number `update`, from 1 on.
struct BiasCorrection {
  double first, second;
};

FASTSCHED_SHARED BiasCorrection bias_corrections(const Numbers& n, double update) {
  return {bias_correction(n.beta1, update), 1 / root(bias_correction(n.beta2, update))};
}

FASTSCHED_SHARED void correct(Numbers& n, const BiasCorrection& bias) {
  n.step_size /= bias.first;
  n.bias2 = bias.second;
}

// The random bits that a tensor rounds its averages with at an update, and those of the parameter itself.
// `place`: of the parameter among all of the optimizer's; `steps`: updates that it has had.
struct Streams {
  Stream state, param;
};

FASTSCHED_SHARED Streams streams_of(std::uint64_t seed, std::int64_t steps, std::uint32_t place) {
  const auto word = [&](std::uint32_t k) {
    return hash_words(seed, static_cast<std::uint64_t>(steps), 4 * place + k);
  };
  return {{word(0), word(1)}, {word(2), word(3)}};
}

}  // namespace fastsched
