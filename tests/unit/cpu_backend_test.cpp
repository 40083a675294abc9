// The CPU backend's memory, units of work and linear operations; the rest: cpu_operations_test.
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "unit/cpu_support.hpp"

#include "quip/backend/cuda_backend.hpp"
#include "quip/core/error.hpp"

namespace quip::cpu_backend_test {
namespace {

TEST(MakeBackend, ChoosesOrExplains) {
  if (cuda_device_count() > 0) GTEST_SKIP() << "there is a GPU to choose";
  EXPECT_EQ(make_backend("auto", 1)->describe().substr(0, 13), "cpu, 1 thread");
  EXPECT_EQ(make_backend("cpu", 3)->describe().substr(0, 14), "cpu, 3 threads");
  EXPECT_THROW((void)make_backend("gpu", 1), Error);
  EXPECT_THROW((void)make_backend("cpu", 0), Error);
  try {
    (void)make_backend("cuda", 1);
    FAIL() << "cuda without a GPU";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("use cpu or auto"), std::string::npos);
  }
}

TEST_F(CpuBackendTest, AllocatesUploadsAndDownloads) {
  const auto host = random_matrix(5, 3, 1);
  const Tensor tensor = backend_->allocate(5, 6);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.view().data) % 64, 0U);
  backend_->upload(host.span(), tensor.view().middle_cols(2, 3));
  std::vector<float> back(15);
  backend_->download(tensor.cview().middle_cols(2, 3), back);
  EXPECT_EQ(back, std::vector<float>(host.span().begin(), host.span().end()));
  EXPECT_THROW(backend_->download(tensor.cview(), back), Error);
  EXPECT_THROW(backend_->upload(back, tensor.view()), Error);
  EXPECT_THROW((void)backend_->allocate(index_t{1} << 40, index_t{1} << 40), Error);
  EXPECT_THROW((void)backend_->allocate(-1, 2), Error);
  EXPECT_TRUE(backend_->allocate(0, 7).empty());
}

TEST_F(CpuBackendTest, EveryUnitRunsOnceAndTheLowestFailureIsRethrown) {
  std::vector<int> runs(100, 0);
  backend_->for_each_unit(100, [&](index_t i) { ++runs[i]; });
  EXPECT_EQ(runs, std::vector<int>(100, 1));

  for (const int threads : {1, 2, 3}) {
    std::fill(runs.begin(), runs.end(), 0);
    try {
      make_cpu_backend(threads)->for_each_unit(100, [&](index_t i) {
        ++runs[i];
        if (i % 10 == 7) throw std::runtime_error("unit " + std::to_string(i));
      });
      FAIL() << "no exception";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "unit 7");
    }
    EXPECT_EQ(runs, std::vector<int>(100, 1));
  }
}

TEST_F(CpuBackendTest, Linear) {
  for (const index_t tokens : {1, 7, 129}) {
    const auto x = random_matrix(tokens, 37, 1);
    const auto w = random_matrix(11, 37, 2);
    const auto bias = random_matrix(1, 11, 3);
    for (const bool with_bias : {false, true}) {
      const ConstTensorView b = with_bias ? bias.cview() : none_left;
      Matrix<float> y(tokens, 11, std::nanf(""));  // must be overwritten, not scaled
      backend_->linear(x.cview(), w.cview(), b, y.view());
      auto residual = random_matrix(tokens, 11, 4);
      const auto before = copy_of(residual);
      backend_->linear_add(x.cview(), w.cview(), b, residual.view());
      for (index_t t = 0; t < tokens; ++t) {
        for (index_t o = 0; o < 11; ++o) {
          double expected = with_bias ? bias(0, o) : 0.0;
          for (index_t i = 0; i < 37; ++i) expected += static_cast<double>(x(t, i)) * w(o, i);
          EXPECT_NEAR(y(t, o), expected, 1e-5);
          EXPECT_NEAR(residual(t, o), expected + before(t, o), 1e-5);
        }
      }
    }
    Matrix<float> wrong(tokens, 12);
    EXPECT_THROW(backend_->linear(x.cview(), w.cview(), none_left, wrong.view()), Error);
  }
}

TEST_F(CpuBackendTest, AddAndCopyOnStridedViews) {
  const auto x = random_matrix(7, 5, 1);
  auto wide = random_matrix(7, 9, 2);
  const auto before = copy_of(wide);
  backend_->add(x.cview(), wide.view().middle_cols(3, 5));
  EXPECT_EQ(wide(6, 2), before(6, 2));
  EXPECT_EQ(wide(6, 8), before(6, 8));
  EXPECT_EQ(wide(6, 7), before(6, 7) + x(6, 4));
  backend_->copy(x.cview(), wide.view().middle_cols(3, 5));
  EXPECT_EQ(wide(2, 3), x(2, 0));
  EXPECT_EQ(wide(2, 2), before(2, 2));
  EXPECT_THROW(backend_->add(x.cview(), wide.view()), Error);
}

TEST_F(CpuBackendTest, ChannelMaximum) {
  auto x = random_matrix(129, 37, 1);
  x(128, 0) = -5.0F;
  x(3, 1) = infinite;
  x(4, 2) = std::nanf("");
  x(5, 3) = -std::nanf("");
  std::vector<float> maximum(37, 0.25F);
  maximum[36] = 9.0F;
  backend_->channel_maximum(x.cview(), maximum);
  EXPECT_EQ(maximum[0], 5.0F);
  EXPECT_EQ(maximum[1], infinite);
  EXPECT_EQ(maximum[2], infinite);
  EXPECT_EQ(maximum[3], infinite);
  EXPECT_EQ(maximum[36], 9.0F);
  for (index_t j = 4; j < 36; ++j) {
    float expected = 0.25F;
    for (index_t t = 0; t < 129; ++t) expected = std::max(expected, std::abs(x(t, j)));
    EXPECT_EQ(maximum[j], expected);
  }
}

TEST_F(CpuBackendTest, UnitsGiveTheSameBitsWhateverTheThreads) {
  const index_t tokens = 129;
  const AttentionShape shape{
      .heads = 4, .kv_heads = 2, .head_dim = 16, .scale = 0.25F, .window = {}};
  const auto w = random_matrix(64, 64, 1);
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3}) {
    const auto backend = make_cpu_backend(threads);
    std::vector<float> all(static_cast<std::size_t>(8 * tokens * 64));
    backend->for_each_unit(8, [&](index_t unit) {
      auto x = random_matrix(tokens, 64, static_cast<unsigned>(unit));
      const TensorView out(all.data() + unit * tokens * 64, tokens, 64);
      backend->linear(x.cview(), w.cview(), none_left, out);
      backend->attention(out, x.cview().middle_cols(0, 32), x.cview().middle_cols(32, 32), shape,
                         none_left, x.view());
      backend->layer_norm(x.cview(), none_left, none_left, 1e-5F, x.view());
      backend->linear_add(x.cview(), w.cview(), none_left, out);
      backend->activate(Activation::silu, out);
    });
    results.push_back(std::move(all));
  }
  for (const auto& result : results) {
    EXPECT_EQ(std::memcmp(result.data(), results[0].data(), result.size() * sizeof(float)), 0);
  }
}

}  // namespace
}  // namespace quip::cpu_backend_test
