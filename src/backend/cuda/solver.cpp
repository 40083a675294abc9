#include "solver.hpp"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "copies.hpp"
#include "transform_on_device.hpp"
#include <spdlog/spdlog.h>

#include "quip/backend/device_work.hpp"
#include "quip/core/error.hpp"

namespace quip::cuda {
namespace {

class Solver {
 public:
  explicit Solver(cudaStream_t stream) {
    QUIP_CUDA(cusolverDnCreate(&handle_));
    QUIP_CUDA(cusolverDnCreateParams(&parameters_));
    QUIP_CUDA(cusolverDnSetStream(handle_, stream));
  }
  ~Solver() {
    static_cast<void>(cusolverDnDestroyParams(parameters_));
    static_cast<void>(cusolverDnDestroy(handle_));
  }
  Solver(const Solver&) = delete;
  Solver& operator=(const Solver&) = delete;
  [[nodiscard]] cusolverDnHandle_t get() const { return handle_; }
  [[nodiscard]] cusolverDnParams_t parameters() const { return parameters_; }

 private:
  cusolverDnHandle_t handle_ = nullptr;
  cusolverDnParams_t parameters_ = nullptr;
};

// Our lower triangle, row by row, is to cuSOLVER the upper one, column by column: A = UᵀU with U
// our factor, transposed. It leaves the other triangle alone.
constexpr cublasFillMode_t our_lower = CUBLAS_FILL_MODE_UPPER;

/// Factorises a [n × n] by Cholesky; returns 0 or the leading minor that is not positive.
index_t cholesky(Context& context, index_t n, double* a) {
  const Lane& lane = context.lane();
  const Solver solver(lane.get());
  std::size_t device_bytes = 0;
  std::size_t host_bytes = 0;
  QUIP_CUDA(cusolverDnXpotrf_bufferSize(solver.get(), solver.parameters(), our_lower, n, CUDA_R_64F,
                                        a, n, CUDA_R_64F, &device_bytes, &host_bytes));
  const auto workspace =
      context.buffer<std::byte>(static_cast<index_t>(device_bytes), "the workspace of cuSOLVER");
  std::vector<std::byte> host_workspace(host_bytes);
  const auto info = context.buffer<int>(1, "the outcome of cuSOLVER");
  QUIP_CUDA(cusolverDnXpotrf(solver.get(), solver.parameters(), our_lower, n, CUDA_R_64F, a, n,
                             CUDA_R_64F, workspace.data(), device_bytes, host_workspace.data(),
                             host_bytes, info.data()));
  int outcome = 0;
  download<int>(context.lane(), info.data(), std::span(&outcome, 1));
  if (outcome < 0)
    fail("GPU: cusolverDnXpotrf refuses its argument {}; use --backend cpu", -outcome);
  return outcome;
}

/// Copies L = C diag(C)⁻¹ into the strict lower triangle of `h`, some rows of C at a time.
void download_factor(Context& context, const double* c, std::span<const double> inverse,
                     MatrixView<double> h) {
  const index_t n = h.rows;
  const index_t rows_at_once = std::clamp<index_t>((index_t{32} << 20) / (8 * n), 1, n);
  const Matrix<double> rows(rows_at_once, n);
  for (index_t first = 0; first < n; first += rows_at_once) {
    const index_t count = std::min(rows_at_once, n - first);
    download<double>(context.lane(), {c + first * n, count, n}, rows.view().middle_rows(0, count));
#pragma omp parallel for schedule(static)
    for (index_t i = 0; i < count; ++i) {
      double* row = h.row(first + i);
      for (index_t j = 0; j <= first + i; ++j) {
        row[j] = rows(i, j) * inverse[at(j)];
      }
    }
  }
}

}  // namespace

void HessianMathOnDevice::transform(const Transform& v, MatrixView<double> x) const {
  if (v.is_identity() || x.size() == 0) return;
  const std::size_t column = 2 * at(x.rows) * sizeof(double);
  const std::size_t fit = context_.device().available() / 2 / column;
  if (fit == 0) return HessianMath::transform(v, x);
  const index_t width = std::min(x.cols, static_cast<index_t>(std::min<std::size_t>(fit, 4096)));
  const TransformOnDevice<double> steps(context_, v);
  auto slab = context_.buffer<double>(x.rows * width, "columns of a Hessian");
  auto scratch = context_.buffer<double>(x.rows * width, "a transform of columns");
  for (index_t first = 0; first < x.cols; first += width) {
    const index_t count = std::min(width, x.cols - first);
    const MatrixView<double> part = x.middle_cols(first, count);
    upload<double>(context_.lane(), part, slab.view(x.rows, count));
    steps.apply(slab, scratch, count);
    download<double>(context_.lane(), slab.cview(x.rows, count), part);
  }
}

index_t HessianMathOnDevice::ldl_factor(MatrixView<double> h, std::span<double> d) const {
  const index_t n = h.rows;
  if (n == 0) return 0;
  if (at(factor_bytes(n)) > context_.device().available()) {
    if (!std::exchange(warned_, true)) {
      spdlog::warn(
          "{}: no {:.2f} GiB to factorise a Hessian of {} inputs; the processors do it, slower "
          "(more GPUs, or fewer --samples, leave room)",
          context_.device().describe(), static_cast<double>(factor_bytes(n)) / (1 << 30), n);
    }
    return HessianMath::ldl_factor(h, d);
  }
  const auto a = context_.buffer<double>(n * n, "a Hessian");
  upload<double>(context_.lane(), h, a.view(n, n));
  const index_t minor = cholesky(context_, n, a.data());
  if (minor != 0) return minor;
  std::vector<double> inverse(d.size());
  download<double>(context_.lane(), MatrixView<const double>(a.data(), n, 1, n + 1),
                   MatrixView<double>(inverse.data(), n, 1));
  for (std::size_t j = 0; j < d.size(); ++j) {
    if (!std::isfinite(inverse[j])) return static_cast<index_t>(j) + 1;
    d[j] = inverse[j] * inverse[j];
    inverse[j] = 1.0 / inverse[j];
  }
  download_factor(context_, a.data(), inverse, h);
  return 0;
}

}  // namespace quip::cuda
