// A calibration does the work of one block of the run that it is for.
#include <array>
#include <filesystem>
#include <fstream>
#include <unistd.h>

#include <gtest/gtest.h>

#include "quip/comm/mpi_collectives.hpp"
#include "quip/core/error.hpp"
#include "quip/plan/calibrate.hpp"
#include "quip/plan/prediction.hpp"

namespace quip::plan::calibrate_mpi_test {
namespace {

namespace fs = std::filesystem;

constexpr index_t samples_of_rank = 4;

/// The shapes of llama-micro, from a file of this rank's own.
ModelShapes micro(int rank) {
  const fs::path file =
      fs::path(testing::TempDir()) / fmt::format("micro_{}_{}.json", ::getpid(), rank);
  std::ofstream(file) << R"({"model_type": "llama", "hidden_size": 256, "intermediate_size": 688,
      "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4,
      "vocab_size": 4096, "max_position_embeddings": 256})";
  ModelShapes model = open_shapes(file);
  fs::remove(file);
  return model;
}

class CalibrateMpi : public testing::Test {
 protected:
  CalibrateMpi() {
    layout_.ranks_per_node = layout_.cores_per_node = comm_.size();
    job_.options.layer.rho = 1.6;    // a search takes as many rounds as it takes
    job_.options.stream.on = false;  // the first block's streams are alike, and its work is less
  }

  /// Σ over ranks of what a calibration without patience does.
  [[nodiscard]] Usage calibrate_once() {
    const Usage before = UsageMeter::current().total();
    const fs::path scratch =
        fs::path(testing::TempDir()) / fmt::format("calibrate_{}", comm_.size());
    fs::create_directories(scratch);
    rates_ = calibrate(comm_, *backend_, job_, layout_, scratch, 0);
    const Usage own = UsageMeter::current().total() - before;
    std::array<double, 2> sums{own.flops, static_cast<double>(own.bytes_sent)};
    comm_.all_reduce_sum(sums);
    Usage all;
    all.flops = sums[0];
    all.bytes_sent = static_cast<index_t>(sums[1]);
    return all;
  }

  MpiCollectives comm_;
  std::unique_ptr<Backend> backend_ = make_backend("cpu", 1);
  ModelShapes model_ = micro(comm_.rank());
  PlannedJob job_{model_, {}, samples_of_rank* comm_.size(), 64};
  Layout layout_;
  Rates rates_;
};

TEST_F(CalibrateMpi, DoesTheWorkOfOneBlock) {
  const Usage done = calibrate_once();
  Usage block;
  for (const auto& [name, phase] : predict(job_, layout_, nullptr).phases) {
    const double blocks = name == "forward" ? 5 : 6;  // the last block's output is not needed
    block.flops += phase.usage.flops / blocks;
    block.bytes_sent += static_cast<index_t>(static_cast<double>(phase.usage.bytes_sent) / blocks);
  }
  EXPECT_NEAR(done.flops / block.flops, 1, 1e-9);
  // The exchanges of a block, and once more its largest sum, as a broadcast and as a gather too.
  EXPECT_LE(done.bytes_sent, 5 * block.bytes_sent / 2);
  for (const std::string& phase : computing_phases) EXPECT_GT(rates_.host.at(phase), 0);
  EXPECT_EQ(rates_.links.size(), comm_.size() > 1 ? all_exchanges.size() : 0);
}

// Nothing is quantized in block 0: it would say nothing of factors and rounding.
TEST_F(CalibrateMpi, TakesABlockThatIsQuantized) {
  job_.options.skip = "layers\\.0\\.";
  static_cast<void>(calibrate_once());
  EXPECT_GT(rates_.host.at("round"), 0);
}

TEST_F(CalibrateMpi, RefusesAJobThatCannotBePlannedBeforeItMeasures) {
  job_.options.skip = "proj";
  const double before = UsageMeter::current().total().flops;
  EXPECT_THROW(static_cast<void>(calibrate_once()), Error);
  EXPECT_EQ(UsageMeter::current().total().flops, before);
}

}  // namespace
}  // namespace quip::plan::calibrate_mpi_test
