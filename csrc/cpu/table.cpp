// Tables: the program's value over a range of steps. Between two edges a program is a straight line of
// instructions; each of them runs over a block of steps before the next one does, and the compiler vectorises
// these loops. The arithmetic is that of `value`, so the bits are too.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/kernels.hpp"

namespace fastsched {
namespace FASTSCHED_ISA {
namespace {

constexpr std::int64_t block = 512;  // steps: a few operands of 4 KiB each stay in the first-level cache
constexpr std::int64_t worth_a_thread =
    1 << 16;  // elements: about 100 us of work, many times the cost of a fork

// One formula over consecutive steps.
template <class Formula>
void sweep(double first, std::int64_t count, double* __restrict__ out, Formula formula) {
  for (int i = 0; i < static_cast<int>(count); ++i) out[i] = formula(first + i);
}

// A long formula that is called instead of inlined runs one step at a time (ten times slower).
#if defined(__GNUC__)
#define FASTSCHED_INLINE __attribute__((always_inline))
#else
#define FASTSCHED_INLINE
#endif

constexpr int whole_steps = 0;  // what every table knows, see `unknown`

#define FASTSCHED_SWEEP(name, number, known) \
  sweep(first, count, out, [c](double t) FASTSCHED_INLINE { return name<number, known>(c, t); })

// How many of `count` steps come before the one from which on a test fails.
template <class Test>
std::int64_t count_while(std::int64_t count, Test test) {
  if (count == 0 || !test(0)) return 0;
  if (test(count - 1)) return count;
  std::int64_t low = 0, high = count - 1;  // test(low) holds, test(high) does not
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (test(middle) ? low : high) = middle;
  }
  return high;
}

template <class Number, int half>
void leg_half(const Phase& phase, double first, std::int64_t count, double* out) {
  const Leg leg = phase.leg;
  if (phase.shape == Shape::line) {
    sweep(first, count, out, [leg](double t) FASTSCHED_INLINE { return line<Number, half>(leg, t); });
  } else {
    sweep(first, count, out, [leg](double t) FASTSCHED_INLINE { return arc<Number, half>(leg, t); });
  }
}

void leg_block(const Phase& phase, double first, std::int64_t count, double* out) {
  const Leg& leg = phase.leg;
  if (opposite(leg.start, leg.end)) return leg_half<Wide, unknown>(phase, first, count, out);
  const std::int64_t n =
      count_while(count, [&](std::int64_t i) { return near_start(leg, first + static_cast<double>(i)); });
  leg_half<double, first_half>(phase, first, n, out);
  leg_half<double, second_half>(phase, first + static_cast<double>(n), count - n, out + n);
}

// How many of at most `count` steps from `first` on come before a later time.
std::int64_t steps_until(double time, double first, std::int64_t count) {
  const double ahead = std::ceil(time - first);
  return ahead < static_cast<double>(count) ? std::max<std::int64_t>(1, static_cast<std::int64_t>(ahead))
                                            : count;
}

template <class Locate>
void phased_block(const Curve& c, double first, std::int64_t count, double* out, Locate phase_at) {
  while (count > 0) {
    const Phase phase = phase_at(c, first);
    const double local = first - phase.origin;
    const std::int64_t n = steps_until(phase.leg.finish, local, count);
    leg_block(phase, local, n, out);
    first += static_cast<double>(n);
    out += n;
    count -= n;
  }
}

template <int power, int half>
void whole_power_half(bool rise, const Curve& c, double first, std::int64_t count, double* out) {
  if (rise) {
    sweep(first, count, out, [c](double t) FASTSCHED_INLINE {
      return whole_power_mix<power, half>(c.end, c.start, {c.steps - t, 0.0}, {t, 0.0}, c.steps, c.q);
    });
  } else {
    sweep(first, count, out, [c](double t) FASTSCHED_INLINE {
      return whole_power_mix<power, half>(c.start, c.end, {t, 0.0}, {c.steps - t, 0.0}, c.steps, c.q);
    });
  }
}

template <int power>
void whole_power_block(bool rise, const Curve& c, double first, std::int64_t count, double* out) {
  const auto in_first_half = [&](std::int64_t i) {
    const double t = first + static_cast<double>(i);
    return whole_power_near_start<power>(rise ? t : c.steps - t, c.q) != rise;
  };
  const std::int64_t n = count_while(count, in_first_half);
  constexpr int before = first_half, after = second_half;
  if (rise) {  // nearer to its `start`, which is the end, later on
    whole_power_half<power, after>(rise, c, first, n, out);
    whole_power_half<power, before>(rise, c, first + static_cast<double>(n), count - n, out + n);
  } else {
    whole_power_half<power, before>(rise, c, first, n, out);
    whole_power_half<power, after>(rise, c, first + static_cast<double>(n), count - n, out + n);
  }
}

// A real power's logarithm and exponential one after the other: as one loop they are too long a chain for the
// processor to look past it (1.3 times as slow).
template <class Exponent, class Mix>
void real_power_block(double first, std::int64_t count, double* out, Exponent exponent, Mix mix_of) {
  double high[block + 24], low[block + 8];  // not 4096 bytes apart: stores and loads would seem to overlap
  for (int i = 0; i < static_cast<int>(count); ++i) {
    const Pair y = exponent(first + i);
    high[i] = y.high;
    low[i] = y.low;
  }
  for (int i = 0; i < static_cast<int>(count); ++i) out[i] = mix_of({high[i], low[i]});
}

// The same of (t/n)**p, which has no logarithm at the first step.
template <class Mix>
void real_rise_block(const Curve& c, double first, std::int64_t count, double* out, Mix mix_of) {
  if (first == 0.0) {
    *out++ = c.start;
    first += 1.0;
    count -= 1;
  }
  real_power_block(
      first, count, out,
      [c](double t) FASTSCHED_INLINE { return real_exponent<true>(c.p, {t, 0.0}, c.steps, c.q); }, mix_of);
}

void power_block(bool rise, const Curve& c, double first, std::int64_t count, double* out) {
  if (crosses_zero(c)) {
    if (rise) {
      FASTSCHED_SWEEP(power_rise, Wide, whole_steps);
    } else {
      FASTSCHED_SWEEP(polynomial, Wide, whole_steps);
    }
    return;
  }
#define FASTSCHED_CASE(n) \
  if (c.p == n) return whole_power_block<n>(rise, c, first, count, out);
  FASTSCHED_WHOLE_POWERS(FASTSCHED_CASE)
#undef FASTSCHED_CASE
  if (rise) {
    real_rise_block(c, first, count, out,
                    [c](Pair y) FASTSCHED_INLINE { return real_power_mix(c.end, c.start, y); });
  } else {
    real_power_block(
        first, count, out,
        [c](double t) FASTSCHED_INLINE { return real_exponent<true>(c.p, {c.steps - t, 0.0}, c.steps, c.q); },
        [c](Pair y) FASTSCHED_INLINE { return real_power_mix(c.start, c.end, y); });
  }
}

// The distance from `step` to the first later one at which another branch is taken, a curve ends or a cycle
// begins; `most` if that comes first. 0 where time runs at another pace: it has fractions, so that no block
// of steps serves.
double steps_to_edge(const Program& program, double step, double most) {
  double kept[most_cycles];
  int cycles = 0;
  double time = step;
  const auto edge = [&](double at) {
    if (time < at) most = std::min(most, at - time);
  };
  for (std::int64_t i = 0; i < program.size;) {
    const Instruction& in = program.code[i];
    std::int64_t next = in.next;
    if (in.code == Code::branch) {
      edge(in.offset);
      next = time < in.offset ? i + 1 : next;
    } else if (in.code == Code::pace) {
      return 0.0;
    } else if (in.code == Code::cycle) {
      edge(in.offset + largest_step);
      kept[cycles++] = time;
      time = cycled(in.curve, since(in, time));
      edge(in.curve.p);
    } else if (in.code == Code::resume) {
      time = kept[--cycles];
    } else if (in.code < Code::sample) {
      edge(in.offset + at_most_largest_step(in.curve.steps));
    }
    i = next;
  }
  return most;
}

// What one thread needs to fill columns: a stack of blocks, and lists of exponentials.
class Filler {
public:
  // `steps` and `programs`: how much it is going to fill, which says whether a list is worth its making.
  Filler(std::int64_t steps, std::int64_t programs) : lists_pay_(steps >= 4096 && programs <= most_lists) {}

  void fill(const Program& program, std::int64_t start, std::int64_t count, double* out) {
    std::int64_t ahead = 0;  // steps without an edge
    for (std::int64_t done = 0; done < count;) {
      const double first = static_cast<double>(start + done);
      if (ahead == 0) {
        ahead = static_cast<std::int64_t>(steps_to_edge(program, first, static_cast<double>(count - done)));
      }
      const std::int64_t n = std::min(block, ahead > 0 ? ahead : count - done);
      if (ahead > 0) {
        run(program, first, n, out + done);
        ahead -= n;
      } else {
        for (std::int64_t i = 0; i < n; ++i) out[done + i] = value(program, first + static_cast<double>(i));
      }
      done += n;
    }
  }

private:
  static constexpr std::int64_t most_lists = 4;

  struct List {
    double p, q, r;
    std::vector<double> ratios;
  };

  // The exponential's second factors; null where they are not worth a list.
  const double* ratios(const Curve& c) {
    for (const List& list : lists_) {
      if (list.p == c.p && list.q == c.q && list.r == c.r) return list.ratios.data();
    }
    if (!lists_pay_ || lists_.size() == most_lists) return nullptr;
    lists_.push_back({c.p, c.q, c.r, std::vector<double>(static_cast<std::size_t>(c.r))});
    double* const out = lists_.back().ratios.data();
    const auto count = static_cast<std::int64_t>(c.r);
    sweep(0.0, count, out, [c](double t) FASTSCHED_INLINE { return exponential_ratio<whole_steps>(c, t); });
    return out;
  }

  void exponential_block(const Curve& c, double first, std::int64_t count, double* out) {
    if (c.r < 8.0) {
      FASTSCHED_SWEEP(exponential, double, unknown);
      return;
    }
    const double* const list = ratios(c);
    while (count > 0) {
      const double anchor = c.r * floor_positive(first / c.r), local = first - anchor;
      const std::int64_t n = std::min(count, static_cast<std::int64_t>(c.r - local));
      const double factor = exponential_anchor(c, anchor);
      if (list != nullptr) {
        const double* const from = list + static_cast<std::int64_t>(local);
        for (std::int64_t i = 0; i < n; ++i) out[i] = factor * from[i];
      } else {
        sweep(local, n, out, [c, factor](double t) FASTSCHED_INLINE {
          return factor * exponential_ratio<whole_steps>(c, t);
        });
      }
      first += static_cast<double>(n);
      out += n;
      count -= n;
    }
  }

  // The levels of all stairs in the block first, then each for as long as it lasts.
  void stairs_block(Code code, const Curve& c, double first, std::int64_t count, double* out) {
    const double last = first + static_cast<double>(count - 1);
    const double stair = whole_turns(first, c.r);
    const double stairs = whole_turns(last, c.r) - stair + 1.0;
    // Also where stairs cannot be counted one by one any more, or are so short that their number overflows.
    if (!(stairs <= 0.25 * static_cast<double>(count) + 1.0 && stair + stairs <= largest_step)) {
      if (code == Code::staircase) {
        FASTSCHED_SWEEP(staircase, double, unknown);
      } else {
        FASTSCHED_SWEEP(inverse_staircase, double, unknown);
      }
      return;
    }
    double levels[block];
    const auto n = static_cast<std::int64_t>(stairs);
    if (code == Code::staircase) {
      exponential_block(stairs_of_staircase(c), stair, n, levels);
    } else {
      sweep(stair, n, levels,
            [c](double k) FASTSCHED_INLINE { return inverse_time<double, whole_steps>(c, k); });
    }
    const bool whole = floor_positive(c.r) == c.r;
    std::int64_t from = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const double next = stair + static_cast<double>(i) + 1.0;
      // The next stair's first step: near there, then, where stairs have a fraction, exactly.
      std::int64_t edge = static_cast<std::int64_t>(
          std::clamp(std::ceil(next * c.r - first), static_cast<double>(from), static_cast<double>(count)));
      const auto is_next = [&](std::int64_t k) {
        return whole_turns(first + static_cast<double>(k), c.r) >= next;
      };
      while (!whole && edge > from && is_next(edge - 1)) --edge;
      while (!whole && edge < count && !is_next(edge)) ++edge;
      std::fill(out + from, out + edge, levels[i]);
      from = edge;
    }
    std::fill(out + from, out + count, levels[n - 1]);  // an edge past 2**53 was rounded
  }

  void damped_block(const Curve c, double first, std::int64_t count, double* out) {
    if (crosses_zero(c)) {
      FASTSCHED_SWEEP(damped, Wide, unknown);
      return;
    }
    double decays[block];
    exponential_block(decay_of_damped(c), first, count, decays);
    for (std::int64_t done = 0; done < count;) {
      const double begin = first + static_cast<double>(done);
      const Phase phase = phase_of_triangle(c, begin);
      const double local = begin - phase.origin;
      const std::int64_t n = steps_until(phase.leg.finish, local, count - done);
      const Slope leg = slope_of(c, phase.leg);
      const double* const decay = decays + done;
      double* __restrict const to = out + done;
      if (is_damped_peak(c)) {
        for (int i = 0; i < static_cast<int>(n); ++i) to[i] = damped_peak(c, leg, local + i, decay[i]);
      } else {
        for (int i = 0; i < static_cast<int>(n); ++i)
          to[i] = damped_dip<double>(c, leg, local + i, begin + i, decay[i]);
      }
      done += n;
    }
  }

  void curve_block(Code code, const Curve& c, double first, std::int64_t count, double* out) {
    if (first >= c.steps) {
      std::fill(out, out + count, held(code, c));
      return;
    }
    switch (code) {
      case Code::polynomial:
      case Code::power_rise:
        return power_block(code == Code::power_rise, c, first, count, out);
      case Code::power_law:
        return real_power_block(
            first, count, out, [c](double t) FASTSCHED_INLINE { return power_law_exponent(c, t); },
            [c](Pair y) FASTSCHED_INLINE { return power_law_from(c, y); });
      case Code::warped_cosine:
        if (crosses_zero(c)) {
          FASTSCHED_SWEEP(warped_cosine, Wide, whole_steps);
          return;
        }
        return real_rise_block(c, first, count, out,
                               [c](Pair y) FASTSCHED_INLINE { return warped_cosine_from(c, y); });
      case Code::warped_polynomial:
        if (crosses_zero(c) || amplifies(c.p, c.r)) {
          FASTSCHED_SWEEP(warped_polynomial, Wide, whole_steps);
          return;
        }
        return real_rise_block(c, first, count, out, [c](Pair y) FASTSCHED_INLINE {
          return real_power_mix(c.start, c.end, warped_polynomial_exponent(c.r, y));
        });
      case Code::cosine_power:
        if (crosses_zero(c)) {
          FASTSCHED_SWEEP(cosine_power, Wide, whole_steps);
          return;
        }
        return real_power_block(
            first, count, out, [c](double t) FASTSCHED_INLINE { return cosine_exponent<whole_steps>(c, t); },
            [c](Pair y) FASTSCHED_INLINE { return real_power_mix(c.start, c.end, y); });
      case Code::exponential:
        return exponential_block(c, first, count, out);
      case Code::damped:
        return damped_block(c, first, count, out);
      case Code::staircase:
      case Code::inverse_staircase:
        return stairs_block(code, c, first, count, out);
#define FASTSCHED_CASE(name) \
  case Code::name:           \
    return phased_block(c, first, count, out, phase_of_##name);
        FASTSCHED_PHASED_CURVES(FASTSCHED_CASE)
#undef FASTSCHED_CASE
#define FASTSCHED_CASE(name)                      \
  case Code::name:                                \
    if (crosses_zero(c)) {                        \
      FASTSCHED_SWEEP(name, Wide, whole_steps);   \
    } else {                                      \
      FASTSCHED_SWEEP(name, double, whole_steps); \
    }                                             \
    return;
        FASTSCHED_PLAIN_CURVES(FASTSCHED_CASE)
#undef FASTSCHED_CASE
#define FASTSCHED_CASE(name) case Code::name:
        FASTSCHED_OPERATIONS(FASTSCHED_CASE)
#undef FASTSCHED_CASE
      case Code::count:
        return;
    }
  }

  // `value` for `count` consecutive steps without an edge between them, at the pace of steps. The bottom of
  // the stack is `out`. Where the last cycle has ended, or at the largest step, time stands still.
  void run(const Program& program, double first, std::int64_t count, double* out) {
    struct Clock {
      double time;
      bool still;
    };
    Clock clock = {first, false}, kept[most_cycles];
    int depth = 0, cycles = 0;
    const auto at = [=](int level) { return level == 0 ? out : stack_.data() + (level - 1) * block; };
    for (std::int64_t i = 0; i < program.size;) {
      const Instruction& in = program.code[i];
      const Curve& c = in.curve;
      const double t = since(in, clock.time);
      std::int64_t next = in.next;
      switch (in.code) {
        case Code::sample: {
          double* const a = at(depth++);
          const std::int64_t inside =
              clock.still
                  ? 0
                  : static_cast<std::int64_t>(std::clamp(c.steps - t, 0.0, static_cast<double>(count)));
          if (inside > 0) std::copy_n(program.samples + static_cast<std::int64_t>(c.p + t), inside, a);
          std::fill(a + inside, a + count, sample_value(program, c, t + static_cast<double>(inside)));
          break;
        }
        case Code::branch:
          next = clock.time < in.offset ? i + 1 : next;
          break;
        case Code::multiply: {
          double* const a = at(depth - 2);
          const double* const b = at(--depth);
          for (std::int64_t k = 0; k < count; ++k) a[k] *= b[k];
          break;
        }
        case Code::add: {
          double* const a = at(depth - 2);
          const double* const b = at(--depth);
          for (std::int64_t k = 0; k < count; ++k) a[k] += b[k];
          break;
        }
        case Code::scale: {
          double* const a = at(depth - 1);
          for (std::int64_t k = 0; k < count; ++k) a[k] *= c.start;
          break;
        }
        case Code::clip: {
          double* const a = at(depth - 1);
          for (std::int64_t k = 0; k < count; ++k) a[k] = clipped(c, a[k]);
          break;
        }
        case Code::noise: {
          double* const a = at(depth - 1);
          for (std::int64_t k = 0; k < count; ++k) {
            a[k] = noisy(c, a[k], clock.still ? t : at_most_largest_step(t + static_cast<double>(k)));
          }
          break;
        }
        case Code::cycle:
          kept[cycles++] = clock;
          clock = {cycled(c, t), clock.still || t >= at_most_largest_step(c.steps)};
          break;
        case Code::pace:  // `fill` has asked `value`
          break;
        case Code::resume:
          clock = kept[--cycles];
          break;
        default: {
          double* const a = at(depth++);
          if (clock.still || t == largest_step) {
            std::fill(a, a + count, curve_value(in.code, c, t));
          } else {
            curve_block(in.code, c, t, count, a);
          }
        }
      }
      i = next;
    }
  }

  bool lists_pay_;
  std::vector<List> lists_;
  std::vector<double> stack_ = std::vector<double>(stack_size * block);
};

// A square of `lanes` columns, each contiguous, to as many rows.
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define FASTSCHED_SHUFFLE 1
#endif
#endif

template <class T>
constexpr int lanes = 32 / sizeof(T);

template <class T>
void transpose_square(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride) {
  constexpr int n = lanes<T>;
#if defined(FASTSCHED_SHUFFLE)
  typedef T Vector __attribute__((vector_size(32)));
  Vector a[n], b[n];
#pragma GCC unroll 8
  for (int i = 0; i < n; ++i) __builtin_memcpy(&a[i], from + i * from_stride, sizeof(Vector));
  // Riffling the upper half of the columns into the lower one, log2(n) times, exchanges rows and columns.
#pragma GCC unroll 3
  for (int round = 1; round < n; round *= 2) {
#pragma GCC unroll 4
    for (int i = 0; i < n / 2; ++i) {
      if constexpr (n == 8) {
        b[2 * i] = __builtin_shufflevector(a[i], a[i + n / 2], 0, 8, 1, 9, 2, 10, 3, 11);
        b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + n / 2], 4, 12, 5, 13, 6, 14, 7, 15);
      } else {
        b[2 * i] = __builtin_shufflevector(a[i], a[i + n / 2], 0, 4, 1, 5);
        b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + n / 2], 2, 6, 3, 7);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) a[i] = b[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < n; ++i) __builtin_memcpy(to + i * to_stride, &a[i], sizeof(Vector));
#else
  for (int i = 0; i < n; ++i) {
    for (int k = 0; k < n; ++k) to[i * to_stride + k] = from[k * from_stride + i];
  }
#endif
}

template <class T>
void scaled_copy(double scale, const double* from, std::int64_t count, T* to, std::int64_t stride) {
  if (stride == 1) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(scale * from[i]);
  } else {
    for (std::int64_t i = 0; i < count; ++i) to[i * stride] = static_cast<T>(scale * from[i]);
  }
}

// The columns of a table for a block of steps: each curve once where all fit into the second-level cache or
// many groups share them, else as a group asks for it.
class Columns {
public:
  Columns(const TableRequest& q, std::int64_t steps)
      : q_(q),
        filler_(steps, q.program_count),
        each_(q.program_count <= 64 || q.groups > 2 * q.program_count),
        height(each_ ? std::clamp<std::int64_t>((1 << 17) / std::max<std::int64_t>(q.program_count, 1), 16,
                                                block)
                     : block),
        values_(static_cast<std::size_t>(height * ((each_ ? q.program_count : 1) + 1)), 1.0) {}

  void begin(std::int64_t first, std::int64_t count) {
    first_ = first;
    count_ = count;
    for (std::int64_t p = 0; each_ && p < q_.program_count; ++p) fill(p, p);
  }

  const double* of(std::int64_t group) {
    const std::int64_t program = q_.column[group];
    if (program < 0) return values_.data();  // the block that stays 1.0
    if (!each_) fill(program, 0);
    return slot(each_ ? program : 0);
  }

private:
  double* slot(std::int64_t i) { return values_.data() + (i + 1) * height; }
  void fill(std::int64_t program, std::int64_t to) {
    filler_.fill(q_.programs[program], first_, count_, slot(to));
  }

  const TableRequest& q_;
  Filler filler_;
  bool each_;
  std::int64_t first_ = 0, count_ = 0;

public:
  const std::int64_t height;  // steps of a block

private:
  std::vector<double> values_;
};

// Rows side by side in memory: groups by tiles, each column contiguous first, then exchanged with the rows.
template <class T>
void tiled_rows(const TableRequest& q, Columns& columns, std::int64_t count, T* tile, T* out) {
  constexpr std::int64_t n = lanes<T>, width = 2 * n;
  for (std::int64_t g = 0; g < q.groups; g += width) {
    const std::int64_t some = std::min(width, q.groups - g);
    for (std::int64_t k = 0; k < some; ++k) {
      scaled_copy(q.scale[g + k], columns.of(g + k), count, tile + k * block, 1);
    }
    const std::int64_t squares = some / n * n, whole = count / n * n;
    for (std::int64_t i = 0; i < whole; i += n) {
      // The next tile's lines: rows lie too far apart for the processor to foresee them (1.15 times as slow).
      for (std::int64_t k = 0; k < n && g + width < q.groups; ++k) {
        __builtin_prefetch(out + (i + k) * q.row_stride + std::min(g + 2 * width, q.groups) - 1, 1, 2);
      }
      for (std::int64_t k = 0; k < squares; k += n) {
        transpose_square(tile + k * block + i, block, out + i * q.row_stride + g + k, q.row_stride);
      }
    }
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t k = i < whole ? squares : 0; k < some; ++k)
        out[i * q.row_stride + g + k] = tile[k * block + i];
    }
  }
}

template <class T>
void rows(const TableRequest& q, std::int64_t begin, std::int64_t end, T* out) {
  Columns columns(q, end - begin);
  const bool by_column = q.row_stride < q.column_stride || q.groups == 1 || q.column_stride != 1;
  const bool one_curve =
      q.program_count == 1 && std::all_of(q.column, q.column + q.groups, [](int c) { return c == 0; });
  std::vector<T> tile(by_column || one_curve ? 0 : 2 * lanes<T> * block);
  for (std::int64_t done = begin; done < end; done += columns.height) {
    const std::int64_t n = std::min(columns.height, end - done);
    columns.begin(q.start + done, n);
    T* const to = out + done * q.row_stride;
    if (by_column) {
      for (std::int64_t g = 0; g < q.groups; ++g) {
        scaled_copy(q.scale[g], columns.of(g), n, to + g * q.column_stride, q.row_stride);
      }
    } else if (one_curve) {
      const double* const value = columns.of(0);
      for (std::int64_t i = 0; i < n; ++i) {
        T* const row = to + i * q.row_stride;
        for (std::int64_t g = 0; g < q.groups; ++g) row[g] = static_cast<T>(q.scale[g] * value[i]);
      }
    } else {
      tiled_rows(q, columns, n, tile.data(), to);
    }
  }
}

// One float64 column with unit stride and scale is filled in place.
bool is_plain(const TableRequest& q, const double*) {
  return q.groups == 1 && q.row_stride == 1 && q.column[0] == 0 && q.scale[0] == 1.0;
}
bool is_plain(const TableRequest&, const float*) { return false; }

void plain(const TableRequest& q, std::int64_t begin, std::int64_t end, double* out) {
  Filler(end - begin, 1).fill(q.programs[0], q.start + begin, end - begin, out + begin);
}
void plain(const TableRequest&, std::int64_t, std::int64_t, float*) {}

template <class T>
void table(const TableRequest& q, T* out) {
  const std::int64_t elements = q.steps * q.groups;
  const std::int64_t shares = std::clamp<std::int64_t>(elements / worth_a_thread, 1,
                                                       std::min<std::int64_t>(usable_threads(), q.steps));
  const auto share = [&](std::int64_t begin, std::int64_t end) {
    is_plain(q, out) ? plain(q, begin, end, out) : rows(q, begin, end, out);
  };
  if (shares == 1) return share(0, q.steps);
#pragma omp parallel for num_threads(shares) schedule(static)
  for (std::int64_t i = 0; i < shares; ++i) share(q.steps * i / shares, q.steps * (i + 1) / shares);
}

void values(const Program& program, const double* steps, std::int64_t count, double* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = value(program, steps[i]);
}

}  // namespace

extern const TableKernels table_kernels;
const TableKernels table_kernels = {value, values, table<double>, table<float>};

}  // namespace FASTSCHED_ISA
}  // namespace fastsched
