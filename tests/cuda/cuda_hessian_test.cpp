// Exact Hessians: the CPU's bits, whatever is cut.
#include <cmath>
#include <limits>
#include <vector>

#include "backend/cuda/hessian.hpp"
#include "cuda/cuda_support.hpp"

#include "quip/core/error.hpp"

namespace quip::cuda_hessian_test {
namespace {

/// Activations of very different channels, and scales that use 16 bits.
struct Problem {
  Matrix<float> x;
  std::vector<float> scale;

  Problem(index_t tokens, index_t channels) : x(random_matrix(tokens, channels, 7)) {
    for (index_t j = 0; j < channels; ++j) {
      const int exponent = static_cast<int>(j % 9) - 4;
      for (index_t t = 0; t < tokens; ++t) x(t, j) = std::ldexp(x(t, j), exponent);
      scale.push_back(std::ldexp(1.0F, 14 - exponent));
    }
  }
};

Matrix<double> summed(Backend& backend, ConstTensorView x, const Problem& problem) {
  Matrix<double> sum(x.cols, x.cols, 1.0);
  backend.accumulate_hessian(x, problem.scale, sum.view());
  return sum;
}

void expect_same(const Matrix<double>& a, const Matrix<double>& b) {
  for (index_t i = 0; i < a.rows(); ++i) {
    for (index_t j = 0; j < a.cols(); ++j) ASSERT_EQ(a(i, j), b(i, j)) << i << ", " << j;
  }
}

TEST_F(CudaTest, HessianHasTheCpusBits) {
  const auto exact = make_cpu_backend(2, HessianKernel::float64);
  in_every_order([&] {
    for (const index_t channels : {1, 31, 64, 100}) {
      for (const index_t tokens : {1, 63, 130}) {
        const Problem problem(tokens, channels);
        const Tensor x = on_device(problem.x);
        expect_same(summed(*cuda_, x.cview(), problem), summed(*exact, problem.x.cview(), problem));
      }
    }
  });
}

TEST_F(CudaTest, HessianOfTheMiddleOfAMatrix) {
  const Problem problem(50, 70);
  const Tensor wide = cuda_->allocate(50, 90);
  const TensorView middle = wide.view().middle_cols(11, 70);
  cuda_->upload(problem.x.span(), middle);
  expect_same(summed(*cuda_, middle, problem), summed(*cpu_, problem.x.cview(), problem));
}

TEST_F(CudaTest, HessianPanelsHaveTheCpusBits) {
  const Problem problem(70, 300);
  const Tensor x = on_device(problem.x);
  for (const auto& [first, width] :
       {std::pair<index_t, index_t>{0, 128}, {128, 128}, {256, 44}, {0, 256}}) {
    Matrix<double> expected(300 - first, width, 0.0);
    Matrix<double> sum(300 - first, width, 0.0);
    cpu_->accumulate_hessian_panel(problem.x.cview(), problem.scale, first, expected.view());
    cuda_->accumulate_hessian_panel(x.cview(), problem.scale, first, sum.view());
    for (index_t i = 0; i < sum.rows(); ++i) {
      for (index_t j = 0; j <= std::min(i, width - 1); ++j) ASSERT_EQ(sum(i, j), expected(i, j));
    }
  }
}

TEST_F(CudaTest, CrossSumsHaveTheCpusBits) {
  in_every_order([&] {
    for (const auto& [tokens, rows, cols] :
         {std::tuple<index_t, index_t, index_t>{1, 1, 1}, {63, 31, 100}, {130, 100, 31}}) {
      const Problem left(tokens, rows);
      const Problem right(tokens, cols);
      const Tensor e = on_device(left.x);
      const Tensor x = on_device(right.x);
      Matrix<double> expected(rows, cols, 1.0);
      Matrix<double> sum(rows, cols, 1.0);
      cpu_->accumulate_cross(left.x.cview(), left.scale, right.x.cview(), right.scale,
                             expected.view());
      cuda_->accumulate_cross(e.cview(), left.scale, x.cview(), right.scale, sum.view());
      expect_same(sum, expected);
    }
  });
}

TEST_F(CudaTest, HessianRefusesWhatDoesNotFitIn16Bits) {
  for (const float bad : {3.0F, std::nanf(""), std::numeric_limits<float>::infinity()}) {
    Problem problem(40, 33);
    problem.x(39, 32) = bad * 100;
    const Tensor x = on_device(problem.x);
    EXPECT_THROW((void)summed(*cuda_, x.cview(), problem), Error);
  }
}

TEST_F(CudaTest, ChannelMaximumSeesEveryTokenAndNaN) {
  in_every_order([&] {
    for (const index_t tokens : {1, 511, 513, 1030}) {
      const auto x = random_matrix(tokens, 37, 3);
      x(tokens - 1, 0) = -8.0F;
      x(tokens / 2, 1) = std::nanf("");
      x(0, 2) = -std::numeric_limits<float>::infinity();
      std::vector<float> expected(37, 0.25F);
      std::vector<float> maximum(37, 0.25F);
      cpu_->channel_maximum(x.cview(), expected);
      const Tensor device = on_device(x);
      cuda_->channel_maximum(device.cview(), maximum);
      EXPECT_EQ(maximum, expected);
      EXPECT_EQ(maximum[0], 8.0F);
      EXPECT_EQ(maximum[1], std::numeric_limits<float>::infinity());
    }
  });
}

#ifdef QUIP_CUDA_ON_HOST
// Little memory: several tiles, several chunks of tokens.
TEST_F(CudaTest, HessianInTilesHasTheSameBits) {
  const Problem problem(700, 600);
  const Tensor x = on_device(problem.x);
  // A sixteenth of the device is kept back; of the rest, 1 MiB is left.
  cuda_on_host::set_memory((cuda_on_host::memory_in_use() + (1 << 20)) / 15 * 16);
  const auto sum = summed(*cuda_, x.cview(), problem);
  cuda_on_host::set_memory(std::size_t{8} << 30);
  expect_same(sum, summed(*cpu_, problem.x.cview(), problem));
}

// Activations that do not fit beside the work on them stay in host memory, with the same results.
TEST_F(CudaTest, SamplesGiveWayToWork) {
  constexpr index_t mib = index_t{1} << 20;
  const auto x = random_matrix(1024, 1024, 5);  // 4 MiB
  const auto in_use = [] { return static_cast<index_t>(cuda_on_host::memory_in_use()); };
  const index_t free = cuda_->memory()->available;
  const auto taken_by_samples = [&] {
    const index_t before = in_use();
    const Tensor samples = cuda_->allocate_samples(x.rows(), x.cols());
    const index_t taken = in_use() - before;
    cuda_->upload(x.span(), samples.view());
    std::vector<float> expected(1024, 0.0F);
    std::vector<float> maximum(1024, 0.0F);
    cpu_->channel_maximum(x.cview(), expected);
    cuda_->channel_maximum(samples.cview(), maximum);
    EXPECT_EQ(maximum, expected);
    return taken;
  };
  const index_t begun = cuda_->memory()->most_used;  // workspaces of libraries: work, too
  cuda_->keep_for_work(begun + free);
  EXPECT_EQ(taken_by_samples(), 0);
  cuda_->keep_for_work(begun);
  EXPECT_EQ(taken_by_samples(), 4 * mib);
  // Work takes what is kept for it, and leaves the samples' part alone.
  cuda_->keep_for_work(begun + free - 4 * mib);
  EXPECT_EQ(taken_by_samples(), 4 * mib);
  cuda_->keep_for_work(begun + free - 3 * mib);
  EXPECT_EQ(taken_by_samples(), 0);
  cuda_->keep_for_work(begun + free - 4 * mib);
  const Tensor work = cuda_->allocate(256, 1024);
  EXPECT_EQ(cuda_->memory()->available, free - mib);
  EXPECT_EQ(taken_by_samples(), 4 * mib);
}

// Each of two ranks on one GPU has half of it.
TEST_F(CudaTest, RanksOnOneDeviceShareIt) {
  const auto half = make_cuda_backend(2, {1, 2});
  EXPECT_EQ(half->memory()->total, cuda_->memory()->total / 2);
  EXPECT_LE(half->memory()->available, half->memory()->total);
  EXPECT_GT(half->memory()->available, half->memory()->total * 3 / 4);
}

TEST_F(CudaTest, NoMemoryIsSaidWithWhatAndHowMuch) {
  cuda_on_host::set_memory(cuda_on_host::memory_in_use() + (1 << 20));
  try {
    (void)cuda_->allocate(1024, 1024);
    FAIL() << "no exception";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("GPU 0: no 0.00 GiB for a [1024 × 1024] matrix"), std::string::npos)
        << text;
    EXPECT_NE(text.find("--samples"), std::string::npos) << text;
  }
  cuda_on_host::set_memory(std::size_t{8} << 30);
}
#endif

}  // namespace
}  // namespace quip::cuda_hessian_test
