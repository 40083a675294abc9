// The CPU backend's norms, activations, attention and loss against plain loops in double precision.
#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "backend/cpu/vector_math.hpp"
#include "unit/cpu_support.hpp"

#include "quip/core/error.hpp"

namespace quip::cpu_operations_test {
namespace {

TEST(VectorMath, ExponentialIsWithinTwoUlpEverywhere) {
  // Every 997th float of both signs, which visits each binade some 8000 times.
  double worst = 0.0;
  for (std::uint32_t bits = 0; bits < 0x7f800000U; bits += 997) {
    for (const std::uint32_t sign : {0U, 0x80000000U}) {
      const auto x = std::bit_cast<float>(bits | sign);
      const double exact = std::exp(static_cast<double>(x));
      const float computed = cpu::exponential(x);
      const auto nearest = static_cast<float>(exact);
      if (std::isinf(nearest)) {
        ASSERT_EQ(computed, infinite) << x;
        continue;
      }
      const double ulp = std::nextafter(nearest, infinite) - static_cast<double>(nearest);
      worst = std::max(worst, std::abs(computed - exact) / ulp);
    }
  }
  EXPECT_LE(worst, 2.0);
}

TEST(VectorMath, ExponentialAtTheEdges) {
  EXPECT_EQ(cpu::exponential(0.0F), 1.0F);
  EXPECT_EQ(cpu::exponential(-0.0F), 1.0F);
  EXPECT_EQ(cpu::exponential(infinite), infinite);
  EXPECT_EQ(cpu::exponential(-infinite), 0.0F);
  EXPECT_TRUE(std::isnan(cpu::exponential(std::nanf(""))));
  EXPECT_TRUE(std::isnan(cpu::exponential(-std::nanf(""))));
}

TEST_F(CpuBackendTest, RmsNormAlsoInPlace) {
  for (const float plus : {0.0F, 1.0F}) {
    for (const index_t width : {1, 7, 129}) {
      const auto x = random_matrix(7, width, 1, 3.0F);
      const auto gain = random_matrix(1, width, 2);
      Matrix<float> y(7, width);
      backend_->rms_norm(x.cview(), {gain.cview(), plus}, 1e-5F, y.view());
      auto in_place = copy_of(x);
      backend_->rms_norm(in_place.cview(), {gain.cview(), plus}, 1e-5F, in_place.view());
      for (index_t t = 0; t < 7; ++t) {
        double square = 0;
        for (index_t j = 0; j < width; ++j) square += static_cast<double>(x(t, j)) * x(t, j);
        const double rms = std::sqrt(square / static_cast<double>(width) + 1e-5);
        for (index_t j = 0; j < width; ++j) {
          EXPECT_NEAR(y(t, j), x(t, j) / rms * (plus + gain(0, j)), 2e-6);
          EXPECT_EQ(in_place(t, j), y(t, j));
        }
      }
    }
  }
}

TEST_F(CpuBackendTest, RmsNormWithoutGain) {
  const auto x = random_matrix(5, 33, 1, 3.0F);
  Matrix<float> y(5, 33);
  backend_->rms_norm(x.cview(), none_left, 1e-5F, y.view());
  for (index_t t = 0; t < 5; ++t) {
    double square = 0;
    for (index_t j = 0; j < 33; ++j) square += static_cast<double>(x(t, j)) * x(t, j);
    for (index_t j = 0; j < 33; ++j) {
      EXPECT_NEAR(y(t, j), x(t, j) / std::sqrt(square / 33 + 1e-5), 2e-6);
    }
  }
}

TEST_F(CpuBackendTest, LayerNormInPlaceAndWithoutGainOrBias) {
  for (const index_t width : {2, 7, 129}) {
    const auto x = random_matrix(5, width, 1);
    const auto gain = random_matrix(1, width, 2);
    const auto bias = random_matrix(1, width, 3);
    for (const bool affine : {false, true}) {
      auto y = copy_of(x);
      backend_->layer_norm(y.cview(), affine ? gain.cview() : none_left,
                           affine ? bias.cview() : none_left, 1e-5F, y.view());
      for (index_t t = 0; t < 5; ++t) {
        double mean = 0;
        double variance = 0;
        for (index_t j = 0; j < width; ++j) mean += x(t, j) / static_cast<double>(width);
        for (index_t j = 0; j < width; ++j) {
          variance += (x(t, j) - mean) * (x(t, j) - mean) / static_cast<double>(width);
        }
        for (index_t j = 0; j < width; ++j) {
          double expected = (x(t, j) - mean) / std::sqrt(variance + 1e-5);
          if (affine) expected = expected * gain(0, j) + bias(0, j);
          EXPECT_NEAR(y(t, j), expected, 1e-5);
        }
      }
    }
  }
}

TEST_F(CpuBackendTest, RopeRotatesEachPairByItsAngle) {
  const index_t heads = 3;
  const index_t half = 5;
  const index_t length = 9;
  Matrix<float> cosine(length, half);
  Matrix<float> sine(length, half);
  const auto angle = [](index_t t, index_t i) { return 0.37 * static_cast<double>(t * (i + 1)); };
  for (index_t t = 0; t < length; ++t) {
    for (index_t i = 0; i < half; ++i) {
      cosine(t, i) = static_cast<float>(std::cos(angle(t, i)));
      sine(t, i) = static_cast<float>(std::sin(angle(t, i)));
    }
  }
  const auto before = random_matrix(7, heads * 2 * half, 1);
  auto x = copy_of(before);
  backend_->rope(x.view(), {.heads = heads, .head_dim = 2 * half}, cosine.cview(), sine.cview());
  for (index_t t = 0; t < 7; ++t) {
    for (index_t h = 0; h < heads; ++h) {
      for (index_t i = 0; i < half; ++i) {
        const double a = before(t, h * 2 * half + i);
        const double b = before(t, h * 2 * half + half + i);
        const double c = std::cos(angle(t, i));
        const double s = std::sin(angle(t, i));
        EXPECT_NEAR(x(t, h * 2 * half + i), a * c - b * s, 1e-6);
        EXPECT_NEAR(x(t, h * 2 * half + half + i), a * s + b * c, 1e-6);
      }
    }
  }
  Matrix<float> longer(length + 1, heads * 2 * half, 0.0F);
  EXPECT_THROW(backend_->rope(longer.view(), {.heads = heads, .head_dim = 2 * half}, cosine.cview(),
                              sine.cview()),
               Error);
}

// Heads of 11 channels, of which the first 6 turn.
TEST_F(CpuBackendTest, RopeLeavesChannelsBeyondItsPairs) {
  const index_t heads = 2;
  const index_t dim = 11;
  const auto cosine = random_matrix(5, 3, 2);
  const auto sine = random_matrix(5, 3, 3);
  const auto before = random_matrix(4, heads * dim, 1);
  auto x = copy_of(before);
  backend_->rope(x.view(), {.heads = heads, .head_dim = dim}, cosine.cview(), sine.cview());
  for (index_t t = 0; t < 4; ++t) {
    for (index_t h = 0; h < heads; ++h) {
      const index_t head = h * dim;
      for (index_t i = 0; i < 3; ++i) {
        const float a = before(t, head + i);
        const float b = before(t, head + 3 + i);
        EXPECT_NEAR(x(t, head + i), a * cosine(t, i) - b * sine(t, i), 1e-6);
        EXPECT_NEAR(x(t, head + 3 + i), a * sine(t, i) + b * cosine(t, i), 1e-6);
      }
      for (index_t i = 6; i < dim; ++i) EXPECT_EQ(x(t, head + i), before(t, head + i));
    }
  }
  EXPECT_THROW(
      backend_->rope(x.view(), {.heads = 2 * dim, .head_dim = 1}, cosine.cview(), sine.cview()),
      Error);
}

// Heads of 11 channels, of which those from the third on turn: pairs of neighbours, or of halves.
TEST_F(CpuBackendTest, RopeTurnsChannelsFromTheFirstOn) {
  const index_t heads = 2;
  const index_t dim = 11;
  const auto cosine = random_matrix(4, 4, 2);
  const auto sine = random_matrix(4, 4, 3);
  const auto before = random_matrix(4, heads * dim, 1);
  for (const bool interleaved : {false, true}) {
    auto expected = copy_of(before);
    for (index_t t = 0; t < 4; ++t) {
      for (index_t h = 0; h < heads; ++h) {
        for (index_t i = 0; i < 4; ++i) {
          const index_t low = h * dim + 3 + (interleaved ? 2 * i : i);
          const index_t high = interleaved ? low + 1 : low + 4;
          const float a = before(t, low);
          const float b = before(t, high);
          expected(t, low) = a * cosine(t, i) - b * sine(t, i);
          expected(t, high) = a * sine(t, i) + b * cosine(t, i);
        }
      }
    }
    auto x = copy_of(before);
    backend_->rope(x.view(),
                   {.heads = heads, .head_dim = dim, .first = 3, .interleaved = interleaved},
                   cosine.cview(), sine.cview());
    for (index_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x.data()[i], expected.data()[i], 1e-6);
  }
  auto x = copy_of(before);
  EXPECT_THROW(backend_->rope(x.view(), {.heads = heads, .head_dim = dim, .first = 4},
                              cosine.cview(), sine.cview()),
               Error);
}

TEST_F(CpuBackendTest, ScaleRowsMultipliesEachByItsFactor) {
  const auto before = random_matrix(3, 77, 1, 3.0F);
  auto x = copy_of(before);
  const std::vector<float> factors{0.5F, 0.0F, -3.0F};
  backend_->scale_rows(factors, x.view());
  for (index_t t = 0; t < 3; ++t) {
    for (index_t j = 0; j < 77; ++j) EXPECT_EQ(x(t, j), factors[at(t)] * before(t, j));
  }
  EXPECT_THROW(backend_->scale_rows(std::span(factors).first(2), x.view()), Error);
}

TEST_F(CpuBackendTest, ScaleMultipliesEveryElement) {
  const auto before = random_matrix(5, 77, 1, 3.0F);
  auto x = copy_of(before);
  backend_->scale(0.375F, x.view().middle_cols(0, 70));
  for (index_t t = 0; t < 5; ++t) {
    for (index_t j = 0; j < 77; ++j) {
      EXPECT_EQ(x(t, j), j < 70 ? 0.375F * before(t, j) : before(t, j));
    }
  }
}

double capped(double x, float cap) { return cap > 0 ? cap * std::tanh(x / cap) : x; }

/// The definition, with every score formed. `sinks` may be empty.
double attention_element(const Matrix<float>& q, const Matrix<float>& k, const Matrix<float>& v,
                         const AttentionShape& shape, const Matrix<float>& sinks, index_t t,
                         index_t head, index_t d) {
  const index_t kv = head / (shape.heads / shape.kv_heads);
  double sum = sinks.empty() ? 0 : std::exp(static_cast<double>(sinks(0, head)));
  double value = 0;
  for (index_t j = 0; j <= t; ++j) {
    if (shape.window && j <= t - *shape.window) continue;
    if (shape.chunk && j / *shape.chunk != t / *shape.chunk) continue;
    double score = 0;
    for (index_t i = 0; i < shape.head_dim; ++i) {
      score += static_cast<double>(q(t, head * shape.head_dim + i)) * k(j, kv * shape.head_dim + i);
    }
    const double weight = std::exp(capped(score * shape.scale, shape.soft_cap));
    sum += weight;
    value += weight * v(j, kv * shape.values() + d);
  }
  return value / sum;
}

TEST_F(CpuBackendTest, Attention) {
  for (const index_t tokens : {1, 7, 129, 257}) {
    for (const index_t dim : {6, 64}) {
      for (const index_t window : {0, 1, 5, 130}) {
        AttentionShape shape{
            .heads = 6, .kv_heads = 2, .head_dim = dim, .scale = 0.7F, .window = {}};
        if (window > 0) shape.window = window;
        if (window == 5 || tokens == 7) shape.soft_cap = 1.5F;  // scores go up to 9
        const auto q = random_matrix(tokens, 6 * dim, 1);
        const auto k = random_matrix(tokens, 2 * dim, 2);
        const auto v = random_matrix(tokens, 2 * dim, 3);
        Matrix<float> out(tokens, 6 * dim, std::nanf(""));
        backend_->attention(q.cview(), k.cview(), v.cview(), shape, none_left, out.view());
        double worst = 0;
        for (index_t t = 0; t<tokens; t += tokens> 100 ? 16 : 1) {
          for (index_t c = 0; c < 6 * dim; c += 5) {
            const double expected = attention_element(q, k, v, shape, {}, t, c / dim, c % dim);
            worst = std::max(worst, std::abs(out(t, c) - expected));
            ASSERT_FALSE(std::isnan(out(t, c)));
          }
        }
        EXPECT_LT(worst, 3e-6) << tokens << ' ' << dim << ' ' << window;
      }
    }
  }
}

// Heads of 9 channels whose values have 5, or 12; a sink above all scores, and one below.
TEST_F(CpuBackendTest, AttentionWithSinksChunksAndValuesOfAnotherWidth) {
  for (const index_t values : {5, 12}) {
    for (const index_t chunk : {0, 1, 7, 128, 200}) {
      AttentionShape shape{
          .heads = 4, .kv_heads = 2, .head_dim = 9, .value_dim = values, .scale = 0.5F};
      if (chunk > 0) shape.chunk = chunk;
      if (chunk == 7) shape.window = 3;
      const auto q = random_matrix(260, 4 * 9, 1);
      const auto k = random_matrix(260, 2 * 9, 2);
      const auto v = random_matrix(260, 2 * values, 3);
      auto sinks = random_matrix(1, 4, 4);
      sinks(0, 1) = 12.0F;
      sinks(0, 2) = -90.0F;
      Matrix<float> out(260, 4 * values);
      for (const bool with_sinks : {false, true}) {
        backend_->attention(q.cview(), k.cview(), v.cview(), shape,
                            with_sinks ? sinks.cview() : none_left, out.view());
        for (index_t t = 0; t < 260; t += 13) {
          for (index_t c = 0; c < 4 * values; ++c) {
            const double expected =
                attention_element(q, k, v, shape, with_sinks ? copy_of(sinks) : Matrix<float>(), t,
                                  c / values, c % values);
            EXPECT_NEAR(out(t, c), expected, 3e-6) << t << ' ' << c << ' ' << chunk;
          }
        }
      }
    }
  }
}

TEST_F(CpuBackendTest, AttentionSurvivesLargeScoresAndShowsNaN) {
  const AttentionShape shape{.heads = 1, .kv_heads = 1, .head_dim = 2, .scale = 1.0F, .window = {}};
  Matrix<float> q(3, 2, 100.0F);
  Matrix<float> k(3, 2, 0.0F);
  Matrix<float> v(3, 2, 0.0F);
  k(1, 0) = 100.0F;  // a score of 10⁴: exp would overflow without the maximum
  v(1, 0) = 7.0F;
  Matrix<float> out(3, 2);
  backend_->attention(q.cview(), k.cview(), v.cview(), shape, none_left, out.view());
  EXPECT_EQ(out(0, 0), 0.0F);
  EXPECT_EQ(out(1, 0), 7.0F);
  EXPECT_EQ(out(2, 0), 7.0F);

  q(2, 1) = std::nanf("");
  backend_->attention(q.cview(), k.cview(), v.cview(), shape, none_left, out.view());
  EXPECT_EQ(out(1, 0), 7.0F);
  EXPECT_TRUE(std::isnan(out(2, 0)));

  const AttentionShape uneven{.heads = 3, .kv_heads = 2, .head_dim = 2, .scale = 1, .window = {}};
  EXPECT_THROW(backend_->attention(q.cview(), k.cview(), v.cview(), uneven, none_left, out.view()),
               Error);
}

double activation(Activation kind, double x) {
  switch (kind) {
    case Activation::relu:
      return std::max(x, 0.0);
    case Activation::gelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case Activation::silu:
      return x / (1 + std::exp(-x));
  }
  return 0;
}

TEST_F(CpuBackendTest, Activations) {
  for (const Activation kind :
       {Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::silu}) {
    auto x = random_matrix(3, 1001, 1, 12.0F);
    const auto before = copy_of(x);
    const auto up = random_matrix(3, 1001, 2);
    backend_->activate(kind, x.view());
    auto gate = copy_of(before);
    backend_->gated_activate(kind, gate.view(), up.cview());
    for (index_t j = 0; j < x.size(); ++j) {
      const double expected = activation(kind, before.data()[j]);
      const double tolerance = 1e-6 * std::max(1.0, std::abs(expected));
      EXPECT_NEAR(x.data()[j], expected, tolerance) << before.data()[j];
      EXPECT_NEAR(gate.data()[j], expected * up.data()[j], tolerance);
    }
    Matrix<float> extreme(1, 3);
    extreme(0, 0) = -1e30F;
    extreme(0, 1) = 1e30F;
    extreme(0, 2) = std::nanf("");
    backend_->activate(kind, extreme.view());
    EXPECT_EQ(extreme(0, 0), 0.0F);
    EXPECT_EQ(extreme(0, 1), 1e30F);
    EXPECT_TRUE(std::isnan(extreme(0, 2)));
  }
}

TEST_F(CpuBackendTest, RoutesToTheLikeliestExperts) {
  for (const bool renormalised : {false, true}) {
    auto logits = random_matrix(9, 7, 1, 3.0F);
    logits(4, 2) = logits(4, 5) = 5.0F;  // equal: the lower number first
    Matrix<float> routes(9, 6);
    backend_->route(logits.cview(), {.experts = 7, .chosen = 3, .renormalised = renormalised},
                    none_left, routes.view());
    EXPECT_EQ(routes(4, 0), 2.0F);
    EXPECT_EQ(routes(4, 1), 5.0F);
    for (index_t t = 0; t < 9; ++t) {
      double all = 0;
      double chosen = 0;
      for (index_t e = 0; e < 7; ++e) all += std::exp(static_cast<double>(logits(t, e)));
      for (index_t i = 0; i < 3; ++i) {
        const auto expert = static_cast<index_t>(routes(t, i));
        index_t better = 0;
        for (index_t e = 0; e < 7; ++e) better += logits(t, e) > logits(t, expert) ? 1 : 0;
        EXPECT_EQ(better, t == 4 && i == 1 ? 0 : i);
        chosen += std::exp(static_cast<double>(logits(t, expert)));
      }
      for (index_t i = 0; i < 3; ++i) {
        const auto expert = static_cast<index_t>(routes(t, i));
        const double weight = std::exp(static_cast<double>(logits(t, expert)));
        EXPECT_NEAR(routes(t, 3 + i), weight / (renormalised ? chosen : all), 1e-6);
      }
    }
  }
  const Matrix<float> few(1, 2, 0.0F);
  Matrix<float> routes(1, 6);
  EXPECT_THROW(backend_->route(few.cview(), {.experts = 2, .chosen = 3}, none_left, routes.view()),
               Error);
}

/// A token's scores, as the shape says.
std::vector<double> scores_of(const RouterShape& shape, const float* logits) {
  std::vector<double> scores(at(shape.experts));
  double all = 0;
  for (index_t e = 0; e < shape.experts; ++e) {
    const double exponential = std::exp(static_cast<double>(logits[e]));
    scores[at(e)] =
        shape.scores == RouterScores::softmax ? exponential : exponential / (1 + exponential);
    all += exponential;
  }
  if (shape.scores == RouterScores::sigmoid) return scores;
  for (double& score : scores) score /= all;
  return scores;
}

/// The experts in the groups whose two best add up to the most, the best first.
std::vector<index_t> best_experts(const RouterShape& shape, const std::vector<double>& choice) {
  const index_t in_group = shape.experts / shape.groups;
  std::vector<std::pair<double, index_t>> groups;
  for (index_t g = 0; g < shape.groups; ++g) {
    std::vector<double> sorted(choice.begin() + g * in_group, choice.begin() + (g + 1) * in_group);
    std::sort(sorted.rbegin(), sorted.rend());
    groups.emplace_back(shape.groups > 1 ? sorted[0] + sorted[1] : 0, g);
  }
  std::sort(groups.rbegin(), groups.rend());
  std::vector<std::pair<double, index_t>> experts;
  for (index_t i = 0; i < shape.chosen_groups; ++i) {
    for (index_t e = 0; e < in_group; ++e) {
      const index_t expert = groups[at(i)].second * in_group + e;
      experts.emplace_back(choice[at(expert)], expert);
    }
  }
  std::sort(experts.rbegin(), experts.rend());
  std::vector<index_t> numbers;
  for (const auto& [score, expert] : experts) numbers.push_back(expert);
  return numbers;
}

// Corrections are large enough to make scores negative: −∞, not 0, keeps other groups out.
TEST_F(CpuBackendTest, RoutesByCorrectedScoresAndGroups) {
  const std::vector<RouterShape> shapes = {
      {.experts = 12, .chosen = 3, .renormalised = true, .scores = RouterScores::sigmoid},
      {.experts = 12,
       .chosen = 4,
       .renormalised = true,
       .scores = RouterScores::sigmoid,
       .groups = 4,
       .chosen_groups = 2,
       .least_sum = 1e-20F,
       .factor = 2.5F},
      {.experts = 12,
       .chosen = 5,
       .scores = RouterScores::sigmoid,
       .groups = 3,
       .chosen_groups = 2,
       .factor = 0.5F},
      {.experts = 12, .chosen = 3, .renormalised = true, .least_sum = 0.25F},
      {.experts = 12, .chosen = 1, .scores = RouterScores::sigmoid}};
  const auto logits = random_matrix(40, 12, 1, 3.0F);
  auto correction = random_matrix(1, 12, 2, 0.5F);
  for (float& value : correction.span()) value -= 0.6F;
  for (const RouterShape& shape : shapes) {
    for (const bool corrected : {false, true}) {
      Matrix<float> routes(40, 2 * shape.chosen);
      backend_->route(logits.cview(), shape, corrected ? correction.cview() : none_left,
                      routes.view());
      for (index_t t = 0; t < 40; ++t) {
        const std::vector<double> scores = scores_of(shape, logits.row(t));
        std::vector<double> choice = scores;
        for (index_t e = 0; corrected && e < 12; ++e) choice[at(e)] += correction(0, e);
        const std::vector<index_t> expected = best_experts(shape, choice);
        double sum = 0;
        for (index_t i = 0; i < shape.chosen; ++i) sum += scores[at(expected[at(i)])];
        const double divisor = shape.renormalised ? std::max<double>(sum, shape.least_sum) : 1.0;
        for (index_t i = 0; i < shape.chosen; ++i) {
          const index_t expert = expected[at(i)];
          EXPECT_EQ(routes(t, i), static_cast<float>(expert)) << t << ' ' << i;
          EXPECT_NEAR(routes(t, shape.chosen + i), scores[at(expert)] / divisor * shape.factor,
                      3e-6);
        }
      }
    }
  }
  Matrix<float> routes(40, 8);
  for (const RouterShape& wrong : {RouterShape{.experts = 12, .chosen = 4, .groups = 5},
                                   RouterShape{.experts = 12, .chosen = 4, .groups = 4},
                                   RouterShape{.experts = 12, .chosen = 4, .groups = 12}}) {
    EXPECT_THROW(backend_->route(logits.cview(), wrong, none_left, routes.view()), Error);
  }
}

TEST_F(CpuBackendTest, ClampedSwigluClampsBothBeforeItMultiplies) {
  auto gate = random_matrix(3, 101, 1, 12.0F);
  const auto before = copy_of(gate);
  const auto up = random_matrix(3, 101, 2, 12.0F);
  backend_->clamped_swiglu({.alpha = 1.7F, .limit = 7.0F}, gate.view(), up.cview());
  for (index_t i = 0; i < gate.size(); ++i) {
    const double g = std::min(before.data()[i], 7.0F);
    const double u = std::clamp(up.data()[i], -7.0F, 7.0F);
    EXPECT_NEAR(gate.data()[i], g / (1 + std::exp(-1.7F * g)) * (u + 1), 1e-5);
  }
}

TEST_F(CpuBackendTest, GathersRowsAndAddsThemBack) {
  const auto x = random_matrix(6, 5, 1);
  const std::vector<index_t> rows{4, 0, 5};
  const std::vector<float> weights{0.5F, 2.0F, 0.25F};
  Matrix<float> some(3, 5);
  backend_->gather_rows(x.cview(), rows, some.view());
  auto y = random_matrix(6, 5, 2);
  const auto before = copy_of(y);
  backend_->scatter_add_rows(some.cview(), rows, weights, y.view());
  for (index_t t = 0; t < 6; ++t) {
    const auto found = std::find(rows.begin(), rows.end(), t) - rows.begin();
    const float weight = found < 3 ? weights[at(found)] : 0.0F;
    for (index_t j = 0; j < 5; ++j) EXPECT_NEAR(y(t, j), before(t, j) + weight * x(t, j), 1e-6);
  }
  const std::vector<index_t> beyond{4, 0, 6};
  EXPECT_THROW(backend_->gather_rows(x.cview(), beyond, some.view()), Error);
}

TEST_F(CpuBackendTest, LogSumExpOverSlices) {
  for (const index_t tokens : {1, 7, 129}) {
    const float cap = tokens == 7 ? 4.0F : 0.0F;
    const index_t vocabulary = 10007;  // more logits than one chunk of rows holds
    const index_t width = 16;
    const auto x = random_matrix(tokens, width, 1, 4.0F);
    const auto w = random_matrix(vocabulary, width, 2, 2.0F);
    std::vector<std::int32_t> targets(tokens);
    for (index_t t = 0; t < tokens; ++t) {
      targets[t] = static_cast<std::int32_t>((t * 7919 + 9000) % vocabulary);
    }
    std::vector<double> maximum(tokens, -std::numeric_limits<double>::infinity());
    std::vector<double> sum(tokens, 0.0);
    std::vector<double> target(tokens, std::nan(""));
    for (index_t first = 0; first < vocabulary; first += 4000) {
      const index_t rows = std::min<index_t>(4000, vocabulary - first);
      backend_->log_sum_exp_slice(x.cview(), w.cview().middle_rows(first, rows), first, cap,
                                  targets, maximum, sum, target);
    }
    for (index_t t = 0; t < tokens; ++t) {
      double total = 0;
      double expected_target = 0;
      for (index_t r = 0; r < vocabulary; ++r) {
        double logit = 0;
        for (index_t j = 0; j < width; ++j) logit += static_cast<double>(x(t, j)) * w(r, j);
        logit = capped(logit, cap);
        total += std::exp(logit);
        if (r == targets[t]) expected_target = logit;
      }
      EXPECT_NEAR(maximum[t] + std::log(sum[t]), std::log(total), 2e-5);
      EXPECT_NEAR(target[t], expected_target, 2e-5);
    }
  }
}

// Greedy decoding is read off the same call: a target is the argmax where its logit is the maximum.
TEST_F(CpuBackendTest, TargetLogitIsTheMaximumForTheArgmaxOnly) {
  const index_t tokens = 33;
  const index_t vocabulary = 501;
  const auto x = random_matrix(tokens, 24, 3);
  const auto w = random_matrix(vocabulary, 24, 4);
  for (const index_t second_best : {0, 1}) {
    std::vector<std::int32_t> targets;
    for (index_t t = 0; t < tokens; ++t) {
      std::vector<std::pair<double, std::int32_t>> logits;
      for (index_t r = 0; r < vocabulary; ++r) {
        double logit = 0;
        for (index_t j = 0; j < 24; ++j) logit += static_cast<double>(x(t, j)) * w(r, j);
        logits.emplace_back(logit, static_cast<std::int32_t>(r));
      }
      std::sort(logits.rbegin(), logits.rend());
      ASSERT_GT(logits[0].first - logits[1].first, 1e-5) << "the seed makes a near tie";
      targets.push_back(logits[second_best].second);
    }
    std::vector<double> maximum(tokens, -std::numeric_limits<double>::infinity());
    std::vector<double> sum(tokens, 0.0);
    std::vector<double> target(tokens, std::nan(""));
    for (index_t first = 0; first < vocabulary; first += 100) {
      const index_t rows = std::min<index_t>(100, vocabulary - first);
      backend_->log_sum_exp_slice(x.cview(), w.cview().middle_rows(first, rows), first, 0.0F,
                                  targets, maximum, sum, target);
    }
    for (index_t t = 0; t < tokens; ++t) EXPECT_EQ(target[t] == maximum[t], second_best == 0) << t;
  }
}

}  // namespace
}  // namespace quip::cpu_operations_test
