// The fused step: every thread sweeps an equal share of the elements of all tensors. Compiled once per
// instruction set.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cpu/kernels.hpp"

namespace fastsched::FASTSCHED_ISA {
namespace {

// What is staged at once, a power of two: short enough that memory is read while the block before is computed
// (1,024 elements took 1.3 times as long), and long enough that starting each loop does not show.
constexpr std::int64_t block = 256;
// Without staging, what stays in the first-level cache until averages and zeros have followed the rule.
constexpr std::int64_t long_block = 1024;

template <class Real>
constexpr Format format_of = sizeof(Real) == 8 ? Format::float64 : Format::float32;

// ---- rules over rows of numbers

// What happens to the averages of element i when a rule has moved them: nothing, or rounding for bfloat16.
// Here it hides behind the rule's roots and quotients; the rows are then no longer than a block.
struct Kept {
  using Index = std::int64_t;
  template <class Real>
  void operator()(Index, Real&, Real&) const {}
};

struct RoundedAtRandom {
  using Index = std::uint32_t;
  Stream part;
  std::uint32_t low;

  // `begin`: the index of the row's first element; no row goes on beyond a multiple of 2**32.
  RoundedAtRandom(const Stream& stream, std::int64_t begin)
      : part(stream_part(stream, static_cast<std::uint32_t>(begin >> 32))),
        low(static_cast<std::uint32_t>(begin)) {}

  template <class Real>
  void operator()(Index i, Real& a, Real& b) const {
    const std::uint32_t random = random_bits(part, low + i);
    a = static_cast<Real>(rounded_at_random(static_cast<float>(a), random));
    b = static_cast<Real>(rounded_at_random(static_cast<float>(b), random >> 16));
  }
};

template <bool amsgrad, bool slow, class Real, class Finish>
void sweep_adam(const Adam<Real>& given, const Finish& finish_given, std::int64_t count, Real* __restrict p,
                const Real* __restrict g, Real* __restrict m, Real* __restrict v, Real* __restrict most) {
  const Adam<Real> rule = given;  // copies of its own stay in registers
  const Finish finish = finish_given;
  using Index = typename Finish::Index;
  for (Index i = 0; i < static_cast<Index>(count); ++i) {
    Real none = 0, other = 0;
    adam<amsgrad, slow>(rule, g[i], p[i], m[i], v[i], amsgrad ? most[i] : none);
    finish(i, m[i], v[i]);
    if (amsgrad) finish(i, most[i], other);
  }
}

template <bool amsgrad, class Real, class Finish>
void sweep_adam(const Numbers& numbers, const Finish& finish, std::int64_t count, Real* const* row) {
  const Adam<Real> rule = adam_rule<Real>(numbers);
  const bool slow = !rule.first.from_now && !rule.second.from_now;
  const auto sweep =
      slow ? sweep_adam<amsgrad, true, Real, Finish> : sweep_adam<amsgrad, false, Real, Finish>;
  sweep(rule, finish, count, row[param], row[grad], row[first], row[second], row[top]);
}

template <bool momentum, class Real, class Finish>
void sweep_sgd(const Numbers& numbers, const Finish& finish_given, std::int64_t count, Real* __restrict p,
               const Real* __restrict g, Real* __restrict buffer) {
  const Sgd<Real> rule = sgd_rule<Real>(numbers);
  const Finish finish = finish_given;
  using Index = typename Finish::Index;
  for (Index i = 0; i < static_cast<Index>(count); ++i) {
    Real none = 0;
    sgd<momentum>(rule, g[i], p[i], momentum ? buffer[i] : none);
    if (momentum) finish(i, buffer[i], none);
  }
}

template <class Real, class Finish>
void sweep_lion(const Numbers& numbers, const Finish& finish_given, std::int64_t count, Real* __restrict p,
                const Real* __restrict g, Real* __restrict m) {
  const Lion<Real> rule = lion_rule<Real>(numbers);
  const Finish finish = finish_given;
  using Index = typename Finish::Index;
  for (Index i = 0; i < static_cast<Index>(count); ++i) {
    Real none = 0;
    lion(rule, g[i], p[i], m[i]);
    finish(i, m[i], none);
  }
}

template <class Real>
void sweep_ema(double decay, std::int64_t count, const Real* __restrict p, Real* __restrict e) {
  const Average<Real> rule = average<Real>(decay);
  for (std::int64_t i = 0; i < count; ++i) e[i] = moved(rule, e[i], p[i]);
}

template <class Real, class Finish>
void sweep(const TensorUpdate& update, const Finish& finish, std::int64_t count, Real* const* row) {
  const Numbers& n = update.numbers;
  switch (update.rule) {
    case Rule::adam:
      return n.amsgrad ? sweep_adam<true>(n, finish, count, row) : sweep_adam<false>(n, finish, count, row);
    case Rule::sgd:
      return row[first] != nullptr ? sweep_sgd<true>(n, finish, count, row[param], row[grad], row[first])
                                   : sweep_sgd<false>(n, finish, count, row[param], row[grad], row[first]);
    case Rule::lion:
      return sweep_lion(n, finish, count, row[param], row[grad], row[first]);
    case Rule::none:
      return;
  }
}

// ---- memory to rows and back

// Calls run(place, stride, done, length) for every stretch of the innermost dimension among the elements
// [begin, begin + count): `length` elements from `place` on, `done` before them.
template <class Run>
void walk(const Strided& layout, const std::int64_t* strides, std::int64_t begin, std::int64_t count,
          Run run) {
  if (layout.dims == 0) return run(0, 1, 0, count);
  std::int64_t at[64];
  std::int64_t place = 0;
  for (int d = layout.dims - 1; d >= 0; --d) {
    at[d] = begin % layout.shape[d];
    begin /= layout.shape[d];
    place += at[d] * strides[d];
  }
  const int inner = layout.dims - 1;
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t length = std::min(layout.shape[inner] - at[inner], count - done);
    run(place, strides[inner], done, length);
    done += length;
    at[inner] += length;
    place += length * strides[inner];
    for (int d = inner; d > 0 && at[d] == layout.shape[d]; --d) {
      place += strides[d - 1] - at[d] * strides[d];
      at[d] = 0;
      ++at[d - 1];
    }
  }
}

template <class Stored>
void gather(const Strided& layout, int operand, const Stored* from, std::int64_t begin, std::int64_t count,
            Stored* to) {
  walk(layout, layout.strides[operand], begin, count,
       [=](std::int64_t place, std::int64_t stride, std::int64_t done, std::int64_t length) {
         for (std::int64_t i = 0; i < length; ++i) to[done + i] = from[place + i * stride];
       });
}

template <class Stored>
void scatter(const Strided& layout, int operand, const Stored* from, std::int64_t begin, std::int64_t count,
             Stored* to) {
  walk(layout, layout.strides[operand], begin, count,
       [=](std::int64_t place, std::int64_t stride, std::int64_t done, std::int64_t length) {
         for (std::int64_t i = 0; i < length; ++i) to[place + i * stride] = from[done + i];
       });
}

template <class Stored, class Real>
void widen(const Stored* __restrict from, std::int64_t count, Real* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<Real>(widened(from[i]));
}

template <class Real, class Stored>
void narrow_row(const Real* __restrict from, std::int64_t count, Stored* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i) narrow(from[i], to[i]);
}

// One operand's elements [begin, begin + count) in memory.
struct Piece {
  const TensorUpdate& update;
  int operand;
  std::int64_t begin, count;

  template <class Stored>
  Stored* address() const {
    return reinterpret_cast<Stored*>(update.at[operand]);
  }
};

template <class Real>
void load(const Piece& piece, Real* row) {
  with_format(piece.update.format[piece.operand], [&](auto kind) {
    using Stored = decltype(kind);
    const Stored* from = piece.address<Stored>();
    if (piece.update.strided == nullptr) return widen(from + piece.begin, piece.count, row);
    Stored dense[block];
    gather(*piece.update.strided, piece.operand, from, piece.begin, piece.count, dense);
    widen(dense, piece.count, row);
  });
}

// `rounded`: the row holds bfloat16 numbers already, in upper halves.
template <class Real>
void store(const Piece& piece, const Real* __restrict row, bool rounded = false) {
  const TensorUpdate& update = piece.update;
  with_format(update.format[piece.operand], [&](auto kind) {
    using Stored = decltype(kind);
    Stored* const to = piece.address<Stored>();
    Stored dense[block];
    Stored* __restrict const out = update.strided == nullptr ? to + piece.begin : dense;
    if constexpr (std::is_same_v<Stored, Bfloat16>) {
      if (rounded) {
        for (std::int64_t i = 0; i < piece.count; ++i) out[i] = upper_half(static_cast<float>(row[i]));
      } else {
        narrow_row(row, piece.count, out);
      }
    } else {
      narrow_row(row, piece.count, out);
    }
    if (update.strided != nullptr)
      scatter(*update.strided, piece.operand, dense, piece.begin, piece.count, to);
  });
}

void zero(const Piece& piece) {
  with_format(piece.update.format[piece.operand], [&](auto kind) {
    using Stored = decltype(kind);
    Stored* const to = piece.address<Stored>();
    if (piece.update.strided == nullptr) {
      std::memset(to + piece.begin, 0, static_cast<std::size_t>(piece.count) * sizeof(Stored));
    } else {
      const Stored zeros[block] = {};
      scatter(*piece.update.strided, piece.operand, zeros, piece.begin, piece.count, to);
    }
  });
}

// The weights of a half parameter: its master's, but where an element is no longer the master's rounding
// somebody has written it, and it counts.
template <class Real>
void load_master(const TensorUpdate& update, std::int64_t begin, std::int64_t count, Real* row) {
  load({update, param, begin, count}, row);
  if (update.fresh_master) return;
  Real held[block];
  load({update, master, begin, count}, held);
  with_format(update.format[param], [&](auto kind) {
    using Stored = decltype(kind);
    for (std::int64_t i = 0; i < count; ++i) {
      Stored rounded;
      narrow(held[i], rounded);
      row[i] = static_cast<Real>(widened(rounded)) == row[i] ? held[i] : row[i];
    }
  });
}

// ---- one tensor

// Elements [begin, begin + count), at most a block where one is staged: every operand becomes a row of
// numbers, in place where memory holds it as one already.
template <class Real>
void update_block(const TensorUpdate& update, std::int64_t begin, std::int64_t count) {
  Real buffers[operands][block];
  Real* row[operands] = {};
  const auto in_place = [&](int o) {
    return update.strided == nullptr && update.format[o] == format_of<Real>;
  };
  const bool mastered = update.at[master] != nullptr;
  for (int o = param; o < master; ++o) {
    if (update.at[o] == nullptr) continue;
    row[o] = in_place(o) ? reinterpret_cast<Real*>(update.at[o]) + begin : buffers[o];
    if (o == param && mastered) {
      load_master(update, begin, count, row[o]);
    } else if (!in_place(o) && !(o == ema && update.fresh_ema)) {
      load({update, o, begin, count}, row[o]);
    }
  }
  if (update.at[ema] != nullptr && update.fresh_ema) std::copy(row[param], row[param] + count, row[ema]);
  const bool at_random = row[first] != nullptr && update.format[first] == Format::bfloat16;
  if (at_random) {
    sweep(update, RoundedAtRandom(update.state_bits, begin), count, row);
  } else {
    sweep(update, Kept(), count, row);
  }
  if (update.rule != Rule::none) {
    if (update.param_at_random) {
      const RoundedAtRandom finish(update.param_bits, begin);
      Real none = 0;
      for (std::uint32_t i = 0; i < static_cast<std::uint32_t>(count); ++i) finish(i, row[param][i], none);
    }
    if (!in_place(param)) store({update, param, begin, count}, row[param], update.param_at_random);
    for (const int o : {first, second, top}) {
      if (row[o] != nullptr && !in_place(o)) store({update, o, begin, count}, row[o], at_random);
    }
  }
  if (mastered) store({update, master, begin, count}, row[param]);
  if (row[ema] != nullptr) {
    // What is averaged is the parameter as rounded, but a master as it is.
    if (update.format[param] != format_of<Real> && !mastered) load({update, param, begin, count}, row[param]);
    if (update.numbers.ema != 1) sweep_ema(update.numbers.ema, count, row[param], row[ema]);
    if (!in_place(ema)) store({update, ema, begin, count}, row[ema]);
  }
  if (update.zero_grad) zero({update, grad, begin, count});
}

template <class Real>
bool all_in_place(const TensorUpdate& update) {
  if (update.strided != nullptr || update.at[master] != nullptr) return false;
  for (int o = param; o < master; ++o) {
    if (update.at[o] != nullptr && update.format[o] != format_of<Real>) return false;
  }
  return true;
}

template <class Real>
void update_range(const TensorUpdate& update, std::int64_t begin, std::int64_t count) {
  const bool in_place = all_in_place<Real>(update);
  if (in_place && update.at[ema] == nullptr && !update.zero_grad) {
    Real* row[operands];
    for (int o = param; o < operands; ++o) {
      row[o] = update.at[o] == nullptr ? nullptr : reinterpret_cast<Real*>(update.at[o]) + begin;
    }
    return sweep(update, Kept(), count, row);
  }
  const std::int64_t longest = in_place ? long_block : block;
  for (const std::int64_t end = begin + count; begin < end;) {
    const std::int64_t whole = begin / longest * longest + longest;  // ends at multiples of 2**32 too
    const std::int64_t length = std::min(whole, end) - begin;
    update_block<Real>(update, begin, length);
    begin += length;
  }
}

// ---- all tensors

std::int64_t elements(const TensorUpdate* work, std::int64_t count) {
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < count; ++i) total += work[i].count;
  return total;
}

// Calls part(begin, end) with equal parts of [0, total), one per thread. Parts end at multiples of 64
// elements, so that two threads write to no cache line of a large tensor together.
template <class Part>
void in_parts(std::int64_t total, int threads, Part part) {
  if (threads <= 1) return part(0, total);
  const std::int64_t portion = ((total + threads - 1) / threads + 63) & ~std::int64_t{63};
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) part(std::min(t * portion, total), std::min((t + 1) * portion, total));
}

void step(const TensorUpdate* work, std::int64_t count, int threads) {
  in_parts(elements(work, count), threads, [=](std::int64_t begin, std::int64_t end) {
    std::int64_t start = 0;  // of the tensor, among the elements of all
    for (const TensorUpdate* u = work; u != work + count && start < end; start += u->count, ++u) {
      const std::int64_t from = std::max<std::int64_t>(begin - start, 0);
      const std::int64_t to = std::min(end - start, u->count);
      if (from >= to) continue;
      is_double(*u) ? update_range<double>(*u, from, to - from) : update_range<float>(*u, from, to - from);
    }
  });
}

// ---- the norm of all gradients

// How a norm is made: a term per element, joined in any fixed order; NaN stays.
struct Largest {
  static double term(double x) { return std::fabs(x); }
  static double join(double a, double b) { return b > a || b != b ? b : a; }
};
struct Sum {
  static double term(double x) { return std::fabs(x); }
  static double join(double a, double b) { return a + b; }
};
struct SumOfSquares : Sum {
  static double term(double x) { return x * x; }
};

// Sixteen elements at a time, whatever the width of the machine's vectors.
constexpr int lanes = 16;

template <class Kind, class Real>
void accumulate(const Real* g, std::int64_t count, double* sums) {
  double lane[lanes];
  std::copy(sums, sums + lanes, lane);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (int l = 0; l < lanes; ++l) lane[l] = Kind::join(lane[l], Kind::term(static_cast<double>(g[i + l])));
  }
  for (int l = 0; i < count; ++i, ++l) lane[l] = Kind::join(lane[l], Kind::term(static_cast<double>(g[i])));
  std::copy(lane, lane + lanes, sums);
}

template <class Kind>
double joined(const TensorUpdate& update, std::int64_t begin, std::int64_t count) {
  double sums[lanes] = {};
  if (update.strided == nullptr && update.format[grad] == Format::float32) {
    accumulate<Kind>(reinterpret_cast<const float*>(update.at[grad]) + begin, count, sums);
  } else {
    double row[block];
    for (std::int64_t done = 0; done < count; done += block) {
      const std::int64_t length = std::min(block, count - done);
      load({update, grad, begin + done, length}, row);
      accumulate<Kind>(row, length, sums);
    }
  }
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) sums[l] = Kind::join(sums[l], sums[l + half]);
  }
  return sums[0];
}

// Elements are joined within chunks, chunks within tensors, and tensors by size: the result depends neither
// on the number of threads nor on the order of the tensors.
constexpr std::int64_t chunk = 1 << 14;

template <class Kind>
double joined(const TensorUpdate* work, std::int64_t count, const double* weight, int threads) {
  std::vector<std::int64_t> first_chunk(static_cast<std::size_t>(count) + 1);
  for (std::int64_t i = 0; i < count; ++i)
    first_chunk[i + 1] = first_chunk[i] + (work[i].count + chunk - 1) / chunk;
  std::vector<double> parts(static_cast<std::size_t>(first_chunk[count]));
  double* const part = parts.data();
  const std::int64_t* const place = first_chunk.data();
  in_parts(elements(work, count), threads, [=](std::int64_t begin, std::int64_t end) {
    std::int64_t start = 0;
    for (std::int64_t i = 0; i < count && start < end; start += work[i].count, ++i) {
      // the chunks that start in this thread's part
      std::int64_t c = begin <= start ? 0 : (begin - start + chunk - 1) / chunk;
      for (; c * chunk < work[i].count && start + c * chunk < end; ++c) {
        part[place[i] + c] = joined<Kind>(work[i], c * chunk, std::min(chunk, work[i].count - c * chunk));
      }
    }
  });
  std::vector<double> tensors;
  tensors.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    double whole = 0;
    for (std::int64_t c = place[i]; c < place[i + 1]; ++c) whole = Kind::join(whole, part[c]);
    if (weight != nullptr) whole *= weight[i];
    if (whole != whole) return whole;
    tensors.push_back(whole);
  }
  std::sort(tensors.begin(), tensors.end());
  double all = 0;
  for (const double one : tensors) all = Kind::join(all, one);
  return all;
}

double power_sum(const TensorUpdate* work, std::int64_t count, const double* weight, NormKind kind,
                 int threads) {
  switch (kind) {
    case NormKind::one:
      return joined<Sum>(work, count, weight, threads);
    case NormKind::two:
      return joined<SumOfSquares>(work, count, weight, threads);
    case NormKind::infinity:
      return joined<Largest>(work, count, nullptr, threads);
  }
  return 0;
}

}  // namespace

extern const StepKernels step_kernels;
const StepKernels step_kernels = {step, power_sum};

}  // namespace fastsched::FASTSCHED_ISA
