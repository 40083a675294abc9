#include "quip/pipeline/expert_quantizer.hpp"

#include <algorithm>
#include <optional>
#include <span>
#include <utility>

#include "quip/calib/hessian.hpp"
#include "quip/calib/owned_hessian.hpp"
#include "quip/core/error.hpp"

namespace quip {
namespace {

// Tokens on which an expert's own inputs are averaged for the prior.
constexpr index_t averaged_tokens = 2048;

/// H = (T·H + κ·common) / (T + κ), lower triangles.
void shrink(Matrix<double>& h, index_t tokens, const Matrix<double>& common, double prior) {
  const double share = prior / (static_cast<double>(tokens) + prior);
  if (h.empty()) h = Matrix<double>(common.rows(), common.rows(), 0.0);
#pragma omp parallel for schedule(dynamic, 16)
  for (index_t i = 0; i < h.rows(); ++i) {
    for (index_t j = 0; j <= i; ++j) h(i, j) += share * (common(i, j) - h(i, j));
  }
}

/// Returns the name of an expert, as those of its layers begin.
std::string name_of(const BlockPlan& plan, const ExpertPlan& expert) {
  const std::string& first = plan.linears[at(expert.linears.first)].name;
  return first.substr(0, first.rfind('.'));
}

void broadcast_stored(Collectives& comm, StoredLayer& stored, bool spectra, int root) {
  comm.broadcast(stored.name, root);
  comm.broadcast(stored.method, root);
  broadcast_layer(comm, stored.layer, root);
  if (spectra && !stored.statistics.spectra) stored.statistics.spectra.emplace();
  visit_statistics([&](const char* /*name*/, auto& value) { comm.broadcast_value(value, root); },
                   stored.statistics);
  comm.broadcast_value(stored.statistics.rho_rounds, root);
}

}  // namespace

index_t experts_at_once(const BlockPlan& plan, int ranks) {
  return std::min<index_t>(std::ssize(plan.experts), ranks);
}

bool rounds_together(const BlockPlan& plan, int ranks) {
  return std::ssize(plan.experts) * std::ssize(plan.experts.front().inputs) < ranks;
}

int expert_owner(const BlockPlan& plan, index_t place, int input, int ranks) {
  if (ranks <= std::ssize(plan.experts)) return static_cast<int>(place % ranks);
  return static_cast<int>((place * std::ssize(plan.experts.front().inputs) + input) % ranks);
}

ExpertLayers expert_layers(const BlockPlan& plan, const LayerList& all, Range experts, Range inputs,
                           int ranks) {
  ExpertLayers found;
  for (index_t e = experts.first; e < experts.last; ++e) {
    const ExpertPlan& expert = plan.experts[at(e)];
    for (const auto& layer : all) {
      const LinearSpec& linear = layer.first;
      if (linear.expert != expert.number) continue;
      if (linear.input < inputs.first || linear.input >= inputs.last) continue;
      const index_t place = e - experts.first;
      found.layers.push_back(layer);
      found.layers.back().first.tap =
          static_cast<int>(place * std::ssize(expert.inputs)) + linear.input;
      found.owners.push_back(expert_owner(plan, place, linear.input, ranks));
    }
  }
  return found;
}

index_t averaged_step(const QuantizeOptions& options, index_t tokens) {
  return options.experts == ExpertHessians::all ? 1
                                                : std::max<index_t>(1, tokens / averaged_tokens);
}

/// What all groups of a block have in common.
struct ExpertQuantizer::Work {
  const BlockPlan& plan;
  WeightSet& weights;
  LayerList layers;  ///< of experts
  std::optional<ExpertPass> pass = {};
  index_t tokens = 0;          ///< of all ranks
  Matrix<double> common = {};  ///< H of what is gathered, over all tokens
  std::vector<StoredLayer> stored = {};
};

/// Experts that are in memory together.
struct ExpertQuantizer::Group {
  Range experts;
  std::span<const ExpertPlan> plans;
  std::vector<index_t> tokens;           ///< of each expert, on all ranks
  std::vector<Matrix<double>> hessians;  ///< [experts × inputs], those that this rank owns
};

ExpertQuantizer::ExpertQuantizer(Collectives& comm, Backend& backend, const Family& family,
                                 const QuantizeOptions& options, Phases& phases)
    : comm_(comm),
      backend_(backend),
      family_(family),
      options_(options),
      phases_(phases),
      together_(comm, backend, options, phases),
      alone_(self_, backend, options, phases) {}

void ExpertQuantizer::hessians(Work& work, Group& group, int input) {
  const std::size_t inputs_of_expert = group.plans.front().inputs.size();
  const auto owner = [&](std::size_t e) {
    return expert_owner(work.plan, static_cast<index_t>(e), input, comm_.size());
  };
  const auto sum = [&](ExpertTokens tokens) {
    std::vector<Tensor> rows;
    std::vector<OwnedInput> inputs;
    {
      auto scope = phases_.measure("capture");
      for (const ExpertPlan& expert : group.plans) {
        rows.push_back(work.pass->inputs(expert, input, tokens, work.weights));
      }
    }
    for (std::size_t e = 0; e < rows.size(); ++e) {
      const ExpertPlan& expert = group.plans[e];
      const auto reads =
          std::ranges::find_if(work.plan.linears.begin() + expert.linears.first,
                               work.plan.linears.begin() + expert.linears.last,
                               [&](const LinearSpec& linear) { return linear.input == input; });
      inputs.push_back({rows[e].cview(), owner(e), reads->name});
    }
    auto scope = phases_.measure("hessian");
    return owned_hessians(comm_, backend_, inputs);
  };
  const bool all = options_.experts == ExpertHessians::all;
  // What is gathered is common to all experts; what they make of it is not.
  const bool gathered = input == 0;
  std::vector<OwnedHessian> own;
  if (!all) own = sum({});
  std::vector<OwnedHessian> common;
  if (!gathered && options_.averages_experts()) {
    common = sum({averaged_step(options_, work.tokens)});
  }
  auto scope = phases_.measure("hessian");
  agree(comm_, [&] {
    for (std::size_t e = 0; e < group.plans.size(); ++e) {
      if (owner(e) != comm_.rank()) continue;
      Matrix<double>& h = group.hessians[e * inputs_of_expert + at(input)];
      if (!all) h = std::move(own[e].h);
      const index_t tokens = all ? 0 : own[e].tokens;
      if (options_.averages_experts()) {
        shrink(h, tokens, gathered ? work.common : common[e].h, all ? 1 : options_.expert_prior);
      }
      if (h.empty()) {
        fail("{} gets no token, and --expert-prior 0 leaves nothing to round its layers by",
             name_of(work.plan, group.plans[e]));
      }
    }
  });
}

void ExpertQuantizer::round(Work& work, Group& group, Range inputs) {
  const ExpertLayers chosen =
      expert_layers(work.plan, work.layers, group.experts, inputs, comm_.size());
  const LayerList& layers = chosen.layers;
  const std::vector<int>& owners = chosen.owners;
  if (layers.empty()) return;
  const std::size_t inputs_of_expert = group.plans.front().inputs.size();
  std::vector<Matrix<double>> hessians =
      std::exchange(group.hessians, std::vector<Matrix<double>>(group.hessians.size()));
  std::size_t next = 0;
  const auto done = [&](StoredLayer layer) {
    layer.statistics.tokens = group.tokens[at(layers[next++].first.tap) / inputs_of_expert];
    auto scope = phases_.measure("dequantize");
    work.weights.insert(layer.name + ".weight", load_dequantized(comm_, backend_, layer.layer));
    work.stored.push_back(std::move(layer));
  };
  if (rounds_together(work.plan, comm_.size())) {
    return together_.round(layers, std::move(hessians), work.weights, done, owners);
  }
  LayerList mine;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (owners[i] == comm_.rank()) mine.push_back(layers[i]);
  }
  std::vector<StoredLayer> rounded;
  agree(comm_, [&] {
    alone_.round(mine, std::move(hessians), work.weights,
                 [&](StoredLayer layer) { rounded.push_back(std::move(layer)); });
  });
  auto own = rounded.begin();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    StoredLayer layer;
    if (owners[i] == comm_.rank()) layer = std::move(*own++);
    {
      auto scope = phases_.measure("round");
      broadcast_stored(comm_, layer, layers[i].second.spectra, owners[i]);
    }
    done(std::move(layer));
  }
}

std::vector<StoredLayer> ExpertQuantizer::quantize(const BlockLoader& loader, WeightSet& weights,
                                                   const SampleShard& shard, TensorView states) {
  const BlockPlan& plan = family_.block(loader.block());
  alone_.on_step = together_.on_step = on_step;
  std::vector<LinearSpec> linears = options_.selected(family_, loader.block());
  std::erase_if(linears, [](const LinearSpec& linear) { return linear.expert < 0; });
  Work work{plan, weights, {}};
  for (const LinearSpec& linear : linears) {
    work.layers.emplace_back(linear, options_.of(linear.name));
  }
  {
    auto scope = phases_.measure("forward");
    on_step("route");
    work.pass.emplace(comm_, backend_, family_, loader.block(), shard, states);
    work.pass->begin(weights);
  }
  {
    auto scope = phases_.measure("hessian");
    double tokens = static_cast<double>(shard.tokens());
    comm_.all_reduce_sum(std::span(&tokens, 1));
    work.tokens = static_cast<index_t>(tokens);
    if (options_.averages_experts()) {
      work.common =
          exact_hessian(comm_, backend_, work.pass->gathered(), shard.samples.first, shard.length,
                        plan.linears[at(plan.experts[0].linears.first)].name);
    }
  }
  const index_t step = experts_at_once(plan, comm_.size());
  const auto inputs = static_cast<int>(plan.experts[0].inputs.size());
  for (index_t first = 0; first < std::ssize(plan.experts); first += step) {
    const Range experts{first, std::min(first + step, std::ssize(plan.experts))};
    Group group{experts, std::span(plan.experts).subspan(at(first), at(experts.count())), {}, {}};
    {
      on_step("load experts");
      auto scope = phases_.measure("load");
      for (const ExpertPlan& expert : group.plans) loader.load(expert.linears, weights);
    }
    group.hessians.resize(group.plans.size() * at(inputs));
    {
      auto scope = phases_.measure("capture");
      std::vector<double> tokens;
      for (const ExpertPlan& expert : group.plans) {
        tokens.push_back(static_cast<double>(work.pass->tokens_of(expert)));
      }
      comm_.all_reduce_sum(tokens);
      group.tokens.assign(tokens.begin(), tokens.end());
    }
    for (int input = 0; input < inputs; ++input) {
      on_step("Hessians of experts");
      hessians(work, group, input);
      if (options_.true_sequential) round(work, group, {input, input + 1});
    }
    if (!options_.true_sequential) round(work, group, {0, inputs});
    auto scope = phases_.measure("forward");
    on_step("forward experts");
    for (const ExpertPlan& expert : group.plans) {
      work.pass->add(expert, weights);
      loader.drop(expert.linears, weights);
    }
  }
  auto scope = phases_.measure("forward");
  work.pass->end(weights);
  // With --true-sequential they come input by input.
  return in_order(linears, std::move(work.stored));
}

}  // namespace quip
