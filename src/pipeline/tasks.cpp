#include "quip/pipeline/tasks.hpp"

#include <algorithm>
#include <cmath>

#include "quip/core/error.hpp"
#include "quip/pipeline/scoring.hpp"

namespace quip {
namespace {

std::string name_of(const TaskItem& item) {
  return item.id.is_string() ? item.id.get<std::string>() : item.id.dump();
}

void check_items(const std::vector<TaskItem>& items, const TaskOptions& options,
                 const Family& family) {
  const auto in_vocabulary = [&](std::int32_t id) { return id < family.config().vocabulary; };
  for (const TaskItem& item : items) {
    const auto reject = [&](const std::string& why) {
      fail("{}: item {} {}; convert the tasks for this model (jobs/convert_tasks.py --model)",
           options.tasks.string(), name_of(item), why);
    };
    bool known = std::ranges::all_of(item.context, in_vocabulary);
    for (const auto& continuation : item.continuations) {
      known = known && std::ranges::all_of(continuation, in_vocabulary);
      if (!known) reject("has a token that is not in the model's vocabulary");
      const std::size_t length = item.context.size() + continuation.size();
      if (length > at(family.max_length())) {
        reject(fmt::format("has {} tokens, the model takes {}", length, family.max_length()));
      }
    }
  }
}

index_t longest_sequence(const std::vector<TaskItem>& items) {
  std::size_t longest = 0;
  for (const TaskItem& item : items) {
    for (const auto& continuation : item.continuations) {
      longest = std::max(longest, item.context.size() + continuation.size());
    }
  }
  return static_cast<index_t>(longest);
}

/// This rank's items: each continuation behind its context.
struct TaskShard {
  SampleShard sequences;
  std::vector<index_t> first_scored;
};

TaskShard shard_items(const std::vector<TaskItem>& items, Range range, index_t first_sequence) {
  TaskShard shard;
  SampleShard& s = shard.sequences;
  s.length = longest_sequence(items);
  s.offsets.push_back(0);
  for (index_t i = range.first; i < range.last; ++i) {
    for (const auto& continuation : items[i].continuations) {
      s.ids.insert(s.ids.end(), items[i].context.begin(), items[i].context.end());
      s.ids.insert(s.ids.end(), continuation.begin(), continuation.end());
      s.offsets.push_back(s.tokens());
      shard.first_scored.push_back(static_cast<index_t>(items[i].context.size()));
    }
  }
  s.samples = {first_sequence, first_sequence + static_cast<index_t>(shard.first_scored.size())};
  return shard;
}

/// The scores of all sequences of all ranks, in the order of the file.
struct SequenceScores {
  std::vector<double> log_likelihood;
  std::vector<double> greedy;  // 0 or 1
};

SequenceScores gather(Collectives& comm, const std::vector<std::vector<TokenScore>>& mine,
                      index_t first, index_t count) {
  SequenceScores all{std::vector<double>(count, 0.0), std::vector<double>(count, 0.0)};
  for (std::size_t s = 0; s < mine.size(); ++s) {
    for (const TokenScore& token : mine[s]) {
      all.log_likelihood[first + s] += token.log_probability;
    }
    all.greedy[first + s] = std::ranges::all_of(mine[s], &TokenScore::likeliest) ? 1.0 : 0.0;
  }
  comm.all_reduce_sum(all.log_likelihood);  // one rank's value and zeros: exact
  comm.all_reduce_sum(all.greedy);
  return all;
}

index_t first_largest(const std::vector<double>& values) {
  return std::ranges::max_element(values) - values.begin();
}

TaskResult judge(const TaskItem& item, const SequenceScores& scores, index_t first) {
  TaskResult result;
  const auto begin = scores.log_likelihood.begin() + first;
  result.log_likelihoods.assign(begin, begin + static_cast<index_t>(item.continuations.size()));
  if (!std::ranges::all_of(result.log_likelihoods, [](double x) { return std::isfinite(x); })) {
    fail("item {}: the log-likelihood is not finite: the model's activations overflow",
         name_of(item));
  }
  result.greedy = scores.greedy[first] != 0;
  result.chosen = first_largest(result.log_likelihoods);
  std::vector<double> per_byte = result.log_likelihoods;
  for (std::size_t c = 0; c < item.lengths.size(); ++c) per_byte[c] /= item.lengths[c];
  result.chosen_normalised = first_largest(per_byte);
  return result;
}

}  // namespace

TaskScores score_tasks(Collectives& comm, Backend& backend, const TaskOptions& options,
                       Progress& progress) {
  OpenModel model;
  TaskScores scores;
  agree(comm, [&] {
    model = open_model(options.model, options.packed, options.allow_unused);
    scores.items = read_tasks(options.tasks, options.items);
    check_items(scores.items, options, *model.family);
  });
  for (const std::string& remark : model.remarks) progress.note(remark);
  const std::vector<TaskItem>& items = scores.items;
  std::vector<index_t> first_sequence{0};
  for (const TaskItem& item : items) {
    first_sequence.push_back(first_sequence.back() +
                             static_cast<index_t>(item.continuations.size()));
  }
  const Range range = share_of(static_cast<index_t>(items.size()), comm.rank(), comm.size());
  const TaskShard shard = shard_items(items, range, first_sequence[range.first]);
  const auto mine =
      score_tokens(comm, backend, model, shard.sequences, shard.first_scored, progress);
  const SequenceScores all =
      gather(comm, mine, shard.sequences.samples.first, first_sequence.back());
  agree(comm, [&] {
    for (std::size_t i = 0; i < items.size(); ++i) {
      scores.results.push_back(judge(items[i], all, first_sequence[i]));
    }
  });
  return scores;
}

double Accuracy::value() const { return static_cast<double>(right) / static_cast<double>(items); }

double Accuracy::standard_error() const {
  if (items < 2) return 0.0;
  return std::sqrt(value() * (1 - value()) / static_cast<double>(items - 1));
}

TaskSummary summarise(const TaskScores& scores) {
  TaskSummary summary;
  const auto count = [](Accuracy& accuracy, bool right) {
    ++accuracy.items;
    if (right) ++accuracy.right;
  };
  for (std::size_t i = 0; i < scores.items.size(); ++i) {
    const TaskResult& result = scores.results[i];
    if (const auto& answer = scores.items[i].answer) {
      count(summary.choice, result.chosen == *answer);
      count(summary.choice_normalised, result.chosen_normalised == *answer);
    } else {
      count(summary.last_word, result.greedy);
      summary.target_loss -= result.log_likelihoods.front();
    }
  }
  if (summary.last_word.items > 0) {
    summary.target_loss /= static_cast<double>(summary.last_word.items);
  }
  return summary;
}

}  // namespace quip
