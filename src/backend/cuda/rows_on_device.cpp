#include "rows_on_device.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "backend/cuda/kernels/kernels.hpp"
#include "backend/cuda/kernels/trellis_kernels.hpp"
#include "copies.hpp"
#include "quant/round/tile_rounding.hpp"
#include "quant/tile_norms.hpp"
#include "rounding_on_device.hpp"
#include "transformed_rows.hpp"

#include "quip/backend/device_work.hpp"

namespace quip::cuda {
namespace {

class RowsOnDevice final : public LayerRows {
 public:
  RowsOnDevice(Context& context, MatrixView<const float> weights, const PreparedLayer& layer,
               const LayerOptions& options, Range rows)
      : context_(context),
        weights_(weights),
        host_(layer),
        options_(options),
        rounder_(make_rounder(options)),
        rows_(rows),
        n_(weights.cols),
        math_(context),
        layer_(layer_on_device(context, layer)),
        places_(math_, n_, layer.order, options.group_size),
        w_(transform_rows_on_device(context, weights, layer,
                                    make_transforms(options.effective_transform(), weights.rows, n_,
                                                    layer.seed_u, layer.seed_v),
                                    rows)) {}

  [[nodiscard]] float largest() override;
  [[nodiscard]] std::vector<double> evaluate(const RhoSearch& search) override;
  [[nodiscard]] RoundedRows round(double rho) override;
  [[nodiscard]] std::vector<RowNorms> measure(const QuantizedLinear& stored) override;

 private:
  [[nodiscard]] index_t lanes() const { return rows_.count(); }
  [[nodiscard]] MatrixView<const float> held() const { return w_.cview(n_, lanes()); }

  void round_chunk(Range chunk, double rho, RoundedRows& out);
  void round(TileRounding& rows) const;
  void store_levels(const TileRounding& tile, Range chunk, RoundedRows& out) const;
  void store_states(const TileRounding& tile, Range chunk, RoundedRows& out) const;
  [[nodiscard]] DeviceBuffer<float> part_of_rows(Range chunk) const;

  Context& context_;
  MatrixView<const float> weights_;
  const PreparedLayer& host_;
  const LayerOptions& options_;
  std::unique_ptr<Rounder> rounder_;
  Range rows_;
  index_t n_;
  RoundingOnDevice math_;
  PreparedLayer layer_;
  ColumnPlaces places_;
  DeviceBuffer<float> w_;  ///< W' transposed, [n × rows], in the order of rounding; then Ŵ'
};

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

DeviceBuffer<float> RowsOnDevice::part_of_rows(Range chunk) const {
  auto part = context_.buffer<float>(n_ * chunk.count(), "rows being rounded");
  const std::size_t width = at(chunk.count()) * sizeof(float);
  QUIP_CUDA(cudaMemcpy2DAsync(part.data(), width, w_.data() + chunk.first,
                              at(lanes()) * sizeof(float), width, at(n_), cudaMemcpyDeviceToDevice,
                              context_.lane().get()));
  return part;
}

void RowsOnDevice::round_chunk(Range chunk, double rho, RoundedRows& out) {
  const auto w = part_of_rows(chunk);
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

// Losses are measured on the layer as it is decoded.
void RowsOnDevice::store_states(const TileRounding& tile, Range chunk, RoundedRows& out) const {
  const index_t row_bytes = out.layer.row_bytes();
  const auto packed = context_.buffer<std::uint8_t>(chunk.count() * row_bytes, "packed codes");
  pack_states(context_.lane().get(), tile.states(), chunk.count() / trellis::tile_side,
              options_.bits, reinterpret_cast<std::uint16_t*>(packed.data()));
  download<std::uint8_t>(
      context_.lane(), packed.data(),
      std::span(out.layer.codes).subspan(at(chunk.first * row_bytes), at(packed.size())));
}

std::vector<RowNorms> RowsOnDevice::measure(const QuantizedLinear& stored) {
  w_ = {};
  w_ = coded_rows_on_device(context_, stored, host_.order, rows_);
  std::vector<RowNorms> norms;
  if (lanes() == 0) return norms;
  const InputSide side(stored, host_);
  const index_t floats = 3 * n_ + LowerPanels::block;  // both, and their difference
  const index_t lane_bytes = floats * index_t{sizeof(float)} + 3 * index_t{sizeof(double)};
  const index_t chunk = lanes_at_once(context_, lanes(), at(lane_bytes));
  for (index_t first = 0; first < lanes(); first += chunk) {
    const Range part{first, std::min(first + chunk, lanes())};
    const auto plain =
        transform_rows_on_device(context_, weights_, side.layer, side.transforms,
                                 {rows_.first + part.first, rows_.first + part.last});
    const auto coded = part_of_rows(part);
    TileNorms tile(math_, coded.cview(n_, part.count()), plain.cview(n_, part.count()));
    layer_.factor.for_each_panel(
        false, [&](index_t b, const auto& panel) { tile.add(layer_.factor, b, panel); });
    const std::vector<RowNorms> of_part = tile.finish(host_.added);
    norms.insert(norms.end(), of_part.begin(), of_part.end());
  }
  return norms;
}

}  // namespace

std::unique_ptr<LayerRows> rows_on_device(Context& context, MatrixView<const float> weights,
                                          const PreparedLayer& layer, const LayerOptions& options,
                                          Range rows) {
  return std::make_unique<RowsOnDevice>(context, weights, layer, options, rows);
}

}  // namespace quip::cuda
