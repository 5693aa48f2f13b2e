// Elements of tensors in a device's memory: which of them a thread takes together, and how they come and go.
#pragma once

#include "cuda/grid.hpp"
#include "cuda/tables.hpp"

namespace fastsched::cuda {

template <Format format>
struct StoredAs;
template <>
struct StoredAs<Format::float32> {
  using Type = float;
};
template <>
struct StoredAs<Format::float64> {
  using Type = double;
};
template <>
struct StoredAs<Format::bfloat16> {
  using Type = Bfloat16;
};
template <>
struct StoredAs<Format::float16> {
  using Type = Float16;
};

template <class A, class B>
constexpr bool is_same = false;
template <class A>
constexpr bool is_same<A, A> = true;

// The elements that one block works on.
struct Range {
  std::int64_t begin, end;
};

FASTSCHED_DEVICE Range range_of(const Portion& portion, const DeviceTensor& tensor) {
  const std::int64_t begin = portion.index * chunk, end = begin + chunk;
  return {begin, end < tensor.count ? end : tensor.count};
}

// Whether 16 bytes can be moved at once.
FASTSCHED_DEVICE bool is_aligned(const char* at) { return (reinterpret_cast<std::uint64_t>(at) & 15u) == 0; }

// Where an element lies in memory, counted in elements from an operand's address on.
struct Place {
  std::int64_t of[layout_operands];
};

FASTSCHED_DEVICE_CALL Place place_of(const std::int64_t* layout, std::int64_t index) {
  const int dims = static_cast<int>(layout[0]);
  const std::int64_t* const shape = layout + 1;
  const std::int64_t* const strides = shape + dims;
  Place place = {};
  for (int d = dims - 1; d >= 0; --d) {
    const std::int64_t coordinate = index % shape[d];
    index /= shape[d];
    for (int o = 0; o < layout_operands; ++o) place.of[o] += coordinate * strides[o * dims + d];
  }
  return place;
}

// The elements that one thread works on at once: `width` neighbours from `first` on, of which those before
// `end` exist.
template <int width, bool strided>
struct Pack {
  std::int64_t first;
  int count;   // that exist, at most `width`
  bool whole;  // all of them, and at addresses that let many bytes move at once

  Pack() = default;
  FASTSCHED_MEMBER Pack(std::int64_t first, std::int64_t end, bool aligned, const std::int64_t*)
      : first(first),
        count(static_cast<int>(end - first < width ? end - first : width)),
        whole(aligned && count == width) {}
  FASTSCHED_MEMBER std::int64_t place(Layout, int i) const { return first + i; }
};

template <int width>
struct Pack<width, true> {
  std::int64_t first;
  int count;
  static constexpr bool whole = false;
  Place places[width];

  Pack() = default;
  FASTSCHED_MEMBER Pack(std::int64_t first, std::int64_t end, bool, const std::int64_t* layout)
      : first(first), count(static_cast<int>(end - first < width ? end - first : width)) {
    FASTSCHED_UNROLL
    for (int i = 0; i < width; ++i) places[i] = place_of(layout, i < count ? first + i : first);
  }
  FASTSCHED_MEMBER std::int64_t place(Layout operand, int i) const { return places[i].of[operand]; }
};

template <int bytes>
struct Moved {
  using Unit = Sixteen;
};
template <>
struct Moved<8> {
  using Unit = Eight;
};
template <>
struct Moved<4> {
  using Unit = Four;
};

template <int width, class Stored>
union Bytes {
  static constexpr int size = width * static_cast<int>(sizeof(Stored));
  using Unit = typename Moved<size>::Unit;
  static constexpr int units = size / static_cast<int>(sizeof(Unit));
  Unit unit[units];
  Stored element[width];
};

// What does not exist is read as 0, so that formulas need not ask.
template <class Stored, int width, bool strided>
FASTSCHED_DEVICE void load(const Pack<width, strided>& pack, Layout operand, const char* at,
                           Stored (&out)[width]) {
  const Stored* const from = reinterpret_cast<const Stored*>(at);
  if (pack.whole) {
    using Moving = Bytes<width, Stored>;
    Moving bytes;
    FASTSCHED_UNROLL
    for (int u = 0; u < Moving::units; ++u) {
      bytes.unit[u] = reinterpret_cast<const typename Moving::Unit*>(from + pack.first)[u];
    }
    FASTSCHED_UNROLL
    for (int i = 0; i < width; ++i) out[i] = bytes.element[i];
  } else {
    FASTSCHED_UNROLL
    for (int i = 0; i < width; ++i) out[i] = i < pack.count ? from[pack.place(operand, i)] : Stored{};
  }
}

template <class Stored, int width, bool strided>
FASTSCHED_DEVICE void store(const Pack<width, strided>& pack, Layout operand, char* at,
                            const Stored (&in)[width]) {
  Stored* const to = reinterpret_cast<Stored*>(at);
  if (pack.whole) {
    using Moving = Bytes<width, Stored>;
    Moving bytes;
    FASTSCHED_UNROLL
    for (int i = 0; i < width; ++i) bytes.element[i] = in[i];
    FASTSCHED_UNROLL
    for (int u = 0; u < Moving::units; ++u) {
      reinterpret_cast<typename Moving::Unit*>(to + pack.first)[u] = bytes.unit[u];
    }
  } else {
    FASTSCHED_UNROLL
    for (int i = 0; i < width; ++i) {
      if (i < pack.count) to[pack.place(operand, i)] = in[i];
    }
  }
}

template <class Stored, class Real, int width, bool strided>
FASTSCHED_DEVICE void load_widened(const Pack<width, strided>& pack, Layout operand, const char* at,
                                   Real (&out)[width]) {
  Stored stored[width];
  load(pack, operand, at, stored);
  FASTSCHED_UNROLL
  for (int i = 0; i < width; ++i) out[i] = static_cast<Real>(widened(stored[i]));
}

template <int width, bool strided>
FASTSCHED_DEVICE void store_zeros(const Pack<width, strided>& pack, Layout operand, char* at, Format format) {
  with_format(format, [&](auto kind) {
    const decltype(kind) zeros[width] = {};
    store(pack, operand, at, zeros);
  });
}

}  // namespace fastsched::cuda
