// The kernels that transforms are made of, with all that may stand on their sides, beside plain
// loops.
#include <vector>

#include "backend/cuda/kernels/transform_kernels.hpp"
#include "cuda/plain_transform.hpp"
#include <fmt/format.h>

namespace quip::cuda::cuda_steps_test {
namespace {

/// All that may stand on the sides of a kernel.
template <typename T>
struct Ends {
  std::vector<index_t> from;
  std::vector<T> before;
  std::vector<index_t> to;
  std::vector<T> after;
  std::vector<T> divisor;

  Ends(index_t n, index_t cols)
      : from(RandomStream(1).permutation(n)),
        before(random_factors<T>(n, 2)),
        to(RandomStream(3).permutation(n)),
        after(random_factors<T>(n, 4)),
        divisor(random_factors<T>(cols, 5)) {}

  [[nodiscard]] Matrix<T> way_in(const Matrix<T>& x) const {
    return scaled(permuted(x, from, true), std::vector<double>(before.begin(), before.end()));
  }
  [[nodiscard]] Matrix<T> way_out(const Matrix<T>& x) const {
    const Matrix<T> y = scaled(x, std::vector<double>(after.begin(), after.end()));
    for (index_t i = 0; i < y.rows(); ++i) {
      for (index_t j = 0; j < y.cols(); ++j) y(i, j) /= divisor[at(j)];
    }
    return permuted(y, to, false);
  }
};

class CudaKernels : public CudaSteps {
 protected:
  /// A kernel with all its ends, from and to both layouts; `expected` is what it leaves of what it
  /// finds.
  template <typename T, typename Kernel, typename Expected>
  void check_kernel(index_t n, index_t cols, const Kernel& kernel, const Expected& expected) {
    const Matrix<T> x = random_elements<T>(n, cols, 7);
    const Ends<T> ends(n, cols);
    const Matrix<T> result = ends.way_out(expected(ends.way_in(x)));
    const auto from = uploaded(*context_, ends.from);
    const auto before = uploaded(*context_, ends.before);
    const auto to = uploaded(*context_, ends.to);
    const auto after = uploaded(*context_, ends.after);
    const auto divisor = uploaded(*context_, ends.divisor);
    for (const bool in_down : {false, true}) {
      for (const bool out_down : {false, true}) {
        const auto source = uploaded(*context_, laid_out(x, in_down));
        const auto target = context_->buffer<T>(n * cols, "of the test");
        const StridedInput<T> in{
            {source.data(), in_down ? 1 : cols, in_down ? n : 1}, from.data(), before.data()};
        const StepOutput<T> out{{target.data(), out_down ? 1 : cols, out_down ? n : 1},
                                to.data(),
                                after.data(),
                                divisor.data()};
        kernel(in, out);
        expect_same_bits(from_device(target, out_down ? cols : n, out_down ? n : cols),
                         laid_out(result, out_down));
        if (HasFatalFailure()) return;
      }
    }
  }

  template <typename T>
  void check_walsh(const WalshStep& walsh, index_t n, index_t cols) {
    SCOPED_TRACE(fmt::format("radix {}, step {}, group {}, 2^{} lanes of {}, {} runs", walsh.radix,
                             walsh.step, walsh.group, walsh.lane_bits, cols, walsh.runs));
    check_kernel<T>(
        n, cols,
        [&](const auto& in, const auto& out) { walsh_step(stream(), in, out, walsh, n, cols); },
        [&](Matrix<T> x) {
          butterflies(x, walsh.radix, walsh.step);
          return x;
        });
  }

  template <typename T>
  void check_product(const TransformStep& step, index_t n, index_t cols, bool transpose) {
    const index_t order = step.factors[0].rows;
    SCOPED_TRACE(fmt::format("order {}, stride {}, width {}, {} batches, {} columns", order,
                             step.stride, step.width, step.batches, cols));
    std::vector<T> values;
    for (const auto& factor : step.factors) {
      for (index_t i = 0; i < factor.size(); ++i) {
        values.push_back(static_cast<T>(factor.data[i]));
      }
    }
    const auto factors = uploaded(*context_, values);
    const ProductStep<T> product{.factors = factors.data(),
                                 .order = order,
                                 .row_stride = transpose ? 1 : order,
                                 .col_stride = transpose ? order : 1,
                                 .factor_step = step.factors.size() > 1 ? order * order : 0,
                                 .stride = step.stride,
                                 .width = step.width,
                                 .batches = step.batches,
                                 .batch_stride = step.batch_stride};
    check_kernel<T>(
        n, cols,
        [&](const auto& in, const auto& out) { product_step(stream(), in, out, product, cols); },
        [&](const Matrix<T>& x) { return multiplied(x, step, transpose); });
  }
};

TEST_F(CudaKernels, WalshHadamardLevels) {
  in_every_order([&] {
    for (const index_t radix : {1, 2, 4, 8, 16, 32, 128, 512}) {
      for (const index_t step : {1, 3, 8}) {
        const index_t n = 2 * radix * step;
        check_walsh<float>({.radix = radix, .step = step, .group = 1, .lane_bits = 4}, n, 21);
        check_walsh<float>({.radix = radix, .step = step, .group = step}, n, 3);
        check_walsh<float>({.radix = radix, .step = step, .group = step, .runs = 2}, 5 * n / 2, 3);
        check_walsh<double>({.radix = radix, .step = step, .group = 1, .lane_bits = 3}, n, 11);
      }
    }
  });
}

TEST_F(CudaKernels, ProductsOfSmallMatrices) {
  in_every_order([&] {
    for (const index_t order : {1, 5, 16, 63, 70}) {
      for (const bool transpose : {false, true}) {
        std::vector<Matrix<double>> matrices;
        std::vector<MatrixView<const double>> views;
        for (std::uint64_t i = 0; i < 3; ++i) {
          matrices.push_back(random_elements<double>(order, order, 40 + i));
          views.push_back(matrices.back().cview());
        }
        const TransformStep neighbours{.kind = TransformStep::Kind::multiply,
                                       .factors = {views[0]},
                                       .batches = 3,
                                       .batch_stride = order};
        const TransformStep apart{
            .kind = TransformStep::Kind::multiply, .stride = 3, .factors = {views[0]}, .width = 3};
        const TransformStep many{.kind = TransformStep::Kind::multiply,
                                 .stride = 3,
                                 .factors = views,
                                 .batches = 3,
                                 .batch_stride = 1};
        for (const TransformStep& step : {neighbours, apart, many}) {
          check_product<float>(step, 3 * order, 67, transpose);
          check_product<double>(step, 3 * order, 3, transpose);
        }
      }
    }
  });
}

}  // namespace
}  // namespace quip::cuda::cuda_steps_test
