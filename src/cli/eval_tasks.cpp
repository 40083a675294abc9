#include <cmath>
#include <fstream>

#include "command.hpp"
#include "model_arguments.hpp"
#include "run_arguments.hpp"
#include <nlohmann/json.hpp>

#include "quip/pipeline/tasks.hpp"

namespace quip::cli {
namespace {

namespace po = boost::program_options;
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

class EvalTasksCommand final : public Command {
 public:
  EvalTasksCommand()
      : Command("eval-tasks", "Zero-shot accuracy: multiple choice and last-word prediction.") {
    model_.declare(options_);
    options_.add_options()("tasks", po::value(&tasks_)->required()->value_name("FILE"),
                           "items as JSON lines of token ids (jobs/convert_tasks.py makes them)");
    options_.add_options()("details", po::value(&details_)->value_name("FILE"),
                           "also write every item's log-likelihoods, as JSON lines");
    options_.add_options()("json", po::bool_switch(&json_), "print JSON");
    run_.declare_with_model(options_, "items", "use the first N items");
  }

  void check() override { model_.check(); }

  int run(Collectives& comm, int node_size) override {
    const int threads = run_.use_threads(node_size);
    const std::unique_ptr<Backend> backend = run_.make_backend(comm, threads);
    std::ofstream details;
    agree(comm, [&] {
      // Before the work, so that a mistyped path costs nothing.
      if (comm.rank() == 0 && !details_.empty()) {
        details.open(details_);
        if (!details) fail("--details: cannot write {}", details_);
      }
    });
    Progress progress = run_.progress(comm);
    const TaskScores scores = score_tasks(
        comm, *backend,
        {model_.model(), model_.packed(), tasks_, run_.count(), run_.allow_unused()}, progress);
    agree(comm, [&] {
      if (details.is_open()) write_details(details, scores);
    });
    if (comm.rank() != 0) return EXIT_SUCCESS;
    const TaskSummary summary = summarise(scores);
    if (json_) {
      fmt::print("{}\n", to_json(summary).dump());
    } else {
      print_summary(summary);
    }
    return EXIT_SUCCESS;
  }

 private:
  void write_details(std::ofstream& file, const TaskScores& scores) const {
    for (std::size_t i = 0; i < scores.items.size(); ++i) {
      file << details_of(scores.items[i], scores.results[i]).dump() << '\n';
    }
    file.close();
    if (!file) fail("--details: cannot write {}: is the disk full?", details_);
  }

  ModelArguments model_;
  std::string tasks_;
  std::string details_;
  RunArguments run_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_eval_tasks_command() { return std::make_unique<EvalTasksCommand>(); }

}  // namespace quip::cli
