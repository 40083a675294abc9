// Operations as a plan runs them, against plain loops over the elements.
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/plan_builder.hpp"
#include "unit/cpu_support.hpp"
#include <gtest/gtest.h>

#include "quip/core/error.hpp"
#include "quip/model/family.hpp"

namespace quip::test::run_plan_test {
namespace {

constexpr index_t tokens = 5;
constexpr float epsilon = 1e-3F;

ModelConfig config_of_width_12() {
  ModelConfig c;
  c.model_type = "llama";
  c.hidden = c.embedding_dim = 12;
  c.heads = 3;
  c.kv_heads = 3;
  c.head_dim = 4;
  c.norm_epsilon = epsilon;
  return c;
}

class RunPlan : public CpuBackendTest {
 protected:
  /// Loads random weights [rows × cols] and returns a copy.
  Matrix<float> load(const std::string& name, index_t rows, index_t cols) {
    auto values = random_matrix(rows, cols, static_cast<unsigned>(std::hash<std::string>{}(name)));
    Tensor tensor = backend_->allocate(rows, cols);
    backend_->upload(values.span(), tensor.view());
    weights_.insert(name, std::move(tensor));
    return values;
  }

  /// Runs a plan whose input is `x`, in place.
  void run(const BlockPlan& plan, const Matrix<float>& x) {
    const Family family(config_of_width_12(), {});
    SampleState state(plan, x.rows());
    state.bind(plan.input, x.view());
    family.run(plan, {0, std::ssize(plan.operations)}, *backend_, weights_, state);
  }

  WeightSet weights_;
};

/// y = x / rms(x) · (gain + plus), of the `width` elements from x on.
void norm(const float* x, const Matrix<float>& gain, float plus, double* y) {
  const index_t width = gain.cols();
  double square = 0;
  for (index_t j = 0; j < width; ++j) square += static_cast<double>(x[j]) * x[j];
  const double rms = std::sqrt(square / static_cast<double>(width) + epsilon);
  for (index_t j = 0; j < width; ++j) y[j] = x[j] / rms * (static_cast<double>(gain(0, j)) + plus);
}

TEST_F(RunPlan, NormsEveryHeadByItself) {
  for (const index_t heads : {1, 3}) {
    for (const float plus : {0.0F, 1.0F}) {
      ModelConfig config = config_of_width_12();
      config.gain_plus = plus;
      BlockBuilder block(config, 0, "");
      block.norm_by_head("q_norm", block.residual(), heads);
      const auto gain = load("0.q_norm.weight", 1, 12 / heads);
      const auto before = random_matrix(tokens, 12, 1, 3.0F);
      const auto x = copy_of(before);
      run(block.finish(), x);
      for (index_t t = 0; t < tokens; ++t) {
        for (index_t h = 0; h < heads; ++h) {
          std::vector<double> expected(static_cast<std::size_t>(12 / heads));
          norm(before.row(t) + h * 12 / heads, gain, plus, expected.data());
          for (std::size_t j = 0; j < expected.size(); ++j) {
            EXPECT_NEAR(x.row(t)[h * 12 / heads + static_cast<index_t>(j)], expected[j], 3e-6);
          }
        }
      }
    }
  }
}

TEST_F(RunPlan, AddsALinearThatIsNormedAfterwards) {
  const ModelConfig config = config_of_width_12();
  BlockBuilder block(config, 0, "");
  block.add_normed("o", block.copy(block.residual(), "x"), true, "after");
  const auto w = load("0.o.weight", 12, 12);
  const auto bias = load("0.o.bias", 1, 12);
  const auto gain = load("0.after.weight", 1, 12);
  const auto before = random_matrix(tokens, 12, 1);
  const auto x = copy_of(before);
  run(block.finish(), x);
  for (index_t t = 0; t < tokens; ++t) {
    std::vector<float> y;
    for (index_t i = 0; i < 12; ++i) {
      double sum = bias(0, i);
      for (index_t j = 0; j < 12; ++j) sum += static_cast<double>(w(i, j)) * before(t, j);
      y.push_back(static_cast<float>(sum));
    }
    std::vector<double> normed(12);
    norm(y.data(), gain, 0.0F, normed.data());
    for (index_t i = 0; i < 12; ++i) EXPECT_NEAR(x(t, i), before(t, i) + normed[at(i)], 5e-6);
  }
}

TEST_F(RunPlan, ScalesWhatItAdds) {
  const ModelConfig config = config_of_width_12();
  BlockBuilder block(config, 0, "");
  const Slot y = block.copy(block.residual(), "y");
  block.scale(y, 0.375);
  block.add(y, block.residual());
  const auto before = random_matrix(tokens, 12, 1);
  const auto x = copy_of(before);
  run(block.finish(), x);
  for (index_t i = 0; i < x.size(); ++i) {
    EXPECT_NEAR(x.data()[i], 1.375 * before.data()[i], 1e-6);
  }
}

// Five experts of which two are chosen, and the last never is; against every expert of every token.
TEST_F(RunPlan, AddsTheChosenExperts) {
  ModelConfig config = config_of_width_12();
  config.router = {.experts = 5, .chosen = 2, .renormalised = true};
  config.expert_intermediate = 6;
  BlockBuilder block(config, 0, "");
  block.add_experts({.router = "r", .experts = "e.", .gate = "gate", .up = "up", .down = "down"},
                    block.copy(block.residual(), "x"));
  const BlockPlan plan = block.finish();
  const auto router = load("0.r.weight", 5, 12);
  std::vector<Matrix<float>> gates;
  std::vector<Matrix<float>> ups;
  std::vector<Matrix<float>> downs;
  for (const LinearSpec& linear : plan.linears) {
    auto& of_kind = linear.type == "experts.gate" ? gates
                    : linear.type == "experts.up" ? ups
                                                  : downs;
    of_kind.push_back(load(linear.name + ".weight", linear.rows, linear.cols));
  }
  auto before = random_matrix(tokens, 12, 1);
  for (float& value : before.span()) value = std::abs(value);
  for (index_t j = 0; j < 12; ++j) router(4, j) = -9.0F;
  weights_.insert("0.r.weight", [&] {
    Tensor tensor = backend_->allocate(5, 12);
    backend_->upload(router.span(), tensor.view());
    return tensor;
  }());
  const auto x = copy_of(before);
  run(plan, x);

  const auto product = [](const Matrix<float>& w, const std::vector<double>& of) {
    std::vector<double> out(at(w.rows()), 0.0);
    for (index_t i = 0; i < w.rows(); ++i) {
      for (index_t j = 0; j < w.cols(); ++j) out[at(i)] += w(i, j) * of[at(j)];
    }
    return out;
  };
  for (index_t t = 0; t < tokens; ++t) {
    const std::vector<double> in(before.row(t), before.row(t) + 12);
    const std::vector<double> logits = product(router, in);
    std::vector<double> expected = in;
    double sum = 0;
    const auto chosen = [&](std::size_t e) {
      return std::count_if(logits.begin(), logits.end(),
                           [&](double other) { return other > logits[e]; }) < 2;
    };
    for (std::size_t e = 0; e < 5; ++e) sum += chosen(e) ? std::exp(logits[e]) : 0.0;
    for (std::size_t e = 0; e < 5; ++e) {
      if (!chosen(e)) continue;
      std::vector<double> inner = product(gates[e], in);
      const std::vector<double> up = product(ups[e], in);
      for (std::size_t i = 0; i < inner.size(); ++i) {
        inner[i] *= up[i] / (1 + std::exp(-inner[i]));
      }
      const std::vector<double> out = product(downs[e], inner);
      for (std::size_t j = 0; j < 12; ++j) expected[j] += std::exp(logits[e]) / sum * out[j];
    }
    for (index_t j = 0; j < 12; ++j) EXPECT_NEAR(x(t, j), expected[at(j)], 2e-5);
  }
}

// An expert's input is scaled by its weight, and its output is not.
TEST_F(RunPlan, WeightsMayScaleWhatExpertsAreGiven) {
  const ModelConfig config = config_of_width_12();
  const RouterShape shape{.experts = 3, .chosen = 1, .scores = RouterScores::sigmoid};
  BlockBuilder block(config, 0, "");
  const Slot x = block.copy(block.residual(), "x");
  const Slot routes = block.route(block.router("r", x, 3, true), shape);
  for (index_t e = 0; e < 3; ++e) {
    const Slot rows = block.gather(x, routes, e, shape, true);
    block.gate_clamped(rows, rows, {.alpha = 1.5F, .limit = 0.75F});
    block.scatter(rows, routes, block.residual(), false);
  }
  const auto router = load("0.r.weight", 3, 12);
  const auto bias = load("0.r.bias", 1, 3);
  const auto before = random_matrix(tokens, 12, 1);
  const auto y = copy_of(before);
  run(block.finish(), y);
  for (index_t t = 0; t < tokens; ++t) {
    double best = -1e9;
    for (index_t e = 0; e < 3; ++e) {
      double logit = bias(0, e);
      for (index_t j = 0; j < 12; ++j) logit += static_cast<double>(router(e, j)) * before(t, j);
      best = std::max(best, logit);
    }
    for (index_t j = 0; j < 12; ++j) {
      const double in = before(t, j) / (1 + std::exp(-best));
      const double gate = std::min(in, 0.75);
      const double up = std::clamp(in, -0.75, 0.75);
      const double out = gate / (1 + std::exp(-1.5 * gate)) * (up + 1);
      EXPECT_NEAR(y(t, j), before(t, j) + out, 2e-6);
    }
  }
}

// Three heads of four channels: the last two of each, and then the first two of the first for all.
TEST_F(RunPlan, CopiesChannelsOfHeads) {
  const ModelConfig config = config_of_width_12();
  BlockBuilder block(config, 0, "");
  const Slot y = block.make("y", 12);
  block.copy_channels({.heads = 3, .from_first = 2, .count = 2, .from = block.residual(), .to = y});
  block.copy_channels({.heads = 3,
                       .common = true,
                       .from_first = 1,
                       .to_first = 2,
                       .count = 2,
                       .from = block.residual(),
                       .to = y});
  block.scale(block.residual(), 0.5);
  block.add(y, block.residual());
  const auto before = random_matrix(tokens, 12, 1);
  const auto x = copy_of(before);
  run(block.finish(), x);
  for (index_t t = 0; t < tokens; ++t) {
    for (index_t j = 0; j < 12; ++j) {
      const index_t from = j % 4 < 2 ? j + 2 : j % 4 - 1;
      EXPECT_NEAR(x(t, j), 0.5F * before(t, j) + before(t, from), 1e-6);
    }
  }
}

TEST_F(RunPlan, NamesAnActivationThatIsNotThere) {
  const ModelConfig config = config_of_width_12();
  BlockBuilder block(config, 0, "");
  block.add(block.copy(block.residual(), "y"), block.residual());
  const BlockPlan plan = block.finish();
  const Family family(config, {});
  SampleState state(plan, tokens);
  try {
    family.run(plan, {1, 2}, *backend_, weights_, state);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("activation 0.y is not there"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace quip::test::run_plan_test
