#include "quip/quant/measure.hpp"

#include <algorithm>
#include <cmath>

#include "quip/core/dtype.hpp"
#include "quip/core/usage.hpp"
#include "quip/quant/factor/work.hpp"
#include "quip/quant/transform/hadamard.hpp"
#include "quip/quant/trellis/decode.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip {
namespace {

using trellis::tile_side;

/// Writes the values of `count` tiles of 16 rows × 16 columns to x [16 × 16·count].
void decode_row_of_tiles(const QuantizedLinear& stored, index_t row, std::vector<float>& steps,
                         MatrixView<float> x) {
  const index_t across = stored.cols / tile_side;
  const index_t bytes = 2 * trellis::packed_words(stored.bits);
  trellis::decode_tiles(stored.trellis, stored.bits,
                        stored.codes.data() + row / tile_side * across * bytes, across,
                        steps.data());
  for (index_t t = 0; t < across; ++t) {
    for (int step = 0; step < trellis::tile_steps; ++step) {
      const trellis::TilePlace place = trellis::place_of(step);
      x(place.output, t * tile_side + place.input) = steps[at(t * trellis::tile_steps + step)];
    }
  }
}

/// Multiplies the rows of x [128 × n] by H₁₂₈·√128.
void mix_rows(MatrixView<float> x) {
  for (index_t stride = 1; stride < x.rows; stride *= 2) {
    for (index_t i = 0; i < x.rows; ++i) {
      if ((i & stride) != 0) continue;
      float* const one = x.row(i);
      float* const other = x.row(i + stride);
      for (index_t k = 0; k < x.cols; ++k) {
        const float sum = one[k] + other[k];
        other[k] = one[k] - other[k];
        one[k] = sum;
      }
    }
  }
}

/// Returns rows of Ŵ D̃ Vᵀ: what is coded, with the transform of the outputs undone.
RowTiles coded_rows(const QuantizedLinear& stored, Range rows) {
  RowTiles tiles(stored.cols, rows);
  const index_t first_block = rows.first / hadamard_block;
  const index_t last_block = (rows.last + hadamard_block - 1) / hadamard_block;
  const float unit = 1.0F / std::sqrt(static_cast<float>(hadamard_block));
#pragma omp parallel
  {
    Matrix<float> block(hadamard_block, stored.cols);
    std::vector<float> steps(at(stored.cols / tile_side * trellis::tile_steps));
#pragma omp for schedule(dynamic)
    for (index_t b = first_block; b < last_block; ++b) {
      const index_t first = b * hadamard_block;
      for (index_t i = 0; i < hadamard_block; i += tile_side) {
        decode_row_of_tiles(stored, first + i, steps, block.view().middle_rows(i, tile_side));
      }
      mix_rows(block.view());
      for (index_t t = 0; t < tiles.count(); ++t) {
        const Range range = tiles.rows_of(t);
        const MatrixView<float> tile = tiles.tile(t);
        for (index_t i = std::max(range.first, first);
             i < std::min(range.last, first + hadamard_block); ++i) {
          const float scale = from_f16(stored.svh[at(i)]) * unit;
          const float* const row = block.view().row(i - first);
          for (index_t k = 0; k < stored.cols; ++k) tile(k, i - range.first) = row[k] * scale;
        }
      }
    }
  }
  return tiles;
}

/// Norms under H of the lanes of one tile, to which the factor's panels come one after the other.
class TileNorms {
 public:
  TileNorms(MatrixView<float> coded, MatrixView<float> plain)
      : parts_{coded, plain}, difference_(coded.rows, coded.cols), norms_(at(3 * coded.cols)) {
    for (index_t i = 0; i < coded.size(); ++i) {
      difference_.data()[i] = coded.data[i] - plain.data[i];
    }
  }

  void add(const LowerPanels& factor, index_t b, MatrixView<const float> panel) {
    Matrix<float> scratch(LowerPanels::block, lanes());
    each([&](MatrixView<const float> x, double* norm) {
      add_block_norm(host_rounding_math(), factor, b, panel, x, scratch.data(), norm);
    });
  }
  /// Takes off what damping has added to H.
  void finish(const std::vector<double>& added) {
    each([&](MatrixView<const float> x, double* norm) {
      host_rounding_math().add_weighted_squares(x, added.data(), -1.0, norm);
    });
  }
  [[nodiscard]] RowNorms of(index_t lane) const {
    return {norms_[at(lane)], norms_[at(lanes() + lane)], norms_[at(2 * lanes() + lane)]};
  }

 private:
  [[nodiscard]] index_t lanes() const { return difference_.cols(); }
  template <typename Visit>
  void each(Visit visit) {
    visit(parts_[0], norms_.data());
    visit(parts_[1], norms_.data() + lanes());
    visit(difference_.cview(), norms_.data() + 2 * lanes());
  }

  MatrixView<float> parts_[2];
  Matrix<float> difference_;
  std::vector<double> norms_;
};

}  // namespace

std::vector<RowNorms> measure_rows(const QuantizedLinear& stored, MatrixView<const float> weights,
                                   const PreparedLayer& layer, Range rows) {
  PreparedLayer inputs_only;
  inputs_only.rescale = layer.rescale;
  LayerTransforms transforms;
  transforms.u = make_transform(TransformKind::none, stored.rows, 0, Side::output);
  transforms.v = make_transform(stored.transform, stored.cols, layer.seed_v, Side::input);
  const RowTiles plain = transform_rows(weights, inputs_only, transforms, rows);
  const RowTiles coded = coded_rows(stored, rows);
  std::vector<std::unique_ptr<TileNorms>> tiles(at(plain.count()));
  const auto parallel = [&](const auto& work) {
#pragma omp parallel for schedule(dynamic)
    for (index_t t = 0; t < plain.count(); ++t) work(t);
  };
  parallel(
      [&](index_t t) { tiles[at(t)] = std::make_unique<TileNorms>(coded.tile(t), plain.tile(t)); });
  layer.factor.for_each_panel(false, [&](index_t b, const auto& panel) {
    parallel([&](index_t t) { tiles[at(t)]->add(layer.factor, b, panel); });
  });
  std::vector<RowNorms> norms(at(rows.count()));
  parallel([&](index_t t) {
    tiles[at(t)]->finish(layer.added);
    const Range range = plain.rows_of(t);
    for (index_t i = 0; i < range.count(); ++i) {
      norms[at(range.first - rows.first + i)] = tiles[at(t)]->of(i);
    }
  });
  UsageMeter::current().add_flops(static_cast<double>(rows.count()) * measure_flops(stored.cols));
  return norms;
}

RowLoss refit(const RowNorms& norms, std::uint16_t& svh) {
  if (norms.coded <= 0) return {norms.difference, norms.plain};
  // ‖c·ŵ − w‖² with c = 1 + d is ‖ŵ − w‖² + 2d⟨ŵ, ŵ − w⟩ + d²‖ŵ‖².
  const double slope = (norms.coded - norms.plain + norms.difference) / 2;
  const float before = from_f16(svh);
  const std::uint16_t fitted = to_f16(static_cast<float>(before * (1 - slope / norms.coded)));
  const double d = double{from_f16(fitted)} / before - 1;
  const double loss = norms.difference + 2 * d * slope + d * d * norms.coded;
  if (!(loss < norms.difference)) return {norms.difference, norms.plain};
  svh = fitted;
  return {loss, norms.plain};
}

}  // namespace quip
