#include "tile_rounding.hpp"

#include <algorithm>

#include "column_kernels.hpp"
#include "dither.hpp"
#include "linear_feedback.hpp"

#include "quip/core/usage.hpp"
#include "quip/quant/code/grid.hpp"
#include "quip/quant/factor/work.hpp"

namespace quip {

TileRounding::TileRounding(const PreparedLayer& layer, const LayerOptions& options, TileGrids grids,
                           const std::vector<index_t>& rows, MatrixView<float> coordinates)
    : layer_(layer),
      options_(options),
      grids_(std::move(grids)),
      coordinates_(coordinates),
      tile_(grids_.rounding_tile(coordinates, top_level(options.bits), std::ssize(rows))),
      q_(coordinates.rows, coordinates.cols),
      loss_(at(coordinates.cols), 0.0) {
  const index_t n = coordinates.rows;
  const index_t lanes = coordinates.cols;
  if (options.rounding == Rounding::stochastic) {
    dither_ = Matrix<float>(n, lanes);
    fill_dither(layer, rows, dither_.view());
    tile_.offset = dither_.cview();
  }
  if (!clamped_before()) return;
  clamped_ = Matrix<float>(n, lanes);
  for (index_t k = 0; k < n; ++k) {
    for (index_t r = 0; r < lanes; ++r) {
      clamped_(k, r) = std::clamp(coordinates(k, r), 0.0F, tile_.top * tile_.step(k, r));
    }
  }
  tile_.x = clamped_.cview();
}

void TileRounding::round(const Rounder& rounder) {
  passes_ = rounder.round(layer_, tile_, q_.view(), loss_);
  // Until now the coordinates of dynamic groups were the weights.
  if (grids_.dynamic()) grids_.to_coordinates(coordinates_, coordinates_);
  if (!clamped_before()) return;
  Matrix<float> off(q_.rows(), q_.cols());  // the rounder saw other weights than ours
  for (index_t k = 0; k < off.rows(); ++k) {
    for (index_t r = 0; r < off.cols(); ++r) off(k, r) = difference(k, r);
  }
  std::fill(loss_.begin(), loss_.end(), 0.0);
  add_hessian_norm(layer_.factor, off.cview(), loss_);
}

void TileRounding::prepare_blocks() {
  error_ = Matrix<float>(q_.rows(), q_.cols());
  if (clamped_before()) {
    difference_ = Matrix<float>(q_.rows(), q_.cols());
    seen_loss_.assign(loss_.size(), 0.0);
  }
  target_ = Matrix<float>(LowerPanels::block, q_.cols());
}

void TileRounding::round_nearest(index_t first, index_t last) {
  for (index_t k = first; k < last; ++k) {
    const float* step = tile_.step.row(k);
    const float* offset = tile_.offset.row(k);
    const float* inverse = tile_.inverse.row(k);
    for (index_t r = 0; r < q_.cols(); ++r) {
      q_(k, r) = to_level(tile_.x(k, r) * inverse[r], offset[r], 0.0F, tile_.top);
      error_(k, r) = q_(k, r) * step[r] - tile_.x(k, r);
    }
  }
}

void TileRounding::round_block(index_t b, MatrixView<const float> panel) {
  const index_t first = layer_.factor.first_column(b);
  const index_t last = first + layer_.factor.width(b);
  const bool feedback = options_.feedback() == Feedback::factor;
  if (feedback) {
    round_block_with_feedback(layer_.factor, b, panel, tile_, q_.view(), error_.view(),
                              target_.data(), clamped_before() ? seen_loss_ : loss_);
  } else {
    round_nearest(first, last);
  }
  if (clamped_before()) {
    for (index_t k = first; k < last; ++k) {
      for (index_t r = 0; r < q_.cols(); ++r) difference_(k, r) = difference(k, r);
    }
    add_block_norm(layer_.factor, b, panel, difference_.cview(), target_.data(), loss_);
  } else if (!feedback) {
    add_block_norm(layer_.factor, b, panel, error_.cview(), target_.data(), loss_);
  }
}

void TileRounding::finish() {
  UsageMeter::current().add_flops(static_cast<double>(tile_.rows) *
                                  rounding_flops(q_.rows(), options_, passes_));
  for (index_t k = 0; k < q_.rows(); ++k) {
    const double weight = layer_.added[at(k)];
    for (index_t r = 0; r < q_.cols(); ++r) {
      const double value = difference(k, r);
      loss_[at(r)] -= weight * (value * value);
    }
  }
  for (index_t r = 0; r < q_.cols(); ++r) {
    const double unit = grids_.unit(r);
    loss_[at(r)] *= unit * unit;
  }
}

void subtract_damping(const std::vector<double>& added, MatrixView<const float> x,
                      std::span<double> norm) {
  for (index_t k = 0; k < x.rows; ++k) {
    const double weight = added[at(k)];
    const float* row = x.row(k);
    for (index_t r = 0; r < x.cols; ++r) {
      const double value = row[r];
      norm[at(r)] -= weight * (value * value);
    }
  }
}

}  // namespace quip
