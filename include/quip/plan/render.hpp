// A prediction for people, for programs, and for Slurm.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "quip/plan/prediction.hpp"

namespace quip::plan {

/// Says in a few lines what the model and the job are.
[[nodiscard]] std::string describe_job(const PlannedJob& job);

/// Gives each layout a line and marks the best.
[[nodiscard]] std::string compare_layouts(const std::vector<Prediction>& predictions,
                                          std::optional<std::size_t> best);

/// Shows phases, memory, and what does not fit.
[[nodiscard]] std::string describe(const Prediction& prediction);

/// Returns all of it, in bytes and seconds. Names are those of report.json where they mean the
/// same.
[[nodiscard]] nlohmann::json to_json(const PlannedJob& job, const Prediction& prediction);

/// Quotes a word for a POSIX shell.
[[nodiscard]] std::string quoted(const std::string& text);

/// The options of `quip quantize` that a batch file passes on.
struct Submission {
  std::vector<std::string> arguments;  ///< unquoted
  std::string home;                    ///< where slurm/job.sh lies below
};

/// Returns a batch file for Slurm: the layout, a time limit with room, and the same way of running,
/// stopping in time and starting again as jobs/quantize.sbatch.
[[nodiscard]] std::string batch_file(const Prediction& prediction, const Submission& submission);

}  // namespace quip::plan
