#include "quip/plan/prediction.hpp"

#include <algorithm>
#include <cmath>
#include <span>

#include "quip/core/error.hpp"

namespace quip::plan {
namespace {

constexpr index_t assumed_baseline = index_t{64} << 20;

/// Seconds of a rank's part of each phase, and of what all ranks do together.
class Clock {
 public:
  Clock(const PlannedJob& job, const Layout& layout, const Rates& rates)
      : job_(job), layout_(layout), rates_(rates) {
    if (layout.ranks() > 1 && (rates.links.empty() || rates.ranks < 2)) {
      fail(
          "the rates were measured on one rank and say nothing of communication; measure them "
          "with mpirun -n 2 quip plan --calibrate, or more");
    }
  }

  /// Returns the seconds without communication.
  [[nodiscard]] double alone(const std::string& phase, const PhaseCost& cost, int rank) const {
    double seconds = static_cast<double>(cost.written_together) / shared(rates_.write_bandwidth) +
                     static_cast<double>(cost.usage.bytes_read) / shared(rates_.read_bandwidth);
    if (cost.usage.flops == 0) return seconds;
    const bool on_device = layout_.gpus_per_node > 0 && rates_.device.contains(phase);
    const double units = on_device ? layout_.gpus_of_rank() : layout_.cores_of_rank();
    return seconds + cost.usage.flops * unevenness(phase, rank, on_device) /
                         (speed_of(phase, on_device) * units);
  }

  [[nodiscard]] double communication(const PhaseCost& cost) const {
    double seconds = 0;
    if (layout_.ranks() == 1) return seconds;
    for (const Exchange kind : all_exchanges) {
      const Link& link = rates_.links.at(to_string(kind));
      const Exchanges& all = cost.of(kind);
      seconds += static_cast<double>(all.calls) * link.latency * deeper();
      seconds += transferred_bytes(kind, all.payload, layout_.ranks()) / shared(link.bandwidth);
    }
    return seconds;
  }

  /// Returns the seconds in which one rank makes files durable while the others wait.
  [[nodiscard]] double waiting_for_files(const PhaseCost& cost) const {
    return static_cast<double>(cost.durable) * rates_.durable_seconds +
           static_cast<double>(cost.written_alone) / rates_.write_bandwidth;
  }

 private:
  [[nodiscard]] double speed_of(const std::string& phase, bool on_device) const {
    const auto& speeds = on_device ? rates_.device : rates_.host;
    const auto found = speeds.find(phase);
    if (found == speeds.end()) {
      fail("the rates have no host.{}: they were measured on a device; give --gpus-per-node",
           phase);
    }
    return found->second;
  }
  /// Returns a rank's part, on this layout, of a bandwidth that the ranks of a node share.
  [[nodiscard]] double shared(double bandwidth) const {
    return bandwidth * rates_.ranks_per_node / layout_.ranks_per_node;
  }
  /// Returns the depth of a tree over these ranks, relative to the measured ones.
  [[nodiscard]] double deeper() const {
    return std::log2(static_cast<double>(layout_.ranks())) /
           std::log2(static_cast<double>(rates_.ranks));
  }
  /// Returns the factor by which threads wait for the last: samples are not shared out further.
  [[nodiscard]] double unevenness(const std::string& phase, int rank, bool on_device) const {
    if (on_device || (phase != "capture" && phase != "forward")) return 1;
    const index_t samples = share_of(job_.samples, rank, layout_.ranks()).count();
    if (samples == 0) return 1;
    const index_t rounds = (samples + layout_.threads - 1) / layout_.threads;
    return static_cast<double>(rounds * layout_.threads) / static_cast<double>(samples);
  }

  const PlannedJob& job_;
  const Layout& layout_;
  const Rates& rates_;
};

void add_phases(const Ledger& ledger, const Clock* clock, Prediction& prediction) {
  RankPrediction& rank = prediction.ranks.emplace_back();
  for (const auto& [name, cost] : ledger.phases()) {
    PhasePrediction& phase = prediction.phases[name];
    rank.phases[name] = cost.usage;
    phase.usage += cost.usage;
    phase.bound += cost.bound;
    if (clock == nullptr) continue;
    const double talking = clock->communication(cost);
    const double seconds =
        clock->alone(name, cost, ledger.rank()) + talking + clock->waiting_for_files(cost);
    phase.communication_seconds = std::max(phase.communication_seconds, talking);
    phase.seconds = std::max(phase.seconds, seconds);
  }
}

double gib(index_t bytes) { return static_cast<double>(bytes) / (index_t{1} << 30); }

/// Returns the host memory of a node whose ranks these are.
index_t node_bytes_of(std::span<const Memory> ranks) {
  index_t bytes = ranks[0].shared;
  for (const Memory& memory : ranks) bytes += memory.rank.total() - memory.shared;
  return bytes;
}

/// Returns that of a layout's fullest node, without walking through the job: the first has the
/// largest shares.
index_t node_bytes_of(const PlannedJob& job, const Layout& layout, index_t baseline) {
  return node_bytes_of(memory_of(job, layout, layout.ranks_per_node, baseline));
}

/// Returns the change of one number that makes the job fit, if there is one.
std::string remedy(const PlannedJob& job, Layout layout, index_t baseline) {
  constexpr int most_nodes = 4096;
  const int given = layout.nodes;
  for (; layout.nodes <= most_nodes; layout.nodes *= 2) {
    if (layout.ranks() > job.samples) break;  // more ranks would have no samples to share
    if (node_bytes_of(job, layout, baseline) <= layout.node_memory) {
      return fmt::format("use {} nodes, or fewer samples", layout.nodes);
    }
  }
  layout.nodes = given;
  for (int ranks = layout.ranks_per_node - 1; ranks >= 1; --ranks) {
    layout.ranks_per_node = ranks;
    if (node_bytes_of(job, layout, baseline) <= layout.node_memory) {
      return fmt::format("use {} rank{} per node", ranks, ranks == 1 ? "" : "s");
    }
  }
  return "take nodes with more memory, fewer samples, or let ranks share the widest layers "
         "(--wide)";
}

void check_memory(const PlannedJob& job, index_t baseline, Prediction& prediction) {
  const Layout& layout = prediction.layout;
  if (layout.node_memory > 0 && prediction.node_bytes > layout.node_memory) {
    prediction.problems.push_back(fmt::format("a node needs {:.1f} GiB and has {:.1f}: {}",
                                              gib(prediction.node_bytes), gib(layout.node_memory),
                                              remedy(job, layout, baseline)));
  }
  if (layout.gpus_per_node == 0 || layout.gpu_memory == 0) return;
  const index_t share = layout.gpu_memory_of_rank();
  const DeviceNeeds& needs = prediction.ranks[0].memory.device;
  if (needs.fixed > share) {
    prediction.problems.push_back(fmt::format(
        "a rank needs {:.1f} GiB of its GPU for the weights of a block and the work on them, and "
        "has {:.1f}: {}",
        gib(needs.fixed), gib(share),
        share < layout.gpu_memory ? "use fewer ranks per node" : "use GPUs with more memory"));
  } else if (needs.overflow(share) > 0) {
    prediction.notes.push_back(fmt::format(
        "{:.1f} GiB of a rank's activations do not fit on its GPU of {:.1f} and stay in host "
        "memory, which is slower: more nodes or fewer samples keep them there",
        gib(needs.overflow(share)), gib(share)));
  }
}

}  // namespace

Prediction predict(const PlannedJob& job, const Layout& layout, const Rates* rates) {
  Prediction prediction;
  prediction.layout = layout;
  Walk walk(job, layout);
  prediction.notes.insert(prediction.notes.end(), walk.notes().begin(), walk.notes().end());
  std::optional<Clock> clock;
  if (rates != nullptr) clock.emplace(job, layout, *rates);
  const index_t baseline = rates != nullptr ? rates->baseline_bytes : assumed_baseline;
  std::vector<Memory> memory = memory_of(job, layout, layout.ranks(), baseline);
  for (int node = 0; node < layout.nodes; ++node) {
    const auto ranks = std::span<const Memory>(memory).subspan(at(node * layout.ranks_per_node),
                                                               at(layout.ranks_per_node));
    prediction.node_bytes = std::max(prediction.node_bytes, node_bytes_of(ranks));
  }
  for (int rank = 0; rank < layout.ranks(); ++rank) {
    add_phases(*walk.of_rank(rank), clock ? &*clock : nullptr, prediction);
    prediction.ranks.back().memory = std::move(memory[at(rank)]);
  }
  prediction.timed = clock.has_value();
  for (const auto& item : prediction.phases) prediction.seconds += item.second.seconds;
  prediction.block_seconds =
      prediction.seconds / static_cast<double>(job.model.family->config().blocks);
  check_memory(job, baseline, prediction);
  return prediction;
}

std::vector<Layout> candidates(const Layout& machine) {
  std::vector<Layout> layouts;
  const int units = machine.gpus_per_node > 0 ? machine.gpus_per_node : machine.cores_per_node;
  for (int ranks = 1; ranks <= units; ++ranks) {
    if (units % ranks != 0) continue;
    if (machine.gpus_per_node > 0 && ranks < units) continue;  // a device would lie idle
    Layout layout = machine;
    layout.ranks_per_node = ranks;
    layout.threads = std::max(1, machine.cores_per_node / ranks);
    layouts.push_back(layout);
  }
  return layouts;
}

std::optional<std::size_t> best_of(const std::vector<Prediction>& predictions) {
  std::optional<std::size_t> best;
  const auto cost = [](const Prediction& prediction) {
    if (prediction.timed) return prediction.seconds;
    double sent = 0;
    for (const auto& item : prediction.phases) {
      sent += static_cast<double>(item.second.usage.bytes_sent);
    }
    return sent;
  };
  for (std::size_t i = 0; i < predictions.size(); ++i) {
    if (!predictions[i].fits()) continue;
    if (!best || cost(predictions[i]) < cost(predictions[*best])) best = i;
  }
  return best;
}

}  // namespace quip::plan
