// With z = 2⁸·h + l + 128 (bytes h, l) and z' = z − 128,
//   Σ z zᵀ = 2¹⁶ Σ h hᵀ + 2⁸ (Σ h lᵀ + Σ l hᵀ) + Σ l lᵀ + 128 (Σ z' + Σ z'ᵀ) + 128² T,
// as in backend/cpu/hessian_int8.cpp: four products of bytes with 32-bit sums, put together in
// doubles. The lower triangle goes tile by tile, each over all tokens, so that the device holds one
// tile of the sum and never the whole; slicing x anew for each tile costs 1/edge of its products.
#include "hessian.hpp"

#include <algorithm>

#include "backend/checks.hpp"
#include "backend/cuda/kernels/kernels.hpp"
#include "copies.hpp"

#include "quip/backend/device_work.hpp"
#include "quip/core/error.hpp"

namespace quip::cuda {
namespace {

constexpr index_t unit = hessian_piece_unit;

index_t round_up(index_t value, index_t to) { return (value + to - 1) / to * to; }

/// The two slices of some channels and their sums.
struct Slices {
  index_t channels = 0;  ///< channels in use
  index_t ld;
  DeviceBuffer<std::int8_t> high;
  DeviceBuffer<std::int8_t> low;
  DeviceBuffer<std::int64_t> sums;

  Slices(Context& context, const HessianPieces& pieces)
      : ld(pieces.tokens),
        high(context.buffer<std::int8_t>(pieces.edge * ld, "slices of activations")),
        low(context.buffer<std::int8_t>(pieces.edge * ld, "slices of activations")),
        sums(context.buffer<std::int64_t>(pieces.edge, "sums of activations")) {}

  void fill(cudaStream_t stream, ConstTensorView x, const float* scale, std::int32_t* outside) {
    channels = x.cols;
    const index_t padded = round_up(x.cols, unit);
    const index_t tokens = round_up(x.rows, unit);
    QUIP_CUDA(cudaMemsetAsync(sums.data(), 0, sums.bytes(), stream));
    slice(stream, x, scale, {high.data(), padded, tokens, ld}, {low.data(), padded, tokens, ld},
          sums.data(), outside);
  }
  [[nodiscard]] MatrixView<const std::int8_t> view(const DeviceBuffer<std::int8_t>& slice,
                                                   index_t tokens) const {
    return {slice.data(), round_up(channels, unit), round_up(tokens, unit), ld};
  }
};

struct Products {
  DeviceBuffer<std::int32_t> high;
  DeviceBuffer<std::int32_t> cross;
  DeviceBuffer<std::int32_t> low;

  Products(Context& context, index_t edge)
      : high(context.buffer<std::int32_t>(edge * edge, "products of slices")),
        cross(context.buffer<std::int32_t>(edge * edge, "products of slices")),
        low(context.buffer<std::int32_t>(edge * edge, "products of slices")) {}
};

/// Adds one chunk of tokens to a tile.
void add_chunk(Lane& lane, const Slices& rows, const Slices& cols, index_t tokens,
               const Products& products, MatrixView<double> sum) {
  const auto row = [&](const auto& slice) { return rows.view(slice, tokens); };
  const auto col = [&](const auto& slice) { return cols.view(slice, tokens); };
  const auto into = [&](const DeviceBuffer<std::int32_t>& product) {
    return product.view(row(rows.high).rows, col(cols.high).rows);
  };
  lane.matmul.multiply(row(rows.high), col(cols.high), false, into(products.high));
  lane.matmul.multiply(row(rows.high), col(cols.low), false, into(products.cross));
  lane.matmul.multiply(row(rows.low), col(cols.high), true, into(products.cross));
  lane.matmul.multiply(row(rows.low), col(cols.low), false, into(products.low));
  combine_slices(lane.get(), into(products.high), into(products.cross), into(products.low),
                 rows.sums.data(), cols.sums.data(), tokens, sum);
}

/// Adds a downloaded tile to its place, or what of it lies in the lower triangle.
void add_tile(MatrixView<const double> tile, index_t row, index_t col, bool lower,
              MatrixView<double> sum) {
#pragma omp parallel for schedule(dynamic, 16)
  for (index_t i = 0; i < tile.rows; ++i) {
    const index_t width = lower ? std::min(tile.cols, row + i - col + 1) : tile.cols;
    double* to = sum.row(row + i) + col;
    for (index_t j = 0; j < width; ++j) to[j] += tile(i, j);
  }
}

/// Activations and the scales that make integers of them.
struct Factor {
  ConstTensorView x;
  std::span<const float> scale;
};

/// Adds the products of the left factor's channels with the right one's; `lower`: they are the
/// same, and the lower triangle is enough.
void accumulate(Context& context, const Factor& left, const Factor& right, bool lower,
                MatrixView<double> sum) {
  const index_t tokens = left.x.rows;
  const index_t channels = std::max(left.x.cols, right.x.cols);
  const HessianPieces pieces = pieces_within(channels, tokens, context.device().available());
  Lane& lane = context.lane();
  const auto row_scales = to_device(context, left.scale, "scales of channels");
  const auto col_scales = to_device(context, right.scale, "scales of channels");
  const auto outside = context.buffer<std::int32_t>(1, "a flag");
  QUIP_CUDA(cudaMemsetAsync(outside.data(), 0, outside.bytes(), lane.get()));
  Slices rows(context, pieces);
  Slices cols(context, pieces);
  const Products products(context, pieces.edge);
  const auto tile = context.buffer<double>(pieces.edge * pieces.edge, "a tile of a Hessian");
  Buffer<double> host(std::min(pieces.edge, sum.rows) * std::min(pieces.edge, sum.cols));

  for (index_t row = 0; row < sum.rows; row += pieces.edge) {
    const index_t height = std::min(pieces.edge, sum.rows - row);
    for (index_t col = 0; (!lower || col <= row) && col < sum.cols; col += pieces.edge) {
      const index_t width = std::min(pieces.edge, sum.cols - col);
      const bool same = lower && row == col;
      const MatrixView<double> part = tile.view(height, width);
      QUIP_CUDA(cudaMemsetAsync(tile.data(), 0, tile.bytes(), lane.get()));
      for (index_t first = 0; first < tokens; first += pieces.tokens) {
        const index_t count = std::min(pieces.tokens, tokens - first);
        rows.fill(lane.get(), left.x.middle_rows(first, count).middle_cols(row, height),
                  row_scales.data() + row, outside.data());
        if (!same) {
          cols.fill(lane.get(), right.x.middle_rows(first, count).middle_cols(col, width),
                    col_scales.data() + col, outside.data());
        }
        add_chunk(lane, rows, same ? rows : cols, count, products, part);
      }
      const MatrixView<double> staged(host.data(), height, width);
      download<double>(lane, part, staged);
      add_tile(staged, row, col, lower, sum);
    }
  }
  std::int32_t beyond = 0;
  download<std::int32_t>(lane, outside.data(), std::span(&beyond, 1));
  if (beyond != 0) fail_outside_16_bits();
}

}  // namespace

void accumulate_hessian(Context& context, ConstTensorView x, std::span<const float> scale,
                        MatrixView<double> sum) {
  check_hessian(x, scale, sum);
  if (x.size() == 0) return;
  accumulate(context, {x, scale}, {x, scale}, true, sum);
}

void accumulate_cross(Context& context, ConstTensorView e, std::span<const float> e_scale,
                      ConstTensorView x, std::span<const float> scale, MatrixView<double> sum) {
  check_cross(e, e_scale, x, scale, sum);
  if (x.rows == 0) return;
  accumulate(context, {e, e_scale}, {x, scale}, false, sum);
}

}  // namespace quip::cuda
