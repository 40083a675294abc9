// Levels to packed codes and back. Eight codes fill a whole number of bytes for every width: they
// are one thread's.
#include "../kernel.hpp"
#include "quant_kernels.hpp"

namespace quip::cuda {
namespace {

constexpr index_t run = 8;
constexpr unsigned threads = 128;

/// blockIdx.y: the run of columns; threads along rows of W.
__global__ void pack(DeviceView<const float> q, const std::int32_t* position, int bits,
                     std::uint8_t* packed, index_t row_bytes) {
  const index_t row = global_thread();
  if (row >= q.cols) return;
  const index_t first = static_cast<index_t>(blockIdx.y) * run;
  const index_t last = first + run < q.rows ? first + run : q.rows;
  std::uint64_t codes = 0;
  for (index_t j = first; j < last; ++j) {
    codes |= static_cast<std::uint64_t>(q(position[j], row)) << (bits * (j - first));
  }
  std::uint8_t* to = packed + row * row_bytes + first * bits / 8;
  const index_t bytes = ((last - first) * bits + 7) / 8;
  for (index_t i = 0; i < bytes; ++i) to[i] = static_cast<std::uint8_t>(codes >> (8 * i));
}

__global__ void unpack(const std::uint8_t* packed, index_t row_bytes, int bits, CodeGrid grid,
                       DeviceView<float> w) {
  const index_t row = global_thread();
  if (row >= w.cols) return;
  const index_t first = static_cast<index_t>(blockIdx.y) * run;
  const index_t last = first + run < w.rows ? first + run : w.rows;
  const std::uint8_t* from = packed + row * row_bytes + first * bits / 8;
  const index_t bytes = ((last - first) * bits + 7) / 8;
  std::uint64_t codes = 0;
  for (index_t i = 0; i < bytes; ++i) codes |= static_cast<std::uint64_t>(from[i]) << (8 * i);
  const std::uint64_t mask = (1U << bits) - 1U;
  for (index_t j = first; j < last; ++j) {
    const auto level = static_cast<float>(codes >> (bits * (j - first)) & mask);
    const index_t group = grid.group_size == 0 ? 0 : j / grid.group_size;
    const index_t at = grid.single ? 0 : row * grid.groups + group;
    w(j, row) = __fmul_rn(__fsub_rn(level, grid.offset[at]), grid.step[at]);
  }
}

}  // namespace

void pack_codes(cudaStream_t stream, MatrixView<const float> q, const std::int32_t* position,
                int bits, std::uint8_t* packed, index_t row_bytes) {
  if (q.size() == 0) return;
  const dim3 grid(blocks_for(q.cols, threads), blocks_for(q.rows, run));
  launch("pack_codes", pack, grid, threads, 0, stream, q, position, bits, packed, row_bytes);
}

void unpack_codes(cudaStream_t stream, const std::uint8_t* packed, index_t row_bytes, int bits,
                  const CodeGrid& codes, MatrixView<float> w) {
  if (w.size() == 0) return;
  const dim3 grid(blocks_for(w.cols, threads), blocks_for(w.rows, run));
  launch("unpack_codes", unpack, grid, threads, 0, stream, packed, row_bytes, bits, codes, w);
}

}  // namespace quip::cuda
