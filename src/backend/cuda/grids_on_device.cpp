#include "grids_on_device.hpp"

#include <algorithm>
#include <numeric>

#include "copies.hpp"

#include "quip/quant/code/quantized_linear.hpp"

namespace quip::cuda {

ColumnPlaces::ColumnPlaces(Context& context, index_t n, const std::vector<index_t>& order,
                           index_t group_size)
    : groups(groups_of(n, group_size)) {
  std::vector<std::int32_t> positions(at(n));
  std::vector<std::int32_t> groups_by_position(groups > 1 ? at(n) : 0);
  for (index_t k = 0; k < n; ++k) {
    const index_t column = order.empty() ? k : order[at(k)];
    positions[at(column)] = static_cast<std::int32_t>(k);
    if (groups > 1) groups_by_position[at(k)] = static_cast<std::int32_t>(column / group_size);
  }
  position = to_device(context, std::span<const std::int32_t>(positions), "positions of columns");
  group =
      to_device(context, std::span<const std::int32_t>(groups_by_position), "groups of columns");
}

GridsOnDevice::GridsOnDevice(Context& context, const ColumnPlaces& places,
                             std::vector<RowGrid> lanes)
    : context_(context),
      places_(places),
      lanes_(std::ssize(lanes)),
      grids_(std::move(lanes)),
      factor_(context.buffer<float>(lanes_, "grids")),
      shift_(context.buffer<float>(lanes_, "grids")) {
  upload(0);
}

GridsOnDevice::GridsOnDevice(Context& context, const ColumnPlaces& places,
                             MatrixView<const float> w, const LayerOptions& options)
    : context_(context),
      places_(places),
      lanes_(w.cols),
      bits_(options.bits),
      symmetric_(options.symmetric),
      group_size_(options.group_size == 0 ? w.rows : options.group_size),
      grids_(at(places.groups * w.cols)),
      step_(context.buffer<float>(std::ssize(grids_), "grids")),
      inverse_(context.buffer<float>(std::ssize(grids_), "grids")),
      offset_(context.buffer<float>(std::ssize(grids_), "grids")),
      factor_(context.buffer<float>(std::ssize(grids_), "grids")),
      shift_(context.buffer<float>(std::ssize(grids_), "grids")) {
  dynamic_ = places.groups > 1 && options.effective_groups() == GroupFit::dynamic;
  for (index_t g = 0; !dynamic_ && g < places.groups; ++g) fit(g, w);
}

/// Brings every lane's range over the group's columns to the host, which settles the grids.
void GridsOnDevice::fit(index_t g, MatrixView<const float> w) {
  const index_t first = g * group_size_;
  const index_t count = std::min(group_size_, w.rows - first);
  const auto ranges = context_.buffer<float>(2 * lanes_, "ranges of rows");
  lane_ranges(context_.lane().get(), w, places_.position.data() + first, count, ranges.data(),
              ranges.data() + lanes_);
  std::vector<float> host(at(2 * lanes_));
  download<float>(context_.lane(), ranges.data(), host);
  for (index_t r = 0; r < lanes_; ++r) {
    const float low = host[at(r)];
    const float high = host[at(lanes_ + r)];
    grids_[at(g * lanes_ + r)] =
        symmetric_ ? fit_symmetric(low, high, bits_) : fit_minmax(low, high, bits_);
  }
  upload(g);
}

void GridsOnDevice::upload(index_t g) {
  Lane& lane = context_.lane();
  std::vector<float> values(at(lanes_));
  const auto put = [&](const DeviceBuffer<float>& to, auto value) {
    if (to.size() == 0) return;
    for (index_t r = 0; r < lanes_; ++r) values[at(r)] = value(grids_[at(g * lanes_ + r)]);
    cuda::upload<float>(lane, values, to.data() + g * lanes_);
  };
  const bool many = groups() > 1;
  put(step_, [](const RowGrid& grid) { return grid.step; });
  put(inverse_, [](const RowGrid& grid) { return grid.inverse; });
  put(offset_, [](const RowGrid& grid) { return grid.offset; });
  put(factor_, [many](const RowGrid& grid) { return many ? 1.0F : grid.inverse; });
  put(shift_, [many](const RowGrid& grid) { return many ? grid.step * grid.offset : grid.offset; });
}

void GridsOnDevice::to_coordinates(MatrixView<const float> w, MatrixView<float> x) const {
  const std::int32_t* group = groups() > 1 ? places_.group.data() : nullptr;
  cuda::to_coordinates(context_.lane().get(), w, factor_.data(), shift_.data(), group, x);
}

GridView GridsOnDevice::view(index_t first) const {
  if (groups() == 1) return {};
  return {step_.data(), inverse_.data(), places_.group.data() + first};
}

void GridsOnDevice::fit_group(index_t first, MatrixView<float> w) {
  const index_t g = first / group_size_;
  fit(g, w);
  shift_lanes(context_.lane().get(), step_.data() + g * lanes_, offset_.data() + g * lanes_,
              w.middle_rows(first, std::min(group_size_, w.rows - first)));
}

}  // namespace quip::cuda
