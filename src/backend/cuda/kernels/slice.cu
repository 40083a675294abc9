// Activations as 16-bit integers in two slices of bytes, transposed: the byte products of the
// tensor cores want the tokens of a channel side by side.
#include "backend/cuda/kernel.hpp"
#include "backend/fixed_point.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

constexpr unsigned channels = 32;  // channels of a block
constexpr unsigned tokens = 64;
constexpr unsigned rows_of_threads = 8;
constexpr unsigned pitch = tokens + 1;  // neighbouring channels in different banks

struct Tile {
  std::int32_t z[channels * pitch];
};

/// Uses threads [32 × 8]: along channels while reading, along tokens while writing.
__global__ void slice_tile(DeviceView<const float> x, const float* scale,
                           DeviceView<std::int8_t> high, DeviceView<std::int8_t> low,
                           std::int64_t* sums, std::int32_t* outside) {
  Tile& tile = *shared_memory<Tile>();
  const index_t first_channel = static_cast<index_t>(blockIdx.y) * channels;
  const index_t first_token = static_cast<index_t>(blockIdx.x) * tokens;
  std::uint32_t beyond = 0;
  for (unsigned row = threadIdx.y; row < tokens; row += rows_of_threads) {
    const index_t t = first_token + row;
    const index_t c = first_channel + threadIdx.x;
    std::int32_t z = zero_bytes;
    if (t < x.rows && c < x.cols) {
      z = to_integer(x(t, c) * scale[c]);
      beyond |= excess(z);
    }
    tile.z[threadIdx.x * pitch + row] = z;
  }
  if (beyond != 0) atomicOr(outside, 1);
  __syncthreads();
  // A thread writes four tokens of a channel, as one word.
  const unsigned thread = threadIdx.y * channels + threadIdx.x;
  for (unsigned word = thread; word < channels * tokens / 4; word += channels * rows_of_threads) {
    const unsigned channel = word / (tokens / 4);
    const unsigned token = word % (tokens / 4) * 4;
    const index_t c = first_channel + channel;
    if (c >= high.rows || first_token + token >= high.cols) continue;
    signed char h[4];
    signed char l[4];
    std::int64_t sum = 0;
    for (unsigned i = 0; i < 4; ++i) {
      const std::int32_t z = tile.z[channel * pitch + token + i];
      h[i] = high_byte_of(z);
      l[i] = low_byte_of(z);
      sum += z - zero_bytes;
    }
    const index_t at = c * high.ld + first_token + token;
    *reinterpret_cast<char4*>(high.data + at) = make_char4(h[0], h[1], h[2], h[3]);
    *reinterpret_cast<char4*>(low.data + at) = make_char4(l[0], l[1], l[2], l[3]);
    if (sum != 0) {
      atomicAdd(reinterpret_cast<unsigned long long*>(sums + c),
                static_cast<unsigned long long>(sum));
    }
  }
}

}  // namespace

void slice(cudaStream_t stream, ConstTensorView x, const float* scale, MatrixView<std::int8_t> high,
           MatrixView<std::int8_t> low, std::int64_t* sums, std::int32_t* outside) {
  if (high.size() == 0) return;
  const dim3 grid(blocks_for(high.cols, tokens), blocks_for(high.rows, channels));
  launch("slice", slice_tile, grid, dim3(channels, rows_of_threads), sizeof(Tile), stream, x, scale,
         high, low, sums, outside);
}

}  // namespace quip::cuda
