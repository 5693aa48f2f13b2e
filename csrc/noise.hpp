// Noise without state: a function of a seed and a step alone, so any step's is found at once and in any
// order.
#pragma once

#include "scalar.hpp"

namespace fastsched {

// 32 bits that depend on all five words: MurmurHash3 (Appleby, public domain), 32-bit variant.
FASTSCHED_SHARED std::uint32_t hash_words(std::uint64_t seed, std::uint64_t step, std::uint32_t draw) {
  const auto low = [](std::uint64_t word) { return static_cast<std::uint32_t>(word); };
  const std::uint32_t words[5] = {low(seed), low(seed >> 32), low(step), low(step >> 32), draw};
  std::uint32_t h = 0;
  for (std::uint32_t k : words) {
    k *= 0xcc9e2d51u;
    k = (k << 15) | (k >> 17);
    h ^= k * 0x1b873593u;
    h = (h << 13) | (h >> 19);
    h = h * 5u + 0xe6546b64u;
  }
  h ^= 20u;  // their length in bytes
  h = (h ^ (h >> 16)) * 0x85ebca6bu;
  h = (h ^ (h >> 13)) * 0xc2b2ae35u;
  return h ^ (h >> 16);
}

// Inside (0, 1), its 2**32 values symmetric about 1/2.
FASTSCHED_SHARED double uniform(std::uint64_t seed, std::uint64_t step, std::uint32_t draw) {
  return (static_cast<double>(hash_words(seed, step, draw)) + 0.5) * 0x1p-32;
}

// In (-limit, limit): uniform where steepness is 0, else with density 2**(-steepness * e**2), by rejection;
// 256 draws fail with probability 1e-26 where limit is at most 6 standard deviations.
FASTSCHED_SHARED_CALL double noise(std::uint64_t seed, std::uint64_t step, double limit, double steepness) {
  double e = 0.0;
  for (std::uint32_t draw = 0; draw < 512; draw += 2) {
    e = limit * (2.0 * uniform(seed, step, draw) - 1.0);
    if (steepness == 0.0 || uniform(seed, step, draw + 1) < exp2(Pair{-steepness * (e * e), 0.0})) break;
  }
  return e;
}

}  // namespace fastsched
