// Updates of tensors that cover every rule, format and option, from a fixed stream of random bits: the same
// on every machine.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "cpu/kernels.hpp"

namespace fuzz {

using namespace fastsched;

// splitmix64 (Steele, Lea & Flood 2014).
class Random {
public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double between(double low, double high) {
    return low + (high - low) * (static_cast<double>(next() >> 11) * 0x1p-53);
  }

private:
  std::uint64_t state_;
};

// One tensor's operands, in one block of memory.
struct Tensor {
  TensorUpdate update{};
  std::vector<char> memory;
  std::int64_t shape[2], strides[2], turned[2];
  Strided strided{};
};

inline void store(Format format, double value, char* at) {
  with_format(format, [&](auto stored) {
    narrow(value, stored);
    std::memcpy(at, &stored, sizeof stored);
  });
}

// At times one of the numbers that rounding and rules treat on their own.
inline double element(Random& random, bool positive) {
  constexpr double special[] = {0.0, 1e-42, 3e38, 1e-7, 65504.0, 1.0};
  const std::uint64_t which = random.next() % 64;
  const double x = which < 6 ? special[which] : random.between(-2.0, 2.0);
  return positive && x < 0 ? -x : x;
}

inline void choose_numbers(Random& random, Numbers& n) {
  n.grad_scale = random.between(0.5, 1.0);
  n.grad_limit = random.next() % 2 ? infinity() : 1.5;
  n.coupled = random.next() % 2 ? 0.0 : 0.1;
  n.decay = random.next() % 2 ? 0.0 : 0.01;
  n.step_size = 0.01, n.beta1 = 0.9, n.beta2 = 0.999, n.bias2 = 1.3, n.epsilon = 1e-8;
  n.momentum = 0.9, n.undampened = 0.8, n.ema = 0.99;
  n.nesterov = random.next() % 2, n.cautious = random.next() % 2;
}

// `kind`: adam, amsgrad, sgd, momentum, lion. `turned`: the parameter lies column after column.
inline std::unique_ptr<Tensor> tensor(int kind, Format format, Format of_grad, Format of_state,
                                      unsigned flags, std::int64_t rows, std::int64_t columns,
                                      Random& random) {
  auto made = std::make_unique<Tensor>();
  TensorUpdate& u = made->update;
  u.count = rows * columns;
  u.rule = kind < 2 ? Rule::adam : kind < 4 ? Rule::sgd : Rule::lion;
  const Format real = format == Format::float64 ? Format::float64 : Format::float32;
  const bool half = format == Format::bfloat16 || format == Format::float16;
  const bool mastered = half && (flags & 1) != 0;
  const bool used[operands] = {true, true, kind != 2, kind < 2, kind == 1, (flags & 2) != 0, mastered};
  const Format formats[operands] = {format, of_grad, of_state, of_state, of_state, real, Format::float32};
  std::int64_t size = 0, at[operands];
  for (int o = param; o < operands; ++o) {
    u.format[o] = formats[o];
    at[o] = size;
    if (used[o]) size += (u.count * bytes_of(formats[o]) + 63) / 64 * 64;
  }
  made->memory.resize(static_cast<std::size_t>(size));
  for (int o = param; o < operands; ++o) {
    u.at[o] = used[o] ? made->memory.data() + at[o] : nullptr;
    for (std::int64_t i = 0; used[o] && i < u.count; ++i)
      store(formats[o], element(random, o == second || o == top), u.at[o] + i * bytes_of(formats[o]));
  }
  choose_numbers(random, u.numbers);
  u.numbers.amsgrad = kind == 1;
  u.zero_grad = (flags & 4) != 0, u.fresh_ema = (flags & 8) != 0, u.fresh_master = (flags & 16) != 0;
  u.param_at_random = format == Format::bfloat16 && !mastered && (flags & 32) != 0;
  const auto word = [&] { return static_cast<std::uint32_t>(random.next()); };
  u.param_bits = {word(), word()}, u.state_bits = {word(), word()};
  if ((flags & 64) == 0) return made;
  made->shape[0] = rows, made->shape[1] = columns;
  made->strides[0] = columns, made->strides[1] = 1;
  made->turned[0] = 1, made->turned[1] = rows;
  made->strided = {2, made->shape, {made->turned}};
  for (int o = grad; o < operands; ++o) made->strided.strides[o] = made->strides;
  u.strided = &made->strided;
  return made;
}

// Every rule with every format of parameters, gradients and averages; options and sizes vary along.
inline std::vector<std::unique_ptr<Tensor>> every_tensor(std::uint64_t seed) {
  Random random(seed);
  std::vector<std::unique_ptr<Tensor>> made;
  for (int kind = 0; kind < 5; ++kind) {
    for (int format = 0; format < 4; ++format) {
      for (int of_grad = 0; of_grad < 4; ++of_grad) {
        for (const bool low : {false, true}) {
          const Format state = low ? Format::bfloat16 : format == 1 ? Format::float64 : Format::float32;
          const auto rows = static_cast<std::int64_t>(1 + random.next() % 50);
          const auto columns = static_cast<std::int64_t>(1 + random.next() % 80);
          const auto flags = static_cast<unsigned>(random.next() % 128);
          made.push_back(tensor(kind, static_cast<Format>(format), static_cast<Format>(of_grad), state, flags,
                                rows, columns, random));
        }
      }
    }
  }
  return made;
}

// FNV-1a over numbers; every NaN counts as the same one, since its sign and payload are the machine's.
class Hash {
public:
  void add(double value) { add_word(value != value ? 0x7ff8000000000000u : bits_of(value)); }
  void add_word(std::uint64_t word) {
    for (int k = 0; k < 8; ++k, word >>= 8) state_ = (state_ ^ (word & 0xff)) * 0x100000001b3u;
  }
  unsigned long long value() const { return state_; }

private:
  std::uint64_t state_ = 0xcbf29ce484222325u;
};

inline double number_at(Format format, const char* at) {
  double number = 0;
  with_format(format, [&](auto stored) {
    std::memcpy(&stored, at, sizeof stored);
    number = static_cast<double>(widened(stored));
  });
  return number;
}

inline void add(Hash& hash, const Tensor& tensor) {
  const TensorUpdate& u = tensor.update;
  for (int o = param; o < operands; ++o) {
    for (std::int64_t i = 0; u.at[o] != nullptr && i < u.count; ++i)
      hash.add(number_at(u.format[o], u.at[o] + i * bytes_of(u.format[o])));
  }
}

}  // namespace fuzz
