#include "quip/pipeline/expert_quantizer.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "quip/calib/hessian.hpp"
#include "quip/calib/owned_hessian.hpp"
#include "quip/core/error.hpp"

namespace quip {
namespace {

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

/// What all groups of a block have in common.
struct ExpertQuantizer::Work {
  const BlockPlan& plan;
  WeightSet& weights;
  std::vector<LinearSpec> selected;
  std::optional<ExpertPass> pass = {};
  index_t tokens = 0;          ///< of all ranks
  Matrix<double> common = {};  ///< H of what is gathered, over all tokens
  std::vector<StoredLayer> stored = {};
};

/// Experts that are in memory together.
struct ExpertQuantizer::Group {
  std::vector<const ExpertPlan*> experts;
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
  const auto first = group.experts.front()->inputs.size();
  const auto owner = [&](std::size_t e) {
    return expert_owner(work.plan, static_cast<index_t>(e), input, comm_.size());
  };
  const auto sum = [&](ExpertTokens tokens) {
    std::vector<Tensor> rows;
    std::vector<OwnedInput> inputs;
    {
      auto scope = phases_.measure("capture");
      for (const ExpertPlan* expert : group.experts) {
        rows.push_back(work.pass->inputs(*expert, input, tokens, work.weights));
      }
    }
    for (std::size_t e = 0; e < rows.size(); ++e) {
      const ExpertPlan& expert = *group.experts[e];
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
  const double prior = options_.expert_prior;
  std::vector<OwnedHessian> own;
  if (!all) own = sum({});
  std::vector<OwnedHessian> common;
  if (!gathered && (all || prior > 0)) {
    common = sum({all ? 1 : std::max<index_t>(1, work.tokens / common_tokens)});
  }
  auto scope = phases_.measure("hessian");
  agree(comm_, [&] {
    for (std::size_t e = 0; e < group.experts.size(); ++e) {
      if (owner(e) != comm_.rank()) continue;
      Matrix<double>& h = group.hessians[e * first + at(input)];
      if (!all) h = std::move(own[e].h);
      const index_t tokens = all ? 0 : own[e].tokens;
      if (all || prior > 0)
        shrink(h, tokens, gathered ? work.common : common[e].h, all ? 1 : prior);
      if (h.empty()) {
        fail("{} gets no token, and --expert-prior 0 leaves nothing to round its layers by",
             name_of(work.plan, *group.experts[e]));
      }
    }
  });
}

void ExpertQuantizer::round(Work& work, Group& group, int first_input, int last_input) {
  LayerList layers;  // taps numbered by expert and input
  std::vector<int> owners;
  std::map<std::string, index_t> tokens;  // by layer
  const auto inputs = static_cast<int>(group.experts.front()->inputs.size());
  for (std::size_t e = 0; e < group.experts.size(); ++e) {
    for (const LinearSpec& linear : work.selected) {
      if (linear.expert != group.experts[e]->number) continue;
      if (linear.input < first_input || linear.input >= last_input) continue;
      layers.emplace_back(linear, options_.of(linear.name));
      layers.back().first.tap = static_cast<int>(e) * inputs + linear.input;
      owners.push_back(
          expert_owner(work.plan, static_cast<index_t>(e), linear.input, comm_.size()));
      tokens[linear.name] = group.tokens[e];
    }
  }
  if (layers.empty()) return;
  const auto done = [&](StoredLayer layer) {
    layer.statistics.tokens = tokens.at(layer.name);
    auto scope = phases_.measure("dequantize");
    work.weights.insert(layer.name + ".weight", load_dequantized(comm_, backend_, layer.layer));
    work.stored.push_back(std::move(layer));
  };
  if (rounds_together(work.plan, comm_.size())) {
    const auto owner_of = [&](const LinearSpec& linear) {
      return expert_owner(work.plan, linear.tap / inputs, linear.input, comm_.size());
    };
    together_.round(layers, std::move(group.hessians), work.weights, done, owner_of);
    group.hessians = std::vector<Matrix<double>>(group.experts.size() * at(inputs));
    return;
  }
  LayerList mine;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (owners[i] == comm_.rank()) mine.push_back(layers[i]);
  }
  std::vector<StoredLayer> rounded;
  agree(comm_, [&] {
    alone_.round(mine, std::move(group.hessians), work.weights,
                 [&](StoredLayer layer) { rounded.push_back(std::move(layer)); });
  });
  group.hessians = std::vector<Matrix<double>>(group.experts.size() * at(inputs));
  std::size_t next = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    StoredLayer layer;
    if (owners[i] == comm_.rank()) layer = std::move(rounded[next++]);
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
  Work work{plan, weights, options_.selected(family_, loader.block())};
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
    const bool needed = options_.experts == ExpertHessians::all || options_.expert_prior > 0;
    if (needed) {
      work.common =
          exact_hessian(comm_, backend_, work.pass->gathered(), shard.samples.first, shard.length,
                        plan.linears[at(plan.experts[0].linears.first)].name);
    }
  }
  const index_t step = experts_at_once(plan, comm_.size());
  for (index_t first = 0; first < std::ssize(plan.experts); first += step) {
    Group group;
    for (index_t e = first; e < std::min(first + step, std::ssize(plan.experts)); ++e) {
      group.experts.push_back(&plan.experts[at(e)]);
      on_step("load experts");
      auto scope = phases_.measure("load");
      loader.load(plan.experts[at(e)].linears, weights);
    }
    const auto inputs = static_cast<int>(group.experts.front()->inputs.size());
    group.hessians.resize(group.experts.size() * at(inputs));
    {
      auto scope = phases_.measure("capture");
      std::vector<double> tokens;
      for (const ExpertPlan* expert : group.experts)
        tokens.push_back(static_cast<double>(work.pass->tokens_of(*expert)));
      comm_.all_reduce_sum(tokens);
      group.tokens.assign(tokens.begin(), tokens.end());
    }
    for (int input = 0; input < inputs; ++input) {
      on_step("Hessians of experts");
      hessians(work, group, input);
      if (options_.true_sequential) round(work, group, input, input + 1);
    }
    if (!options_.true_sequential) round(work, group, 0, inputs);
    auto scope = phases_.measure("forward");
    on_step("forward experts");
    for (const ExpertPlan* expert : group.experts) {
      work.pass->add(*expert, weights);
      loader.drop(expert->linears, weights);
    }
  }
  auto scope = phases_.measure("forward");
  work.pass->end(weights);
  // With --true-sequential they come input by input.
  std::ranges::stable_sort(work.stored, {}, [&](const StoredLayer& layer) {
    return std::ranges::find(plan.linears, layer.name, &LinearSpec::name) - plan.linears.begin();
  });
  return std::move(work.stored);
}

}  // namespace quip
