#include "host_math.hpp"

#include <cstring>

#include "column_kernels.hpp"

namespace quip {

std::shared_ptr<void> HostMath::allocate(std::size_t bytes, std::string_view /*what*/) const {
  auto room = std::make_shared<Buffer<std::byte>>(static_cast<index_t>(bytes));
  return {room, room->data()};
}

void HostMath::to_here(const void* host, void* here, std::size_t bytes) const {
  if (bytes > 0) std::memcpy(here, host, bytes);
}
void HostMath::to_host(const void* here, void* host, std::size_t bytes) const {
  to_here(here, host, bytes);
}
void HostMath::clear(void* here, std::size_t bytes) const {
  if (bytes > 0) std::memset(here, 0, bytes);
}
void HostMath::copy(MatrixView<const float> x, MatrixView<float> y) const {
  to_here(x.data, y.data, at(x.size()) * sizeof(float));
}

void HostMath::add_product(StridedView<float> a, MatrixView<const float> b,
                           MatrixView<float> c) const {
  ordered_gemm<float>(c.rows, c.cols, b.rows, a, b.data, b.ld, c.data, c.ld);
}

void HostMath::add_weighted_squares(MatrixView<const float> x, const double* weight, double sign,
                                    double* norm) const {
  for (index_t k = 0; k < x.rows; ++k) {
    for (index_t r = 0; r < x.cols; ++r) {
      const double value = x(k, r);
      norm[r] += sign * weight[k] * (value * value);
    }
  }
}

void HostMath::find_ranges(MatrixView<const float> x, const std::int32_t* position, index_t count,
                           float* low, float* high) const {
  std::fill_n(low, x.cols, 0.0F);
  std::fill_n(high, x.cols, 0.0F);
  for (index_t i = 0; i < count; ++i) {
    const float* row = x.row(position == nullptr ? i : position[i]);
    for (index_t r = 0; r < x.cols; ++r) {
      low[r] = std::min(low[r], row[r]);
      high[r] = std::max(high[r], row[r]);
    }
  }
}

void HostMath::to_coordinates(MatrixView<const float> w, const float* factor, const float* shift,
                              const std::int32_t* group, MatrixView<float> x) const {
  for (index_t k = 0; k < x.rows; ++k) {
    const float* factors = row_of(factor, group, k, x.cols);
    const float* shifts = row_of(shift, group, k, x.cols);
    for (index_t r = 0; r < x.cols; ++r) x(k, r) = w(k, r) * factors[r] + shifts[r];
  }
}

void HostMath::clamp_coordinates(GridView grid, float top, MatrixView<float> x) const {
  for (index_t k = 0; k < x.rows; ++k) {
    const float* step = row_of(grid.step, grid.group, k, x.cols);
    for (index_t r = 0; r < x.cols; ++r) x(k, r) = std::clamp(x(k, r), 0.0F, top * step[r]);
  }
}

void HostMath::level_difference(MatrixView<const float> q, GridView grid, MatrixView<const float> x,
                                MatrixView<float> difference) const {
  for (index_t k = 0; k < x.rows; ++k) {
    const float* step = row_of(grid.step, grid.group, k, x.cols);
    for (index_t r = 0; r < x.cols; ++r) difference(k, r) = q(k, r) * step[r] - x(k, r);
  }
}

void HostMath::unrounded_levels(MatrixView<const float> x, GridView grid,
                                MatrixView<float> q) const {
  for (index_t k = 0; k < x.rows; ++k) {
    const float* inverse = row_of(grid.inverse, grid.group, k, x.cols);
    for (index_t r = 0; r < x.cols; ++r) q(k, r) = x(k, r) * inverse[r];
  }
}

void HostMath::round_to_nearest(MatrixView<const float> x, GridView grid, const float* offset,
                                float top, MatrixView<float> q) const {
  for (index_t k = 0; k < x.rows; ++k) {
    const float* inverse = row_of(grid.inverse, grid.group, k, x.cols);
    const float* offsets = offset_of(offset, k, x.cols);
    for (index_t r = 0; r < x.cols; ++r) {  // ŵ = step · clamp(Q(x / step), 0, top)
      q(k, r) = to_level(x(k, r) * inverse[r], offsets[r], 0.0F, top);
    }
  }
}

void HostMath::cut_levels(GridView grid, float top, MatrixView<float> q,
                          MatrixView<float> base) const {
  for (index_t k = 0; k < q.rows; ++k) {
    const float* step = row_of(grid.step, grid.group, k, q.cols);
    for (index_t r = 0; r < q.cols; ++r) {
      const float cut = std::clamp(q(k, r), 0.0F, top);
      base(k, r) += (cut - q(k, r)) * step[r];
      q(k, r) = cut;
    }
  }
}

const RoundingMath& host_rounding_math() {
  static const HostMath math;
  return math;
}

}  // namespace quip
