#include "quip/backend/device_work.hpp"

#include <algorithm>

#include "backend/cuda/kernels/trellis_shape.hpp"

#include "quip/core/error.hpp"
#include "quip/quant/factor/lower_panels.hpp"
#include "quip/quant/transform/hadamard.hpp"
#include "quip/quant/transform/random_orthogonal.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip {
namespace {

constexpr index_t most_tokens = 8192;  // |Σ h l + Σ l h| ≤ 2·2¹⁴·2¹³: fits in 32 bits
constexpr index_t most_edge = 16384;
constexpr index_t smallest = 4 * hessian_piece_unit;

index_t round_up(index_t value, index_t to) { return (value + to - 1) / to * to; }

/// Returns the bytes that U (without output permutation) or V of order n keeps on the device.
index_t transform_bytes(TransformKind kind, index_t n, Side side) {
  const index_t permutations = side == Side::input ? 2 * n : n;
  const auto [p, q] = balanced_factors(n);
  index_t floats = 0;
  index_t indices = 0;
  switch (kind) {
    case TransformKind::none:
      break;
    case TransformKind::kronecker:
      floats = p * p + q * q;
      indices = permutations;
      break;
    case TransformKind::kronecker_nopermute:
      floats = p * p + q * q;
      break;
    case TransformKind::kronecker_blocked:
      floats = n * (p + q);
      indices = permutations;
      break;
    case TransformKind::hadamard: {
      const index_t order = hadamard_shape(n).order;
      floats = n + (order > 1 ? order * order : 0);
      break;
    }
    case TransformKind::hadamard_128:
      floats = n;
      break;
    case TransformKind::dense:
      floats = n * n;
      break;
  }
  return floats * index_t{sizeof(float)} + indices * index_t{sizeof(index_t)};
}

/// True if weights need a second matrix beside the result. A Walsh–Hadamard transform works in
/// place, and the first kernel of all reads codes.
bool takes_turns(TransformKind kind, index_t rows) {
  if (kind == TransformKind::hadamard) return hadamard_shape(rows).order > 1;
  return kind != TransformKind::hadamard_128 && kind != TransformKind::none;
}

/// Returns the bytes of the search for the states of `rows` rows: tables by state, and costs.
index_t search_bytes(const LayerOptions& options, index_t rows) {
  if (!options.has_trellis()) return 0;
  constexpr index_t tables = trellis::state_count * (2 + 2 + 4);
  const index_t tiles = (rows + trellis::tile_side - 1) / trellis::tile_side;
  return tables +
         std::min(tiles, cuda::most_search_blocks) * cuda::search_scratch_bytes(options.bits);
}

}  // namespace

int device_lanes(int threads) { return std::clamp(threads, 1, device_unit_lanes); }

index_t workspace_bytes(int threads) {
  return (device_lanes(threads) + 1) * matmul_workspace_bytes;
}

index_t HessianPieces::bytes() const {
  const index_t sum_and_products = edge * edge * (8 + 3 * 4);
  const index_t slices = 2 * edge * (2 * tokens + 8);
  return sum_and_products + slices;
}

HessianPieces largest_pieces(index_t channels, index_t tokens) {
  return {std::min(most_edge, round_up(channels, hessian_piece_unit)),
          std::min(most_tokens, round_up(tokens, hessian_piece_unit))};
}

HessianPieces pieces_within(index_t channels, index_t tokens, std::size_t bytes) {
  HessianPieces pieces = largest_pieces(channels, tokens);
  while (at(pieces.bytes()) > bytes) {
    if (pieces.edge <= smallest && pieces.tokens <= smallest) {
      fail(
          "GPU: no {:.1f} MiB for the smallest piece of a Hessian of {} channels; use more GPUs or "
          "nodes (more ranks), or fewer --samples",
          static_cast<double>(pieces.bytes()) / (1 << 20), channels);
    }
    index_t& larger = pieces.tokens > pieces.edge / 2 ? pieces.tokens : pieces.edge;
    larger = round_up(larger / 2, hessian_piece_unit);
  }
  return pieces;
}

index_t rounding_panel_bytes(index_t n, const LayerOptions& options) {
  index_t matrices = 1;
  if (options.has_feedback_of_its_own()) ++matrices;
  if (options.effective_passes() > 0) ++matrices;
  const LowerPanels shape = LowerPanels::outline(n);
  return matrices * (shape.panel_offset(shape.blocks()) * index_t{sizeof(float)} +
                     n * index_t{sizeof(double)});
}

index_t rounding_lane_bytes(index_t n, const LayerOptions& options) {
  index_t matrices = 2;                                          // levels, errors
  matrices += options.clamp == Clamp::pre ? 2 : 0;               // the rounder's input, differences
  matrices += options.rounding == Rounding::stochastic ? 1 : 0;  // offsets
  matrices += options.effective_passes() > 0 ? 1 : 0;            // weights less what was cut
  const index_t elements = matrices * n + LowerPanels::block;
  const index_t states = options.has_trellis() ? n * index_t{sizeof(std::uint16_t)} : 0;
  return elements * index_t{sizeof(float)} + states + 2 * index_t{sizeof(double)};
}

index_t rounding_bytes(index_t n, const LayerOptions& options, index_t rows, index_t tried) {
  const index_t row = n * index_t{sizeof(float)};
  return rounding_panel_bytes(n, options) + search_bytes(options, rows) + 2 * rows * row +
         tried * (row + rounding_lane_bytes(n, options));
}

// cuSOLVER wants a workspace, too; an eighth of the matrix is more than it has asked for so far.
index_t factor_bytes(index_t n) {
  const index_t matrix = n * n * index_t{sizeof(double)};
  return matrix + matrix / 8;
}

index_t dequantize_bytes(index_t rows, index_t cols, const LayerOptions& options) {
  const QuantizedLinear layer = described(options, rows, cols);
  const TransformKind kind = layer.transform;
  if (options.has_trellis()) {
    return layer.rows * layer.row_bytes() +
           (trellis::state_count + layer.rows + layer.cols) * index_t{sizeof(float)};
  }
  const index_t floats = 2 * layer.grids() + (layer.rescaled ? layer.cols : 0) +
                         (layer.output_scaled ? layer.rows : 0) +
                         (layer.padded() || takes_turns(kind, rows) ? layer.rows * layer.cols : 0);
  return layer.rows * layer.row_bytes() + floats * index_t{sizeof(float)} +
         transform_bytes(kind, layer.rows, Side::output) +
         transform_bytes(kind, layer.cols, Side::input);
}

}  // namespace quip
