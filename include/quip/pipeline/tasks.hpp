// `quip eval-tasks`: zero-shot tasks, answered by the continuation that the model finds likeliest.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/pipeline/progress.hpp"

namespace quip {

/// One item. With an answer it is multiple choice: one of several continuations is right. Without,
/// the only continuation is to be predicted token by token (last word, as in LAMBADA).
struct TaskItem {
  nlohmann::json id;  ///< as in the file; its line number if it has none
  std::vector<std::int32_t> context;
  std::vector<std::vector<std::int32_t>> continuations;
  std::vector<double> lengths;    ///< bytes of each choice's text; empty without an answer
  std::optional<index_t> answer;  ///< number of the right choice
};

/// Reads JSON lines, of two kinds that one file may mix:
///   {"id": …, "context": [ids], "choices": [[ids], …], "lengths": [bytes, …], "answer": number}
///   {"id": …, "context": [ids], "target": [ids]}
/// `count` > 0 reads no more than that many. Throws Error naming file and line.
[[nodiscard]] std::vector<TaskItem> read_tasks(const std::filesystem::path& file, index_t count);

/// The scores of one item.
struct TaskResult {
  std::vector<double> log_likelihoods;  ///< ln p(continuation | context), in nats, per continuation
  index_t chosen = 0;                   ///< largest log-likelihood; the first of equals
  index_t chosen_normalised = 0;        ///< largest log-likelihood per byte
  bool greedy = false;  ///< every token of the first continuation was the likeliest one
};

struct TaskOptions {
  std::filesystem::path model;   ///< Hugging Face directory; may be empty with `packed`
  std::filesystem::path packed;  ///< packed model; empty: the checkpoint
  std::filesystem::path tasks;
  index_t items = 0;          ///< 0: all
  bool allow_unused = false;  ///< as for `open_model`
};

/// Scores by item, the same on every rank and for any number of ranks.
struct TaskScores {
  std::vector<TaskItem> items;
  std::vector<TaskResult> results;
};

/// Scores items (collective). They are spread over the ranks; every continuation with its context
/// is one unit of work. Throws AgreedError naming an item that is too long for the model or holds
/// an id that is not in its vocabulary.
[[nodiscard]] TaskScores score_tasks(Collectives& comm, Backend& backend,
                                     const TaskOptions& options, Progress& progress);

/// A share of right answers and its standard error, √(p(1−p)/(n−1)).
struct Accuracy {
  index_t right = 0;
  index_t items = 0;
  [[nodiscard]] double value() const;
  [[nodiscard]] double standard_error() const;
};

struct TaskSummary {
  Accuracy choice;             ///< by log-likelihood
  Accuracy choice_normalised;  ///< by log-likelihood per byte
  Accuracy last_word;          ///< by greedy decoding
  double target_loss = 0;      ///< mean over the last-word items of −ln p(target), in nats
};

[[nodiscard]] TaskSummary summarise(const TaskScores& scores);

}  // namespace quip
