#include "quip/quant/factor/spectrum.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quip/core/error.hpp"
#include "quip/linalg/eigen.hpp"

namespace quip {
namespace {

double share_above(const std::vector<double>& values, double limit) {
  const auto count =
      std::count_if(values.begin(), values.end(), [&](double value) { return value > limit; });
  return static_cast<double>(count) / static_cast<double>(values.size());
}

}  // namespace

Spectrum spectrum_of(MatrixView<const double> h, double shift, const std::string& layer) {
  Matrix<double> q(h.rows, h.cols);
  for (index_t i = 0; i < h.rows; ++i) {
    std::copy_n(h.row(i), h.cols, q.view().row(i));
    q(i, i) -= shift;
  }
  std::vector<double> values;
  try {
    values = symmetric_eigen(q.view());
  } catch (const Error& error) {
    fail("layer {}: {}; leave out --statistics", layer, error.what());
  }
  double largest = 0;
  for (index_t i = 0; i < q.size(); ++i) largest = std::max(largest, std::abs(q.data()[i]));
  const auto n = static_cast<double>(h.rows);
  const double top = values.back();
  return {largest * std::sqrt(n),
          share_above(values, n * std::numeric_limits<double>::epsilon() * top),
          share_above(values, 0.01 * top)};
}

}  // namespace quip
