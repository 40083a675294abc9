// The steps of a transform as passes over memory, beside the steps one after the other.
#include <algorithm>
#include <tuple>
#include <vector>

#include "backend/cuda/transform_on_device.hpp"
#include "cuda/plain_transform.hpp"

#include "quip/core/error.hpp"

namespace quip::cuda::cuda_passes_test {
namespace {

/// Whatever steps a test thinks of.
class MadeUp final : public Transform {
 public:
  MadeUp(index_t n, std::vector<TransformStep> steps) : Transform(n), steps_(std::move(steps)) {}
  void apply(MatrixView<float> /*x*/, float* /*scratch*/) const override {}
  void apply(MatrixView<double> /*x*/, double* /*scratch*/) const override {}
  void apply_transposed(MatrixView<float> /*x*/, float* /*scratch*/) const override {}
  void apply_transposed(MatrixView<double> /*x*/, double* /*scratch*/) const override {}
  void apply_rows(MatrixView<float> /*x*/, index_t /*first*/, MatrixView<float> /*out*/,
                  float* /*scratch*/) const override {}
  [[nodiscard]] std::vector<TransformStep> steps() const override { return steps_; }

 private:
  std::vector<TransformStep> steps_;
};

class CudaPasses : public CudaSteps {
 protected:
  /// Steps as passes beside the steps one after the other, Q and Qᵀ.
  template <typename T>
  void check_transform(const Transform& transform, index_t cols, std::size_t passes) {
    const index_t n = transform.size();
    const Matrix<T> x = random_elements<T>(n, cols, 9);
    for (const Direction direction : {Direction::forward, Direction::transposed}) {
      const bool transpose = direction == Direction::transposed;
      std::vector<TransformStep> steps = transform.steps();
      if (transpose) std::reverse(steps.begin(), steps.end());
      Matrix<T> expected = laid_out(x, false);
      for (const TransformStep& step : steps) {
        expected = applied(std::move(expected), step, transpose);
      }
      const TransformOnDevice<T> on_device(*context_, transform, direction);
      EXPECT_EQ(on_device.passes().size(), passes);
      auto here = uploaded(*context_, x);
      auto scratch = context_->buffer<T>(x.size(), "of the test");
      on_device.apply(here, scratch, cols);
      expect_same_bits(from_device(here, n, cols), expected);
    }
  }
};

TEST_F(CudaPasses, MovesBelongToTheKernelsBesideThem) {
  constexpr index_t n = 4096;  // a transform of 2048 in two passes, over pairs of rows
  const std::vector<index_t> first = RandomStream(1).permutation(n);
  const std::vector<index_t> second = RandomStream(2).permutation(n);
  const std::vector<double> scale = random_factors<double>(n, 3);
  const std::vector<double> other = random_factors<double>(n, 4);
  const Matrix<double> small = random_elements<double>(64, 64, 5);
  using Kind = TransformStep::Kind;
  const TransformStep gather{.kind = Kind::gather, .order = first};
  const TransformStep scatter{.kind = Kind::scatter, .order = second};
  const TransformStep signs{.kind = Kind::scale, .scale = scale};
  const TransformStep sizes{.kind = Kind::scale, .scale = other};
  const TransformStep walsh{.kind = Kind::walsh, .size = 2048, .stride = 2};
  const TransformStep product{
      .kind = Kind::multiply, .factors = {small.cview()}, .batches = n / 64, .batch_stride = 64};
  struct Case {
    std::vector<TransformStep> steps;
    std::size_t passes;
  };
  const std::vector<Case> cases{{{}, 0},
                                {{walsh}, 2},
                                {{gather, signs, walsh, sizes, scatter}, 2},
                                {{signs, gather, walsh, scatter, sizes}, 2},
                                {{scatter, gather, product, gather, scatter}, 1},
                                {{product, signs, scatter, walsh, gather, sizes, product}, 4},
                                {{gather, signs, scatter}, 1},
                                {{signs}, 1}};
  in_every_order([&] {
    for (std::size_t i = 0; i < cases.size(); ++i) {
      SCOPED_TRACE(i);
      check_transform<float>(MadeUp(n, cases[i].steps), 5, cases[i].passes);
      check_transform<double>(MadeUp(n, cases[i].steps), 3, cases[i].passes);
    }
  });
}

TEST_F(CudaPasses, EveryKindInAsFewPassesAsItHasProductsAndTransforms) {
  in_every_order([&] {
    for (const Side side : {Side::input, Side::output}) {
      for (const auto& [kind, n, passes] : {std::tuple{TransformKind::none, 12, 0},
                                            {TransformKind::kronecker, 77, 2},
                                            {TransformKind::kronecker_blocked, 60, 2},
                                            {TransformKind::kronecker_nopermute, 90, 2},
                                            {TransformKind::hadamard, 256, 1},
                                            {TransformKind::hadamard, 224, 2},
                                            {TransformKind::hadamard, 2048, 2},
                                            {TransformKind::hadamard_128, 640, 1},
                                            {TransformKind::dense, 70, 1}}) {
        SCOPED_TRACE(to_string(kind));
        const auto transform = make_transform(kind, n, 3, side);
        check_transform<float>(*transform, 33, static_cast<std::size_t>(passes));
        check_transform<double>(*transform, 9, static_cast<std::size_t>(passes));
      }
    }
  });
}

TEST_F(CudaPasses, RefusesTwoScalesInARow) {
  const std::vector<double> scale(8, 0.3);
  const TransformStep step{.kind = TransformStep::Kind::scale, .scale = scale};
  EXPECT_THROW(TransformOnDevice<float>(*context_, MadeUp(8, {step, step})), Error);
}

}  // namespace
}  // namespace quip::cuda::cuda_passes_test
