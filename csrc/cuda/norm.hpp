// The size of all gradients: per element a term in float64, joined in an order that depends on the elements'
// layout alone, neither on the device nor on timing. NaN stays.
#pragma once

#include "cuda/elements.hpp"

namespace fastsched::cuda {

FASTSCHED_DEVICE double magnitude(double x) { return from_bits(bits_of(x) & 0x7fffffffffffffffu); }

template <NormKind kind>
FASTSCHED_DEVICE double term(double x) {
  return kind == NormKind::two ? x * x : magnitude(x);
}

FASTSCHED_DEVICE double both(NormKind kind, double a, double b) {
  if (kind == NormKind::infinity) return b > a || b != b ? b : a;
  return a + b;
}

// The results of a block's threads, joined into the first.
template <int threads>
FASTSCHED_DEVICE void join_threads(NormKind kind, double* of_thread) {
  for (int half = threads / 2; half > 0; half /= 2) {
    all_threads<threads>([&](int thread) {
      if (thread < half) of_thread[thread] = both(kind, of_thread[thread], of_thread[thread + half]);
    });
  }
}

// Neighbours first, then packs.
template <NormKind kind, int width>
FASTSCHED_DEVICE double joined_terms(double (&terms)[width]) {
  FASTSCHED_UNROLL
  for (int half = width / 2; half > 0; half /= 2) {
    FASTSCHED_UNROLL
    for (int i = 0; i < half; ++i) terms[i] = both(kind, terms[i], terms[i + half]);
  }
  return terms[0];
}

// One thread's share of a portion. What does not exist is read as 0, which adds nothing.
template <NormKind kind, class Stored, bool strided>
FASTSCHED_DEVICE double share_of_thread(const DeviceTensor& tensor, const std::int64_t* layout, Range range,
                                        int thread) {
  constexpr int width = strided ? 2 : 16 / static_cast<int>(sizeof(Stored)), apart = block_threads * width;
  constexpr int packs = strided ? 1 : 16 / width;  // on their way from memory at once
  const bool aligned = is_aligned(tensor.at[grad]);
  double joined = 0;
  for (std::int64_t first = range.begin + thread * width; first < range.end; first += packs * apart) {
    Stored stored[packs][width];
    FASTSCHED_UNROLL
    for (int k = 0; k < packs; ++k) {
      const Pack<width, strided> pack(first + k * apart, range.end, aligned, layout);
      load(pack, of_grad, tensor.at[grad], stored[k]);
    }
    FASTSCHED_UNROLL
    for (int k = 0; k < packs; ++k) {
      double terms[width];
      FASTSCHED_UNROLL
      for (int i = 0; i < width; ++i) terms[i] = term<kind>(static_cast<double>(widened(stored[k][i])));
      joined = both(kind, joined, joined_terms<kind>(terms));
    }
  }
  return joined;
}

template <NormKind kind>
FASTSCHED_DEVICE double share_of_thread(const NormArgs& args, const Portion& portion, int thread) {
  const DeviceTensor& tensor = args.tensors[portion.tensor];
  const Range range = range_of(portion, tensor);
  const std::int64_t* const layout = args.layouts + tensor.strided;
  double joined = 0;
  with_format(tensor.format[grad], [&](auto element) {
    using Stored = decltype(element);
    joined = tensor.strided < 0 ? share_of_thread<kind, Stored, false>(tensor, nullptr, range, thread)
                                : share_of_thread<kind, Stored, true>(tensor, layout, range, thread);
  });
  return kind == NormKind::infinity ? joined : joined * tensor.share;
}

// code: a NormKind. A kernel that is no template would be compiled with every other.
template <int code>
FASTSCHED_KERNEL(block_threads, 2)
norm(const NormArgs args) {
  constexpr NormKind kind = static_cast<NormKind>(code);
  FASTSCHED_BLOCK_MEMORY double of_thread[block_threads];
  all_threads<block_threads>([&](int thread) {
    double joined = 0;
    for (std::int64_t i = block_index(); i < args.portion_count; i += block_count())
      joined = both(kind, joined, share_of_thread<kind>(args, args.portions[i], thread));
    of_thread[thread] = joined;
  });
  join_threads<block_threads>(kind, of_thread);
  last_of_all_threads<block_threads>([&](int thread) {
    if (thread == 0) args.partials[block_index()] = of_thread[0];
  });
}

// By a block of control_threads, which leaves what it has joined in of_thread[0].
FASTSCHED_DEVICE void join_partials(NormKind kind, const double* partials, int count, double* of_thread) {
  all_threads<control_threads>([&](int thread) {
    double joined = 0;
    for (int i = thread; i < count; i += control_threads) joined = both(kind, joined, partials[i]);
    of_thread[thread] = joined;
  });
  join_threads<control_threads>(kind, of_thread);
}

template <int code>
FASTSCHED_KERNEL(control_threads, 1)
join(const JoinArgs args) {
  FASTSCHED_BLOCK_MEMORY double of_thread[control_threads];
  join_partials(static_cast<NormKind>(code), args.partials, args.partial_count, of_thread);
  last_of_all_threads<control_threads>([&](int thread) {
    if (thread != 0) return;
    args.joined[0] = of_thread[0];
    args.joined[1] = args.made;
  });
}

}  // namespace fastsched::cuda
