// A prediction for people, for programs, and for Slurm.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "quip/plan/prediction.hpp"

namespace quip::plan {

/// The model and the job in a few lines.
[[nodiscard]] std::string describe_job(const PlannedJob& job);

/// One line a layout, the best marked.
[[nodiscard]] std::string compare_layouts(const std::vector<Prediction>& predictions,
                                          std::optional<std::size_t> best);

/// Phases, memory, and what does not fit.
[[nodiscard]] std::string describe(const Prediction& prediction);

/// All of it; bytes and seconds. Names are those of report.json where they mean the same.
[[nodiscard]] nlohmann::json to_json(const PlannedJob& job, const Prediction& prediction);

/// The options of `quip quantize` that a batch file passes on.
struct Submission {
  std::vector<std::string> arguments;  ///< of quip quantize, unquoted
  std::string home;                    ///< where slurm/job.sh lies below
};

/// A batch file for Slurm: the layout, a time limit with room, and the same way of running,
/// stopping in time and starting again as jobs/quantize.sbatch.
[[nodiscard]] std::string batch_file(const Prediction& prediction, const Submission& submission);

}  // namespace quip::plan
