// The parts of which kernels are written. They are plain CUDA C++: tests/cuda_on_host runs the same
// sources on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "check.hpp"

#include "quip/core/matrix.hpp"

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

/// The grid of element-wise kernels, whose threads take several elements each.
inline constexpr unsigned threads_elementwise = 256;
inline unsigned elementwise_blocks(index_t elements) {
  constexpr index_t per_block = index_t{4} * threads_elementwise;
  constexpr index_t most = 4096;
  const index_t wanted = (elements + per_block - 1) / per_block;
  return static_cast<unsigned>(wanted < most ? wanted : most);
}

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

}  // namespace quip::cuda
