#include "hessian.hpp"

#include <algorithm>

#include "backend/checks.hpp"
#include "int8_kernels.hpp"

#include "quip/core/error.hpp"

namespace quip {

std::string_view to_string(HessianKernel kernel) {
  switch (kernel) {
    case HessianKernel::best:
      return "best";
    case HessianKernel::amx_int8:
      return "amx-int8";
    case HessianKernel::vnni_int8:
      return "vnni-int8";
    case HessianKernel::float64:
      return "float64";
  }
  fail("unknown Hessian kernel {}", static_cast<int>(kernel));
}

bool is_supported(HessianKernel kernel) {
  if (kernel == HessianKernel::amx_int8) return cpu::amx_kernel() != nullptr;
  if (kernel == HessianKernel::vnni_int8) return cpu::vnni_kernel() != nullptr;
  return true;
}

namespace cpu {

HessianKernel best_hessian_kernel() {
  for (const HessianKernel kernel : {HessianKernel::amx_int8, HessianKernel::vnni_int8}) {
    if (is_supported(kernel)) return kernel;
  }
  return HessianKernel::float64;
}

index_t tokens_at_once(index_t tokens, index_t channels, MatrixView<const double> sum,
                       index_t bytes_per_element) {
  const index_t budget = std::max(index_t{32} << 20, sum.size());
  const index_t affordable = budget / (channels * bytes_per_element);
  return std::min(tokens, std::clamp<index_t>(affordable, 256, 2048));
}

std::vector<TilePosition> tiles_of(MatrixView<const double> sum, index_t tile, bool lower) {
  std::vector<TilePosition> tiles;
  for (index_t row = 0; row * tile < sum.rows; ++row) {
    for (index_t col = 0; (!lower || col <= row) && col * tile < sum.cols; ++col) {
      tiles.push_back({row, col});
    }
  }
  return tiles;
}

namespace {

void accumulate(HessianKernel kernel, int threads, const Factor& left, const Factor& right,
                bool lower, MatrixView<double> sum) {
  std::atomic<bool> outside = false;
  if (kernel == HessianKernel::float64) {
    accumulate_float64(threads, left, right, lower, sum, outside);
  } else {
    accumulate_int8(kernel, threads, left, right, lower, sum, outside);
  }
  if (outside) fail_outside_16_bits();
}

}  // namespace

void accumulate_hessian(HessianKernel kernel, int threads, ConstTensorView x,
                        std::span<const float> scale, MatrixView<double> sum) {
  check_hessian(x, scale, sum);
  if (x.size() == 0) return;
  const Factor factor{x, scale};
  accumulate(kernel, threads, factor, factor, true, sum);
}

void accumulate_cross(HessianKernel kernel, int threads, ConstTensorView e,
                      std::span<const float> e_scale, ConstTensorView x,
                      std::span<const float> scale, MatrixView<double> sum) {
  check_cross(e, e_scale, x, scale, sum);
  if (x.rows == 0) return;
  accumulate(kernel, threads, {e, e_scale}, {x, scale}, false, sum);
}

}  // namespace cpu
}  // namespace quip
