// The one macro that marks code shared by every instruction set of the CPU and by CUDA.
#pragma once

// `static`: each translation unit keeps its own copy. Were these functions plain `inline`, the linker would
// keep one copy for all, perhaps the AVX-512 one, and the baseline path would run instructions that the
// machine does not have.
#if defined(__CUDACC__)
#define FASTSCHED_SHARED static __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define FASTSCHED_SHARED static inline __attribute__((always_inline))
#else
#define FASTSCHED_SHARED static inline
#endif
