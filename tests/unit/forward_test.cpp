// Whole forward passes against transformers 4.46, on weights that are formulas.
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "support/memory_source.hpp"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quip/backend/backend.hpp"
#include "quip/core/error.hpp"
#include "quip/model/family.hpp"

namespace quip::test::forward_test {
namespace {

using ::testing::HasSubstr;

constexpr std::array<index_t, 8> token_count = {3, 1, 4, 1, 5, 9, 2, 6};
constexpr auto sample_length = static_cast<index_t>(token_count.size());

ModelConfig llama_config() {
  ModelConfig c;
  c.model_type = "llama";
  c.hidden = c.embedding_dim = 12;
  c.intermediate = 20;
  c.blocks = 2;
  c.heads = 6;
  c.kv_heads = 2;
  c.head_dim = 4;
  c.vocabulary = 30;
  c.max_positions = 16;
  c.norm_epsilon = 1e-6F;
  c.tied_head = true;  // leaves the head out of the list of tensors
  return c;
}

ModelConfig opt_config() {
  ModelConfig c = llama_config();
  c.model_type = "opt";
  c.kv_heads = c.heads;
  c.head_dim = 2;
  c.norm_epsilon = 1e-5F;
  c.activation = Activation::relu;
  return c;
}

std::vector<TensorSpec> all_tensors(const Family& family) {
  std::vector<TensorSpec> tensors = family.end_tensors();
  tensors.push_back(family.embedding());
  for (index_t block = 0; block < family.config().blocks; ++block) {
    for (const TensorSpec& tensor : family.block_tensors(block)) tensors.push_back(tensor);
    for (const LinearSpec& linear : family.linears(block)) {
      tensors.push_back({linear.name + ".weight", {linear.rows, linear.cols}});
    }
  }
  return tensors;
}

/// Element i of the k-th tensor by name is 0.6·sin(1.7·i + k), plus 1 for the gain of a norm.
class FormulaModel {
 public:
  explicit FormulaModel(const ModelConfig& config)
      : backend_(make_cpu_backend(1)), family_(make_unchecked_family(config, MemorySource())) {
    std::map<std::string, TensorSpec> sorted;
    for (const TensorSpec& tensor : all_tensors(*family_)) sorted[tensor.name] = tensor;
    int k = 0;
    for (const auto& [name, tensor] : sorted) load(tensor, k++);
    family_->prepare(*backend_, sample_length);
  }

  [[nodiscard]] const Family& family() const { return *family_; }
  [[nodiscard]] Backend& backend() { return *backend_; }
  [[nodiscard]] const WeightSet& weights() const { return weights_; }

  /// The embedded tokens.
  [[nodiscard]] Tensor start() {
    const ConstTensorView table = weights_[family_->embedding().name];
    const Tensor rows = backend_->allocate(sample_length, table.cols);
    for (index_t t = 0; t < sample_length; ++t) {
      const index_t token = token_count[static_cast<std::size_t>(t)];
      backend_->copy(table.middle_rows(token, 1), rows.view().middle_rows(t, 1));
    }
    Tensor residual = backend_->allocate(sample_length, family_->config().hidden);
    family_->embed(*backend_, weights_, rows.view(), residual.view());
    return residual;
  }

  /// What the head sees at the last token.
  [[nodiscard]] std::vector<float> last_row() {
    const Tensor residual = start();
    for (index_t block = 0; block < family_->config().blocks; ++block) {
      family_->forward(block, *backend_, weights_, residual.view());
    }
    const Tensor out = backend_->allocate(sample_length, family_->head().shape[1]);
    family_->finish(*backend_, weights_, residual.view(), out.view());
    std::vector<float> host(static_cast<std::size_t>(out.cols()));
    backend_->download(out.cview().middle_rows(sample_length - 1, 1), host);
    return host;
  }

 private:
  void load(const TensorSpec& tensor, int k) {
    const bool vector = tensor.shape.size() == 1;
    Tensor loaded = backend_->allocate(vector ? 1 : tensor.shape[0], tensor.shape.back());
    std::vector<float> values(static_cast<std::size_t>(loaded.rows() * loaded.cols()));
    const double offset = tensor.name.ends_with("norm.weight") ? 1.0 : 0.0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(offset + 0.6 * std::sin(1.7 * static_cast<double>(i) + k));
    }
    backend_->upload(values, loaded.view());
    weights_.insert(tensor.name, std::move(loaded));
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Family> family_;
  WeightSet weights_;
};

void expect_last_row(const ModelConfig& config, const std::vector<float>& expected) {
  const std::vector<float> actual = FormulaModel(config).last_row();
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-5) << i;
}

TEST(Forward, LlamaWithGroupedHeadsBiasesAndStretchedRope) {
  ModelConfig config = llama_config();
  config.attention_bias = config.attention_output_bias = config.mlp_bias = true;
  config.rope.theta = 50.0;
  config.rope.scaling = {.kind = RopeScaling::Kind::llama3,
                         .factor = 8,
                         .low_freq_factor = 1,
                         .high_freq_factor = 4,
                         .original_max_position = 15};
  expect_last_row(config, {1.121926F, -0.5833774F, 0.2415786F, -0.7279756F, 1.141602F, -0.6205533F,
                           0.6634037F, -1.827046F, 1.689177F, -0.5895024F, 1.037228F, -1.668634F});
}

TEST(Forward, MistralWithASlidingWindow) {
  ModelConfig config = llama_config();
  config.sliding_window = 3;
  expect_last_row(config,
                  {1.270401F, -2.099731F, 1.037739F, -0.6239496F, 1.613347F, -1.460386F, 0.4262221F,
                   -0.433159F, 0.8368726F, -0.6981367F, 0.2930582F, -0.8266925F});
}

TEST(Forward, AWindowAppliesToItsBlocks) {
  ModelConfig config = llama_config();
  const std::vector<float> everything = FormulaModel(config).last_row();
  config.sliding_window = 3;
  config.windowed = {false, true};
  EXPECT_NE(FormulaModel(config).last_row(), everything);
  config.windowed = {false, false};
  EXPECT_EQ(FormulaModel(config).last_row(), everything);
}

TEST(Forward, OptWithTheNormBefore) {
  expect_last_row(opt_config(),
                  {0.3969609F, 0.1014048F, -1.45243F, -0.9605229F, 1.683765F, -0.8036471F,
                   -0.04587916F, -0.7955899F, 0.4180805F, 0.222142F, -2.573074F, 1.123432F});
}

TEST(Forward, OptWithTheNormAfterAndProjections) {
  ModelConfig config = opt_config();
  config.norm_before = false;
  config.embedding_dim = 5;
  expect_last_row(config, {0.98413F, -1.614419F, -1.04984F, 1.571688F, 1.11381F});
}

TEST(Forward, StageZeroTapsTheNormedOrPlainResidual) {
  for (const bool norm_before : {true, false}) {
    ModelConfig config = opt_config();
    config.norm_before = norm_before;
    FormulaModel model(config);
    const Tensor residual = model.start();
    const BlockPlan& plan = model.family().block(0);
    SampleState state(plan, sample_length);
    state.bind(plan.input, residual.view());
    model.family().run(plan, plan.stage(0), model.backend(), model.weights(), state);
    std::vector<float> before(static_cast<std::size_t>(sample_length * config.hidden));
    std::vector<float> tapped(before.size());
    model.backend().download(residual.cview(), before);
    model.backend().download(state[plan.taps[0].slot], tapped);
    EXPECT_EQ(before == tapped, !norm_before);
  }
}

TEST(Forward, SequencesBeyondTheModelAreRefused) {
  const auto backend = make_cpu_backend(1);
  for (const bool llama : {true, false}) {
    const auto family =
        make_unchecked_family(llama ? llama_config() : opt_config(), MemorySource());
    family->prepare(*backend, 16);
    try {
      family->prepare(*backend, 17);
      FAIL();
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("17 tokens"));
      EXPECT_THAT(error.what(), HasSubstr("max_position_embeddings = 16"));
    }
  }
}

}  // namespace
}  // namespace quip::test::forward_test
