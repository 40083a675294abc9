// Attention in tiles against its definition, with every score formed in doubles.
#include <cmath>

#include "cuda/cuda_support.hpp"

#include "quip/core/error.hpp"

namespace quip::cuda_attention_test {
namespace {

/// Computes with operands in bfloat16, as the tensor cores see them.
Matrix<float> by_definition(const Matrix<float>& q, const Matrix<float>& k, const Matrix<float>& v,
                            const AttentionShape& shape, const Matrix<float>& sinks = {}) {
  Matrix<float> out(q.rows(), shape.heads * shape.values());
  for (index_t t = 0; t < q.rows(); ++t) {
    for (index_t head = 0; head < shape.heads; ++head) {
      const index_t kv = head / (shape.heads / shape.kv_heads);
      std::vector<double> value(static_cast<std::size_t>(shape.values()), 0.0);
      double sum = sinks.empty() ? 0 : std::exp(static_cast<double>(sinks(0, head)));
      for (index_t j = 0; j <= t; ++j) {
        if (shape.window && j <= t - *shape.window) continue;
        if (shape.chunk && j / *shape.chunk != t / *shape.chunk) continue;
        double score = 0;
        for (index_t i = 0; i < shape.head_dim; ++i) {
          score +=
              static_cast<double>(q(t, head * shape.head_dim + i)) * k(j, kv * shape.head_dim + i);
        }
        score *= shape.scale;
        if (shape.soft_cap > 0) score = shape.soft_cap * std::tanh(score / shape.soft_cap);
        const double weight = std::exp(score);
        sum += weight;
        for (std::size_t d = 0; d < value.size(); ++d) {
          value[d] += weight * v(j, kv * shape.values() + static_cast<index_t>(d));
        }
      }
      for (std::size_t d = 0; d < value.size(); ++d) {
        out(t, head * shape.values() + static_cast<index_t>(d)) =
            static_cast<float>(value[d] / sum);
      }
    }
  }
  return out;
}

// |v| ≤ 1, and a weight in bfloat16 is off by 2⁻⁹ of itself at most.
constexpr double tolerance = 0x1p-8;

TEST_F(CudaTest, AttentionAtAwkwardSizes) {
  in_every_order([&] {
    for (const index_t tokens : {1, 65, 130}) {
      for (const index_t dim : {6, 40}) {
        for (const index_t window : {0, 1, 70}) {
          AttentionShape shape{
              .heads = 4, .kv_heads = 2, .head_dim = dim, .scale = 0.3F, .window = {}};
          if (window > 0) shape.window = window;
          if (window == 70 || dim == 40) shape.soft_cap = 2.0F;
          const auto q = rounded_to_bf16(random_matrix(tokens, 4 * dim, 1, 3.0F));
          const auto k = rounded_to_bf16(random_matrix(tokens, 2 * dim, 2, 3.0F));
          const auto v = rounded_to_bf16(random_matrix(tokens, 2 * dim, 3));
          const Tensor dq = on_device(q);
          const Tensor dk = on_device(k);
          const Tensor dv = on_device(v);
          const Tensor out = cuda_->allocate(tokens, 4 * dim);
          cuda_->attention(dq.cview(), dk.cview(), dv.cview(), shape, none_left, out.view());
          expect_near(on_host(out.cview()), by_definition(q, k, v, shape), tolerance);
        }
      }
    }
  });
}

TEST_F(CudaTest, AttentionWithSinksChunksAndValuesOfAnotherWidth) {
  in_every_order([&] {
    for (const index_t values : {5, 40}) {
      for (const index_t chunk : {0, 1, 7, 70}) {
        AttentionShape shape{
            .heads = 4, .kv_heads = 2, .head_dim = 18, .value_dim = values, .scale = 0.3F};
        if (chunk > 0) shape.chunk = chunk;
        if (chunk == 7) shape.window = 3;
        const auto q = rounded_to_bf16(random_matrix(130, 4 * 18, 1, 3.0F));
        const auto k = rounded_to_bf16(random_matrix(130, 2 * 18, 2, 3.0F));
        const auto v = rounded_to_bf16(random_matrix(130, 2 * values, 3));
        auto sinks = random_matrix(1, 4, 4);
        sinks(0, 1) = 12.0F;   // above all scores
        sinks(0, 2) = -90.0F;  // below
        const Tensor dq = on_device(q);
        const Tensor dk = on_device(k);
        const Tensor dv = on_device(v);
        const Tensor dsinks = on_device(sinks);
        const Tensor out = cuda_->allocate(130, 4 * values);
        cuda_->attention(dq.cview(), dk.cview(), dv.cview(), shape, none_left, out.view());
        expect_near(on_host(out.cview()), by_definition(q, k, v, shape), tolerance);
        cuda_->attention(dq.cview(), dk.cview(), dv.cview(), shape, dsinks.cview(), out.view());
        expect_near(on_host(out.cview()), by_definition(q, k, v, shape, sinks), tolerance);
      }
    }
  });
}

TEST_F(CudaTest, AttentionWithWideHeadsTakesSmallerTiles) {
  for (const index_t dim : {128, 256, 320}) {
    const AttentionShape shape{
        .heads = 1, .kv_heads = 1, .head_dim = dim, .scale = 0.05F, .window = {}};
    const auto q = rounded_to_bf16(random_matrix(70, dim, 1));
    const auto k = rounded_to_bf16(random_matrix(70, dim, 2));
    const auto v = rounded_to_bf16(random_matrix(70, dim, 3));
    const Tensor dq = on_device(q);
    const Tensor dk = on_device(k);
    const Tensor dv = on_device(v);
    const Tensor out = cuda_->allocate(70, dim);
    cuda_->attention(dq.cview(), dk.cview(), dv.cview(), shape, none_left, out.view());
    expect_near(on_host(out.cview()), by_definition(q, k, v, shape), tolerance);
  }
}

TEST_F(CudaTest, AttentionRefusesHeadsThatDoNotFit) {
  const Tensor x = cuda_->allocate(2, 2048);
  const AttentionShape shape{
      .heads = 1, .kv_heads = 1, .head_dim = 2048, .scale = 1.0F, .window = {}};
  EXPECT_THROW(cuda_->attention(x.cview(), x.cview(), x.cview(), shape, none_left, x.view()),
               Error);
}

// Large scores: a softmax that does not take the maximum away would overflow.
TEST_F(CudaTest, AttentionOfLargeScores) {
  const AttentionShape shape{
      .heads = 1, .kv_heads = 1, .head_dim = 16, .scale = 1.0F, .window = {}};
  const auto q = rounded_to_bf16(random_matrix(90, 16, 1, 20.0F));
  const auto k = rounded_to_bf16(random_matrix(90, 16, 2, 5.0F));
  const auto v = rounded_to_bf16(random_matrix(90, 16, 3));
  const Tensor dq = on_device(q);
  const Tensor dk = on_device(k);
  const Tensor dv = on_device(v);
  const Tensor out = cuda_->allocate(90, 16);
  cuda_->attention(dq.cview(), dk.cview(), dv.cview(), shape, none_left, out.view());
  expect_near(on_host(out.cview()), by_definition(q, k, v, shape), tolerance);
}

}  // namespace
}  // namespace quip::cuda_attention_test
