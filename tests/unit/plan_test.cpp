// Plans against numbers worked out by hand: sizes of public models, bytes, memory, time.
#include <filesystem>
#include <fstream>

#include "pipeline/job_report.hpp"
#include "support/scalar_options.hpp"
#include <gtest/gtest.h>

#include "quip/core/error.hpp"
#include "quip/plan/prediction.hpp"
#include "quip/plan/render.hpp"

namespace quip::plan::plan_test {
namespace {

namespace fs = std::filesystem;

constexpr double gib = 1 << 30;

ModelShapes config_of(const std::string& name) {
  return open_shapes(fs::path(QUIP_TEST_DATA) / "configs" / (name + ".json"));
}

/// The model with its first blocks only: what one of them takes is the same.
ModelShapes first_blocks_of(const std::string& name, index_t blocks) {
  nlohmann::json config =
      nlohmann::json::parse(std::ifstream(fs::path(QUIP_TEST_DATA) / "configs" / (name + ".json")));
  config["num_hidden_layers"] = blocks;
  const fs::path folder = fs::path(testing::TempDir()) / "quip_plan_test";
  fs::create_directories(folder);
  std::ofstream(folder / "config.json") << config;
  return open_shapes(folder);
}

PlannedJob job_of(const ModelShapes& model, index_t samples, index_t length) {
  PlannedJob job{model, {}, samples, length};
  job.options.layer = kronecker_options();
  job.options.stream.on = false;
  return job;
}

Layout layout_of(int nodes, int ranks_per_node, int cores_per_node) {
  Layout layout;
  layout.nodes = nodes;
  layout.ranks_per_node = ranks_per_node;
  layout.cores_per_node = cores_per_node;
  layout.threads = std::max(1, cores_per_node / ranks_per_node);
  return layout;
}

/// A machine with round numbers: 10⁹ flop/s a core in every phase, nothing else takes time.
Rates round_rates() {
  Rates rates;
  rates.ranks = 2;
  rates.ranks_per_node = 2;
  rates.baseline_bytes = 1 << 20;
  for (const std::string& phase : computing_phases) rates.host[phase] = 1e9;
  for (const Exchange kind : all_exchanges) rates.links[to_string(kind)] = {0, 1e30};
  rates.read_bandwidth = rates.write_bandwidth = 1e30;
  return rates;
}

std::string message_of_failure(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Embedding and positions, 96 blocks of attention, feed-forward and two norms with biases, a norm.
TEST(ModelShapes, ParametersOfOpt175B) {
  const index_t h = 12288;
  const index_t f = 49152;
  const index_t block = 4 * h * h + 4 * h + 2 * h * f + f + h + 4 * h;
  EXPECT_EQ(parameters(*config_of("opt-175b").source), 50272 * h + 2050 * h + 96 * block + 2 * h);
  EXPECT_EQ(parameters(*config_of("opt-175b").source), 174'604'468'224);
}

TEST(ModelShapes, ParametersOfLlama405B) {
  const index_t h = 16384;
  const index_t block = 2 * h * h + 2 * h * 1024 + 3 * h * 53248 + 2 * h;
  EXPECT_EQ(parameters(*config_of("llama-3.1-405b").source), 2 * 128256 * h + 126 * block + h);
  EXPECT_EQ(parameters(*config_of("llama-3.1-405b").source), 405'853'388'800);
}

TEST(ModelShapes, NamesTheFileThatIsMissing) {
  EXPECT_NE(message_of_failure([] {
              static_cast<void>(open_shapes("/nowhere/config.json"));
            }).find("/nowhere/config.json: no such file or directory"),
            std::string::npos);
}

TEST(ModelShapes, AFamilyThatNobodyKnowsIsRefused) {
  const fs::path file = fs::path(testing::TempDir()) / "unknown.json";
  std::ofstream(file) << R"({"model_type": "mamba", "hidden_size": 64, "intermediate_size": 128,
      "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128,
      "max_position_embeddings": 64})";
  EXPECT_NE(message_of_failure([&] {
              static_cast<void>(open_shapes(file));
            }).find("unknown.json: model_type is \"mamba\"; quip knows llama"),
            std::string::npos);
}

/// Σ over ranks of what a phase sends.
index_t sent_in(const Prediction& prediction, const std::string& phase) {
  return prediction.phases.at(phase).usage.bytes_sent;
}

// Per block: the triangles of three taps of 16384 inputs are summed on all ranks, the blocks on and
// below the diagonal of down_proj's 53248 inputs (416 blocks of 128) to their owners.
TEST(Walk, HessiansOfLlama405B) {
  const ModelShapes model = config_of("llama-3.1-405b");
  const Prediction plan = predict(job_of(model, 128, 2048), layout_of(2, 4, 64), nullptr);
  const index_t others = 7;
  const index_t triangles = 3 * (index_t{16384} * 16385 / 2);
  const index_t blocks = index_t{416} * 417 / 2 * 128 * 128;
  const index_t least = 126 * 8 * others * (2 * triangles + blocks);
  EXPECT_GE(sent_in(plan, "hessian"), least);
  EXPECT_LT(static_cast<double>(sent_in(plan, "hessian")), 1.001 * static_cast<double>(least));
  // Σ x xᵀ of 262144 tokens, the transform of down_proj's inputs (53248 = 208 · 256) beside it.
  const double pairs = 3.0 * 16384 * 16385 + 53248.0 * 53249;
  const double flops = 126 * 262144.0 * (pairs + 2 * 53248.0 * (208 + 256));
  EXPECT_NEAR(plan.phases.at("hessian").usage.flops / flops, 1, 1e-12);
}

TEST(Walk, WeightsCrossTheNetworkOncePerNode) {
  const ModelShapes model = config_of("opt-175b");
  const index_t h = 12288;
  const index_t linears = 96 * (4 * h * h + 2 * h * 49152) * 2;  // fp16
  for (const int nodes : {1, 2, 4}) {
    const Prediction plan = predict(job_of(model, 16, 512), layout_of(nodes, 2, 2), nullptr);
    const index_t least = linears * (nodes - 1);
    EXPECT_GE(sent_in(plan, "load"), least) << nodes;
    EXPECT_LT(sent_in(plan, "load"), least + least / 1000 + 10'000'000) << nodes;
  }
}

TEST(Walk, NothingIsSentByOneRank) {
  const ModelShapes model = config_of("opt-175b");
  const Prediction plan = predict(job_of(model, 16, 512), layout_of(1, 1, 4), nullptr);
  for (const auto& [name, phase] : plan.phases) EXPECT_EQ(phase.usage.bytes_sent, 0) << name;
}

TEST(Walk, NoSendsLessThanItsBound) {
  const ModelShapes model = first_blocks_of("llama-3.1-405b", 24);
  for (const int nodes : {2, 3, 8, 64}) {
    const Prediction plan = predict(job_of(model, 128, 2048), layout_of(nodes, 1, 8), nullptr);
    for (const char* phase : {"load", "hessian", "factor", "round"}) {
      const PhasePrediction& cost = plan.phases.at(phase);
      // Small votes are rounded down to whole bytes.
      EXPECT_GT(static_cast<double>(cost.usage.bytes_sent), 0.999 * cost.bound) << phase << nodes;
      EXPECT_LT(static_cast<double>(cost.usage.bytes_sent), 2.0 * cost.bound) << phase << nodes;
    }
  }
}

TEST(Predict, TimeIsWorkOverRate) {
  const ModelShapes model = config_of("opt-175b");
  const Rates rates = round_rates();
  // 8 samples on 2 ranks of 2 threads, which have a core each: two rounds of samples.
  Layout layout = layout_of(1, 2, 4);
  const Prediction plan = predict(job_of(model, 8, 128), layout, &rates);
  const double tokens = 8 * 128;
  const double linears = 4.0 * 12288 * 12288 + 2.0 * 12288 * 49152;
  const double attention = 4.0 * 12288 * 129 / 2;
  const double forward = 95 * tokens * (2 * linears + attention);  // the last output is not needed
  EXPECT_NEAR(plan.phases.at("forward").seconds, forward / 4e9, 1e-9 * forward);
  EXPECT_NEAR(plan.phases.at("forward").usage.flops / forward, 1, 1e-12);
  // Six samples take as long: 2 + 1 on one of the ranks' threads.
  const Prediction six = predict(job_of(model, 6, 128), layout, &rates);
  EXPECT_DOUBLE_EQ(six.phases.at("forward").seconds, plan.phases.at("forward").seconds);
  // Twice the threads on the same cores take turns.
  layout.threads = 4;
  const Prediction crowded = predict(job_of(model, 8, 128), layout, &rates);
  EXPECT_DOUBLE_EQ(crowded.phases.at("forward").seconds, plan.phases.at("forward").seconds);
}

TEST(Predict, LinksAndFilesTakeTime) {
  const ModelShapes model = config_of("opt-175b");
  Rates rates = round_rates();
  const PlannedJob job = job_of(model, 8, 128);
  const Layout layout = layout_of(2, 1, 2);
  const double before = predict(job, layout, &rates).seconds;
  rates.durable_seconds = 1;
  // rest.h5, 96 blocks and 95 hidden states; the first manifest, and one after each of these.
  EXPECT_NEAR(predict(job, layout, &rates).seconds - before, 1 + 2 * (1 + 96 + 95), 1e-3 * before);
}

// 96 fc2 of 49152 = 1966 · 25 + 2 inputs; the others have 12288 = 491 · 25 + 13.
TEST(Predict, ARaggedLastGroupIsNotedOnce) {
  const ModelShapes model = config_of("opt-175b");
  PlannedJob job = job_of(model, 8, 128);
  job.options.layer = scalar_options();
  job.options.layer.processing = Processing::baseline;
  job.options.layer.group_size = 128;
  EXPECT_TRUE(predict(job, layout_of(1, 1, 2), nullptr).notes.empty());
  job.options.layer.group_size = 25;
  const std::vector<std::string> notes = predict(job, layout_of(1, 1, 2), nullptr).notes;
  ASSERT_EQ(notes.size(), 1U);
  EXPECT_NE(notes[0].find("12288 columns in groups of 25 leave a last group of 13 (and 575 more"),
            std::string::npos)
      << notes[0];
}

TEST(Predict, RatesOfOneRankSayNothingOfLinks) {
  const ModelShapes model = config_of("opt-175b");
  Rates rates = round_rates();
  rates.links.clear();
  const PlannedJob job = job_of(model, 8, 128);
  EXPECT_NO_THROW(static_cast<void>(predict(job, layout_of(1, 1, 2), &rates)));
  EXPECT_NE(message_of_failure([&] {
              static_cast<void>(predict(job, layout_of(1, 2, 2), &rates));
            }).find("measure them with mpirun"),
            std::string::npos);
}

// One rank: 16 samples of 512 tokens, hidden 12288, and fc2's 49152 inputs spread over itself.
TEST(Memory, OfOneRank) {
  const ModelShapes model = config_of("opt-175b");
  const Memory memory = memory_of(job_of(model, 16, 512), layout_of(1, 1, 1), 1, 1000)[0];
  std::map<std::string, index_t> items(memory.rank.items.begin(), memory.rank.items.end());
  const index_t tokens = 16 * 512;
  EXPECT_EQ(items.at("hidden states"), 4 * tokens * 12288);
  EXPECT_EQ(items.at("captured inputs"), 4 * tokens * 49152);
  EXPECT_EQ(items.at("Hessians"), 3 * 8 * index_t{12288} * 12288);
  EXPECT_GE(items.at("wide layer"), 8 * index_t{49152} * 49152);
  EXPECT_EQ(items.at("program and libraries"), 1000);
  EXPECT_EQ(items.at("weights of a block"), 4 * index_t{1'812'099'072});
  EXPECT_EQ(memory.shared, 0);
  EXPECT_EQ(memory_of(job_of(model, 16, 512), layout_of(1, 2, 2), 1, 0)[0].shared,
            4 * index_t{1'812'099'072});
}

/// Bytes that rank 0 of one rank takes of the host and, with a device, of that.
std::pair<index_t, index_t> taken(const PlannedJob& job) {
  Layout layout = layout_of(1, 1, 1);
  layout.gpus_per_node = 1;
  const Memory memory = memory_of(job, layout, 1, 0)[0];
  return {memory.rank.total(), memory.device.fullest.total()};
}

// A plan that looked at block 0 would have nothing to quantize, or none of the second factors.
TEST(Memory, IsThatOfTheFullestBlock) {
  const ModelShapes model = config_of("llama-3.1-405b");
  PlannedJob job = job_of(model, 16, 512);
  const auto all = taken(job);
  job.options.skip = "layers\\.0\\.";
  EXPECT_EQ(taken(job), all);
  job.options.wide.inputs = 100'000;  // every layer is factorised by a rank
  job.options.skip.clear();
  job.options.layer.method = Method::optq;
  const auto all_optq = taken(job);
  job.options.layer.method = Method::ldlq;
  EXPECT_LT(taken(job), all_optq);
  job.options.overrides.add("layers\\.77\\.:method=optq");
  EXPECT_EQ(taken(job), all_optq);
}

// 126 blocks: those with rules of their own, and the others once.
TEST(Memory, BlocksAlikeArePlannedOnce) {
  const ModelShapes model = config_of("llama-3.1-405b");
  QuantizeOptions options;
  options.layer = kronecker_options();
  options.skip = "layers\\.0\\.mlp";
  options.overrides.add("layers\\.(3|7)\\.mlp:bits=4");
  std::vector<index_t> first;
  for (const BlockKind& kind : kinds_of_blocks(*model.family, options)) {
    first.push_back(kind.blocks[0]);
  }
  EXPECT_EQ(first, (std::vector<index_t>{0, 1, 3}));
}

// Eight ranks hold the Hessians of 16384 inputs three times each (48 GiB) and share 12 GiB of
// weights; what tokens and wide layers take shrinks with nodes.
TEST(Memory, WhatDoesNotFitComesWithAWayOut) {
  const ModelShapes model = first_blocks_of("llama-3.1-405b", 12);
  Layout layout = layout_of(2, 8, 8);
  layout.node_memory = static_cast<index_t>(96 * gib);
  const Prediction small = predict(job_of(model, 128, 2048), layout, nullptr);
  ASSERT_FALSE(small.fits());
  EXPECT_NE(small.problems[0].find("a node needs"), std::string::npos);
  EXPECT_NE(small.problems[0].find("use 16 nodes, or fewer samples"), std::string::npos)
      << small.problems[0];
  layout.nodes = 16;
  EXPECT_TRUE(predict(job_of(model, 128, 2048), layout, nullptr).fits());
  layout.gpus_per_node = 8;
  layout.gpu_memory = static_cast<index_t>(4 * gib);
  const Prediction device = predict(job_of(model, 128, 2048), layout, nullptr);
  ASSERT_FALSE(device.fits());
  EXPECT_NE(device.problems[0].find("of its GPU for the weights of a block"), std::string::npos);
  layout.gpu_memory = static_cast<index_t>(27 * gib);
  const Prediction tight = predict(job_of(model, 128, 2048), layout, nullptr);
  EXPECT_TRUE(tight.fits());
  ASSERT_EQ(tight.notes.size(), 1U);
  EXPECT_NE(tight.notes[0].find("stay in host memory"), std::string::npos) << tight.notes[0];
  layout.gpu_memory = static_cast<index_t>(141 * gib);
  EXPECT_TRUE(predict(job_of(model, 128, 2048), layout, nullptr).notes.empty());
}

TEST(Layouts, ShareOutCoresOrDevices) {
  std::vector<int> ranks;
  for (const Layout& layout : candidates(layout_of(3, 1, 12))) {
    ranks.push_back(layout.ranks_per_node);
    EXPECT_EQ(layout.ranks_per_node * layout.threads, 12);
    EXPECT_EQ(layout.nodes, 3);
  }
  EXPECT_EQ(ranks, (std::vector<int>{1, 2, 3, 4, 6, 12}));
  Layout with_devices = layout_of(1, 1, 96);
  with_devices.gpus_per_node = 8;
  ASSERT_EQ(candidates(with_devices).size(), 1U);
  EXPECT_EQ(candidates(with_devices)[0].ranks_per_node, 8);
  EXPECT_EQ(candidates(with_devices)[0].threads, 12);
}

TEST(Layouts, TheFastestThatFitsIsBest) {
  std::vector<Prediction> predictions(3);
  predictions[0].seconds = 1;
  predictions[0].problems = {"too large"};
  predictions[1].seconds = 3;
  predictions[2].seconds = 2;
  for (Prediction& prediction : predictions) prediction.timed = true;
  EXPECT_EQ(best_of(predictions), 2U);
  predictions[1].problems = predictions[2].problems = {"too large"};
  EXPECT_EQ(best_of(predictions), std::nullopt);
}

class RatesFile : public testing::Test {
 protected:
  void SetUp() override { document_ = to_json(round_rates()); }
  [[nodiscard]] Rates read() const {
    std::ofstream(file_) << document_;
    return read_rates(file_);
  }
  fs::path file_ = fs::path(testing::TempDir()) / "rates.json";
  nlohmann::json document_;
};

TEST_F(RatesFile, ComesBackAsItWas) {
  const Rates rates = read();
  EXPECT_EQ(to_json(rates), document_);
  EXPECT_EQ(rates.host.at("round"), 1e9);
}

TEST_F(RatesFile, NamesWhatIsMissing) {
  document_["host"]["factor"].erase("flops");
  EXPECT_NE(message_of_failure([&] {
              static_cast<void>(read());
            }).find("rates.json: has no field host.factor.flops"),
            std::string::npos);
}

TEST_F(RatesFile, NamesWhatIsNoRate) {
  document_["links"]["gather"]["bandwidth"] = 0;
  EXPECT_NE(message_of_failure([&] {
              static_cast<void>(read());
            }).find("links.gather.bandwidth is 0; it must be a positive number"),
            std::string::npos);
  document_["links"] = "fast";
  EXPECT_NE(message_of_failure([&] { static_cast<void>(read()); }).find("links is not an object"),
            std::string::npos);
}

TEST_F(RatesFile, DevicesTakeOverPhases) {
  document_["device"]["forward"] = {{"flops", 1e12}};
  const Rates rates = read();
  const ModelShapes model = config_of("opt-175b");
  Layout layout = layout_of(1, 2, 2);
  const PlannedJob job = job_of(model, 8, 128);
  const double on_host = predict(job, layout, &rates).phases.at("forward").seconds;
  layout.gpus_per_node = 2;
  EXPECT_NEAR(on_host / predict(job, layout, &rates).phases.at("forward").seconds, 1000, 1e-6);
}

TEST(BatchFile, HasTheLayoutAndTheArguments) {
  Prediction prediction;
  prediction.layout = layout_of(4, 2, 32);
  prediction.seconds = 7200;
  prediction.block_seconds = 100;
  prediction.node_bytes = index_t{8} << 30;
  const std::string text =
      batch_file(prediction, {{"--model", "it's here", "--bits", "2"}, "/opt/quip"});
  for (const char* line :
       {"#SBATCH --nodes=4\n", "#SBATCH --ntasks-per-node=2\n", "#SBATCH --cpus-per-task=16\n",
        "#SBATCH --mem=10241M\n", "#SBATCH --signal=B:USR1@200\n",
        // 1.5 · 2 h, and the warning: 3 h 3 min 20 s
        "#SBATCH --time=03:04:00\n", "QUIP_HOME=${QUIP_HOME:-'/opt/quip'}\n",
        "--resume '--model' 'it'\\''s here' '--bits' '2'\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
  }
}

}  // namespace
}  // namespace quip::plan::plan_test
