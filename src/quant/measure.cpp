#include "quip/quant/measure.hpp"

#include <algorithm>
#include <cmath>

#include "quip/core/dtype.hpp"
#include "quip/core/usage.hpp"
#include "quip/quant/code/dequantize.hpp"
#include "quip/quant/factor/work.hpp"

namespace quip {
namespace {

/// Returns rows of Ŵ D̃ Vᵀ, what is coded with the transform of the outputs undone, in the order of
/// rounding.
RowTiles coded_rows(const QuantizedLinear& stored, const Transform& u,
                    const std::vector<index_t>& order, Range rows) {
  constexpr index_t slab_cols = 64;
  RowTiles tiles(stored.cols, rows);
  std::vector<index_t> position(at(stored.cols));
  for (index_t k = 0; k < stored.cols; ++k) {
    position[at(order.empty() ? k : order[at(k)])] = k;
  }
  const bool trellis = stored.codebook == CodebookKind::trellis;
  const std::vector<std::uint16_t>& scales = trellis ? stored.svh : stored.output_scale;
#pragma omp parallel
  {
    Buffer<float> slab(stored.rows * slab_cols);
    Buffer<float> scratch(stored.rows * slab_cols);
#pragma omp for schedule(dynamic)
    for (index_t first = 0; first < stored.cols; first += slab_cols) {
      const index_t width = std::min(slab_cols, stored.cols - first);
      const MatrixView<float> part(slab.data(), stored.rows, width);
      decode_columns(stored, first, part);
      u.apply_transposed(part, scratch.data());
      for (index_t t = 0; t < tiles.count(); ++t) {
        const MatrixView<float> tile = tiles.tile(t);
        const Range range = tiles.rows_of(t);
        for (index_t i = range.first; i < range.last; ++i) {
          const float scale = std::abs(from_f16(scales[at(i)]));
          for (index_t k = 0; k < width; ++k) {
            tile(position[at(first + k)], i - range.first) = part(i, k) * scale;
          }
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
  inputs_only.order = layer.order;
  LayerTransforms transforms;
  transforms.u = make_transform(TransformKind::none, stored.rows, 0, Side::output);
  transforms.v = make_transform(stored.transform, stored.cols, layer.seed_v, Side::input);
  const auto u = make_transform(stored.transform, stored.rows, layer.seed_u, Side::output);
  const RowTiles plain = transform_rows(weights, inputs_only, transforms, rows);
  const RowTiles coded = coded_rows(stored, *u, layer.order, rows);
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

RowLoss refit(const RowNorms& norms, std::uint16_t& scale) {
  if (norms.coded <= 0) return {norms.difference, norms.plain};
  // ‖c·ŵ − w‖² with c = 1 + d is ‖ŵ − w‖² + 2d⟨ŵ, ŵ − w⟩ + d²‖ŵ‖².
  const double slope = (norms.coded - norms.plain + norms.difference) / 2;
  const float before = from_f16(scale);
  const std::uint16_t fitted = to_f16(static_cast<float>(before * (1 - slope / norms.coded)));
  const double d = double{from_f16(fitted)} / before - 1;
  const double loss = norms.difference + 2 * d * slope + d * d * norms.coded;
  if (!(loss < norms.difference)) return {norms.difference, norms.plain};
  scale = fitted;
  return {loss, norms.plain};
}

}  // namespace quip
