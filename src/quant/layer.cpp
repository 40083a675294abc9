#include "quip/quant/layer.hpp"

#include <algorithm>
#include <numeric>

#include "quant/round/tile_rounding.hpp"

#include "quip/core/usage.hpp"
#include "quip/quant/code/grid.hpp"
#include "quip/quant/factor/work.hpp"

namespace quip {
namespace {

TileGrids choose_grids(MatrixView<const float> tile, const PreparedLayer& layer,
                       const LayerOptions& options, float scale) {
  if (options.grid() == GridKind::incoherent) {
    return TileGrids(std::vector<RowGrid>(at(tile.cols), incoherent_grid(scale, options.bits)));
  }
  return TileGrids(tile, layer.order, options);
}

/// Codes in the columns' own order.
void pack_tile(MatrixView<const float> q, const std::vector<index_t>& order, index_t rows, int bits,
               std::uint8_t* packed, index_t row_bytes) {
  std::vector<std::uint8_t> codes(at(q.rows));
  for (index_t r = 0; r < rows; ++r) {
    for (index_t k = 0; k < q.rows; ++k) {
      codes[at(order.empty() ? k : order[at(k)])] = static_cast<std::uint8_t>(q(k, r));
    }
    pack_row(codes.data(), q.rows, bits, packed + r * row_bytes);
  }
}

Matrix<float> coordinates_of(const TileGrids& grids, MatrixView<const float> weights) {
  Matrix<float> coordinates(weights.rows, weights.cols);
  grids.to_coordinates(weights, coordinates.view());
  return coordinates;
}

/// The layer's rows in a tile, by lane.
std::vector<index_t> numbers_of(Range range) {
  std::vector<index_t> rows(at(range.count()));
  std::iota(rows.begin(), rows.end(), range.first);
  return rows;
}

/// What every row of a tile needs besides: its own norm under H, to which losses are related.
class TileOfRows {
 public:
  TileOfRows(const RowTiles& tiles, index_t t, const PreparedLayer& layer,
             const LayerOptions& options, float scale)
      : TileOfRows(tiles.tile(t), tiles.rows_of(t), layer, options,
                   choose_grids(tiles.tile(t), layer, options, scale)) {}

  [[nodiscard]] TileRounding& tile() { return tile_; }

  /// Σ over all columns, with the factor that the layer holds.
  void measure_weights() { add_hessian_norm(layer_.factor, weights_, reference_); }

  void prepare_blocks() {
    tile_.prepare_blocks();
    projected_ = Matrix<float>(LowerPanels::block, weights_.cols);
  }
  void take_block(index_t b, MatrixView<const float> panel) {
    tile_.round_block(b, panel);
    add_block_norm(layer_.factor, b, panel, weights_, projected_.data(), reference_);
  }

  /// Ends either way, and writes everything down.
  void finish(RoundedRows& out) {
    subtract_damping(layer_.added, weights_, reference_);
    UsageMeter::current().add_flops(static_cast<double>(range_.count()) *
                                    reference_flops(weights_.rows));
    tile_.finish();
    const index_t first = range_.first - out.rows.first;
    QuantizedLinear& stored = out.layer;
    if (stored.grid == GridKind::minmax) store_grids(tile_.grids(), first, range_.count(), stored);
    pack_tile(tile_.levels(), layer_.order, range_.count(), stored.bits,
              stored.codes.data() + first * stored.row_bytes(), stored.row_bytes());
    for (index_t r = 0; r < range_.count(); ++r) {
      out.losses[at(first + r)] = {tile_.loss()[at(r)], reference_[at(r)]};
    }
  }

 private:
  TileOfRows(MatrixView<const float> weights, Range range, const PreparedLayer& layer,
             const LayerOptions& options, TileGrids grids)
      : layer_(layer),
        weights_(weights),
        range_(range),
        reference_(at(weights.cols), 0.0),
        coordinates_(coordinates_of(grids, weights)),
        tile_(layer, options, std::move(grids), numbers_of(range), coordinates_.view()) {}

  const PreparedLayer& layer_;
  MatrixView<const float> weights_;
  Range range_;
  std::vector<double> reference_;
  Matrix<float> coordinates_;
  TileRounding tile_;
  Matrix<float> projected_;  ///< block by block
};

}  // namespace

float incoherent_scale(const PreparedLayer& layer, double rho) {
  // The authors' 1e-16 keeps an all-zero layer finite.
  return static_cast<float>(rho * layer.weight_rms + 1e-16);
}

RoundedRows room_for(Range rows, index_t cols, const PreparedLayer& layer,
                     const LayerOptions& options, double rho) {
  RoundedRows out{rows, described(options, rows.count(), cols), {}, 0};
  out.losses.resize(at(rows.count()));
  visit_parts([](const Part& part, auto& elements) { elements.resize(at(part.count())); },
              out.layer);
  if (out.layer.grid == GridKind::incoherent) out.layer.scale = {incoherent_scale(layer, rho)};
  out.layer.rescale = layer.rescale;
  if (out.layer.transform != TransformKind::none) {
    out.layer.seed_u = layer.seed_u;
    out.layer.seed_v = layer.seed_v;
  }
  return out;
}

RoundedRows round_rows(const RowTiles& tiles, const PreparedLayer& layer,
                       const LayerOptions& options, double rho) {
  const float scale = incoherent_scale(layer, rho);
  RoundedRows out = room_for(tiles.rows(), tiles.n(), layer, options, rho);
  const auto rounder = make_rounder(options);
  int passes = 0;
#pragma omp parallel for schedule(dynamic) reduction(max : passes)
  for (index_t t = 0; t < tiles.count(); ++t) {
    TileOfRows rows(tiles, t, layer, options, scale);
    rows.measure_weights();
    rows.tile().round(*rounder);
    passes = std::max(passes, rows.tile().passes());
    rows.finish(out);
  }
  out.passes = passes;
  return out;
}

// --- with a factor that comes panel by panel ---

struct StreamedRows::State {
  std::vector<std::unique_ptr<TileOfRows>> tiles;
  RoundedRows out;
};

StreamedRows::StreamedRows(const RowTiles& tiles, const PreparedLayer& layer,
                           const LayerOptions& options, double rho)
    : state_(new State{{}, room_for(tiles.rows(), tiles.n(), layer, options, rho)}) {
  const float scale = incoherent_scale(layer, rho);
  state_->tiles.resize(at(tiles.count()));
#pragma omp parallel for schedule(dynamic)
  for (index_t t = 0; t < tiles.count(); ++t) {
    auto& rows = state_->tiles[at(t)];
    rows = std::make_unique<TileOfRows>(tiles, t, layer, options, scale);
    rows->prepare_blocks();
  }
}

StreamedRows::~StreamedRows() = default;

void StreamedRows::take(index_t b, MatrixView<const float> panel) {
#pragma omp parallel for schedule(dynamic)
  for (const auto& rows : state_->tiles) rows->take_block(b, panel);
}

RoundedRows StreamedRows::finish() {
#pragma omp parallel for schedule(dynamic)
  for (const auto& rows : state_->tiles) rows->finish(state_->out);
  return std::move(state_->out);
}

}  // namespace quip
