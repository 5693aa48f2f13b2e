// Tensors of a hostile exchange table: whatever layout, dtype or address one claims, reading it must end in a
// refusal or in a view whose every element has a place; and a step over such a view writes nothing beside it.
//
// No interpreter runs: the table is asked through the pointers that Python's side would have set.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "bindings/tensor.hpp"
#include "bytes.hpp"
#include "cpu/kernels.hpp"

namespace fastsched::baseline {
extern const StepKernels step_kernels;
}

namespace {

using namespace fastsched;

dlpack::Tensor claimed;  // what the table hands out next

int hand_out(void*, dlpack::Tensor* out) {
  *out = claimed;
  return 0;
}

constexpr std::int64_t lengths[] = {0,
                                    1,
                                    2,
                                    3,
                                    5,
                                    16,
                                    257,
                                    -1,
                                    -2,
                                    std::int64_t{1} << 31,
                                    std::int64_t{1} << 32,
                                    std::int64_t{1} << 58,
                                    INT64_MAX,
                                    INT64_MIN,
                                    INT64_MIN + 1,
                                    INT64_MAX / 2};
constexpr int length_count = static_cast<int>(sizeof lengths / sizeof *lengths);

std::int64_t read_length(fuzz::Bytes& bytes) {
  const int which = bytes.take<std::uint8_t>();
  return which < length_count ? lengths[which] : which < 250 ? which % 7 : bytes.take<std::int64_t>();
}

// Exactly as long as the tensor claims, so that the address sanitizer sees a read past their end.
using Lengths = std::unique_ptr<std::int64_t[]>;

Lengths read_lengths(fuzz::Bytes& bytes, int dims) {
  Lengths row(new std::int64_t[static_cast<std::size_t>(dims)]);
  for (int d = 0; d < dims; ++d) row[d] = read_length(bytes);
  return row;
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

constexpr std::int64_t most_bytes = 1 << 14;
constexpr char untouched = 0x2a;

// Memory exactly as long as a view needs.
struct Room {
  explicit Room(std::int64_t bytes) : size(bytes), at(new char[static_cast<std::size_t>(bytes)]) {
    std::fill(at.get(), at.get() + bytes, untouched);
  }
  std::int64_t size;
  std::unique_ptr<char[]> at;
};

// Every element's first byte, in the order of rows after rows.
std::vector<std::int64_t> places(const View& view, const std::int64_t* strides) {
  std::vector<std::int64_t> found;
  for (std::int64_t i = 0; i < view.count; ++i) {
    std::int64_t rest = i, place = 0;
    for (int d = view.dims - 1; d >= 0; --d) {
      place += rest % view.shape[d] * strides[d];
      rest /= view.shape[d];
    }
    found.push_back(place * bytes_of(view.format));
  }
  return found;
}

std::vector<std::int64_t> rows_after_rows(const View& view) {
  std::vector<std::int64_t> strides(static_cast<std::size_t>(view.dims));
  std::int64_t stride = 1;
  for (int d = view.dims - 1; d >= 0; --d) {
    strides[static_cast<std::size_t>(d)] = stride;
    stride *= view.shape[d];
  }
  return strides;
}

// As the engine lays out an update whose operands differ: without dimensions of length 1.
struct Layout {
  Layout(const View& view, const std::vector<std::int64_t>& dense) {
    for (int d = 0; d < view.dims; ++d) {
      if (view.shape[d] == 1) continue;
      shape.push_back(view.shape[d]);
      of_param.push_back(view.strides[d]);
      of_others.push_back(dense[static_cast<std::size_t>(d)]);
    }
    strided = {static_cast<int>(shape.size()), shape.data(), {}};
    for (int o = grad; o < operands; ++o) strided.strides[o] = of_others.data();
    strided.strides[param] = of_param.data();
  }
  std::vector<std::int64_t> shape, of_param, of_others;
  Strided strided;
};

void step_over(fuzz::Bytes& bytes, const View& view) {
  const std::vector<std::int64_t> dense = rows_after_rows(view);
  const Layout layout(view, dense);
  const Format real = view.format == Format::float64 ? Format::float64 : Format::float32;
  const bool half = view.format == Format::bfloat16 || view.format == Format::float16;
  const Format state = bytes.flip() ? Format::bfloat16 : real;
  const Format formats[operands] = {
      view.format, static_cast<Format>(bytes.below(3)), state, state, state, real, Format::float32};
  TensorUpdate update{};
  update.rule = static_cast<Rule>(bytes.below(2));
  const int flags = bytes.take<std::uint8_t>();
  const bool used[operands] = {true,
                               true,
                               update.rule != Rule::sgd || (flags & 1) != 0,
                               update.rule == Rule::adam,
                               update.rule == Rule::adam && (flags & 2) != 0,
                               (flags & 4) != 0,
                               half && (flags & 8) != 0};
  std::vector<Room> rooms;
  for (int o = param; o < operands; ++o) {
    rooms.emplace_back(!used[o] ? 0 : o == param ? view.extent() : view.count * bytes_of(formats[o]));
    update.at[o] = used[o] ? rooms.back().at.get() : nullptr;
    update.format[o] = formats[o];
  }
  update.count = view.count;
  update.strided =
      same_strides(view.dims, view.shape, view.strides, dense.data()) ? nullptr : &layout.strided;
  update.fresh_ema = (flags & 16) != 0, update.fresh_master = (flags & 32) != 0;
  update.zero_grad = (flags & 64) != 0;
  update.param_at_random = view.format == Format::bfloat16 && !used[master] && (flags & 128) != 0;
  Numbers& n = update.numbers;
  for (double* number : {&n.grad_scale, &n.grad_limit, &n.coupled, &n.decay, &n.step_size, &n.beta1, &n.beta2,
                         &n.bias2, &n.epsilon, &n.momentum, &n.undampened, &n.ema})
    *number = bytes.number();
  n.amsgrad = used[top];
  baseline::step_kernels.step(&update, 1, 1);
  baseline::step_kernels.power_sum(&update, 1, nullptr, static_cast<NormKind>(flags % 3), 1);

  std::vector<bool> of_an_element(static_cast<std::size_t>(rooms[param].size));
  for (const std::int64_t at : places(view, view.strides)) {
    for (std::int64_t k = 0; k < bytes_of(view.format); ++k)
      of_an_element[static_cast<std::size_t>(at + k)] = true;
  }
  for (std::size_t i = 0; i < of_an_element.size(); ++i) {
    if (!of_an_element[i] && rooms[param].at[i] != untouched) fail("the step wrote between the elements");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const dlpack::Exchange table = {{{1, 3}, nullptr}, nullptr, nullptr, nullptr, hand_out, nullptr};
  dlpack::exchange_in_use() = &table;
  fuzz::Bytes bytes(data, size);
  const int dims = bytes.take<std::uint8_t>() % 12, missing = bytes.take<std::uint8_t>();
  const Lengths shape = read_lengths(bytes, dims), strides = read_lengths(bytes, dims);
  claimed = {};
  claimed.ndim = missing == 1 ? -1 - dims : dims;
  claimed.shape = missing == 2 ? nullptr : shape.get();
  claimed.strides = missing == 3 ? nullptr : strides.get();
  claimed.data = missing == 4 ? nullptr : &claimed;  // only its being null is looked at
  claimed.byte_offset = missing == 5 ? bytes.take<std::uint64_t>() : 0;
  const int usual = bytes.take<std::uint8_t>();
  constexpr dlpack::DataType types[] = {{2, 32, 1}, {2, 64, 1}, {4, 16, 1},
                                        {2, 16, 1}, {5, 64, 1}, {5, 128, 1}};
  claimed.dtype = usual < 240 ? types[usual % 6] : bytes.take<dlpack::DataType>();
  claimed.device = usual % 16 != 0 ? dlpack::Device{dlpack::cpu, 0} : bytes.take<dlpack::Device>();

  View view;
  if (!read_view(nullptr, view)) return 0;
  if (view.count < 0 || view.extent() < 0) fail("a view has a negative size");
  if ((view.device == on_cpu) != (claimed.device.type == dlpack::cpu)) fail("a device was taken for the CPU");
  const Overlap kind = overlap(view.dims, view.shape, view.strides);
  if (kind == Overlap::overlapping || view.extent() > most_bytes || view.device != on_cpu) return 0;
  if (view.count * bytes_of(view.format) > view.extent()) fail("elements that do not overlap lack room");
  step_over(bytes, view);
  return 0;
}
