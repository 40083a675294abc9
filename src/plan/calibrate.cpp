#include "quip/plan/calibrate.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>
#include <vector>

#include "measure_machine.hpp"

#include "quip/core/rng.hpp"
#include "quip/pipeline/block_quantizer.hpp"

namespace quip::plan {
namespace {

constexpr int repeats = 3;
/// What Backend and Quantizer do; the rest is done by the processor.
const std::set<std::string> device_phases{"capture", "hessian",    "factor",
                                          "round",   "dequantize", "forward"};
constexpr index_t most_samples = 32;  // of a rank: enough to drive caches as a run does

/// Seconds and flops of the phases of one block.
using Block = std::map<std::string, Phase>;

Tensor random_tensor(Backend& backend, index_t rows, index_t cols, float scale,
                     const std::string& name) {
  const RandomStream random(derive_key(0, name, "calibration"));
  std::vector<float> host(static_cast<std::size_t>(rows * cols));
  for (std::size_t i = 0; i < host.size(); ++i) {
    host[i] = scale * static_cast<float>(random.normal(i));
  }
  Tensor tensor = backend.allocate(rows, cols);
  backend.upload(host, tensor.view());
  return tensor;
}

/// Weights of a block: gains around one, everything else small.
WeightSet random_weights(Backend& backend, const Family& family) {
  constexpr float scale = 0.02F;
  WeightSet weights;
  for (const TensorSpec& tensor : family.block_tensors(0)) {
    weights.insert(tensor.name, random_tensor(backend, 1, tensor.shape[0], scale, tensor.name));
  }
  for (const LinearSpec& linear : family.linears(0)) {
    const std::string name = linear.name + ".weight";
    weights.insert(name, random_tensor(backend, linear.rows, linear.cols, scale, name));
  }
  return weights;
}

SampleShard shard_of(index_t samples, index_t length) {
  SampleShard shard;
  shard.samples = {0, samples};
  shard.length = length;
  shard.ids.resize(static_cast<std::size_t>(samples * length));
  for (index_t i = 0; i <= samples; ++i) shard.offsets.push_back(i * length);
  return shard;
}

/// One rank's block on `samples` samples, alone.
class BlockTrial {
 public:
  BlockTrial(Backend& backend, const PlannedJob& job)
      : backend_(backend), job_(job), options_(job.options) {
    options_.wide = {};
    job.model.family->prepare(backend, job.length);
  }

  [[nodiscard]] Block run(index_t samples) {
    SelfCollectives self;
    Phases phases;
    const Family& family = *job_.model.family;
    BlockQuantizer quantizer(self, backend_, family, options_, phases);
    WeightSet weights = random_weights(backend_, family);
    const SampleShard shard = shard_of(samples, job_.length);
    const Tensor states =
        random_tensor(backend_, shard.tokens(), family.config().hidden, 1.0F, "hidden states");
    static_cast<void>(quantizer.quantize(0, weights, shard, states.cview()));
    {
      const auto scope = phases.measure("forward");
      forward_shard(self, backend_, family, 0, weights, shard, states.view());
    }
    Block block;
    for (const Phase& phase : phases.all()) block[phase.name] = phase;
    return block;
  }

 private:
  Backend& backend_;
  const PlannedJob& job_;
  QuantizeOptions options_;
};

double largest(Collectives& comm, double value) {
  auto single = static_cast<float>(value);
  comm.all_reduce_max(std::span(&single, 1));
  return single;
}

/// One trial on all ranks at once: each phase takes as long as on the slowest rank. A rank that has
/// to wait for a core before it begins would seem fast: what all take together stretches its time.
Block together(Collectives& comm, BlockTrial& trial, index_t samples) {
  Block block;
  comm.barrier();
  const auto start = std::chrono::steady_clock::now();
  agree(comm, [&] { block = trial.run(samples); });
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  double own = 0;
  for (const auto& item : block) own += item.second.seconds;
  const double stretch = largest(comm, spent.count()) / own;
  for (auto& item : block) item.second.seconds = largest(comm, item.second.seconds * stretch);
  return block;
}

/// The median of some trials, phase by phase.
Block typical(Collectives& comm, BlockTrial& trial, index_t samples) {
  std::vector<Block> blocks;
  blocks.reserve(static_cast<std::size_t>(repeats));
  for (int repeat = 0; repeat < repeats; ++repeat) {
    blocks.push_back(together(comm, trial, samples));
  }
  Block median = blocks.front();
  for (const std::string& name : computing_phases) {
    std::vector<double> seconds;
    seconds.reserve(blocks.size());
    for (Block& block : blocks) seconds.push_back(block[name].seconds);
    std::sort(seconds.begin(), seconds.end());
    median[name].seconds = seconds[seconds.size() / 2];
  }
  return median;
}

/// The line through two points, if it rises; else the proportion of the larger.
Speed fit(const Phase& few, const Phase& many) {
  const double flops = many.usage.flops - few.usage.flops;
  const double seconds = many.seconds - few.seconds;
  constexpr double least = 1e-9;
  if (flops <= 0.25 * many.usage.flops || seconds <= least) {
    const Phase& quick =
        few.usage.flops < many.usage.flops || many.seconds < few.seconds ? many : few;
    return {quick.usage.flops / std::max(quick.seconds, least), 0};
  }
  const double rate = flops / seconds;
  const double fixed = few.seconds - few.usage.flops / rate;
  if (fixed > 0) return {rate, fixed};
  return {many.usage.flops / many.seconds, 0};
}

}  // namespace

Rates calibrate(Collectives& comm, Backend& backend, const PlannedJob& job, const Layout& layout,
                const std::filesystem::path& scratch) {
  Rates rates;
  rates.machine = backend.describe();
  rates.ranks = comm.size();
  rates.ranks_per_node = layout.ranks_per_node;
  rates.baseline_bytes = measure_baseline(comm, job, layout.threads, scratch);
  BlockTrial trial(backend, job);
  const index_t of_rank = std::max<index_t>(1, job.samples / comm.size());
  const index_t many = std::max<index_t>(2 * layout.threads, std::min(of_rank, most_samples));
  const index_t few = std::max<index_t>(layout.threads, many / 4);
  const Block small = typical(comm, trial, few);
  const Block large = typical(comm, trial, many);
  const double crowding = layout.threads / layout.cores_of_rank();
  for (const std::string& phase : computing_phases) {
    const Speed speed = fit(small.at(phase), large.at(phase));
    if (layout.gpus_per_node > 0 && device_phases.contains(phase)) {
      rates.device[phase] = {speed.flops / layout.gpus_of_rank(), speed.seconds};
    } else {
      rates.host[phase] = {speed.flops / layout.cores_of_rank(), speed.seconds / crowding};
    }
  }
  measure_links(comm, rates);
  measure_files(comm, job, scratch, rates);
  return rates;
}

}  // namespace quip::plan
