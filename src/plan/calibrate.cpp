#include "quip/plan/calibrate.hpp"

#include <algorithm>
#include <chrono>
#include <vector>

#include "measure_machine.hpp"

#include "quip/backend/device_work.hpp"
#include "quip/core/rng.hpp"
#include "quip/pipeline/block_quantizer.hpp"
#include "quip/pipeline/device_memory.hpp"
#include "quip/pipeline/loader.hpp"

namespace quip::plan {
namespace {

constexpr int repeats = 3;
constexpr index_t most_samples = 32;  // a rank: enough to drive caches as a run does

/// The work of a rank in a phase of one block, and its time without communication.
struct Work {
  double flops = 0;
  double seconds = 0;
};
using Block = std::map<std::string, Work>;

/// Makes samples of random tokens for each rank.
SampleShard shard_of(int rank, index_t samples, index_t length, index_t vocabulary) {
  const RandomStream random(derive_key(static_cast<std::uint64_t>(rank), "tokens", "calibration"));
  SampleShard shard;
  shard.samples = {rank * samples, (rank + 1) * samples};
  shard.length = length;
  for (index_t i = 0; i < samples * length; ++i) {
    const double draw = random.uniform(static_cast<std::uint64_t>(i));
    shard.ids.push_back(static_cast<std::int32_t>(draw * static_cast<double>(vocabulary)));
  }
  for (index_t i = 0; i <= samples; ++i) shard.offsets.push_back(i * length);
  return shard;
}

/// Returns in each phase the work of the rank that computes for the longest: the others wait.
Block busiest(Collectives& comm, const std::vector<Phase>& phases) {
  Block block;
  for (const std::string& name : computing_phases) {
    const auto found = std::find_if(phases.begin(), phases.end(),
                                    [&](const Phase& phase) { return phase.name == name; });
    const index_t self = comm.rank();
    const index_t ranks = comm.size();
    std::vector<double> work(at(2 * ranks), 0.0);  // seconds of all ranks, then flops
    if (found != phases.end()) {
      work[at(self)] = found->seconds - found->usage.communication_seconds;
      work[at(ranks + self)] = found->usage.flops;
    }
    comm.all_reduce_sum(work);  // one rank's values and zeros
    const auto longest = std::max_element(work.begin(), work.begin() + ranks);
    block[name] = {*(longest + ranks), *longest};
  }
  return block;
}

/// One block as a run on these ranks takes it.
class BlockTrial {
 public:
  BlockTrial(Collectives& comm, Backend& backend, const PlannedJob& job, index_t block)
      : comm_(comm), backend_(backend), job_(job), block_(block) {
    agree(comm, [&] { job.model.family->prepare(backend, job.length); });
    load_into(ends_, comm, backend, *job.model.source, job.model.family->end_tensors());
  }

  /// Quantizes the block with this many samples a rank.
  [[nodiscard]] Block run(index_t samples) {
    const Family& family = *job_.model.family;
    Phases phases;
    BlockQuantizer quantizer(comm_, backend_, family, job_.options, phases);
    WeightSet weights =
        BlockLoader(comm_, backend_, *job_.model.source, nullptr, family, block_).load();
    const SampleShard shard =
        shard_of(comm_.rank(), samples, job_.length, family.config().vocabulary);
    const Tensor states = embed_shard(comm_, backend_, family, *job_.model.source, ends_, shard);
    static_cast<void>(quantizer.quantize(block_, weights, shard, states.cview()));
    {
      const auto scope = phases.measure("forward");
      forward_shard(comm_, backend_, family, block_, weights, shard, states.view());
    }
    return busiest(comm_, phases.all());
  }

 private:
  Collectives& comm_;
  Backend& backend_;
  const PlannedJob& job_;
  index_t block_;
  WeightSet ends_;
};

/// Returns the median, phase by phase, of as many trials as begin within `patience` seconds; one
/// does in any case.
Block typical(Collectives& comm, BlockTrial& trial, index_t samples, double patience) {
  std::vector<Block> blocks;
  do {
    const auto start = std::chrono::steady_clock::now();
    blocks.push_back(trial.run(samples));
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    patience -= largest(comm, spent.count());
  } while (patience > 0 && std::ssize(blocks) < repeats);
  Block median;
  for (const std::string& name : computing_phases) {
    std::sort(blocks.begin(), blocks.end(), [&](const Block& a, const Block& b) {
      return a.at(name).seconds < b.at(name).seconds;
    });
    median[name] = blocks[blocks.size() / 2].at(name);
  }
  return median;
}

/// Returns the kind of block whose rounding is the most work.
const BlockKind& heaviest(const std::vector<BlockKind>& kinds) {
  const auto work = [](const BlockKind& kind) {
    double flops = 0;
    for (const auto& [linear, options] : kind.linears) {
      flops += static_cast<double>(linear.rows) * static_cast<double>(linear.cols * linear.cols);
    }
    return flops;
  };
  return *std::max_element(kinds.begin(), kinds.end(),
                           [&](const auto& a, const auto& b) { return work(a) < work(b); });
}

}  // namespace

Rates calibrate(Collectives& comm, Backend& backend, const PlannedJob& job, const Layout& layout,
                const std::filesystem::path& scratch, double patience) {
  const Family& family = *job.model.family;
  std::vector<BlockKind> kinds;
  agree(comm, [&] {
    static_cast<void>(Walk(job, layout));  // throws for what cannot be planned
    kinds = kinds_of_blocks(family, job.options);
  });
  const BlockKind& kind = heaviest(kinds);
  Rates rates;
  rates.machine = backend.describe();
  rates.ranks = comm.size();
  rates.ranks_per_node = layout.ranks_per_node;
  rates.baseline_bytes = measure_baseline(comm, job, layout.threads, scratch);

  // Rounds of samples side by side that are full, and no more of them than a run has.
  const bool on_device = layout.gpus_per_node > 0;
  const index_t lanes = on_device ? device_lanes(layout.threads) : layout.threads;
  const index_t of_rank = std::max<index_t>(1, job.samples / comm.size());
  const index_t samples =
      lanes * std::clamp<index_t>(most_samples / lanes, 1, (of_rank + lanes - 1) / lanes);
  plan_device_memory(comm, backend,
                     {.family = family,
                      .samples = samples,
                      .length = job.length,
                      .rank = comm.rank(),
                      .ranks = comm.size(),
                      .threads = layout.threads,
                      .kinds = {kind},
                      .wide = job.options.wide,
                      .sequential = job.options.sequential(),
                      .streams = job.options.stream.on});
  BlockTrial trial(comm, backend, job, kind.blocks[0]);
  for (const auto& [phase, work] : typical(comm, trial, samples, patience)) {
    // Positive where there is nothing to do, as dequantizing without a transform: the rate is not
    // used then.
    const double flops = std::max(work.flops, 1.0) / std::max(work.seconds, 1e-9);
    auto& measured = on_device ? rates.device : rates.host;
    measured[phase] = flops / (on_device ? layout.gpus_of_rank() : layout.cores_of_rank());
  }
  const index_t widest = widest_tap(family.block(kind.blocks[0]));
  measure_links(comm, job.options.wide.covers(widest) ? family.config().hidden : widest, rates,
                patience);
  measure_files(comm, job, scratch, rates, patience);
  return rates;
}

}  // namespace quip::plan
