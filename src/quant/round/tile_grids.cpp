#include "tile_grids.hpp"

#include <algorithm>

#include "quip/quant/code/quantized_linear.hpp"

namespace quip {
namespace {

RoundStep rounding_of(ScaleType type) {
  switch (type) {
    case ScaleType::fp16:
      return half_step;
    case ScaleType::bf16:
      return short_half_step;
    case ScaleType::fp32:
      break;
  }
  return keep_step;
}

}  // namespace

ColumnPlaces::ColumnPlaces(const RoundingMath& where, index_t n, const std::vector<index_t>& order,
                           index_t group_size)
    : math(where), groups(groups_of(n, group_size)) {
  std::vector<std::int32_t> positions(at(n));
  std::vector<std::int32_t> groups_by_position(groups > 1 ? at(n) : 0);
  for (index_t k = 0; k < n; ++k) {
    const index_t column = order.empty() ? k : order[at(k)];
    positions[at(column)] = static_cast<std::int32_t>(k);
    if (groups > 1) groups_by_position[at(k)] = static_cast<std::int32_t>(column / group_size);
  }
  position = math.placed<std::int32_t>(positions, "positions of columns");
  group = math.placed<std::int32_t>(groups_by_position, "groups of columns");
}

TileGrids::TileGrids(const ColumnPlaces& places, std::vector<RowGrid> lanes)
    : places_(&places),
      lanes_(std::ssize(lanes)),
      grids_(std::move(lanes)),
      inverse_(math().lanes<float>(1, lanes_, "grids")),
      shift_(math().lanes<float>(1, lanes_, "grids")) {
  upload(0);
}

TileGrids::TileGrids(const ColumnPlaces& places, MatrixView<const float> w,
                     const LayerOptions& options)
    : places_(&places),
      lanes_(w.cols),
      bits_(options.bits),
      symmetric_(options.symmetric),
      round_(rounding_of(options.scales())),
      dynamic_(several() && options.effective_groups() == GroupFit::dynamic),
      group_size_(several() ? options.group_size : w.rows),
      grids_(at(places.groups * w.cols)),
      step_(math().lanes<float>(places.groups, w.cols, "grids")),
      inverse_(math().lanes<float>(places.groups, w.cols, "grids")),
      shift_(math().lanes<float>(places.groups, w.cols, "grids")) {
  for (index_t g = 0; g < places.groups; ++g) {
    const index_t first = g * group_size_;
    if (dynamic_) {
      upload(g);
    } else {
      fit(g, w, places.position.data + first, std::min(group_size_, w.rows - first));
    }
  }
}

void TileGrids::fit(index_t g, MatrixView<const float> w, const std::int32_t* position,
                    index_t count) {
  const auto ranges = math().lanes<float>(2, lanes_, "ranges of rows");
  math().find_ranges(w, position, count, ranges.row(0), ranges.row(1));
  const std::vector<float> ends = math().fetched(ranges);
  for (index_t r = 0; r < lanes_; ++r) {
    const float low = ends[at(r)];
    const float high = ends[at(lanes_ + r)];
    grids_[at(g * lanes_ + r)] =
        symmetric_ ? fit_symmetric(low, high, bits_, round_) : fit_minmax(low, high, bits_, round_);
  }
  upload(g);
}

void TileGrids::upload(index_t g) {
  std::vector<float> values(at(lanes_));
  const auto put = [&](const Lanes<float>& to, auto value) {
    for (index_t r = 0; r < lanes_; ++r) values[at(r)] = value(grid(r, g));
    math().upload<float>(values, to.row(g));
  };
  if (several()) put(step_, [](const RowGrid& grid) { return grid.step; });
  put(inverse_, [](const RowGrid& grid) { return grid.inverse; });
  put(shift_,
      [&](const RowGrid& grid) { return several() ? grid.step * grid.offset : grid.offset; });
}

GridView TileGrids::view() const {
  if (!several()) return {};
  return {step_.data, inverse_.data, places_->group.data};
}

void TileGrids::to_coordinates(MatrixView<const float> w, MatrixView<float> x) const {
  math().to_coordinates(w, several() ? nullptr : inverse_.data, shift_.data, view().group, x);
}

void TileGrids::fit_group(index_t first, MatrixView<float> weights) {
  const index_t g = first / group_size_;
  fit(g, weights, nullptr, weights.rows);
  math().to_coordinates(weights, nullptr, shift_.row(g), nullptr, weights);
}

}  // namespace quip
