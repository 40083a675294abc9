#include "quip/pipeline/expert_pass.hpp"

#include <algorithm>
#include <utility>

#include "quip/core/usage.hpp"
#include "quip/model/work.hpp"

namespace quip {

ExpertPass::ExpertPass(Collectives& comm, Backend& backend, const Family& family, index_t block,
                       const SampleShard& shard)
    : comm_(comm),
      backend_(backend),
      family_(family),
      plan_(family.block(block)),
      tap_(plan_.taps.back()),
      shard_(shard),
      routes_(std::get<op::Gather>(plan_.operations[at(tap_.operation)]).routes),
      routed_(shard.samples.count()) {}

ExpertPass::ExpertPass(Collectives& comm, Backend& backend, const Family& family, index_t block,
                       const SampleShard& shard, TensorView states)
    : ExpertPass(comm, backend, family, block, shard) {
  states_ = states;
  agree(comm_, [&] { carried_ = backend_.allocate_samples(shard.tokens(), plan_.width_at(tap_)); });
}

ExpertPass::ExpertPass(Collectives& comm, Backend& backend, const Family& family, index_t block,
                       const SampleShard& shard, CapturedStates captured)
    : ExpertPass(comm, backend, family, block, shard) {
  own_ = std::move(captured.residual);
  states_ = own_.view();
  carried_ = std::move(captured.carried);
  agree(comm_, [&] {
    for (index_t s = 0; s < shard_.samples.count(); ++s) {
      Matrix<float> room;
      routed_[s] = routing_of(backend_.on_host(place_of(routes_, s), room));
    }
  });
}

TensorView ExpertPass::place_of(Slot slot, index_t sample) {
  return shard_.rows_of(carried_.view().middle_cols(plan_.columns[at(slot)], plan_.width(slot)),
                        sample);
}

ConstTensorView ExpertPass::gathered() const {
  return carried_.cview().middle_cols(plan_.columns[at(tap_.slot)], plan_.width(tap_.slot));
}

SampleState ExpertPass::state_of(index_t sample) {
  SampleState state(plan_, shard_.length_of(sample));
  state.bind(plan_.input, shard_.rows_of(states_, sample));
  for (const Slot slot : tap_.carried) state.bind(slot, place_of(slot, sample));
  state.bind(routes_, routed_[sample]);
  return state;
}

void ExpertPass::begin(const WeightSet& weights) {
  agree(comm_, [&] {
    backend_.for_each_unit(shard_.samples.count(), [&](index_t s) {
      SampleState state(plan_, shard_.length_of(s));
      state.bind(plan_.input, shard_.rows_of(states_, s));
      family_.run(plan_, {0, tap_.operation}, backend_, weights, state);
      for (const Slot slot : tap_.carried) backend_.copy(state[slot], place_of(slot, s));
      Matrix<float> room;
      routed_[s] = routing_of(backend_.on_host(state[routes_], room));
      UsageMeter::current().add_flops(block_flops(plan_, shard_.length_of(s)));
    });
  });
}

void ExpertPass::run(Range operations, const WeightSet& weights) {
  agree(comm_, [&] {
    backend_.for_each_unit(shard_.samples.count(), [&](index_t s) {
      SampleState state = state_of(s);
      family_.run(plan_, operations, backend_, weights, state);
    });
  });
}

void ExpertPass::add(const ExpertPlan& expert, const WeightSet& weights) {
  run(expert.operations, weights);
}

void ExpertPass::end(const WeightSet& weights) {
  run({plan_.experts.back().operations.last, std::ssize(plan_.operations)}, weights);
}

std::vector<Routing> ExpertPass::routings(const ExpertPlan& expert, ExpertTokens tokens) const {
  std::vector<Routing> routings(shard_.samples.count());
  for (index_t s = 0; s < shard_.samples.count(); ++s) {
    RoutedTokens& own = routings[s][expert.number];
    if (tokens.every == 0) {
      const auto found = routed_[s].find(expert.number);
      if (found != routed_[s].end()) own = found->second;
      continue;
    }
    const index_t length = shard_.length_of(s);
    const index_t before = (shard_.samples.first + s) * shard_.length;
    for (index_t t = (tokens.every - before % tokens.every) % tokens.every; t < length;
         t += tokens.every) {
      own.tokens.push_back(t);
      own.weights.push_back(1.0F);
    }
  }
  return routings;
}

index_t ExpertPass::tokens_of(const ExpertPlan& expert) const {
  index_t tokens = 0;
  for (const Routing& sample : routed_) {
    const auto found = sample.find(expert.number);
    if (found != sample.end()) tokens += std::ssize(found->second.tokens);
  }
  return tokens;
}

std::vector<float> ExpertPass::summed_weights() const {
  const auto scatter = std::ranges::find_if(plan_.operations, [](const Operation& operation) {
    return std::holds_alternative<op::Scatter>(operation);
  });
  const bool weighted = std::get<op::Scatter>(*scatter).weighted;
  std::vector<float> sums(at(shard_.tokens()), 0.0F);
  for (index_t s = 0; s < shard_.samples.count(); ++s) {
    for (const auto& [expert, routed] : routed_[s]) {
      for (std::size_t i = 0; i < routed.tokens.size(); ++i) {
        sums[at(shard_.offsets[s] + routed.tokens[i])] += weighted ? routed.weights[i] : 1.0F;
      }
    }
  }
  for (float& sum : sums) sum = std::max(sum, 1.0F);
  return sums;
}

std::vector<index_t> first_rows(const std::vector<Routing>& chosen, const ExpertPlan& expert) {
  std::vector<index_t> first{0};
  for (const Routing& sample : chosen) {
    first.push_back(first.back() + std::ssize(sample.at(expert.number).tokens));
  }
  return first;
}

Tensor ExpertPass::inputs(const ExpertPlan& expert, int input, const std::vector<Routing>& chosen,
                          const WeightSet& weights) {
  const Tap& tap = expert.inputs[at(input)];
  Tensor all;
  agree(comm_, [&] {
    const std::vector<index_t> first = first_rows(chosen, expert);
    all = backend_.allocate_samples(first.back(), plan_.width(tap.slot));
    backend_.for_each_unit(shard_.samples.count(), [&](index_t s) {
      const index_t rows = first[at(s) + 1] - first[at(s)];
      if (rows == 0) return;
      SampleState state = state_of(s);
      state.bind(routes_, chosen[at(s)]);
      family_.run(plan_, {expert.operations.first, tap.operation}, backend_, weights, state);
      backend_.copy(state[tap.slot], all.view().middle_rows(first[at(s)], rows));
    });
  });
  return all;
}

Tensor ExpertPass::rows_of(ConstTensorView x, const ExpertPlan& expert,
                           const std::vector<Routing>& chosen) {
  Tensor all;
  agree(comm_, [&] {
    const std::vector<index_t> first = first_rows(chosen, expert);
    all = backend_.allocate_samples(first.back(), x.cols);
    backend_.for_each_unit(shard_.samples.count(), [&](index_t s) {
      const std::vector<index_t>& tokens = chosen[at(s)].at(expert.number).tokens;
      if (tokens.empty()) return;
      backend_.gather_rows(shard_.rows_of(x, s), tokens,
                           all.view().middle_rows(first[at(s)], std::ssize(tokens)));
    });
  });
  return all;
}

void forward_block(Collectives& comm, Backend& backend, const Family& family,
                   const BlockLoader& loader, WeightSet& weights, const SampleShard& shard,
                   TensorView states) {
  const BlockPlan& plan = family.block(loader.block());
  if (plan.experts.empty()) {
    forward_shard(comm, backend, family, loader.block(), weights, shard, states);
    return;
  }
  ExpertPass pass(comm, backend, family, loader.block(), shard, states);
  pass.begin(weights);
  for (const ExpertPlan& expert : plan.experts) {
    loader.load(expert.linears, weights);
    pass.add(expert, weights);
    loader.drop(expert.linears, weights);
  }
  pass.end(weights);
}

}  // namespace quip
