// The pieces of the CUDA backend's work and the device memory that each takes: the backend and the
// plan share these numbers, so that a plan needs no device.
#pragma once

#include <cstddef>

#include "quip/core/matrix.hpp"
#include "quip/quant/options/options.hpp"

namespace quip {

/// Units of work side by side, if there are as many threads: enough to hide launches and copies
/// behind another unit's products.
constexpr int device_unit_lanes = 4;
[[nodiscard]] int device_lanes(int threads);

/// The workspace of cublasLt, for each lane and the thread that hands out units.
constexpr index_t matmul_workspace_bytes = index_t{32} << 20;  // as its documentation advises
[[nodiscard]] index_t workspace_bytes(int threads);

/// Returns the row pitch of a matrix in bfloat16: rows start at multiples of 16 bytes.
[[nodiscard]] constexpr index_t bf16_ld(index_t cols) { return (cols + 7) / 8 * 8; }
[[nodiscard]] constexpr index_t bf16_bytes(index_t rows, index_t cols) {
  return rows * bf16_ld(cols) * 2;
}

/// The pieces of a Hessian's sum that fit: tiles of `edge` channels a side, `tokens` at a time.
struct HessianPieces {
  index_t edge = 0;
  index_t tokens = 0;
  [[nodiscard]] index_t bytes() const;  ///< those of a tile's sum, products and slices
};
/// Returns the largest tiles of use.
[[nodiscard]] HessianPieces largest_pieces(index_t channels, index_t tokens);
/// Returns the largest that fit in `bytes`. Throws Error if not even the smallest do.
[[nodiscard]] HessianPieces pieces_within(index_t channels, index_t tokens, std::size_t bytes);
constexpr index_t hessian_piece_unit = 64;  ///< channels and tokens are multiples of it

/// Returns the bytes of the triangular matrices in fp32 that rounding a layer of n columns reads.
[[nodiscard]] index_t rounding_panel_bytes(index_t n, const LayerOptions& options);
/// Returns the bytes for each row that is being rounded, besides its coordinates.
[[nodiscard]] index_t rounding_lane_bytes(index_t n, const LayerOptions& options);
/// Returns the bytes that rounding `rows` rows holds whole: those matrices, the rows twice while
/// they are moved, `tried` lanes side by side for the search for ρ, and what the search for states
/// of a trellis keeps.
[[nodiscard]] index_t rounding_bytes(index_t n, const LayerOptions& options, index_t rows,
                                     index_t tried);
/// Returns the bytes for factorising a Hessian of order n there.
[[nodiscard]] index_t factor_bytes(index_t n);
/// Returns the bytes for turning a layer's codes into weights, besides the weights: codes, grids,
/// D̃, output scales, the factors of U and V, and one float per weight where two matrices take turns
/// or W is padded; of a trellis its scales and the values of states.
[[nodiscard]] index_t dequantize_bytes(index_t rows, index_t cols, const LayerOptions& options);

}  // namespace quip
