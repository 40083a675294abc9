// The CUDA backend's operations at awkward sizes: against the CPU backend where both compute in
// fp32, against plain loops over operands rounded to bfloat16 where the tensor cores do.
#include <cmath>
#include <vector>

#include "cuda/cuda_support.hpp"

#include "quip/core/error.hpp"

namespace quip::cuda_operations_test {
namespace {

TEST_F(CudaTest, UploadAndDownloadKeepEveryRowOfAView) {
  const auto x = random_matrix(37, 11, 1);
  const Tensor wide = cuda_->allocate(37, 19);
  const TensorView middle = wide.view().middle_cols(3, 11);
  cuda_->upload(x.span(), middle);
  expect_near(on_host(middle), x, 0.0);
  const Tensor copy = cuda_->allocate(37, 11);
  cuda_->copy(middle, copy.view());
  expect_near(on_host(copy.cview()), x, 0.0);
}

TEST_F(CudaTest, CopiesOfMoreThanOneStagingPiece) {
  const auto x = random_matrix(3, 2'200'001, 1);  // a row is longer than the 8 MiB of a piece
  const Tensor device = on_device(x);
  expect_near(on_host(device.cview()), x, 0.0);
  const auto tall = random_matrix(70'001, 61, 2);
  const Tensor other = on_device(tall);
  expect_near(on_host(other.cview()), tall, 0.0);
}

TEST_F(CudaTest, NormsAreTheCpus) {
  in_every_order([&] {
    for (const index_t width : {1, 7, 255, 1025}) {
      const float plus = width == 7 ? 1.0F : 0.0F;
      const auto x = random_matrix(7, width, 1, 3.0F);
      const auto gain = random_matrix(1, width, 2);
      const auto bias = random_matrix(1, width, 3);
      const Tensor dx = on_device(x);
      const Tensor dgain = on_device(gain);
      const Tensor dbias = on_device(bias);
      const Tensor dy = cuda_->allocate(7, width);
      Matrix<float> y(7, width);
      cpu_->rms_norm(x.cview(), {gain.cview(), plus}, 1e-5F, y.view());
      cuda_->rms_norm(dx.cview(), {dgain.cview(), plus}, 1e-5F, dy.view());
      expect_near(on_host(dy.cview()), y, 4e-6);
      Matrix<float> plain(7, width);
      cpu_->rms_norm(x.cview(), none_left, 1e-5F, plain.view());
      cuda_->rms_norm(dx.cview(), none_left, 1e-5F, dy.view());
      expect_near(on_host(dy.cview()), plain, 4e-6);
      cuda_->copy(dx.cview(), dy.view());  // in place
      cuda_->rms_norm(dy.cview(), {dgain.cview(), plus}, 1e-5F, dy.view());
      expect_near(on_host(dy.cview()), y, 4e-6);
      for (const bool affine : {false, true}) {
        cpu_->layer_norm(x.cview(), affine ? gain.cview() : none_left,
                         affine ? bias.cview() : none_left, 1e-5F, y.view());
        cuda_->copy(dx.cview(), dy.view());  // in place
        cuda_->layer_norm(dy.cview(), affine ? dgain.cview() : none_left,
                          affine ? dbias.cview() : none_left, 1e-5F, dy.view());
        expect_near(on_host(dy.cview()), y, 1e-5);
      }
    }
  });
}

TEST_F(CudaTest, RopeIsTheCpus) {
  const index_t heads = 3;
  const index_t pairs = 5;
  for (const index_t dim : {10, 13}) {  // whole heads, and heads with channels that stay
    auto x = random_matrix(7, heads * dim, 1);
    const auto cosine = random_matrix(9, pairs, 2);
    const auto sine = random_matrix(9, pairs, 3);
    const Tensor dx = on_device(x);
    const Tensor dcosine = on_device(cosine);
    const Tensor dsine = on_device(sine);
    cpu_->rope(x.view(), {.heads = heads, .head_dim = dim}, cosine.cview(), sine.cview());
    cuda_->rope(dx.view(), {.heads = heads, .head_dim = dim}, dcosine.cview(), dsine.cview());
    expect_near(on_host(dx.cview()), x, 1e-6);
  }
}

TEST_F(CudaTest, RopeFromAChannelOnIsTheCpus) {
  for (const bool interleaved : {false, true}) {
    const RopeShape shape{.heads = 3, .head_dim = 13, .first = 2, .interleaved = interleaved};
    auto x = random_matrix(7, 3 * 13, 1);
    const auto cosine = random_matrix(9, 5, 2);
    const auto sine = random_matrix(9, 5, 3);
    const Tensor dx = on_device(x);
    const Tensor dcosine = on_device(cosine);
    const Tensor dsine = on_device(sine);
    cpu_->rope(x.view(), shape, cosine.cview(), sine.cview());
    cuda_->rope(dx.view(), shape, dcosine.cview(), dsine.cview());
    expect_near(on_host(dx.cview()), x, 1e-6);
  }
}

TEST_F(CudaTest, ScaleRowsIsTheCpus) {
  auto x = random_matrix(4, 77, 1, 9.0F);
  const Tensor dx = on_device(x);
  const std::vector<float> factors{0.3F, 0.0F, -2.0F, 1.0F};
  cpu_->scale_rows(factors, x.view());
  cuda_->scale_rows(factors, dx.view());
  expect_near(on_host(dx.cview()), x, 0.0);
}

TEST_F(CudaTest, ClampedSwigluIsTheCpus) {
  auto gate = random_matrix(5, 77, 1, 12.0F);
  const auto up = random_matrix(5, 77, 2, 12.0F);
  const Tensor dgate = on_device(gate);
  const Tensor dup = on_device(up);
  const ClampedSwiglu shape{.alpha = 1.7F, .limit = 7.0F};
  cpu_->clamped_swiglu(shape, gate.view(), up.cview());
  cuda_->clamped_swiglu(shape, dgate.view(), dup.cview());
  expect_near(on_host(dgate.cview()), gate, 2e-5);
}

TEST_F(CudaTest, RoutesByCorrectedScoresAndGroupsAreTheCpus) {
  const auto logits = random_matrix(300, 12, 1, 3.0F);
  auto correction = random_matrix(1, 12, 2, 0.5F);
  for (float& value : correction.span()) value -= 0.6F;  // scores below 0, too
  const Tensor dlogits = on_device(logits);
  const Tensor dcorrection = on_device(correction);
  for (const RouterScores scores : {RouterScores::softmax, RouterScores::sigmoid}) {
    for (const index_t groups : {1, 4}) {
      for (const bool corrected : {false, true}) {
        const RouterShape shape{.experts = 12,
                                .chosen = 3,
                                .renormalised = corrected,
                                .scores = scores,
                                .groups = groups,
                                .chosen_groups = groups / 2 + groups % 2,
                                .least_sum = 0.1F,
                                .factor = 2.5F};
        Matrix<float> routes(300, 6);
        const Tensor droutes = cuda_->allocate(300, 6);
        cpu_->route(logits.cview(), shape, corrected ? correction.cview() : none_left,
                    routes.view());
        cuda_->route(dlogits.cview(), shape, corrected ? dcorrection.cview() : none_left,
                     droutes.view());
        expect_near(on_host(droutes.cview()), routes, 4e-6);
      }
    }
  }
}

TEST_F(CudaTest, ScaleIsTheCpus) {
  auto x = random_matrix(5, 77, 1, 9.0F);
  const Tensor dx = on_device(x);
  cpu_->scale(0.3F, x.view().middle_cols(0, 70));
  cuda_->scale(0.3F, dx.view().middle_cols(0, 70));
  expect_near(on_host(dx.cview()), x, 0.0);
}

TEST_F(CudaTest, LinearInFp32IsTheCpus) {
  const auto x = random_matrix(9, 77, 1, 3.0F);
  const auto w = random_matrix(5, 77, 2, 3.0F);
  const auto bias = random_matrix(1, 5, 3);
  const Tensor dx = on_device(x);
  const Tensor dw = on_device(w);
  const Tensor dbias = on_device(bias);
  Matrix<float> y(9, 5);
  const Tensor dy = cuda_->allocate(9, 5);
  for (const bool biased : {false, true}) {
    cpu_->linear_in_fp32(x.cview(), w.cview(), biased ? bias.cview() : none_left, y.view());
    cuda_->linear_in_fp32(dx.cview(), dw.cview(), biased ? dbias.cview() : none_left, dy.view());
    expect_near(on_host(dy.cview()), y, 5e-5);  // sums of 77 products of up to 9
  }
}

TEST_F(CudaTest, RoutesAreTheCpus) {
  auto logits = random_matrix(300, 7, 1, 3.0F);
  logits(4, 2) = logits(4, 5) = 5.0F;
  const Tensor dlogits = on_device(logits);
  const Tensor droutes = cuda_->allocate(300, 6);
  Matrix<float> routes(300, 6);
  for (const bool renormalised : {false, true}) {
    const RouterShape shape{.experts = 7, .chosen = 3, .renormalised = renormalised};
    cpu_->route(logits.cview(), shape, none_left, routes.view());
    cuda_->route(dlogits.cview(), shape, none_left, droutes.view());
    expect_near(on_host(droutes.cview()), routes, 1e-6);
  }
}

TEST_F(CudaTest, RowsOfExpertsAreTheCpus) {
  const auto x = random_matrix(6, 37, 1);
  auto y = random_matrix(6, 37, 2);
  const Tensor dx = on_device(x);
  const Tensor dy = on_device(y);
  const std::vector<index_t> rows{4, 0, 5};
  const std::vector<float> weights{0.5F, 2.0F, 0.25F};
  const Tensor dsome = cuda_->allocate(3, 37);
  Matrix<float> some(3, 37);
  cpu_->gather_rows(x.cview(), rows, some.view());
  cuda_->gather_rows(dx.cview(), rows, dsome.view());
  expect_near(on_host(dsome.cview()), some, 0.0);
  cpu_->scatter_add_rows(some.cview(), rows, weights, y.view());
  cuda_->scatter_add_rows(dsome.cview(), rows, weights, dy.view());
  expect_near(on_host(dy.cview()), y, 1e-6);
}

TEST_F(CudaTest, ActivationsAreTheCpus) {
  for (const Activation kind :
       {Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::silu}) {
    auto x = random_matrix(5, 77, 1, 9.0F);
    const auto up = random_matrix(5, 77, 2);
    const Tensor dx = on_device(x);
    const Tensor dgate = on_device(x);
    const Tensor dup = on_device(up);
    auto gate = copy_of(x);
    cpu_->activate(kind, x.view());
    cuda_->activate(kind, dx.view());
    expect_near(on_host(dx.cview()), x, 4e-6);
    cpu_->gated_activate(kind, gate.view(), up.cview());
    cuda_->gated_activate(kind, dgate.view(), dup.cview());
    expect_near(on_host(dgate.cview()), gate, 4e-6);
  }
}

TEST_F(CudaTest, AddIsTheCpus) {
  const auto x = random_matrix(33, 65, 1);
  auto y = random_matrix(33, 65, 2);
  const Tensor dx = on_device(x);
  const Tensor dy = on_device(y);
  cpu_->add(x.cview(), y.view());
  cuda_->add(dx.cview(), dy.view());
  expect_near(on_host(dy.cview()), y, 0.0);
}

/// y (+)= x Wᵀ + bias in doubles, of operands in bfloat16.
Matrix<float> linear_by_definition(const Matrix<float>& x, const Matrix<float>& w,
                                   const Matrix<float>& bias, const Matrix<float>& y) {
  const auto xr = rounded_to_bf16(x);
  const auto wr = rounded_to_bf16(w);
  Matrix<float> out(x.rows(), w.rows());
  for (index_t t = 0; t < x.rows(); ++t) {
    for (index_t i = 0; i < w.rows(); ++i) {
      double sum = (y.empty() ? 0.0 : y(t, i)) + (bias.empty() ? 0.0 : bias(0, i));
      for (index_t j = 0; j < x.cols(); ++j) sum += static_cast<double>(xr(t, j)) * wr(i, j);
      out(t, i) = static_cast<float>(sum);
    }
  }
  return out;
}

TEST_F(CudaTest, LinearMultipliesInBfloat16AndAddsInSingle) {
  for (const index_t in : {1, 7, 64, 129}) {
    for (const index_t out : {1, 5, 66}) {
      const auto x = random_matrix(13, in, 1);
      const auto w = random_matrix(out, in, 2);
      const auto bias = random_matrix(1, out, 3);
      const auto residual = random_matrix(13, out, 4);
      const Tensor dx = on_device(x);
      const Tensor dw = on_device(w);
      const Tensor dbias = on_device(bias);
      const Tensor dy = cuda_->allocate(13, out);
      const double tolerance = 1e-6 * static_cast<double>(in + 4);
      cuda_->linear(dx.cview(), dw.cview(), none_left, dy.view());
      expect_near(on_host(dy.cview()), linear_by_definition(x, w, {}, {}), tolerance);
      cuda_->linear(dx.cview(), dw.cview(), dbias.cview(), dy.view());
      expect_near(on_host(dy.cview()), linear_by_definition(x, w, bias, {}), tolerance);
      const Tensor dr = on_device(residual);
      cuda_->linear_add(dx.cview(), dw.cview(), dbias.cview(), dr.view());
      expect_near(on_host(dr.cview()), linear_by_definition(x, w, bias, residual), tolerance);
    }
  }
}

TEST_F(CudaTest, LinearOnTheMiddleOfLargerMatrices) {
  const auto x = random_matrix(9, 30, 1);
  const auto w = random_matrix(11, 30, 2);
  const Tensor wide_x = cuda_->allocate(12, 33);
  const Tensor wide_y = cuda_->allocate(12, 13);
  const TensorView part_x = wide_x.view().middle_rows(1, 9).middle_cols(3, 30);
  const TensorView part_y = wide_y.view().middle_rows(2, 9).middle_cols(1, 11);
  cuda_->upload(x.span(), part_x);
  const Tensor dw = on_device(w);
  cuda_->linear(part_x, dw.cview(), none_left, part_y);
  expect_near(on_host(part_y), linear_by_definition(x, w, {}, {}), 4e-5);
}

TEST_F(CudaTest, LinearNoticesNewWeights) {
  const auto x = random_matrix(3, 16, 1);
  const auto first = random_matrix(8, 16, 2);
  const auto second = random_matrix(8, 16, 3);
  const Tensor dx = on_device(x);
  const Tensor dw = on_device(first);
  const Tensor dy = cuda_->allocate(3, 8);
  cuda_->linear(dx.cview(), dw.cview(), none_left, dy.view());
  cuda_->upload(second.span(), dw.view());
  cuda_->linear(dx.cview(), dw.cview(), none_left, dy.view());
  expect_near(on_host(dy.cview()), linear_by_definition(x, second, {}, {}), 2e-5);
  const auto row = random_matrix(1, 16, 4);  // one row of it, through another operation
  const Tensor drow = on_device(row);
  cuda_->copy(drow.cview(), dw.view().middle_rows(5, 1));
  cuda_->linear(dx.cview(), dw.cview(), none_left, dy.view());
  std::copy_n(row.data(), 16, second.row(5));
  expect_near(on_host(dy.cview()), linear_by_definition(x, second, {}, {}), 2e-5);
}

TEST_F(CudaTest, LogSumExpOfSlices) {
  const index_t vocabulary = 301;
  const auto x = random_matrix(6, 20, 1, 2.0F);
  const auto w = random_matrix(vocabulary, 20, 2);
  const std::vector<std::int32_t> targets{0, 99, 100, 101, 300, 250};
  for (const float cap : {0.0F, 3.0F}) {
    auto logits = linear_by_definition(x, w, {}, {});
    for (float& logit : logits.span()) logit = cap > 0 ? cap * std::tanh(logit / cap) : logit;
    std::vector<double> maximum(6, -INFINITY);
    std::vector<double> sum(6, 0.0);
    std::vector<double> target(6, -1.0);
    const Tensor dx = on_device(x);
    for (const auto& [first, count] : {std::pair<index_t, index_t>{0, 100}, {100, 1}, {101, 200}}) {
      Matrix<float> slice(count, 20);
      std::copy_n(w.row(first), count * 20, slice.data());
      const Tensor dslice = on_device(slice);
      cuda_->log_sum_exp_slice(dx.cview(), dslice.cview(), first, cap, targets, maximum, sum,
                               target);
    }
    for (std::size_t t = 0; t < 6; ++t) {
      const auto row = static_cast<index_t>(t);
      double expected = 0;
      for (index_t i = 0; i < vocabulary; ++i) expected += std::exp(logits(row, i));
      EXPECT_NEAR(maximum[t] + std::log(sum[t]), std::log(expected), 2e-6);
      EXPECT_NEAR(target[t], logits(row, targets[t]), 2e-5);
    }
  }
}

TEST_F(CudaTest, OperationsRefuseShapesThatDoNotFit) {
  const Tensor a = cuda_->allocate(3, 4);
  const Tensor b = cuda_->allocate(4, 5);
  EXPECT_THROW(cuda_->add(a.cview(), b.view()), Error);
  EXPECT_THROW(cuda_->linear(a.cview(), b.cview(), none_left, b.view()), Error);
  EXPECT_THROW(cuda_->rms_norm(a.cview(), b.cview(), 1e-5F, a.view()), Error);
  EXPECT_THROW(cuda_->layer_norm(a.cview(), none_left, b.cview(), 1e-5F, a.view()), Error);
  EXPECT_THROW(cuda_->copy(a.cview(), b.view()), Error);
  EXPECT_THROW((void)cuda_->allocate(-1, 3), Error);
}

TEST_F(CudaTest, UnitsRunOnceAndTheLowestFailureIsReported) {
  std::vector<int> runs(23, 0);
  cuda_->for_each_unit(23, [&](index_t unit) { ++runs[static_cast<std::size_t>(unit)]; });
  EXPECT_EQ(runs, std::vector<int>(23, 1));
  try {
    cuda_->for_each_unit(23, [](index_t unit) {
      if (unit == 5 || unit == 17) fail("unit {}", unit);
    });
    FAIL() << "no exception";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "unit 5");
  }
}

TEST_F(CudaTest, UnitsShareWeightsAndWriteTheirOwnRows) {
  const index_t units = 9;
  const auto x = random_matrix(units * 5, 24, 1);
  const auto w = random_matrix(17, 24, 2);
  const Tensor dx = on_device(x);
  const Tensor dw = on_device(w);
  const Tensor dy = cuda_->allocate(units * 5, 17);
  cuda_->for_each_unit(units, [&](index_t unit) {
    cuda_->linear(dx.cview().middle_rows(unit * 5, 5), dw.cview(), none_left,
                  dy.view().middle_rows(unit * 5, 5));
  });
  expect_near(on_host(dy.cview()), linear_by_definition(x, w, {}, {}), 3e-5);
}

}  // namespace
}  // namespace quip::cuda_operations_test
