// Levels to packed codes and back. Eight codes fill a whole number of bytes for every width: one
// thread packs them.
#include "quant_kernels.hpp"
#include "step_access.hpp"

#include "quip/quant/code/packing.hpp"

namespace quip::cuda {
namespace {

constexpr index_t run = 8;
constexpr unsigned threads = 128;

/// Packs codes. blockIdx.y: the run of columns; threads along rows of W.
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
  const index_t bytes = packed_bytes(last - first, bits);
  for (index_t i = 0; i < bytes; ++i) to[i] = static_cast<std::uint8_t>(codes >> (8 * i));
}

/// Threads along the columns of W, blockIdx.y along its rows.
__global__ void unpack(CodeMatrix codes, StepOutput<float> out, index_t rows, index_t cols) {
  const index_t col = global_thread();
  if (col >= cols) return;
  for (index_t row = blockIdx.y; row < rows; row += gridDim.y) {
    put(out, row, col, element_of(codes, col, row));
  }
}

}  // namespace

void pack_codes(cudaStream_t stream, MatrixView<const float> q, const std::int32_t* position,
                int bits, std::uint8_t* packed, index_t row_bytes) {
  if (q.size() == 0) return;
  const dim3 grid(blocks_for(q.cols, threads), blocks_for(q.rows, run));
  launch("pack_codes", pack, grid, threads, 0, stream, q, position, bits, packed, row_bytes);
}

void unpack_codes(cudaStream_t stream, const CodeMatrix& codes, const StepOutput<float>& out,
                  index_t rows, index_t cols) {
  if (rows * cols == 0) return;
  constexpr index_t most_rows = 65535;  // the limit of a grid
  const auto blocks_of_rows = static_cast<unsigned>(rows < most_rows ? rows : most_rows);
  launch("unpack_codes", unpack, dim3(blocks_for(cols, threads), blocks_of_rows), threads, 0,
         stream, codes, out, rows, cols);
}

}  // namespace quip::cuda
