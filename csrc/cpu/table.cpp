// Tables: the program's value over a range of steps. Between two edges a program is a straight line of
// instructions; each of them runs over a block of steps before the next one does, and the compiler vectorises
// these loops. The arithmetic is that of `value`, so the bits are too.
#include <algorithm>
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
void sweep(Curve c, double first, std::int64_t count, double* __restrict__ out, Formula formula) {
  for (int i = 0; i < static_cast<int>(count); ++i) out[i] = formula(c, first + i);
}

// A long formula that is called instead of inlined runs one step at a time (ten times slower).
#if defined(__GNUC__)
#define FASTSCHED_INLINE __attribute__((always_inline))
#else
#define FASTSCHED_INLINE
#endif

#define FASTSCHED_SWEEP(name, number, half, first, count, out) \
  sweep(c, first, count, out,                                  \
        [](const Curve& k, double t) FASTSCHED_INLINE { return name<number, half>(k, t); })

void curve_block(const Instruction& in, double first, std::int64_t count, double* out) {
  const Curve& c = in.curve;
  if (first >= c.steps) {
    std::fill(out, out + count, held(in.code, c));
    return;
  }
  const bool wide = crosses_zero(c);
  switch (in.code) {
#define FASTSCHED_CASE(name)                                                                                \
  case Code::name:                                                                                          \
    if (wide) {                                                                                             \
      FASTSCHED_SWEEP(name, Wide, Half::unknown, first, count, out);                                        \
    } else if constexpr (has_halves(Code::name)) {                                                          \
      /* the steps with t < n - t */                                                                        \
      const std::int64_t middle = (static_cast<std::int64_t>(c.steps) + 1) / 2;                             \
      const std::int64_t n = std::clamp<std::int64_t>(middle - static_cast<std::int64_t>(first), 0, count); \
      FASTSCHED_SWEEP(name, double, Half::first, first, n, out);                                            \
      FASTSCHED_SWEEP(name, double, Half::second, first + static_cast<double>(n), count - n, out + n);      \
    } else {                                                                                                \
      FASTSCHED_SWEEP(name, double, Half::unknown, first, count, out);                                      \
    }                                                                                                       \
    break;
    FASTSCHED_CURVES(FASTSCHED_CASE)
#undef FASTSCHED_CASE
    default:
      break;
  }
}

// The first step after `step` at which another branch is taken or a curve ends; `last` if that comes first.
double next_edge(const Program& program, double step, double last) {
  double edge = last;
  for (std::int64_t i = 0; i < program.size;) {
    const Instruction& in = program.code[i];
    std::int64_t next = in.next;
    if (in.code == Code::branch) {
      if (step < in.offset) {
        edge = std::min(edge, in.offset);
        next = i + 1;
      }
    } else if (step < in.offset + in.curve.steps) {
      edge = std::min(edge, in.offset + in.curve.steps);
    }
    i = next;
  }
  return edge;
}

// `value` for `count` consecutive steps without an edge between them. The bottom of the stack is `out`.
void program_block(const Program& program, double first, std::int64_t count, double* out, double* stack) {
  int depth = 0;
  const auto at = [=](int level) { return level == 0 ? out : stack + (level - 1) * block; };
  for (std::int64_t i = 0; i < program.size;) {
    const Instruction& in = program.code[i];
    std::int64_t next = in.next;
    switch (in.code) {
      case Code::branch:
        next = first < in.offset ? i + 1 : next;
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
        for (std::int64_t k = 0; k < count; ++k) a[k] *= in.curve.start;
        break;
      }
      default:
        curve_block(in, first - in.offset, count, at(depth++));
    }
    i = next;
  }
}

// One thread's stack of blocks.
struct Filler {
  std::vector<double> stack = std::vector<double>(stack_size * block);

  void fill(const Program& program, std::int64_t start, std::int64_t count, double* out) {
    const double last = static_cast<double>(start + count);
    double edge = 0.0;
    for (std::int64_t done = 0; done < count;) {
      const double first = static_cast<double>(start + done);
      if (edge <= first) edge = next_edge(program, first, last);
      // `last` rounds to 2**53 where the table ends with that step; then there is no edge left.
      const std::int64_t ahead =
          edge > first ? static_cast<std::int64_t>(edge) - (start + done) : count - done;
      const std::int64_t n = std::min({block, count - done, ahead});
      program_block(program, first, n, out + done, stack.data());
      done += n;
    }
  }
};

template <class T>
void rows(const TableRequest& q, std::int64_t begin, std::int64_t end, T* out) {
  Filler filler;
  // As many steps at a time as keep all columns of a block in the second-level cache.
  const std::int64_t height =
      std::clamp<std::int64_t>((1 << 15) / std::max<std::int64_t>(q.program_count, 1), 16, block);
  std::vector<double> columns(static_cast<std::size_t>(height * (q.program_count + 1)), 1.0);
  const std::int32_t* const column = q.column;
  const double* const scale = q.scale;
  const bool one_curve =
      q.program_count == 1 && std::all_of(column, column + q.groups, [](int c) { return c == 0; });
  for (std::int64_t done = begin; done < end; done += height) {
    const std::int64_t n = std::min(height, end - done);
    double* const first =
        columns.data() + height;  // the block before it stays 1.0: what a column of -1 reads
    for (std::int64_t p = 0; p < q.program_count; ++p) {
      filler.fill(q.programs[p], q.start + done, n, first + p * height);
    }
    if (q.row_stride < q.column_stride || q.groups == 1) {
      for (std::int64_t g = 0; g < q.groups; ++g) {
        const double* const from = first + column[g] * height;
        T* const to = out + done * q.row_stride + g * q.column_stride;
        const double s = scale[g];
        if (q.row_stride == 1) {
          for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(s * from[i]);
        } else {
          for (std::int64_t i = 0; i < n; ++i) to[i * q.row_stride] = static_cast<T>(s * from[i]);
        }
      }
      continue;
    }
    for (std::int64_t i = 0; i < n; ++i) {
      T* const to = out + (done + i) * q.row_stride;
      if (one_curve && q.column_stride == 1) {
        const double v = first[i];
        for (std::int64_t g = 0; g < q.groups; ++g) to[g] = static_cast<T>(scale[g] * v);
      } else {
        for (std::int64_t g = 0; g < q.groups; ++g) {
          to[g * q.column_stride] = static_cast<T>(scale[g] * first[column[g] * height + i]);
        }
      }
    }
  }
}

// One float64 column with unit stride and scale is filled in place.
bool is_plain(const TableRequest& q, const double*) {
  return q.groups == 1 && q.row_stride == 1 && q.column[0] == 0 && q.scale[0] == 1.0;
}
bool is_plain(const TableRequest&, const float*) { return false; }

void plain(const TableRequest& q, std::int64_t begin, std::int64_t end, double* out) {
  Filler().fill(q.programs[0], q.start + begin, end - begin, out + begin);
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
