#include <cmath>
#include <fstream>

#include "evaluation_command.hpp"
#include <nlohmann/json.hpp>

#include "quip/pipeline/tasks.hpp"

namespace quip::cli {
namespace {

using nlohmann::json;

json to_json(const Accuracy& plain) {
  return {{"items", plain.items},
          {"accuracy", plain.value()},
          {"standard_error", plain.standard_error()}};
}

json to_json(const TaskSummary& summary) {
  json out = json::object();
  if (summary.choice.items > 0) {
    json& choice = out["multiple_choice"] = to_json(summary.choice);
    choice["accuracy_norm"] = summary.choice_normalised.value();
    choice["standard_error_norm"] = summary.choice_normalised.standard_error();
  }
  if (summary.last_word.items > 0) {
    json& word = out["last_word"] = to_json(summary.last_word);
    word["perplexity"] = std::exp(summary.target_loss);
  }
  return out;
}

std::string percent(const Accuracy& accuracy) {
  return fmt::format("{:.2f} % (± {:.2f})", 100 * accuracy.value(),
                     100 * accuracy.standard_error());
}

void print_summary(const TaskSummary& summary) {
  if (summary.choice.items > 0) {
    fmt::print("multiple choice  {} items  accuracy {}  per byte {}\n", summary.choice.items,
               percent(summary.choice), percent(summary.choice_normalised));
  }
  if (summary.last_word.items > 0) {
    fmt::print("last word        {} items  accuracy {}  perplexity {:.4f}\n",
               summary.last_word.items, percent(summary.last_word), std::exp(summary.target_loss));
  }
}

json details_of(const TaskItem& item, const TaskResult& result) {
  json line = {{"id", item.id}};
  if (item.answer) {
    line["log_likelihoods"] = result.log_likelihoods;
    line["answer"] = *item.answer;
    line["chosen"] = result.chosen;
    line["chosen_norm"] = result.chosen_normalised;
  } else {
    line["log_likelihood"] = result.log_likelihoods.front();
    line["greedy"] = result.greedy;
  }
  return line;
}

class EvalTasksCommand final : public EvaluationCommand {
 public:
  EvalTasksCommand()
      : EvaluationCommand("eval-tasks",
                          "Zero-shot accuracy: multiple choice and last-word prediction.") {
    options_.add_options()("tasks", text(tasks_, "FILE")->required(),
                           "items as JSON lines of token ids (jobs/convert_tasks.py makes them)");
    options_.add_options()("details", text(details_, "FILE"),
                           "also write every item's log-likelihoods, as JSON lines");
    declare_run("items", "use the first N items");
  }

 private:
  void evaluate(Collectives& comm, Backend& backend, Progress& progress) override {
    std::ofstream details;
    agree(comm, [&] {
      // Before the work, so that a mistyped path costs nothing.
      if (comm.rank() == 0 && !details_.empty()) {
        details.open(details_);
        if (!details) fail("--details: cannot write {}", details_);
      }
    });
    const TaskScores scores = score_tasks(
        comm, backend, {model_, packed_, tasks_, run_.count, run_.allow_unused}, progress);
    agree(comm, [&] {
      if (details.is_open()) write_details(details, scores);
    });
    if (comm.rank() != 0) return;
    const TaskSummary summary = summarise(scores);
    if (json_) {
      fmt::print("{}\n", to_json(summary).dump());
    } else {
      print_summary(summary);
    }
  }

  void write_details(std::ofstream& file, const TaskScores& scores) const {
    for (std::size_t i = 0; i < scores.items.size(); ++i) {
      file << details_of(scores.items[i], scores.results[i]).dump() << '\n';
    }
    file.close();
    if (!file) fail("--details: cannot write {}: is the disk full?", details_);
  }

  std::string tasks_;
  std::string details_;
};

}  // namespace

std::unique_ptr<Command> make_eval_tasks_command() { return std::make_unique<EvalTasksCommand>(); }

}  // namespace quip::cli
