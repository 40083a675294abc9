#include "quip/quant/rounder.hpp"

#include <algorithm>

#include "quip/core/error.hpp"
#include "quip/linalg/ordered_gemm.hpp"

namespace quip {

std::unique_ptr<Rounder> make_rounder(Method method) {
  switch (method) {
    case Method::nearest:
      return make_nearest();
    case Method::ldlq:
      return make_ldlq();
  }
  fail("a rounding method without a rounder");
}

void add_hessian_norm(const LdlFactor& factor, MatrixView<const float> x, std::span<double> norm) {
  const index_t lanes = x.cols;
  Matrix<float> projected(LdlFactor::block, lanes);
  for (index_t b = 0; b < factor.blocks(); ++b) {
    const index_t first = factor.first_column(b);
    const index_t width = factor.width(b);
    const MatrixView<float> panel = factor.panel(b);  // strictly lower: the identity is added here
    for (index_t k = 0; k < width; ++k) std::copy_n(x.row(first + k), lanes, projected.row(k));
    ordered_gemm<float>(width, lanes, panel.rows, {panel.data, 1, width}, x.row(first), x.ld,
                        projected.data(), lanes);
    for (index_t k = 0; k < width; ++k) {
      const double weight = factor.d[static_cast<std::size_t>(first + k)];
      const float* row = projected.row(k);
      for (index_t r = 0; r < lanes; ++r) {
        const double value = row[r];
        norm[static_cast<std::size_t>(r)] += weight * (value * value);
      }
    }
  }
}

}  // namespace quip
