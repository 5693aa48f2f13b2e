// Blocks and threads, so that the same kernels run on a GPU and, with FASTSCHED_EMULATED, as loops on the
// CPU, where tests compare them with the CPU's step. A kernel is a sequence of phases: what one thread leaves
// for another lies in block memory, and is read in a later phase.
#pragma once

#include "host_device.hpp"

#if defined(FASTSCHED_EMULATED)
#define FASTSCHED_KERNEL(threads, blocks) static void
#define FASTSCHED_MEMBER inline
#define FASTSCHED_DEVICE_CALL static inline
#define FASTSCHED_BLOCK_MEMORY static thread_local
#define FASTSCHED_UNROLL
#else
// A kernel may use the registers that let a multiprocessor hold `blocks` of it; left to choose, ptxas spills.
#define FASTSCHED_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define FASTSCHED_MEMBER __device__ __forceinline__
#define FASTSCHED_DEVICE_CALL static __device__ __noinline__
#define FASTSCHED_BLOCK_MEMORY __shared__
#define FASTSCHED_UNROLL _Pragma("unroll")
#endif
#define FASTSCHED_DEVICE static FASTSCHED_MEMBER

namespace fastsched::cuda {

#if defined(FASTSCHED_EMULATED)
static thread_local unsigned emulated_block = 0, emulated_blocks = 1;  // set by whoever calls a kernel
static thread_local bool emulated_backwards =
    false;  // threads in the opposite order: results must not depend on it
FASTSCHED_DEVICE int block_index() { return static_cast<int>(emulated_block); }
FASTSCHED_DEVICE int block_count() { return static_cast<int>(emulated_blocks); }
FASTSCHED_DEVICE void fence() {}
#else
FASTSCHED_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
FASTSCHED_DEVICE int block_count() { return static_cast<int>(gridDim.x); }
FASTSCHED_DEVICE void fence() { __threadfence_system(); }  // between two writes, for the host too
#endif

// One phase: run(thread) by each of a block's `count` threads, all of which end it before any goes on.
template <int count, class Run>
FASTSCHED_DEVICE void all_threads(Run run) {
#if defined(FASTSCHED_EMULATED)
  for (int i = 0; i < count; ++i) run(emulated_backwards ? count - 1 - i : i);
#else
  run(static_cast<int>(threadIdx.x));
  __syncthreads();
#endif
}

// The same where nothing is left for a later phase.
template <int count, class Run>
FASTSCHED_DEVICE void last_of_all_threads(Run run) {
#if defined(FASTSCHED_EMULATED)
  all_threads<count>(run);
#else
  run(static_cast<int>(threadIdx.x));
#endif
}

// What moves at once between addresses that are multiples of its size.
#if defined(FASTSCHED_EMULATED)
struct __attribute__((may_alias, aligned(16))) Sixteen {
  std::uint32_t word[4];
};
typedef std::uint64_t __attribute__((may_alias)) Eight;
typedef std::uint32_t __attribute__((may_alias)) Four;
#else
using Sixteen = uint4;
using Eight = uint2;
using Four = unsigned;
#endif

}  // namespace fastsched::cuda
