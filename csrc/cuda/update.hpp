// The update of a portion of one tensor: the CPU step's bits, but for those of NaN. A block works on a
// portion, a thread on packs of neighbouring elements.
#pragma once

#include "cuda/elements.hpp"

namespace fastsched::cuda {

// What is known of a variant when it is compiled. Averages in another format than numbers are computed in are
// bfloat16, or float32 beside float64; the average of the weights is never in another, and a master is
// float32.
template <int code>
struct Traits {
  static constexpr Variant variant = variant_of(code);
  static constexpr Kind kind = variant.kind;
  using Stored = typename StoredAs<variant.param>::Type;
  using Real = typename StoredAs<variant.param == Format::float64 ? Format::float64 : Format::float32>::Type;
  static constexpr bool is_half = sizeof(Stored) == 2;
  static constexpr bool has_first = kind != Kind::sgd && kind != Kind::none;
  static constexpr bool has_second = kind == Kind::adam || kind == Kind::amsgrad;
  static constexpr bool has_top = kind == Kind::amsgrad;
  // 16 bytes of the parameter, and two such packs at once: enough is then on its way from memory. A strided
  // pack has to hold every element's place.
  static constexpr int width = variant.strided ? 2 : 16 / static_cast<int>(sizeof(Stored));
  static constexpr int packs = is_half || variant.strided ? 1 : 2;
  using Pack = cuda::Pack<width, variant.strided>;
};

template <Kind kind, class Real>
FASTSCHED_DEVICE auto rule_of(const Numbers& n) {
  if constexpr (kind == Kind::adam || kind == Kind::amsgrad) return adam_rule<Real>(n);
  if constexpr (kind == Kind::sgd || kind == Kind::momentum) return sgd_rule<Real>(n);
  if constexpr (kind == Kind::lion) return lion_rule<Real>(n);
  if constexpr (kind == Kind::none) return 0;
}

// One element of every operand.
template <class Real>
struct Element {
  Real &param, &grad, &first, &second, &top;
};

template <Kind kind, class Rule, class Real>
FASTSCHED_DEVICE void apply(const Rule& rule, const Element<Real>& e) {
  if constexpr (kind == Kind::adam || kind == Kind::amsgrad)
    adam<kind == Kind::amsgrad, false>(rule, e.grad, e.param, e.first, e.second, e.top);
  if constexpr (kind == Kind::sgd || kind == Kind::momentum)
    sgd<kind == Kind::momentum>(rule, e.grad, e.param, e.first);
  if constexpr (kind == Kind::lion) lion(rule, e.grad, e.param, e.first);
}

// Averages as they lie in memory.
template <class T>
FASTSCHED_DEVICE bool is_bfloat16(const DeviceTensor& tensor, int operand) {
  return sizeof(typename T::Real) == 4 || tensor.format[operand] == Format::bfloat16;
}

template <class T, class Real, int width, bool strided>
FASTSCHED_DEVICE void load_average(const Pack<width, strided>& pack, const DeviceTensor& tensor, int operand,
                                   Real (&out)[width]) {
  const char* const at = tensor.at[operand];
  if constexpr (!T::variant.other_state) {
    load(pack, of_state, at, out);
  } else if (is_bfloat16<T>(tensor, operand)) {
    load_widened<Bfloat16>(pack, of_state, at, out);
  } else {
    load_widened<float>(pack, of_state, at, out);
  }
}

template <class T, class Real, int width, bool strided>
FASTSCHED_DEVICE void store_average(const Pack<width, strided>& pack, const DeviceTensor& tensor, int operand,
                                    const Real (&in)[width]) {
  char* const at = tensor.at[operand];
  if constexpr (!T::variant.other_state) {
    store(pack, of_state, at, in);
  } else if (is_bfloat16<T>(tensor, operand)) {
    Bfloat16 halves[width];  // rounded already
    FASTSCHED_UNROLL
    for (int i = 0; i < width; ++i) halves[i] = upper_half(static_cast<float>(in[i]));
    store(pack, of_state, at, halves);
  } else {
    float singles[width];
    FASTSCHED_UNROLL
    for (int i = 0; i < width; ++i) narrow(in[i], singles[i]);
    store(pack, of_state, at, singles);
  }
}

// Gradients mostly have the parameter's format; others come one by one.
template <class T, class Real, int width, bool strided>
FASTSCHED_DEVICE void load_grad(const Pack<width, strided>& pack, const DeviceTensor& tensor,
                                Real (&out)[width]) {
  const char* const at = tensor.at[grad];
  if (tensor.format[grad] == T::variant.param)
    return load_widened<typename T::Stored>(pack, of_grad, at, out);
  with_format(tensor.format[grad], [&](auto kind) {
    using Stored = decltype(kind);
    if constexpr (!is_same<Stored, typename T::Stored>) {
      const Stored* const from = reinterpret_cast<const Stored*>(at);
      FASTSCHED_UNROLL
      for (int i = 0; i < width; ++i) {
        const Stored stored = i < pack.count ? from[pack.place(of_grad, i)] : Stored{};
        out[i] = static_cast<Real>(widened(stored));
      }
    }
  });
}

// A pack's elements: as the parameter lies in memory, and as numbers.
template <class T>
struct Values {
  typename T::Stored stored[T::width];
  typename T::Real param[T::width], grad[T::width], first[T::width], second[T::width], top[T::width],
      ema[T::width], master[T::width];
};

template <class T>
FASTSCHED_DEVICE bool has_master(const DeviceTensor& tensor) {
  return T::is_half && tensor.at[master] != nullptr;
}

template <class T>
FASTSCHED_DEVICE void load_values(const typename T::Pack& pack, const DeviceTensor& tensor,
                                  std::uint32_t fresh, Values<T>& v) {
  load(pack, of_param, tensor.at[param], v.stored);
  if constexpr (T::has_first) load_average<T>(pack, tensor, first, v.first);
  if constexpr (T::has_second) load_average<T>(pack, tensor, second, v.second);
  if constexpr (T::has_top) load_average<T>(pack, tensor, top, v.top);
  if constexpr (T::kind != Kind::none) load_grad<T>(pack, tensor, v.grad);
  if (tensor.at[ema] != nullptr && (fresh & fresh_ema) == 0) load(pack, of_state, tensor.at[ema], v.ema);
  if constexpr (T::is_half) {
    if (has_master<T>(tensor) && (fresh & fresh_master) == 0)
      load(pack, of_state, tensor.at[master], v.master);
  }
}

// The weights of a half parameter are its master's, but where an element is no longer the master's rounding
// somebody has written it, and it counts.
template <class T>
FASTSCHED_DEVICE void widen(const DeviceTensor& tensor, std::uint32_t fresh, Values<T>& v) {
  const bool mastered = has_master<T>(tensor) && (fresh & fresh_master) == 0;
  FASTSCHED_UNROLL
  for (int i = 0; i < T::width; ++i) {
    v.param[i] = static_cast<typename T::Real>(widened(v.stored[i]));
    if constexpr (T::is_half) {
      if (mastered) {
        typename T::Stored rounded;
        narrow(v.master[i], rounded);
        v.param[i] = widened(rounded) == v.param[i] ? v.master[i] : v.param[i];
      }
    }
    if ((fresh & fresh_ema) != 0) v.ema[i] = v.param[i];
  }
}

template <class Real>
FASTSCHED_DEVICE void round_at_random(Real& value, std::uint32_t random) {
  value = static_cast<Real>(rounded_at_random(static_cast<float>(value), random));
}

// `begin`: the index of the pack's first element.
template <class T, class Rule>
FASTSCHED_DEVICE void update_values(const Rule& rule, const DeviceTensor& tensor, const Streams& bits,
                                    std::int64_t begin, Values<T>& v) {
  const bool averages_at_random = T::variant.other_state && is_bfloat16<T>(tensor, first);
  // A portion lies within 2**32 elements.
  const std::uint32_t low = static_cast<std::uint32_t>(begin), high = static_cast<std::uint32_t>(begin >> 32);
  const Stream of_averages = stream_part(bits.state, high), of_param = stream_part(bits.param, high);
  FASTSCHED_UNROLL
  for (int i = 0; i < T::width; ++i) {
    apply<T::kind>(rule, Element<typename T::Real>{v.param[i], v.grad[i], v.first[i], v.second[i], v.top[i]});
    if (averages_at_random) {
      const std::uint32_t random = random_bits(of_averages, low + i);
      round_at_random(v.first[i], random);
      if constexpr (T::has_second) round_at_random(v.second[i], random >> 16);
      if constexpr (T::has_top) round_at_random(v.top[i], random);
    }
    if constexpr (is_same<typename T::Stored, Bfloat16>) {
      if (tensor.param_at_random) round_at_random(v.param[i], random_bits(of_param, low + i));
    }
    narrow(v.param[i], v.stored[i]);
  }
}

// What is averaged is the parameter as rounded, but a master as it is.
template <class T>
FASTSCHED_DEVICE void average_weights(const DeviceTensor& tensor, double decay, Values<T>& v) {
  using Real = typename T::Real;
  if (decay == 1) return;
  const Average<Real> rule = average<Real>(decay);
  FASTSCHED_UNROLL
  for (int i = 0; i < T::width; ++i) {
    const Real rounded = static_cast<Real>(widened(v.stored[i]));
    v.ema[i] = moved(rule, v.ema[i], has_master<T>(tensor) ? v.param[i] : rounded);
  }
}

template <class T>
FASTSCHED_DEVICE void store_values(const typename T::Pack& pack, const DeviceTensor& tensor,
                                   const Values<T>& v) {
  if constexpr (T::kind != Kind::none) store(pack, of_param, tensor.at[param], v.stored);
  if constexpr (T::has_first) store_average<T>(pack, tensor, first, v.first);
  if constexpr (T::has_second) store_average<T>(pack, tensor, second, v.second);
  if constexpr (T::has_top) store_average<T>(pack, tensor, top, v.top);
  if constexpr (T::is_half) {
    if (has_master<T>(tensor)) store(pack, of_state, tensor.at[master], v.param);
  }
  if (tensor.at[ema] != nullptr) store(pack, of_state, tensor.at[ema], v.ema);
  if (tensor.zero_grad) store_zeros(pack, of_grad, tensor.at[grad], tensor.format[grad]);
}

FASTSCHED_DEVICE bool all_aligned(const DeviceTensor& tensor) {
  bool aligned = true;
  FASTSCHED_UNROLL
  for (int o = param; o < operands; ++o) aligned = aligned && is_aligned(tensor.at[o]);  // null is
  return aligned;
}

template <class T>
FASTSCHED_DEVICE void update_range(const UpdateArgs& args, const DeviceTensor& tensor, const Prepared& given,
                                   Range range) {
  constexpr int apart = block_threads * T::width;
  const bool aligned = all_aligned(tensor);
  const std::int64_t* const layout = T::variant.strided ? args.layouts + tensor.strided : nullptr;
  last_of_all_threads<block_threads>([&](int thread) {
    const auto rule = rule_of<T::kind, typename T::Real>(given.numbers);
    const double decay = given.numbers.ema;
    const Streams bits = given.bits;
    const std::uint32_t fresh = given.fresh;
    std::int64_t first = range.begin + thread * T::width;
    for (; first < range.end; first += T::packs * apart) {
      Values<T> values[T::packs];
      typename T::Pack packs[T::packs];
      FASTSCHED_UNROLL
      for (int k = 0; k < T::packs; ++k) {
        packs[k] = typename T::Pack(first + k * apart, range.end, aligned, layout);
        if (packs[k].count > 0) load_values<T>(packs[k], tensor, fresh, values[k]);
      }
      FASTSCHED_UNROLL
      for (int k = 0; k < T::packs; ++k) {
        if (packs[k].count <= 0) continue;
        widen<T>(tensor, fresh, values[k]);
        if constexpr (T::kind != Kind::none) update_values<T>(rule, tensor, bits, packs[k].first, values[k]);
        if (tensor.at[ema] != nullptr) average_weights<T>(tensor, decay, values[k]);
        store_values<T>(packs[k], tensor, values[k]);
      }
    }
  });
}

template <class T>
FASTSCHED_DEVICE void zero_range(const UpdateArgs& args, const DeviceTensor& tensor, Range range) {
  const std::int64_t* const layout = T::variant.strided ? args.layouts + tensor.strided : nullptr;
  last_of_all_threads<block_threads>([&](int thread) {
    std::int64_t first = range.begin + thread * T::width;
    for (; first < range.end; first += block_threads * T::width) {
      const typename T::Pack pack(first, range.end, is_aligned(tensor.at[grad]), layout);
      store_zeros(pack, of_grad, tensor.at[grad], tensor.format[grad]);
    }
  });
}

// An update that is skipped still zeroes the gradients.
template <int code>
FASTSCHED_KERNEL(block_threads, 2)
update(const UpdateArgs args) {
  static_assert(is_variant(code), "tables.hpp lists the variants");
  using T = Traits<code>;
  const Portion portion = args.portions[block_index()];
  const DeviceTensor& tensor = args.tensors[portion.tensor];
  const Range range = range_of(portion, tensor);
  const bool updates = !args.only_zero && args.control->skip == 0;
  if (updates) return update_range<T>(args, tensor, args.prepared[portion.tensor], range);
  if (tensor.at[grad] != nullptr && (args.only_zero || tensor.zero_grad)) zero_range<T>(args, tensor, range);
}

}  // namespace fastsched::cuda
