// The parts of which kernels are written. They are plain CUDA C++: tests/cuda_on_host runs the same
// sources on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "check.hpp"

#include "quip/core/matrix.hpp"

// Unrolls the loop that follows, so that arrays indexed in it can be registers; or keeps it a loop,
// so that what is in it is compiled once.
#ifdef __CUDACC__
#define QUIP_UNROLL _Pragma("unroll")
#define QUIP_NO_UNROLL _Pragma("unroll 1")
#else
#define QUIP_UNROLL
#define QUIP_NO_UNROLL
#endif

namespace quip::cuda {

/// A view that kernels can take and index; rows `ld` elements apart.
template <typename T>
struct DeviceView {
  T* data;
  index_t rows;
  index_t cols;
  index_t ld;

  DeviceView(MatrixView<T> view)  // NOLINT(google-explicit-constructor): the same thing
      : data(view.data), rows(view.rows), cols(view.cols), ld(view.ld) {}
  __device__ T& operator()(index_t i, index_t j) const { return data[i * ld + j]; }
};

/// Returns the block's dynamic shared memory.
template <typename T>
__device__ T* shared_memory() {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  return reinterpret_cast<T*>(shared_bytes);
}

inline unsigned blocks_for(index_t count, index_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

/// Returns the first element that this thread visits; all_threads() is the distance to the next.
__device__ inline index_t global_thread() {
  return static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline index_t all_threads() { return static_cast<index_t>(gridDim.x) * blockDim.x; }

/// Runs `kernel` on `stream`; `name` goes into the message if the launch fails.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            std::size_t shared_bytes, cudaStream_t stream, Arguments&&... arguments) {
  constexpr std::size_t without_asking = 48 << 10;
  if (shared_bytes > without_asking) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          name, __FILE__, __LINE__);
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name, __FILE__,
        __LINE__);
}

/// Calls op(row, col) for all elements of a matrix.
template <typename Operation>
__device__ void for_elements(index_t rows, index_t cols, const Operation& op) {
  const index_t total = rows * cols;
  for (index_t i = global_thread(); i < total; i += all_threads()) {
    const index_t row = i / cols;
    op(row, i - row * cols);
  }
}

/// Runs a kernel over `size` elements, of which its threads take several each.
template <typename... Parameters, typename... Arguments>
void launch_elementwise(const char* name, void (*kernel)(Parameters...), index_t size,
                        cudaStream_t stream, Arguments&&... arguments) {
  if (size == 0) return;
  constexpr index_t threads = 256;
  constexpr unsigned most = 4096;
  const unsigned wanted = blocks_for(size, 4 * threads);
  launch(name, kernel, wanted < most ? wanted : most, threads, 0, stream, arguments...);
}

}  // namespace quip::cuda
