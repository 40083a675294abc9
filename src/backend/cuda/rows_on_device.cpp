#include "rows_on_device.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "backend/cuda/kernels/kernels.hpp"
#include "backend/cuda/kernels/trellis_kernels.hpp"
#include "copies.hpp"
#include "quant/round/tile_rounding.hpp"
#include "rounding_on_device.hpp"
#include "transform_on_device.hpp"

#include "quip/backend/device_work.hpp"
#include "quip/core/error.hpp"

namespace quip::cuda {
namespace {

/// Lanes of `bytes` each that fit in half of what is free, at most `count`.
index_t lanes_at_once(Context& context, index_t count, std::size_t bytes) {
  const std::size_t fit = context.device().available() / 2 / bytes;
  if (fit == 0) {
    fail("GPU: no {:.1f} MiB to round a single row; use more GPUs or nodes (more ranks)",
         static_cast<double>(bytes) / (1 << 20));
  }
  return std::min(count, static_cast<index_t>(std::min<std::size_t>(fit, at(count))));
}

class RowsOnDevice final : public LayerRows {
 public:
  RowsOnDevice(Context& context, MatrixView<const float> weights, const PreparedLayer& layer,
               const LayerOptions& options, Range rows)
      : context_(context),
        host_(layer),
        options_(options),
        rounder_(make_rounder(options)),
        rows_(rows),
        n_(weights.cols),
        math_(context),
        layer_(layer_on_device(context, layer)),
        places_(math_, n_, layer.order, options.group_size),
        w_(context.buffer<float>(n_ * rows.count(), "rows of a layer")) {
    if (rows.count() == 0) return;
    transform(weights, make_transforms(options.effective_transform(), weights.rows, n_,
                                       layer.seed_u, layer.seed_v));
  }

  [[nodiscard]] float largest() override;
  [[nodiscard]] std::vector<double> evaluate(const RhoSearch& search) override;
  [[nodiscard]] RoundedRows round(double rho) override;

 private:
  [[nodiscard]] index_t lanes() const { return rows_.count(); }
  [[nodiscard]] MatrixView<const float> held() const { return w_.cview(n_, lanes()); }

  void transform(MatrixView<const float> weights, const LayerTransforms& transforms);
  void transform_columns(MatrixView<const float> weights, const LayerTransforms& transforms);
  void round_chunk(Range chunk, double rho, RoundedRows& out);
  void round(TileRounding& rows) const;
  void store_levels(const TileRounding& tile, Range chunk, RoundedRows& out) const;
  void store_states(const TileRounding& tile, Range chunk, RoundedRows& out) const;
  [[nodiscard]] DeviceBuffer<float> chunk_of_weights(Range chunk) const;

  Context& context_;
  const PreparedLayer& host_;
  const LayerOptions& options_;
  std::unique_ptr<Rounder> rounder_;
  Range rows_;
  index_t n_;
  RoundingOnDevice math_;
  PreparedLayer layer_;
  ColumnPlaces places_;
  DeviceBuffer<float> w_;  ///< W' transposed, [n × rows], in the order of rounding
};

void RowsOnDevice::transform(MatrixView<const float> weights, const LayerTransforms& transforms) {
  transform_columns(weights, transforms);
  if (!transforms.v->is_identity()) {  // … Vᵀ: V on the left of the transposed rows
    auto scratch = context_.buffer<float>(n_ * lanes(), "a transform of rows");
    TransformOnDevice<float>(context_, *transforms.v).apply(w_, scratch, lanes());
  }
  if (!host_.order.empty()) {
    const auto order = to_device(context_, std::span<const index_t>(host_.order), "an order");
    auto moved = context_.buffer<float>(n_ * lanes(), "reordered rows");
    gather_rows(context_.lane().get(), held(), order.data(), moved.view(n_, lanes()));
    w_ = std::move(moved);
  }
}

/// U (W D̃) slab by slab of columns, of which our rows are kept, transposed.
void RowsOnDevice::transform_columns(MatrixView<const float> weights,
                                     const LayerTransforms& transforms) {
  Lane& lane = context_.lane();
  const auto factors = column_factors(host_, n_);
  const auto factor = to_device(context_, std::span<const float>(factors), "factors of columns");
  const auto divisor =
      to_device(context_, std::span<const float>(host_.output_scale), "output scales");
  const TransformOnDevice<float> u(context_, *transforms.u);
  const index_t width = lanes_at_once(context_, n_, 2 * sizeof(float) * at(weights.rows));
  for (index_t first = 0; first < n_; first += width) {
    const index_t cols = std::min(width, n_ - first);
    auto slab = context_.buffer<float>(weights.rows * cols, "columns of a layer");
    upload<float>(lane, weights.middle_cols(first, cols), slab.view(weights.rows, cols));
    scale_columns(lane.get(), slab.view(weights.rows, cols), factor.data() + first);
    if (divisor.size() > 0) {
      divide_rows(lane.get(), slab.view(weights.rows, cols), divisor.data());
    }
    auto scratch = context_.buffer<float>(slab.size(), "a transform of columns");
    u.apply(slab, scratch, cols);
    transpose(lane.get(), slab.cview(weights.rows, cols).middle_rows(rows_.first, lanes()),
              w_.view(n_, lanes()).middle_rows(first, cols));
  }
}

float RowsOnDevice::largest() {
  if (lanes() == 0) return 0;
  const auto bits = context_.buffer<std::int32_t>(lanes(), "maxima of rows");
  QUIP_CUDA(cudaMemsetAsync(bits.data(), 0, bits.bytes(), context_.lane().get()));
  channel_maximum(context_.lane().get(), held(), bits.data());
  std::vector<std::int32_t> host(at(lanes()));
  download<std::int32_t>(context_.lane(), bits.data(), host);
  return std::bit_cast<float>(*std::max_element(host.begin(), host.end()));
}

// Every (row, candidate) pair is a lane of its own, as on the CPU.
std::vector<double> RowsOnDevice::evaluate(const RhoSearch& search) {
  std::vector<double> losses(search.sample().size() * search.candidates().size(), 0.0);
  const std::vector<RhoSearch::Trial> trials = search.trials(rows_);
  if (trials.empty()) return losses;
  std::vector<index_t> rows;
  std::vector<std::int32_t> sources;
  std::vector<RowGrid> lane_grids;
  for (const RhoSearch::Trial& trial : trials) {
    rows.push_back(trial.row);
    sources.push_back(static_cast<std::int32_t>(trial.row - rows_.first));
    lane_grids.push_back(incoherent_grid(incoherent_scale(host_, trial.rho), options_.bits));
  }
  const auto x = math_.lanes<float>(n_, std::ssize(rows), "a sample of rows");
  const auto device_sources = math_.placed<std::int32_t>(sources, "a sample");
  gather_lanes(context_.lane().get(), held(), device_sources.data, x);
  TileGrids grids(places_, std::move(lane_grids));
  grids.to_coordinates(x, x);
  TileRounding tile(layer_, options_, *rounder_, std::move(grids), rows, x);
  round(tile);
  for (std::size_t i = 0; i < trials.size(); ++i) losses[trials[i].place] = tile.loss()[i];
  return losses;
}

void RowsOnDevice::round(TileRounding& rows) const {
  round_together(layer_, *rounder_, [&](const auto& step) { step(rows); });
}

RoundedRows RowsOnDevice::round(double rho) {
  RoundedRows out = room_for(rows_, n_, host_, options_, rho);
  if (lanes() == 0) return out;
  const index_t unit = options_.has_trellis() ? trellis::tile_side : 1;
  const index_t lane_bytes = rounding_lane_bytes(n_, options_) + 2 * n_ * index_t{sizeof(float)};
  const index_t chunk = lanes_at_once(context_, lanes() / unit, at(unit * lane_bytes)) * unit;
  for (index_t first = 0; first < lanes(); first += chunk) {
    round_chunk({first, std::min(first + chunk, lanes())}, rho, out);
  }
  return out;
}

DeviceBuffer<float> RowsOnDevice::chunk_of_weights(Range chunk) const {
  auto part = context_.buffer<float>(n_ * chunk.count(), "rows being rounded");
  const std::size_t width = at(chunk.count()) * sizeof(float);
  QUIP_CUDA(cudaMemcpy2DAsync(part.data(), width, w_.data() + chunk.first,
                              at(lanes()) * sizeof(float), width, at(n_), cudaMemcpyDeviceToDevice,
                              context_.lane().get()));
  return part;
}

void RowsOnDevice::round_chunk(Range chunk, double rho, RoundedRows& out) {
  const auto w = chunk_of_weights(chunk);
  const Range rows{rows_.first + chunk.first, rows_.first + chunk.last};
  const auto tile = tile_of_rows(places_, layer_, options_, *rounder_, rows,
                                 w.cview(n_, chunk.count()), incoherent_scale(host_, rho));
  round(*tile);
  if (options_.has_trellis()) {
    store_states(*tile, chunk, out);
  } else {
    store_levels(*tile, chunk, out);
  }
  out.passes = std::max(out.passes, tile->passes());
}

void RowsOnDevice::store_levels(const TileRounding& tile, Range chunk, RoundedRows& out) const {
  const index_t row_bytes = out.layer.row_bytes();
  const auto packed = context_.buffer<std::uint8_t>(chunk.count() * row_bytes, "packed codes");
  pack_codes(context_.lane().get(), tile.levels(), places_.position.data, options_.bits,
             packed.data(), row_bytes);
  download<std::uint8_t>(
      context_.lane(), packed.data(),
      std::span(out.layer.codes).subspan(at(chunk.first * row_bytes), at(packed.size())));
  store_grids_and_losses(tile, chunk.first, chunk.count(), out);
}

// Losses are measured on the layer as it is decoded (measure.hpp).
void RowsOnDevice::store_states(const TileRounding& tile, Range chunk, RoundedRows& out) const {
  const index_t row_bytes = out.layer.row_bytes();
  const auto packed = context_.buffer<std::uint8_t>(chunk.count() * row_bytes, "packed codes");
  pack_states(context_.lane().get(), tile.states(), chunk.count() / trellis::tile_side,
              options_.bits, reinterpret_cast<std::uint16_t*>(packed.data()));
  download<std::uint8_t>(
      context_.lane(), packed.data(),
      std::span(out.layer.codes).subspan(at(chunk.first * row_bytes), at(packed.size())));
}

}  // namespace

std::unique_ptr<LayerRows> rows_on_device(Context& context, MatrixView<const float> weights,
                                          const PreparedLayer& layer, const LayerOptions& options,
                                          Range rows) {
  return std::make_unique<RowsOnDevice>(context, weights, layer, options, rows);
}

}  // namespace quip::cuda
