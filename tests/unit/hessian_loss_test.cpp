// What the 16-bit integers of the exact Hessian lose, on the activations of a real model.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>

#include "support/scalar_options.hpp"
#include "support/store_fixture.hpp"
#include <gtest/gtest.h>

#include "quip/backend/backend.hpp"
#include "quip/linalg/blas.hpp"
#include "quip/pipeline/evaluate.hpp"
#include "quip/pipeline/quantize.hpp"

namespace quip::hessian_loss_test {
namespace {

/// Sums xᵀx in fp64 without rounding x to integers, and remembers how far the exact sums of the
/// integers are from that. Everything else is the backend's own.
class UnroundedHessians final : public Backend {
 public:
  explicit UnroundedHessians(Backend& base) : base_(base) {}

  /// The largest ‖H_integers − H_fp64‖_F / ‖H_fp64‖_F so far.
  [[nodiscard]] double largest_loss() const { return largest_loss_; }
  [[nodiscard]] int hessians() const { return hessians_; }

  [[nodiscard]] std::string describe() const override { return base_.describe(); }
  [[nodiscard]] Tensor allocate(index_t rows, index_t cols) override {
    return base_.allocate(rows, cols);
  }
  [[nodiscard]] Tensor adopt(std::shared_ptr<float> host, index_t rows, index_t cols) override {
    return base_.adopt(std::move(host), rows, cols);
  }
  [[nodiscard]] ConstTensorView on_host(ConstTensorView x, Matrix<float>& room) override {
    return base_.on_host(x, room);
  }
  void upload(std::span<const float> host, TensorView device) override {
    base_.upload(host, device);
  }
  void download(ConstTensorView device, std::span<float> host) override {
    base_.download(device, host);
  }
  void for_each_unit(index_t count, const std::function<void(index_t)>& work) override {
    base_.for_each_unit(count, work);
  }
  void linear(ConstTensorView x, ConstTensorView w, ConstTensorView bias, TensorView y) override {
    base_.linear(x, w, bias, y);
  }
  void linear_add(ConstTensorView x, ConstTensorView w, ConstTensorView bias,
                  TensorView y) override {
    base_.linear_add(x, w, bias, y);
  }
  void rms_norm(ConstTensorView x, const Gain& gain, float epsilon, TensorView y) override {
    base_.rms_norm(x, gain, epsilon, y);
  }
  void layer_norm(ConstTensorView x, ConstTensorView gain, ConstTensorView bias, float epsilon,
                  TensorView y) override {
    base_.layer_norm(x, gain, bias, epsilon, y);
  }
  void rope(TensorView x, const RopeShape& shape, ConstTensorView cosine,
            ConstTensorView sine) override {
    base_.rope(x, shape, cosine, sine);
  }
  void attention(ConstTensorView q, ConstTensorView k, ConstTensorView v,
                 const AttentionShape& shape, ConstTensorView sinks, TensorView out) override {
    base_.attention(q, k, v, shape, sinks, out);
  }
  void activate(Activation kind, TensorView x) override { base_.activate(kind, x); }
  void gated_activate(Activation kind, TensorView gate, ConstTensorView up) override {
    base_.gated_activate(kind, gate, up);
  }
  void clamped_swiglu(const ClampedSwiglu& shape, TensorView gate, ConstTensorView up) override {
    base_.clamped_swiglu(shape, gate, up);
  }
  void scale_rows(std::span<const float> factors, TensorView x) override {
    base_.scale_rows(factors, x);
  }
  void scale(float factor, TensorView x) override { base_.scale(factor, x); }
  void add(ConstTensorView x, TensorView y) override { base_.add(x, y); }
  void copy(ConstTensorView x, TensorView y) override { base_.copy(x, y); }
  void route(ConstTensorView logits, const RouterShape& shape, ConstTensorView correction,
             TensorView routes) override {
    base_.route(logits, shape, correction, routes);
  }
  void gather_rows(ConstTensorView x, std::span<const index_t> rows, TensorView y) override {
    base_.gather_rows(x, rows, y);
  }
  void scatter_add_rows(ConstTensorView x, std::span<const index_t> rows,
                        std::span<const float> weights, TensorView y) override {
    base_.scatter_add_rows(x, rows, weights, y);
  }
  void log_sum_exp_slice(ConstTensorView x, ConstTensorView w, index_t first_row, float soft_cap,
                         std::span<const std::int32_t> targets, std::span<double> running_max,
                         std::span<double> running_sum, std::span<double> target_logit) override {
    base_.log_sum_exp_slice(x, w, first_row, soft_cap, targets, running_max, running_sum,
                            target_logit);
  }
  void channel_maximum(ConstTensorView x, std::span<float> maximum) override {
    base_.channel_maximum(x, maximum);
  }

  void accumulate_cross(ConstTensorView e, std::span<const float> e_scale, ConstTensorView x,
                        std::span<const float> scale, MatrixView<double> sum) override {
    base_.accumulate_cross(e, e_scale, x, scale, sum);
  }
  void accumulate_hessian(ConstTensorView x, std::span<const float> scale,
                          MatrixView<double> sum) override {
    const index_t n = x.cols;
    Matrix<float> host(x.rows, n);
    base_.download(x, host.span());
    Matrix<double> scaled(x.rows, n);
    for (index_t t = 0; t < x.rows; ++t) {
      for (index_t j = 0; j < n; ++j) {
        scaled(t, j) = static_cast<double>(host(t, j)) * scale[static_cast<std::size_t>(j)];
      }
    }
    Matrix<double> unrounded(n, n, 0.0);
    syrk_lower(Transpose::yes, 1.0, scaled.cview(), 0.0, unrounded.view());
    Matrix<double> rounded(n, n, 0.0);
    base_.accumulate_hessian(x, scale, rounded.view());
    double lost = 0;
    double whole = 0;
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j <= i; ++j) {
        // In the units of x: scales are powers of two.
        const double unit = static_cast<double>(scale[static_cast<std::size_t>(i)]) *
                            scale[static_cast<std::size_t>(j)];
        const double count = i == j ? 1 : 2;
        lost += count * std::pow((rounded(i, j) - unrounded(i, j)) / unit, 2);
        whole += count * std::pow(unrounded(i, j) / unit, 2);
        sum(i, j) += unrounded(i, j);
      }
    }
    largest_loss_ = std::max(largest_loss_, std::sqrt(lost / whole));
    ++hessians_;
  }

 private:
  Backend& base_;
  double largest_loss_ = 0;
  int hessians_ = 0;
};

double perplexity(Backend& backend, const std::string& name, int bits,
                  const std::filesystem::path& out) {
  const std::filesystem::path data = QUIP_TEST_DATA;
  SelfCollectives self;
  Progress silent(ProgressStyle::none, 0);
  QuantizeOptions job;
  job.layer = kronecker_options();
  job.stream.on = false;
  job.model = data / "models" / name;
  job.tokens = data / "tokens/calib_train.h5";
  job.out = out;
  job.samples = 8;
  job.layer.bits = bits;
  static_cast<void>(quantize(self, backend, job, 1, silent));
  EvaluateOptions evaluation;
  evaluation.model = job.model;
  evaluation.packed = out;
  evaluation.tokens = data / "tokens/eval_sherlock.h5";
  evaluation.samples = 16;
  return evaluate(self, backend, evaluation, silent).value();
}

class HessianLoss : public testing::TestWithParam<std::string> {};

// At 8 bits. With fewer, any change of H in any digit turns some roundings over, and two models
// that are equally good differ by what two seeds differ by: 0.2 % at 4 bits.
TEST_P(HessianLoss, IsFarBelowWhatRoundingTheWeightsCosts) {
  const auto backend = make_backend("cpu", 2);
  UnroundedHessians unrounded(*backend);
  const test::TemporaryFolder folder;
  const int bits = 8;
  const double exact = perplexity(*backend, GetParam(), bits, folder.path() / "exact");
  const double reference = perplexity(unrounded, GetParam(), bits, folder.path() / "unrounded");
  EXPECT_GE(unrounded.hessians(), 16);  // four taps a block
  EXPECT_LE(unrounded.largest_loss(), 1e-4);
  EXPECT_NEAR(exact / reference, 1.0, 5e-4);
  RecordProperty("relative_frobenius", fmt::format("{:.3g}", unrounded.largest_loss()));
  RecordProperty("perplexity_ratio", fmt::format("{:.6f}", exact / reference));
}

INSTANTIATE_TEST_SUITE_P(Models, HessianLoss, testing::Values("llama-nano", "opt-micro"),
                         [](const auto& each) {
                           return each.param == "llama-nano" ? "LlamaNano" : "OptMicro";
                         });

}  // namespace
}  // namespace quip::hessian_loss_test
