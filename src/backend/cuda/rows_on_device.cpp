#include "rows_on_device.hpp"

#include <algorithm>
#include <bit>
#include <numeric>
#include <utility>

#include "backend/cuda/kernels/kernels.hpp"
#include "backend/cuda/kernels/quant_kernels.hpp"
#include "copies.hpp"
#include "lane_rounding.hpp"
#include "transform_on_device.hpp"

#include "quip/backend/device_work.hpp"
#include "quip/core/error.hpp"
#include "quip/core/usage.hpp"
#include "quip/quant/code/grid.hpp"
#include "quip/quant/factor/work.hpp"

namespace quip::cuda {
namespace {

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

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
        rows_(rows),
        n_(weights.cols),
        layer_(context, layer, options),
        w_(context.buffer<float>(n_ * rows.count(), "rows of a layer")) {
    if (rows.count() == 0) return;
    transform(weights, make_transforms(options.effective_transform(), weights.rows, n_,
                                       layer.seed_u, layer.seed_v));
  }

  [[nodiscard]] float largest() override;
  [[nodiscard]] std::vector<double> evaluate(const RhoSearch& search) override;
  [[nodiscard]] RoundedRows round(double rho) override;

 private:
  [[nodiscard]] const LayerOptions& options() const { return layer_.options; }
  [[nodiscard]] index_t lanes() const { return rows_.count(); }
  [[nodiscard]] MatrixView<const float> held() const { return w_.cview(n_, lanes()); }

  void transform(MatrixView<const float> weights, const LayerTransforms& transforms);
  void transform_columns(MatrixView<const float> weights, const LayerTransforms& transforms);
  void round_chunk(Range chunk, double rho, RoundedRows& out);
  void store(Range chunk, const GridsOnDevice& grids, const LaneRounding& rounding,
             const std::vector<double>& references, RoundedRows& out);
  [[nodiscard]] DeviceBuffer<float> chunk_of_weights(Range chunk) const;
  [[nodiscard]] std::vector<double> references(MatrixView<const float> w) const;

  Context& context_;
  Range rows_;
  index_t n_;
  LayerOnDevice layer_;
  DeviceBuffer<float> w_;  ///< W' transposed, [n × rows], in the order of rounding
};

void RowsOnDevice::transform(MatrixView<const float> weights, const LayerTransforms& transforms) {
  transform_columns(weights, transforms);
  if (!transforms.v->is_identity()) {  // … Vᵀ: V on the left of the transposed rows
    auto scratch = context_.buffer<float>(n_ * lanes(), "a transform of rows");
    TransformOnDevice<float>(context_, *transforms.v).apply(w_, scratch, lanes());
  }
  if (!layer_.host.order.empty()) {
    const auto order = to_device(context_, std::span<const index_t>(layer_.host.order), "an order");
    auto moved = context_.buffer<float>(n_ * lanes(), "reordered rows");
    gather_rows(context_.lane().get(), held(), order.data(), moved.view(n_, lanes()));
    w_ = std::move(moved);
  }
}

/// U (W D̃) slab by slab of columns, of which our rows are kept, transposed.
void RowsOnDevice::transform_columns(MatrixView<const float> weights,
                                     const LayerTransforms& transforms) {
  Lane& lane = context_.lane();
  const auto factors = column_factors(layer_.host, n_);
  const auto factor = to_device(context_, std::span<const float>(factors), "factors of columns");
  const TransformOnDevice<float> u(context_, *transforms.u);
  const index_t width =
      lanes_at_once(context_, n_, 2 * sizeof(float) * static_cast<std::size_t>(weights.rows));
  for (index_t first = 0; first < n_; first += width) {
    const index_t cols = std::min(width, n_ - first);
    auto slab = context_.buffer<float>(weights.rows * cols, "columns of a layer");
    upload<float>(lane, weights.middle_cols(first, cols), slab.view(weights.rows, cols));
    scale_columns(lane.get(), slab.view(weights.rows, cols), factor.data() + first);
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
  std::vector<float> factor;
  std::vector<float> shift;
  for (const RhoSearch::Trial& trial : trials) {
    rows.push_back(trial.row);
    sources.push_back(static_cast<std::int32_t>(trial.row - rows_.first));
    lane_grids.push_back(incoherent_grid(incoherent_scale(layer_.host, trial.rho), options().bits));
    factor.push_back(lane_grids.back().inverse);
    shift.push_back(lane_grids.back().offset);
  }
  auto x = context_.buffer<float>(n_ * std::ssize(rows), "a sample of rows");
  const auto device_sources =
      to_device(context_, std::span<const std::int32_t>(sources), "a sample");
  const auto device_factor = to_device(context_, std::span<const float>(factor), "grids");
  const auto device_shift = to_device(context_, std::span<const float>(shift), "grids");
  spread_lanes(context_.lane().get(), held(), device_sources.data(), device_factor.data(),
               device_shift.data(), x.view(n_, std::ssize(rows)));
  GridsOnDevice grids(context_, layer_.places, std::move(lane_grids));
  LaneRounding rounding(context_, layer_, grids, rows, std::move(x));
  rounding.round();
  UsageMeter::current().add_flops(static_cast<double>(rows.size()) *
                                  rounding_flops(n_, options(), rounding.passes()));
  const std::vector<double> found = rounding.losses();
  for (std::size_t i = 0; i < found.size(); ++i) losses[trials[i].place] = found[i];
  return losses;
}

RoundedRows RowsOnDevice::round(double rho) {
  RoundedRows out(rows_, n_, options());
  if (lanes() == 0) return out;
  const index_t chunk = lanes_at_once(context_, lanes(),
                                      static_cast<std::size_t>(rounding_lane_bytes(n_, options()) +
                                                               2 * n_ * index_t{sizeof(float)}));
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

/// w H wᵀ of every lane, undamped.
std::vector<double> RowsOnDevice::references(MatrixView<const float> w) const {
  const auto norm = context_.buffer<double>(w.cols, "norms of rows");
  QUIP_CUDA(cudaMemsetAsync(norm.data(), 0, norm.bytes(), context_.lane().get()));
  add_hessian_norm(context_, layer_.factor, w, norm.data());
  add_weighted_squares(context_.lane().get(), w, layer_.added.data(), -1.0, norm.data());
  std::vector<double> host(at(w.cols));
  download<double>(context_.lane(), norm.data(), host);
  return host;
}

void RowsOnDevice::round_chunk(Range chunk, double rho, RoundedRows& out) {
  const index_t count = chunk.count();
  auto w = chunk_of_weights(chunk);
  const MatrixView<const float> view = w.cview(n_, count);
  const std::vector<double> reference = references(view);
  std::vector<RowGrid> same;
  if (options().grid() == GridKind::incoherent) {
    same.assign(at(count), incoherent_grid(incoherent_scale(layer_.host, rho), options().bits));
  }
  auto grids = same.empty() ? GridsOnDevice(context_, layer_.places, view, options())
                            : GridsOnDevice(context_, layer_.places, std::move(same));
  auto x = context_.buffer<float>(n_ * count, "coordinates of rows");
  if (grids.dynamic()) {  // coordinates are the weights until their group is fitted
    x = std::move(w);
  } else {
    grids.to_coordinates(view, x.view(n_, count));
  }
  std::vector<index_t> layer_rows(at(count));
  std::iota(layer_rows.begin(), layer_rows.end(), rows_.first + chunk.first);
  LaneRounding rounding(context_, layer_, grids, layer_rows, std::move(x));
  rounding.round();
  UsageMeter::current().add_flops(
      static_cast<double>(count) *
      (reference_flops(n_) + rounding_flops(n_, options(), rounding.passes())));
  store(chunk, grids, rounding, reference, out);
}

void RowsOnDevice::store(Range chunk, const GridsOnDevice& grids, const LaneRounding& rounding,
                         const std::vector<double>& references, RoundedRows& out) {
  const index_t row_bytes = (n_ * options().bits + 7) / 8;
  const auto packed = context_.buffer<std::uint8_t>(chunk.count() * row_bytes, "packed codes");
  pack_codes(context_.lane().get(), rounding.levels(), layer_.places.position.data(),
             options().bits, packed.data(), row_bytes);
  download<std::uint8_t>(
      context_.lane(), packed.data(),
      std::span(out.codes).subspan(at(chunk.first * row_bytes), at(packed.size())));
  const std::vector<double> losses = rounding.losses();
  for (index_t r = 0; r < chunk.count(); ++r) {
    out.losses[at(chunk.first + r)] = {losses[at(r)], references[at(r)]};
  }
  out.passes = std::max(out.passes, rounding.passes());
  out.store(grids, chunk.first, chunk.count());
}

}  // namespace

std::unique_ptr<LayerRows> rows_on_device(Context& context, MatrixView<const float> weights,
                                          const PreparedLayer& layer, const LayerOptions& options,
                                          Range rows) {
  return std::make_unique<RowsOnDevice>(context, weights, layer, options, rows);
}

}  // namespace quip::cuda
