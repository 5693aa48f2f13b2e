// A fuzzer's bytes as the values that a harness needs. When they run out, all that follows is 0.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

namespace fuzz {

// Numbers at the edges of what programs are checked for; targets.py encodes the others as 8 bytes.
constexpr double edges[] = {0.0,
                            -0.0,
                            1.0,
                            -1.0,
                            0.5,
                            2.0,
                            3.0,
                            10.0,
                            100.0,
                            511.0,
                            512.0,
                            513.0,
                            1024.0,
                            2048.0,
                            1e-7,
                            1e290,
                            4294967295.0,
                            4294967296.0,
                            9007199254740991.0,
                            9007199254740992.0,
                            -9007199254740992.0,
                            9007199254740994.0,
                            std::numeric_limits<double>::infinity(),
                            -std::numeric_limits<double>::infinity(),
                            std::numeric_limits<double>::quiet_NaN(),
                            std::numeric_limits<double>::denorm_min(),
                            std::numeric_limits<double>::min(),
                            std::numeric_limits<double>::max(),
                            -std::numeric_limits<double>::max(),
                            0.1,
                            1.5,
                            0.999};
constexpr int edge_count = static_cast<int>(sizeof edges / sizeof *edges);

class Bytes {
public:
  Bytes(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}

  bool empty() const { return at_ == end_; }

  template <class T>
  T take() {
    T value{};
    const std::size_t left = static_cast<std::size_t>(end_ - at_);
    const std::size_t size = left < sizeof value ? left : sizeof value;
    if (size > 0) std::memcpy(&value, at_, size);
    at_ += size;
    return value;
  }

  // From 0 to `most`.
  int below(int most) { return take<std::uint8_t>() % (most + 1); }
  bool flip() { return (take<std::uint8_t>() & 1) != 0; }

  double number() {
    const int which = take<std::uint8_t>();
    return which < edge_count ? edges[which] : take<double>();
  }

private:
  const std::uint8_t *at_, *end_;
};

}  // namespace fuzz
