#include "transformed_rows.hpp"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "backend/cuda/kernels/kernels.hpp"
#include "backend/cuda/kernels/quant_kernels.hpp"
#include "copies.hpp"
#include "decode_columns.hpp"
#include "transform_on_device.hpp"

#include "quip/core/dtype.hpp"
#include "quip/core/error.hpp"

namespace quip::cuda {
namespace {

/// Applies a transform to a slab [n × cols].
void apply(Context& context, const TransformOnDevice<float>& u, DeviceBuffer<float>& slab,
           index_t cols) {
  if (u.passes().empty()) return;
  auto scratch = context.buffer<float>(slab.size(), "a transform of columns");
  u.apply(slab, scratch, cols);
}

/// Puts rows [n × lanes] into the order of rounding.
void reorder(Context& context, const std::vector<index_t>& order, index_t lanes,
             DeviceBuffer<float>& rows) {
  if (order.empty()) return;
  const index_t n = std::ssize(order);
  const auto from = to_device(context, std::span<const index_t>(order), "an order");
  auto moved = context.buffer<float>(n * lanes, "reordered rows");
  gather_rows(context.lane().get(), rows.cview(n, lanes), from.data(), moved.view(n, lanes));
  rows = std::move(moved);
}

/// Writes U (W D̃), over the output scales, transposed to `out` [n × rows].
void transform_columns(Context& context, MatrixView<const float> weights,
                       const PreparedLayer& layer, const Transform& u, Range rows,
                       MatrixView<float> out) {
  Lane& lane = context.lane();
  // U mixes all rows.
  const Range taken = u.is_identity() ? rows : Range{0, weights.rows};
  const auto factor =
      to_device<float>(context, column_factors(layer, weights.cols), "factors of columns");
  const auto divisor =
      to_device(context, std::span<const float>(layer.output_scale), "output scales");
  const TransformOnDevice<float> transform(context, u);
  const index_t width = lanes_at_once(context, weights.cols, 2 * sizeof(float) * at(taken.count()));
  for (index_t first = 0; first < weights.cols; first += width) {
    const index_t cols = std::min(width, weights.cols - first);
    auto slab = context.buffer<float>(taken.count() * cols, "columns of a layer");
    const MatrixView<float> part = slab.view(taken.count(), cols);
    upload<float>(lane, weights.middle_rows(taken.first, taken.count()).middle_cols(first, cols),
                  part);
    scale_columns(lane.get(), part, factor.data() + first);
    if (divisor.size() > 0) divide_rows(lane.get(), part, divisor.data() + taken.first);
    apply(context, transform, slab, cols);
    transpose(lane.get(),
              slab.cview(taken.count(), cols).middle_rows(rows.first - taken.first, rows.count()),
              out.middle_rows(first, cols));
  }
}

DeviceBuffer<float> sizes_of_scales(Context& context, const QuantizedLinear& stored) {
  std::vector<float> sizes;
  for (const std::uint16_t half : stored.row_scales()) {
    sizes.push_back(std::abs(from_f16(half)));
  }
  return to_device(context, std::span<const float>(sizes), "output scales");
}

}  // namespace

index_t lanes_at_once(Context& context, index_t count, std::size_t bytes) {
  const std::size_t fit = context.device().available() / 2 / bytes;
  if (fit == 0) {
    fail("GPU: no {:.1f} MiB to round a single row; use more GPUs or nodes (more ranks)",
         static_cast<double>(bytes) / (1 << 20));
  }
  return std::min(count, static_cast<index_t>(std::min<std::size_t>(fit, at(count))));
}

DeviceBuffer<float> transform_rows_on_device(Context& context, MatrixView<const float> weights,
                                             const PreparedLayer& layer,
                                             const LayerTransforms& transforms, Range rows) {
  const index_t n = weights.cols;
  auto out = context.buffer<float>(n * rows.count(), "rows of a layer");
  if (rows.count() == 0) return out;
  transform_columns(context, weights, layer, *transforms.u, rows, out.view(n, rows.count()));
  if (!transforms.v->is_identity()) {  // … Vᵀ: V on the left of the transposed rows
    auto scratch = context.buffer<float>(out.size(), "a transform of rows");
    TransformOnDevice<float>(context, *transforms.v).apply(out, scratch, rows.count());
  }
  reorder(context, layer.order, rows.count(), out);
  return out;
}

DeviceBuffer<float> coded_rows_on_device(Context& context, const QuantizedLinear& stored,
                                         const std::vector<index_t>& order, Range rows) {
  Lane& lane = context.lane();
  auto out = context.buffer<float>(stored.cols * rows.count(), "coded rows of a layer");
  if (rows.count() == 0) return out;
  const ColumnDecoder decoder(context, stored);
  const auto scales = sizes_of_scales(context, stored);
  const auto u = make_transform(stored.transform, stored.rows, stored.seed_u, Side::output);
  const TransformOnDevice<float> transform(context, *u, Direction::transposed);
  constexpr index_t unit = ColumnDecoder::unit;
  const index_t column = 2 * stored.rows * index_t{sizeof(float)} + decoder.column_bytes();
  const index_t units = (stored.cols + unit - 1) / unit;
  const index_t width = lanes_at_once(context, units, at(unit * column)) * unit;
  for (index_t first = 0; first < stored.cols; first += width) {
    const index_t cols = std::min(width, stored.cols - first);
    auto slab = context.buffer<float>(stored.rows * cols, "columns of a layer");
    decoder.decode(first, slab.view(stored.rows, cols));
    apply(context, transform, slab, cols);
    const MatrixView<float> mine =
        slab.view(stored.rows, cols).middle_rows(rows.first, rows.count());
    scale_rows(lane.get(), mine, scales.data() + rows.first);
    transpose(lane.get(), mine, out.view(stored.cols, rows.count()).middle_rows(first, cols));
  }
  reorder(context, order, rows.count(), out);
  return out;
}

}  // namespace quip::cuda
