#include "quip/pipeline/expert_quantizer.hpp"

#include <algorithm>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "quip/calib/hessian.hpp"
#include "quip/calib/owned_hessian.hpp"
#include "quip/comm/node_memory.hpp"
#include "quip/core/error.hpp"
#include "quip/core/usage.hpp"
#include "quip/quant/factor/work.hpp"

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
  std::vector<LinearSpec> linears;
  LayerList layers;  ///< of experts
  std::optional<ExpertPass> pass = {};
  index_t tokens = 0;          ///< of all ranks
  Matrix<double> common = {};  ///< H of what is gathered, over all tokens
  std::vector<StoredLayer> stored = {};

  // With --target stream:
  std::optional<ExpertPass> full = {};  ///< the unquantized stream
  std::optional<WeightSet> made = {};   ///< what is quantized: `weights` keep what was there
  Tensor missing =
      {};  ///< β (r_f − r) before the experts, over how often they count [tokens × hidden]

  [[nodiscard]] WeightSet& quantized() { return made ? *made : weights; }
};

/// Experts that are in memory together.
struct ExpertQuantizer::Group {
  Range experts;
  std::span<const ExpertPlan> plans;
  std::vector<index_t> tokens;             ///< of each expert, on all ranks
  std::vector<Matrix<double>> hessians;    ///< [experts × inputs], those that this rank owns
  std::vector<OwnedHessian> crosses = {};  ///< Σ eᵀx/T likewise, and their e
};

struct ExpertQuantizer::Targets {
  WeightSet weights;                          ///< over those of the block
  std::vector<std::optional<double>> shifts;  ///< by layer: ‖W*−W‖/‖W‖, or 0 where another knows
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
    std::vector<std::pair<Tensor, Tensor>> rows;  // x and e
    std::vector<OwnedInput> inputs;
    {
      auto scope = phases_.measure("capture");
      for (const ExpertPlan& expert : group.plans) {
        const LinearSpec& reader =
            *std::ranges::find_if(work.plan.linears.begin() + expert.linears.first,
                                  work.plan.linears.begin() + expert.linears.last,
                                  [&](const LinearSpec& linear) { return linear.input == input; });
        const std::vector<Routing> chosen = work.pass->routings(expert, tokens);
        Tensor x = work.pass->inputs(expert, input, chosen, work.quantized());
        Tensor e;
        if (tokens.every == 0) e = errors(work, expert, reader, chosen, x.cview());
        inputs.push_back({x.cview(), owner(rows.size()), reader.name, e.cview()});
        rows.emplace_back(std::move(x), std::move(e));
      }
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
      OwnedHessian& cross = group.crosses[e * inputs_of_expert + at(input)];
      if (!all) {
        h = std::move(own[e].h);
        cross = std::move(own[e]);
      }
      const index_t tokens = all ? 0 : own[e].tokens;
      if (options_.averages_experts()) {
        const double prior = all ? 1 : options_.expert_prior;
        shrink(h, tokens, gathered ? work.common : common[e].h, prior);
        const double kept = static_cast<double>(tokens) / (static_cast<double>(tokens) + prior);
        for (double& value : cross.cross.span()) value *= kept;
        cross.energy *= kept;
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
  Targets to = targets(work, group, chosen, hessians);
  std::size_t next = 0;
  const auto done = [&](StoredLayer layer) {
    layer.statistics.tokens = group.tokens[at(layers[next++].first.tap) / inputs_of_expert];
    auto scope = phases_.measure("dequantize");
    work.quantized().insert(layer.name + ".weight", load_dequantized(comm_, backend_, layer.layer));
    work.stored.push_back(std::move(layer));
  };
  if (rounds_together(work.plan, comm_.size())) {
    return together_.round(
        layers, std::move(hessians), to.weights,
        [&](StoredLayer layer) {
          layer.statistics.target_shift = to.shifts[next];
          done(std::move(layer));
        },
        owners);
  }
  LayerList mine;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (owners[i] == comm_.rank()) mine.push_back(layers[i]);
  }
  std::vector<StoredLayer> rounded;
  agree(comm_, [&] {
    alone_.round(mine, std::move(hessians), to.weights,
                 [&](StoredLayer layer) { rounded.push_back(std::move(layer)); });
  });
  auto own = rounded.begin();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    StoredLayer layer;
    if (owners[i] == comm_.rank()) layer = std::move(*own++);
    {
      auto scope = phases_.measure("round");
      layer.statistics.target_shift = to.shifts[i];
      broadcast_stored(comm_, layer, layers[i].second.spectra, owners[i]);
    }
    done(std::move(layer));
  }
}

bool ExpertQuantizer::moves(const Work& work) const {
  return work.full && options_.stream.moves() && options_.experts == ExpertHessians::routed &&
         adds_to_residual(work.plan);
}

Tensor ExpertQuantizer::errors(Work& work, const ExpertPlan& expert, const LinearSpec& reader,
                               const std::vector<Routing>& chosen, ConstTensorView x) {
  if (!moves(work) || !options_.stream.moves(reader)) return {};
  const StreamOptions& stream = options_.stream;
  Tensor drift;
  if (stream.drift > 0) {
    drift = work.full->inputs(expert, reader.input, chosen, work.weights);
    agree(comm_, [&] {
      Tensor difference = backend_.allocate_samples(x.rows, x.cols);
      const double factor = reader.adds ? stream.drift : 1;
      set_difference(backend_, drift.cview(), x, factor, difference.view());
      drift = std::move(difference);
    });
  }
  if (!reader.adds) return drift;
  Tensor e = work.pass->rows_of(work.missing.cview(), expert, chosen);
  agree(comm_, [&] {
    if (drift.rows() == 0) return;
    // Sample by sample: the bits of a product depend on its shape.
    const std::vector<index_t> first = first_rows(chosen, expert);
    backend_.for_each_unit(std::ssize(chosen), [&](index_t s) {
      const index_t rows = first[at(s) + 1] - first[at(s)];
      if (rows == 0) return;
      backend_.linear_add(drift.cview().middle_rows(first[at(s)], rows),
                          work.weights[reader.name + ".weight"], {},
                          e.view().middle_rows(first[at(s)], rows));
    });
    UsageMeter::current().add_flops(cross_flops(reader.rows, reader.cols, drift.rows()));
  });
  return e;
}

namespace {

/// Writes W + share · W M to `out`, and returns how far that is from W.
double move_by_drift(MatrixView<const float> w, MatrixView<const double> m, double share,
                     MatrixView<float> out) {
  Matrix<float> fit(m.rows, m.cols);
  for (index_t i = 0; i < m.rows; ++i) {
    for (index_t j = 0; j < m.cols; ++j) fit(i, j) = static_cast<float>(share * m(i, j));
  }
  Matrix<float> moved(w.rows, w.cols);
  multiply_rows(w, fit.cview(), moved.view());
  UsageMeter::current().add_flops(product_flops(w.rows, w.cols));
  return move_rows(w, moved.cview(), 1, out);
}

}  // namespace

ExpertQuantizer::Targets ExpertQuantizer::targets(Work& work, Group& group,
                                                  const ExpertLayers& chosen,
                                                  const std::vector<Matrix<double>>& hessians) {
  const std::size_t count = chosen.layers.size();
  Targets made{WeightSet::over(work.weights), std::vector<std::optional<double>>(count)};
  if (!moves(work)) return made;
  auto scope = phases_.measure("factor");
  const bool together = rounds_together(work.plan, comm_.size());
  const std::size_t inputs = group.plans.front().inputs.size();
  std::vector<std::shared_ptr<float>> values(count);
  agree(comm_, [&] {
    std::optional<WholeRidge> ridge;
    Matrix<double> step;  // of the tap in hand
    double share = 0;
    int fitted = -1;
    for (std::size_t i = 0; i < count; ++i) {
      const LinearSpec& linear = chosen.layers[i].first;
      const std::size_t tap = at(linear.tap);
      if (group.tokens[tap / inputs] == 0 || !options_.stream.moves(linear)) continue;
      made.shifts[i] = 0;
      const bool owner = chosen.owners[i] == comm_.rank();
      if (!owner && !together) continue;
      const auto memory = allocate_privately(linear.rows * linear.cols * index_t{sizeof(float)});
      values[i] = {memory, reinterpret_cast<float*>(memory.get())};
      if (!owner) continue;
      if (fitted != linear.tap) {
        fitted = linear.tap;
        OwnedHessian& cross = group.crosses[tap];
        ridge.emplace(hessians[tap].cview());
        step = std::move(cross.cross);
        const std::vector<double> explained = ridge->solve(step.view());
        const double sum = std::accumulate(explained.begin(), explained.end(), 0.0);
        share = fit_share(cross.energy > 0 ? sum / cross.energy : 0,
                          static_cast<double>(cross.tokens), linear.cols);
      }
      Matrix<float> room;
      const auto w = backend_.on_host(work.weights[linear.name + ".weight"], room);
      const MatrixView<float> target(values[i].get(), linear.rows, linear.cols);
      made.shifts[i] = linear.adds
                           ? move_rows(w, step.cview(), share, target)
                           : move_by_drift(w, step.cview(), options_.stream.drift * share, target);
    }
  });
  for (std::size_t i = 0; i < count && together; ++i) {
    if (!made.shifts[i]) continue;
    const LinearSpec& linear = chosen.layers[i].first;
    comm_.broadcast(std::span(values[i].get(), at(linear.rows * linear.cols)), chosen.owners[i]);
    comm_.broadcast_value(*made.shifts[i], chosen.owners[i]);
  }
  agree(comm_, [&] {
    for (std::size_t i = 0; i < count; ++i) {
      if (values[i] == nullptr) continue;
      const LinearSpec& linear = chosen.layers[i].first;
      made.weights.insert(linear.name + ".weight",
                          backend_.adopt(values[i], linear.rows, linear.cols));
    }
  });
  return made;
}

ExpertQuantizer::Work ExpertQuantizer::work_of(const BlockLoader& loader,
                                               WeightSet& weights) const {
  Work work{family_.block(loader.block()), weights, options_.selected(family_, loader.block()), {}};
  std::erase_if(work.linears, [](const LinearSpec& linear) { return linear.expert < 0; });
  for (const LinearSpec& linear : work.linears) {
    work.layers.emplace_back(linear, options_.of(linear.name));
  }
  return work;
}

std::vector<StoredLayer> ExpertQuantizer::quantize(const BlockLoader& loader, WeightSet& weights,
                                                   const SampleShard& shard, TensorView states) {
  Work work = work_of(loader, weights);
  {
    auto scope = phases_.measure("forward");
    on_step("route");
    work.pass.emplace(comm_, backend_, family_, loader.block(), shard, states);
    work.pass->begin(weights);
  }
  return run(work, loader, shard);
}

std::vector<StoredLayer> ExpertQuantizer::quantize(const BlockLoader& loader, WeightSet& weights,
                                                   const SampleShard& shard, Streams& streams) {
  Work work = work_of(loader, weights);
  {
    auto scope = phases_.measure("capture");
    on_step("route");
    work.made = WeightSet::over(weights);
    work.pass.emplace(comm_, backend_, family_, loader.block(), shard,
                      std::move(streams.quantized));
    work.full.emplace(comm_, backend_, family_, loader.block(), shard, std::move(streams.full));
    agree(comm_, [&] {
      if (!moves(work)) return;
      const ConstTensorView r = work.pass->residual();
      work.missing = backend_.allocate_samples(r.rows, r.cols);
      std::vector<float> shares = work.pass->summed_weights();
      for (float& share : shares) share = 1.0F / share;
      set_difference(backend_, work.full->residual(), r, options_.stream.residual,
                     work.missing.view());
      backend_.scale_rows(shares, work.missing.view());
    });
  }
  std::vector<StoredLayer> stored = run(work, loader, shard);
  streams = {{work.pass->take_states(), {}}, {work.full->take_states(), {}}};
  return stored;
}

std::vector<StoredLayer> ExpertQuantizer::run(Work& work, const BlockLoader& loader,
                                              const SampleShard& shard) {
  const BlockPlan& plan = work.plan;
  alone_.on_step = together_.on_step = on_step;
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
      for (const ExpertPlan& expert : group.plans) loader.load(expert.linears, work.weights);
    }
    group.hessians.resize(group.plans.size() * at(inputs));
    group.crosses.resize(group.hessians.size());
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
      if (options_.sequential()) round(work, group, {input, input + 1});
    }
    if (!options_.sequential()) round(work, group, {0, inputs});
    auto scope = phases_.measure("forward");
    on_step("forward experts");
    for (const ExpertPlan& expert : group.plans) {
      if (work.full) work.full->add(expert, work.weights);
      work.pass->add(expert, work.quantized());
      loader.drop(expert.linears, work.weights);
      if (work.made) loader.drop(expert.linears, *work.made);
    }
  }
  auto scope = phases_.measure("forward");
  if (work.full) work.full->end(work.weights);
  work.pass->end(work.weights);
  // Layers that go one after the other come input by input.
  return in_order(work.linears, std::move(work.stored));
}

}  // namespace quip
