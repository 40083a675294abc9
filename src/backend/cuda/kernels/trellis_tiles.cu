// What surrounds the search for states: feedback inside tiles, packing, and decoding.
#include <algorithm>

#include "quant_kernels.hpp"
#include "trellis_kernels.hpp"
#include "walsh_levels.hpp"

#include "quip/quant/trellis/decode.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip::cuda {
namespace {

using trellis::hadamard_side;
using trellis::tile_side;
using trellis::tile_steps;

constexpr unsigned solve_threads = 64;
constexpr unsigned pack_threads = 128;
constexpr unsigned decode_threads = 512;
constexpr int word_bits = 16;
constexpr index_t most_blocks = 65535;  // the limit of a grid's second side

/// Takes a lane a thread. The order of operations is the host's: HostMath::solve_tile.
__global__ void __launch_bounds__(solve_threads)
    solve(DeviceView<const float> factor, DeviceView<const float> x, DeviceView<float> target) {
  const index_t lane = global_thread();
  if (lane >= target.cols) return;
  float t[tile_side];
  QUIP_UNROLL
  for (int i = tile_side - 1; i >= 0; --i) {
    float value = target(i, lane);
    QUIP_UNROLL
    for (int j = i + 1; j < tile_side; ++j) {
      value = __fsub_rn(value, __fmul_rn(factor(j, i), t[j]));
    }
    target(i, lane) = value;
    t[i] = __fsub_rn(value, x(i, lane));
  }
}

/// Packs a word of a tile a thread; blockIdx.y: the column of tiles.
__global__ void __launch_bounds__(pack_threads)
    pack(DeviceView<const std::uint16_t> states, index_t lanes, int bits, std::uint16_t* packed) {
  const index_t words = trellis::packed_words(bits);
  const index_t i = global_thread();
  if (i >= lanes * words) return;
  const index_t lane = i / words;
  const auto word = static_cast<int>(i % words);
  // The first step whose state ends with this word or beyond it, and the bits it has beyond.
  const int step = ((word + 1) * word_bits - 1) / bits;
  const int beyond = (step + 1) * bits - (word + 1) * word_bits;
  const std::uint16_t* const tile = &states(static_cast<index_t>(blockIdx.y) * lanes + lane, 0);
  const unsigned last = tile[step] & ((1U << bits) - 1U);
  const unsigned before = tile[step - 1];
  const auto columns = static_cast<index_t>(gridDim.y);
  std::uint16_t* const to = packed + (lane * columns + blockIdx.y) * words;
  to[word ^ 1] = static_cast<std::uint16_t>((before << (bits - beyond)) | (last >> beyond));
}

/// Returns the state of a step of a packed tile.
__device__ unsigned state_of(const std::uint16_t* packed, int bits, int step) {
  const auto words = static_cast<int>(trellis::packed_words(bits));
  const int end = (step + 1) * bits;
  const int word = (end - 1) / word_bits;
  const unsigned before = packed[(word + words - 1) % words ^ 1];
  const unsigned window = (before << word_bits) | packed[word ^ 1];
  return window >> ((word + 1) * word_bits - end) & (trellis::state_count - 1U);
}

/// Takes a tile a block, a step a thread.
__global__ void __launch_bounds__(tile_steps)
    spread(StoredTrellis stored, DeviceView<float> out, index_t first_row) {
  const index_t row = first_row + blockIdx.y;
  const index_t number = row * (stored.inputs / tile_side) + blockIdx.x;
  const auto step = static_cast<int>(threadIdx.x);
  const trellis::TilePlace place = trellis::place_of(step);
  const unsigned state =
      state_of(stored.codes + number * trellis::packed_words(stored.bits), stored.bits, step);
  out(row * tile_side + place.output, static_cast<index_t>(blockIdx.x) * tile_side + place.input) =
      stored.values[state];
}

/// Decodes a block of 128 outputs × 128 inputs in shared memory, where the transforms of rows and
/// columns are one.
__global__ void __launch_bounds__(decode_threads)
    decode(StoredTrellis stored, DeviceView<float> out, index_t first_block) {
  constexpr int side = hadamard_side;
  constexpr int tiles = side / tile_side;
  auto* const block = shared_memory<float>();  // [outputs × inputs]
  const index_t first_output = (first_block + blockIdx.y) * side;
  const index_t first_input = static_cast<index_t>(blockIdx.x) * side;
  const index_t words = trellis::packed_words(stored.bits);
  for (int e = static_cast<int>(threadIdx.x); e < side * side; e += static_cast<int>(blockDim.x)) {
    const int tile = e / tile_steps;
    const index_t number = (first_output / tile_side + tile / tiles) * (stored.inputs / tile_side) +
                           first_input / tile_side + tile % tiles;
    const trellis::TilePlace place = trellis::place_of(e % tile_steps);
    const unsigned state = state_of(stored.codes + number * words, stored.bits, e % tile_steps);
    block[(tile / tiles * tile_side + place.output) * side + tile % tiles * tile_side +
          place.input] = stored.values[state];
  }
  run_all_levels(block, side * side, side * side, side * side);
  for (int e = static_cast<int>(threadIdx.x); e < side * side; e += static_cast<int>(blockDim.x)) {
    const index_t output = first_output + e / side;
    const index_t input = first_input + e % side;
    if (output >= out.rows || input >= out.cols) continue;
    const float scale = stored.output_scale[output] * stored.input_scale[input];
    out(output, input) = block[e] * (1.0F / side) * scale;
  }
}

}  // namespace

void RoundingKernels::solve_tile(MatrixView<const float> factor, MatrixView<const float> x,
                                 MatrixView<float> target) const {
  if (target.cols == 0) return;
  launch("solve_tile", solve, blocks_for(target.cols, solve_threads), solve_threads, 0, stream(),
         factor, x, target);
}

void pack_states(cudaStream_t stream, MatrixView<const std::uint16_t> states, index_t lanes,
                 int bits, std::uint16_t* packed) {
  if (states.size() == 0) return;
  const dim3 grid(blocks_for(lanes * trellis::packed_words(bits), pack_threads),
                  static_cast<unsigned>(states.rows / lanes));
  launch("pack_states", pack, grid, pack_threads, 0, stream, states, lanes, bits, packed);
}

void spread_states(cudaStream_t stream, const StoredTrellis& stored, MatrixView<float> out) {
  const index_t rows = out.rows / tile_side;
  for (index_t first = 0; first < rows; first += most_blocks) {
    const dim3 grid(static_cast<unsigned>(out.cols / tile_side),
                    static_cast<unsigned>(std::min(rows - first, most_blocks)));
    launch("spread_states", spread, grid, tile_steps, 0, stream, stored, out, first);
  }
}

void decode_trellis(cudaStream_t stream, const StoredTrellis& stored, MatrixView<float> out) {
  const index_t blocks = (out.rows + hadamard_side - 1) / hadamard_side;
  for (index_t first = 0; first < blocks; first += most_blocks) {
    const dim3 grid(blocks_for(out.cols, hadamard_side),
                    static_cast<unsigned>(std::min(blocks - first, most_blocks)));
    launch("decode_trellis", decode, grid, decode_threads,
           hadamard_side * hadamard_side * sizeof(float), stream, stored, out, first);
  }
}

}  // namespace quip::cuda
