// The kernels of trellis codes: states, values and packed codes.
#pragma once

#include <span>
#include <vector>

#include <cuda_runtime.h>

#include "quip/quant/round/rounding_math.hpp"

namespace quip::cuda {

/// What a search reads, on the device.
struct SearchTables {
  const std::uint32_t* pairs = nullptr;    ///< search_table
  const std::int16_t* integers = nullptr;  ///< of quant/trellis/scaling, by state
  const float* values = nullptr;           ///< by state, in the codebook's terms
  float unit = 1;
  int limit = 0;
};

/// Returns the integers of all states in the order in which threads take them to registers.
[[nodiscard]] std::vector<std::uint32_t> search_table(int bits,
                                                      std::span<const std::int16_t> integers);

/// Finds the states of all tiles of `columns`, with their values and errors: those of
/// trellis::TileSearch. `scratch` has search_scratch_bytes for each of the `blocks` that may run.
void search_tiles(cudaStream_t stream, int bits, const SearchTables& tables,
                  const TileColumns& columns, std::byte* scratch, index_t blocks);

/// Packs states [columns of tiles · lanes of tiles × 256] of `lanes` tiles side by side: those of
/// the first lane go first, tile after tile, as trellis::pack_states does.
void pack_states(cudaStream_t stream, MatrixView<const std::uint16_t> states, index_t lanes,
                 int bits, std::uint16_t* packed);

/// A layer in the EXL3 format (trellis::TrellisLayer), on the device. Scales in fp32.
struct StoredTrellis {
  index_t inputs = 0;
  int bits = 0;
  const std::uint16_t* codes = nullptr;
  const float* values = nullptr;  ///< by state
  const float* input_scale = nullptr;
  const float* output_scale = nullptr;
};
/// Writes the values of all states as they lie in W, before they are transformed and scaled, to
/// `out` [outputs × inputs].
void spread_states(cudaStream_t stream, const StoredTrellis& stored, MatrixView<float> out);
/// Writes the first rows and columns of W, as many as `out` has.
void decode_trellis(cudaStream_t stream, const StoredTrellis& stored, MatrixView<float> out);

}  // namespace quip::cuda
