// The CUDA kernels as loops on the CPU, beside the CPU's own step, for tests to compare bits. Structs come
// from Python as they lie in memory here.
#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#define FASTSCHED_ISA baseline
#include "cpu/step.cpp"
#define FASTSCHED_EMULATED
#include "cuda/kernels.cu"

using namespace fastsched;
using namespace fastsched::cuda;

namespace {

using UpdateKernel = void (*)(UpdateArgs);

template <int code>
constexpr UpdateKernel kernel_of() {
  if constexpr (is_variant(code)) {
    return &update<code>;
  } else {
    return nullptr;
  }
}

template <int... codes>
constexpr std::array<UpdateKernel, sizeof...(codes)> kernels_of(std::integer_sequence<int, codes...>) {
  return {kernel_of<codes>()...};
}

constexpr auto update_kernels = kernels_of(std::make_integer_sequence<int, variant_codes>());

template <class Args>
void launch(void (*kernel)(Args), int blocks, const Args& args) {
  emulated_blocks = static_cast<unsigned>(blocks);
  for (unsigned block = 0; block < emulated_blocks; ++block) {
    emulated_block = block;
    kernel(args);
  }
}

std::vector<Portion> portions_of(const DeviceTensor* tensors, int count) {
  std::vector<Portion> portions;
  for (int t = 0; t < count; ++t) {
    for (int i = 0; i * chunk < tensors[t].count; ++i) portions.push_back({t, i});
  }
  return portions;
}

// The CPU's view of the same work. `held` keeps layouts.
TensorUpdate as_update(const DeviceTensor& tensor, const Prepared& prepared, Rule rule,
                       const std::int64_t* layouts, Strided& held) {
  TensorUpdate u{};
  for (int o = param; o < operands; ++o) u.at[o] = tensor.at[o], u.format[o] = tensor.format[o];
  u.count = tensor.count;
  u.rule = rule;
  u.numbers = prepared.numbers;
  u.fresh_ema = (prepared.fresh & fresh_ema) != 0;
  u.fresh_master = (prepared.fresh & fresh_master) != 0;
  u.zero_grad = tensor.zero_grad;
  u.param_at_random = tensor.param_at_random;
  u.param_bits = prepared.bits.param, u.state_bits = prepared.bits.state;
  if (tensor.strided < 0) return u;
  const std::int64_t* const layout = layouts + tensor.strided;
  const std::int64_t dims = layout[0], *shape = layout + 1, *strides = shape + dims;
  held = {static_cast<int>(dims), shape, {strides, strides + dims}};
  for (int o = first; o < operands; ++o) held.strides[o] = strides + 2 * dims;
  u.strided = &held;
  return u;
}

std::vector<TensorUpdate> as_updates(const DeviceTensor* tensors, const Prepared* prepared, int count,
                                     Rule rule, const std::int64_t* layouts, std::vector<Strided>& held) {
  held.resize(static_cast<std::size_t>(count));
  std::vector<TensorUpdate> work;
  for (int i = 0; i < count; ++i) work.push_back(as_update(tensors[i], prepared[i], rule, layouts, held[i]));
  return work;
}

}  // namespace

extern "C" {

std::int64_t size_of(int which) {
  constexpr std::size_t sizes[] = {
      sizeof(Settings),     sizeof(Constants), sizeof(Numbers),     sizeof(DeviceRow), sizeof(Control),
      sizeof(Report),       sizeof(Slot),      sizeof(HyperEdit),   sizeof(SlotEdit),  sizeof(LrTensor),
      sizeof(DeviceTensor), sizeof(Prepared),  sizeof(ControlArgs), sizeof(ProbeArgs)};
  return static_cast<std::int64_t>(sizes[which]);
}

void run_threads_backwards(bool backwards) { emulated_backwards = backwards; }

bool has_kernel(int code) { return code >= 0 && code < variant_codes && is_variant(code); }

void step_on_cpu(const DeviceTensor* tensors, const Prepared* prepared, int count, Rule rule,
                 const std::int64_t* layouts) {
  std::vector<Strided> held;
  const auto work = as_updates(tensors, prepared, count, rule, layouts, held);
  baseline::step_kernels.step(work.data(), count, 1);
}

void step_by_kernel(int code, const Control* control, const DeviceTensor* tensors, const Prepared* prepared,
                    int count, const std::int64_t* layouts, bool only_zero) {
  const auto portions = portions_of(tensors, count);
  launch(update_kernels[static_cast<std::size_t>(code)], static_cast<int>(portions.size()),
         UpdateArgs{control, tensors, prepared, layouts, portions.data(), only_zero});
}

// Of a single tensor the elements from `begin`, a multiple of the chunk, to its end.
void step_on_cpu_from(const DeviceTensor* tensor, const Prepared* prepared, Rule rule, std::int64_t begin) {
  Strided held;
  const TensorUpdate u = as_update(*tensor, *prepared, rule, nullptr, held);
  is_double(u) ? baseline::update_range<double>(u, begin, u.count - begin)
               : baseline::update_range<float>(u, begin, u.count - begin);
}

void step_by_kernel_from(int code, const Control* control, const DeviceTensor* tensor,
                         const Prepared* prepared, std::int64_t begin) {
  const Portion portion{0, static_cast<std::int32_t>(begin / chunk)};
  launch(update_kernels[static_cast<std::size_t>(code)], 1,
         UpdateArgs{control, tensor, prepared, nullptr, &portion, false});
}

double norm_on_cpu(NormKind kind, const DeviceTensor* tensors, int count, const std::int64_t* layouts) {
  std::vector<Strided> held;
  const std::vector<Prepared> prepared(static_cast<std::size_t>(count));
  const auto work = as_updates(tensors, prepared.data(), count, Rule::none, layouts, held);
  std::vector<double> shares;
  for (int i = 0; i < count; ++i) shares.push_back(tensors[i].share);
  return baseline::step_kernels.power_sum(work.data(), count, shares.data(), kind, 1);
}

// `blocks` partial results, and their join in `joined`.
void norm_by_kernel(NormKind kind, const DeviceTensor* tensors, int count, const std::int64_t* layouts,
                    int blocks, double* partials, double made, double* joined) {
  const auto portions = portions_of(tensors, count);
  const NormArgs args{tensors, layouts, portions.data(), static_cast<std::int32_t>(portions.size()),
                      partials};
  const JoinArgs join_args{partials, blocks, made, joined};
  switch (kind) {
    case NormKind::one:
      return launch(&norm<0>, blocks, args), launch(&join<0>, 1, join_args);
    case NormKind::two:
      return launch(&norm<1>, blocks, args), launch(&join<1>, 1, join_args);
    case NormKind::infinity:
      return launch(&norm<2>, blocks, args), launch(&join<2>, 1, join_args);
  }
}

void control_by_kernel(bool scheduled, const ControlArgs* args) {
  launch(scheduled ? &control<true> : &control<false>, 1, *args);
}

void probe_by_kernel(bool scheduled, const ProbeArgs* args) {
  launch(scheduled ? &probe<true> : &probe<false>, 1, *args);
}

// What the host makes of a group's values for one tensor.
void prepared_on_host(const Settings* settings, const double* values, const Constants* group, double unscale,
                      double clip, double ema_decay, std::int64_t steps, std::uint32_t place,
                      std::uint32_t fresh, Prepared* out) {
  Numbers n = numbers_of(*settings, values, *group, {unscale, clip, false}, ema_decay);
  if (settings->rule == Rule::adam) correct(n, bias_corrections(n, static_cast<double>(steps + 1)));
  n.first_momentum = (fresh & fresh_momentum) != 0;
  *out = {n, streams_of(settings->seed, steps, place), fresh};
}

}  // extern "C"
