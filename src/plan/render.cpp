#include "quip/plan/render.hpp"

#include <algorithm>

#include "pipeline/job_report.hpp"

#include "quip/core/error.hpp"
#include "quip/pipeline/report.hpp"

namespace quip::plan {
namespace {

using nlohmann::json;

std::string duration(double seconds) {
  if (seconds < 120) return fmt::format("{:.2f} s", seconds);
  if (seconds < 7200) return fmt::format("{:.1f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

std::string bytes(auto count) { return human_bytes(static_cast<double>(count)); }

/// Returns the largest of all ranks' values.
template <typename Of>
index_t most_of(const Prediction& prediction, const Of& of) {
  index_t most = 0;
  for (const RankPrediction& rank : prediction.ranks) most = std::max(most, of(rank));
  return most;
}

index_t held_by(const RankPrediction& rank) { return rank.memory.rank.total(); }

index_t sent_by(const RankPrediction& rank) {
  index_t sent = 0;
  for (const auto& phase : rank.phases) sent += phase.second.bytes_sent;
  return sent;
}

std::string describe_phases(const Prediction& prediction) {
  std::string out =
      fmt::format("  {:<11} {:>11} {:>11} {:>10} {:>11} {:>11} {:>11} {:>8}\n", "phase", "time",
                  "of it comm.", "flops", "sent", "read", "written", "x bound");
  const auto time = [&](double seconds) {
    return prediction.timed ? duration(seconds) : std::string("-");
  };
  for (const auto& [name, phase] : prediction.phases) {
    const auto sent = static_cast<double>(phase.usage.bytes_sent);
    out += fmt::format("  {:<11} {:>11} {:>11} {:>10.2e} {:>11} {:>11} {:>11} {:>8}\n", name,
                       time(phase.seconds), time(phase.communication_seconds), phase.usage.flops,
                       bytes(sent), bytes(phase.usage.bytes_read), bytes(phase.usage.bytes_written),
                       phase.bound > 0 ? fmt::format("{:.2f}", sent / phase.bound) : "-");
  }
  return out + fmt::format("  {:<11} {:>11}\n", "all", time(prediction.seconds));
}

std::string describe_footprint(const Footprint& footprint) {
  std::string out;
  for (const auto& [name, size] : footprint.items) {
    out += fmt::format("    {:<22} {:>11}\n", name, bytes(size));
  }
  return out;
}

json footprint_json(const Footprint& footprint) {
  json items = json::object();
  for (const auto& [name, size] : footprint.items) items[name] = size;
  return {{"moment", footprint.moment}, {"bytes", footprint.total()}, {"items", items}};
}

json usage_json(const Usage& usage) {
  return {{"flops", usage.flops},
          {"bytes_sent", usage.bytes_sent},
          {"bytes_read", usage.bytes_read},
          {"bytes_written", usage.bytes_written}};
}

/// Returns Slurm's hours:minutes:seconds.
std::string time_limit(double seconds) {
  const auto minutes = static_cast<index_t>(seconds / 60) + 1;
  return fmt::format("{:02}:{:02}:00", minutes / 60, minutes % 60);
}

}  // namespace

std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

std::string describe_job(const PlannedJob& job) {
  const ModelConfig& config = job.model.family->config();
  return fmt::format(
      "  model          {} with {:.2f} billion parameters, {} blocks, hidden {}, widest {}\n"
      "  samples        {} of {} tokens\n"
      "  weights        {} bits, {}\n",
      config.architecture, static_cast<double>(parameters(*job.model.source)) / 1e9, config.blocks,
      config.hidden, config.intermediate, job.samples, job.length, job.options.layer.bits,
      to_string(job.options.layer.method));
}

std::string compare_layouts(const std::vector<Prediction>& predictions,
                            std::optional<std::size_t> best) {
  std::string out =
      fmt::format("  {:>6} {:>11} {:>8} {:>11} {:>12} {:>12} {:>12}\n", "nodes", "ranks/node",
                  "threads", "time", "node memory", "rank memory", "sent by rank");
  for (std::size_t i = 0; i < predictions.size(); ++i) {
    const Prediction& p = predictions[i];
    const char* mark = p.fits() ? (best == i ? "  <- best" : "") : "  does not fit";
    out += fmt::format("  {:>6} {:>11} {:>8} {:>11} {:>12} {:>12} {:>12}{}\n", p.layout.nodes,
                       p.layout.ranks_per_node, p.layout.threads,
                       p.timed ? duration(p.seconds) : "-", bytes(p.node_bytes),
                       bytes(most_of(p, held_by)), bytes(most_of(p, sent_by)), mark);
  }
  return out;
}

std::string describe(const Prediction& prediction) {
  const Layout& layout = prediction.layout;
  std::string out =
      fmt::format("\n{} rank{} on {} node{}, {} thread{} each\n\n", layout.ranks(),
                  layout.ranks() == 1 ? "" : "s", layout.nodes, layout.nodes == 1 ? "" : "s",
                  layout.threads, layout.threads == 1 ? "" : "s");
  out += describe_phases(prediction);
  const Memory& memory = prediction.ranks[0].memory;
  out += fmt::format("\n  memory of rank 0 in {}, of which the node's ranks share {}\n",
                     memory.rank.moment, bytes(memory.shared));
  out += describe_footprint(memory.rank);
  if (layout.gpus_per_node > 0) {
    out += fmt::format("\n  memory of its GPU in {}: {}\n", memory.device.fullest.moment,
                       bytes(memory.device.fullest.total()));
    out += describe_footprint(memory.device.fullest);
  }
  for (const std::string& note : prediction.notes) out += fmt::format("\n  note: {}\n", note);
  for (const std::string& problem : prediction.problems) {
    out += fmt::format("\n  does not fit: {}\n", problem);
  }
  return out;
}

json to_json(const PlannedJob& job, const Prediction& prediction) {
  const Layout& layout = prediction.layout;
  json out = {{"ranks", layout.ranks()},
              {"threads", layout.threads},
              {"nodes", layout.nodes},
              {"ranks_per_node", layout.ranks_per_node},
              {"gpus_per_node", layout.gpus_per_node},
              {"parameters", parameters(*job.model.source)},
              {"tokens", job.samples * job.length},
              {"node_bytes", prediction.node_bytes},
              {"notes", prediction.notes},
              {"problems", prediction.problems}};
  if (prediction.timed) out["seconds"] = prediction.seconds;
  for (const auto& [name, phase] : prediction.phases) {
    json entry = usage_json(phase.usage);
    entry["bound_bytes_sent"] = phase.bound;
    if (prediction.timed) {
      entry["seconds"] = phase.seconds;
      entry["communication_seconds"] = phase.communication_seconds;
    }
    out["phases"][name] = std::move(entry);
  }
  for (std::size_t r = 0; r < prediction.ranks.size(); ++r) {
    const RankPrediction& rank = prediction.ranks[r];
    json entry = {{"rank", r}, {"memory", footprint_json(rank.memory.rank)}};
    entry["shared_bytes"] = rank.memory.shared;
    if (layout.gpus_per_node > 0)
      entry["device_memory"] = footprint_json(rank.memory.device.fullest);
    for (const auto& [name, usage] : rank.phases) entry["phases"][name] = usage_json(usage);
    out["rank_reports"].push_back(std::move(entry));
  }
  return out;
}

std::string batch_file(const Prediction& prediction, const Submission& submission) {
  constexpr double room = 1.5;            // predictions are not promises
  constexpr double shortest_limit = 600;  // seconds
  constexpr double shortest_warning = 120;
  const Layout& layout = prediction.layout;
  const double limit = std::max(shortest_limit, room * prediction.seconds);
  const double warning = std::max(shortest_warning, 2 * prediction.block_seconds);
  std::string out = fmt::format(
      "#!/usr/bin/env bash\n#SBATCH --job-name=quip\n"
      "#SBATCH --nodes={}\n#SBATCH --ntasks-per-node={}\n#SBATCH --cpus-per-task={}\n",
      layout.nodes, layout.ranks_per_node, layout.threads);
  if (layout.gpus_per_node > 0)
    out += fmt::format("#SBATCH --gpus-per-node={}\n", layout.gpus_per_node);
  out += fmt::format("#SBATCH --mem={}M\n",
                     (prediction.node_bytes + prediction.node_bytes / 4) / (index_t{1} << 20) + 1);
  out += fmt::format("#SBATCH --time={}\n", time_limit(limit + warning));
  out += fmt::format("#SBATCH --signal=B:USR1@{}\n", static_cast<index_t>(warning));
  out += "#SBATCH --requeue\n#SBATCH --open-mode=append\n#SBATCH --output=%x-%j.log\n#\n";
  out += fmt::format("# Written by quip plan. Predicted: {}, {} a block, {} of memory a node.\n",
                     duration(prediction.seconds), duration(prediction.block_seconds),
                     bytes(prediction.node_bytes));
  out += "# QUIP_HOME is a checkout of quip; slurm/job.sh there says what else steers the job.\n";
  out += "set -euo pipefail\n";
  out += fmt::format("cd \"$SLURM_SUBMIT_DIR\"\nQUIP_HOME=${{QUIP_HOME:-{}}}\n",
                     submission.home.empty() ? "." : quoted(submission.home));
  out += "# shellcheck source=/dev/null\nsource \"$QUIP_HOME/slurm/job.sh\"\n";
  out += "run_quip quantize --progress lines --resume";
  for (const std::string& argument : submission.arguments) {
    out += fmt::format(" {}", quoted(argument));
  }
  return out + "\n";
}

}  // namespace quip::plan
