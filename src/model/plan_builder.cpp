#include "plan_builder.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "family_common.hpp"

#include "quip/core/error.hpp"
#include "quip/model/rope.hpp"

namespace quip {
namespace {

/// Finds the lives of activations. Throws Error if one is read that was never written.
std::vector<Range> lives_of(const BlockPlan& plan) {
  std::vector<Range> lives(plan.activations.size(), Range{-1, -1});
  lives[at(plan.input)] = {0, 0};
  for (index_t i = 0; i < std::ssize(plan.operations); ++i) {
    const Operands slots = operands(plan.operations[at(i)]);
    for (const Slot slot : slots.read) {
      if (lives[at(slot)].first < 0) {
        fail("a plan reads activation {} before it is written", plan.activations[at(slot)].name);
      }
      lives[at(slot)].last = i;
    }
    for (const Slot slot : slots.written) {
      Range& life = lives[at(slot)];
      if (life.first < 0) life.first = i;
      life.last = i;
    }
  }
  return lives;
}

/// Returns the taps at which an activation is needed that was made before.
Range taps_of(const BlockPlan& plan, Slot slot) {
  if (slot == plan.input || slot == plan.output) return {};
  const Range life = plan.lives[at(slot)];
  const auto first = std::ranges::upper_bound(plan.taps, life.first, {}, &Tap::operation);
  const auto last = std::ranges::upper_bound(plan.taps, life.last, {}, &Tap::operation);
  return {first - plan.taps.begin(), last - plan.taps.begin()};
}

/// Gives every activation that is carried over taps its columns: the first that are free at all of
/// these.
void place_carried(BlockPlan& plan) {
  const auto slots = static_cast<Slot>(plan.activations.size());
  plan.columns.assign(at(slots), 0);
  std::vector<Range> carried(at(slots));
  for (Slot slot = 0; slot < slots; ++slot) {
    carried[at(slot)] = taps_of(plan, slot);
    for (index_t tap = carried[at(slot)].first; tap < carried[at(slot)].last; ++tap) {
      plan.taps[at(tap)].carried.push_back(slot);
    }
  }
  for (index_t t = 0; t < std::ssize(plan.taps); ++t) {
    for (const Slot slot : plan.taps[at(t)].carried) {
      if (carried[at(slot)].first != t) continue;  // has its place already
      // Those that are there by now and at this tap are all that can be in the way.
      index_t& column = plan.columns[at(slot)];
      const auto clash = [&](Slot other) {
        const index_t first = plan.columns[at(other)];
        const bool placed = carried[at(other)].first < t || other < slot;
        return placed && first < column + plan.width(slot) && column < first + plan.width(other);
      };
      const std::vector<Slot>& here = plan.taps[at(t)].carried;
      for (auto found = std::ranges::find_if(here, clash); found != here.end();
           found = std::ranges::find_if(here, clash)) {
        column = plan.columns[at(*found)] + plan.width(*found);
      }
      plan.carried_width = std::max(plan.carried_width, column + plan.width(slot));
    }
  }
}

/// Returns the experts, whose operations are each other's neighbours. Throws Error otherwise, and
/// if linears that get quantized come after them.
std::vector<ExpertPlan> experts_of(BlockPlan& plan) {
  std::vector<ExpertPlan> experts;
  for (index_t i = 0; i < std::ssize(plan.operations); ++i) {
    const Operation& operation = plan.operations[at(i)];
    if (const auto* gather = std::get_if<op::Gather>(&operation)) {
      const index_t number = plan.activations[at(gather->to)].rows.value().expert;
      if (!experts.empty() && experts.back().operations.last != i)
        fail("a plan has operations between the experts {} and {}", experts.back().number, number);
      experts.push_back({number, {i, i}, {}, {}});
    } else if (std::holds_alternative<op::Scatter>(operation)) {
      experts.back().operations.last = i + 1;
    }
  }
  for (index_t i = 0; i < std::ssize(plan.linears); ++i) {
    LinearSpec& linear = plan.linears[at(i)];
    if (linear.expert < 0) {
      if (!experts.empty() && experts.front().linears.count() > 0)
        fail("a plan has {} after its experts", linear.name);
      continue;
    }
    ExpertPlan& expert = *std::ranges::find(experts, linear.expert, &ExpertPlan::number);
    if (expert.linears.count() == 0) expert.linears = {i, i};
    expert.linears.last = i + 1;
    const auto reads = std::ranges::find_if(plan.operations.begin() + expert.operations.first,
                                            plan.operations.begin() + expert.operations.last,
                                            [&](const Operation& operation) {
                                              const auto* own = std::get_if<op::Linear>(&operation);
                                              return own != nullptr && own->name == linear.name;
                                            });
    const Slot from = std::get<op::Linear>(*reads).from;
    auto input = std::ranges::find(expert.inputs, from, &Tap::slot);
    if (input == expert.inputs.end()) {
      expert.inputs.push_back({from, reads - plan.operations.begin(), {}});
      input = std::prev(expert.inputs.end());
    }
    linear.input = static_cast<int>(input - expert.inputs.begin());
  }
  return experts;
}

/// Marks the linears whose outputs are added to the residual, as they are or times a number.
void mark_adding(BlockPlan& plan) {
  if (plan.input != plan.output) return;
  for (LinearSpec& linear : plan.linears) {
    auto next = std::ranges::find_if(plan.operations, [&](const Operation& operation) {
      const auto* own = std::get_if<op::Linear>(&operation);
      return own != nullptr && own->name == linear.name;
    });
    const auto& own = std::get<op::Linear>(*next);
    if (own.to == plan.output) {
      linear.adds = own.adds;
      continue;
    }
    ++next;
    double factor = 1;
    for (; next != plan.operations.end(); ++next) {
      const auto* scale = std::get_if<op::Scale>(&*next);
      if (scale == nullptr || scale->x != own.to) break;
      factor *= scale->factor;
    }
    if (next == plan.operations.end() || factor == 0) continue;
    const auto* scatter = std::get_if<op::Scatter>(&*next);
    const auto* add = std::get_if<op::Add>(&*next);
    if (scatter != nullptr && factor == 1) {
      linear.adds = scatter->from == own.to && scatter->to == plan.output;
    } else if (add != nullptr && add->from == own.to && add->to == plan.output) {
      linear.adds = true;
      linear.adds_by = factor;
    }
  }
}

}  // namespace

WeightHandle StackedExperts::part(index_t expert, index_t first, index_t step) const {
  const index_t begin = expert * inputs * outputs;
  if (by_outputs) {
    return {tensor, {experts, outputs, inputs}, begin + first * inputs, step * inputs, 1};
  }
  return {tensor, {experts, inputs, outputs}, begin + first, step, outputs};
}

WeightHandle StackedExperts::bias(const std::string& name, index_t expert, index_t first,
                                  index_t step) const {
  return {name, {experts, outputs}, expert * outputs + first, outputs, step};
}

PlanBuilder::PlanBuilder(const ModelConfig& config, std::string prefix)
    : config_(config), prefix_(std::move(prefix)) {}

Slot PlanBuilder::add_activation(std::string_view name, index_t width, std::optional<Slot> like) {
  const auto rows = like ? plan_.activations[at(*like)].rows : std::nullopt;
  plan_.activations.push_back({prefix_ + std::string(name), width, rows});
  return static_cast<Slot>(plan_.activations.size()) - 1;
}

Slot PlanBuilder::input(const char* name, index_t width) {
  plan_.input = add_activation(name, width);
  return plan_.input;
}

Slot PlanBuilder::rms_norm(const std::string& name, Slot from) {
  const Slot to = add_activation(name, width(from));
  const std::string gain = prefix_ + name + ".weight";
  plan_.tensors.push_back({gain, {width(from)}});
  plan_.operations.emplace_back(
      op::RmsNorm{gain, config_.gain_plus, config_.norm_epsilon, 1, from, to});
  return to;
}

void PlanBuilder::norm_by_head(const std::string& name, Slot x, index_t heads,
                               std::optional<float> epsilon) {
  const std::string gain = name.empty() ? "" : prefix_ + name + ".weight";
  if (!name.empty()) plan_.tensors.push_back({gain, {width(x) / heads}});
  plan_.operations.emplace_back(
      op::RmsNorm{gain, config_.gain_plus, epsilon.value_or(config_.norm_epsilon), heads, x, x});
}

Slot PlanBuilder::layer_norm(const std::string& name, Slot from, bool affine) {
  const Slot to = add_activation(name, width(from));
  add_layer_norm(name, from, to, affine);
  return to;
}

void PlanBuilder::layer_norm_in_place(const std::string& name, Slot x, bool affine) {
  add_layer_norm(name, x, x, affine);
}

void PlanBuilder::add_layer_norm(const std::string& name, Slot from, Slot to, bool affine) {
  op::LayerNorm norm{"", "", config_.norm_epsilon, from, to};
  if (affine) {
    norm.gain = prefix_ + name + ".weight";
    norm.bias = prefix_ + name + ".bias";
    plan_.tensors.push_back({norm.gain, {width(from)}});
    plan_.tensors.push_back({norm.bias, {width(from)}});
  }
  plan_.operations.emplace_back(std::move(norm));
}

void PlanBuilder::add_linear_operation(const std::string& name, Slot from, Slot to, bool bias,
                                       bool adds) {
  const std::string full = prefix_ + name;
  const index_t rows = width(to);
  const index_t cols = width(from);
  const auto& routed = plan_.activations[at(from)].rows;
  auto tap = routed ? std::prev(plan_.taps.end()) : std::ranges::find(plan_.taps, from, &Tap::slot);
  if (tap == plan_.taps.end()) {
    plan_.taps.push_back({from, std::ssize(plan_.operations), {}});
    tap = std::prev(plan_.taps.end());
  }
  const std::string type = (routed ? "experts." : "") + full.substr(full.rfind('.') + 1);
  WeightHandle stored{full + ".weight", {rows, cols}, 0, cols};
  if (!shared_.tensor.empty()) {
    stored = shared_;
    shared_.offset += rows * cols;
    if (shared_.is_whole(shared_.offset)) shared_ = {};
  }
  if (!next_.tensor.empty()) stored = std::exchange(next_, {});
  plan_.linears.push_back({.name = full,
                           .type = type,
                           .rows = rows,
                           .cols = cols,
                           .tap = static_cast<int>(tap - plan_.taps.begin()),
                           .bias = bias,
                           .stored = std::move(stored),
                           .expert = routed ? routed->expert : -1});
  if (bias) {
    TensorSpec& spec = plan_.tensors.emplace_back(TensorSpec{full + ".bias", {rows}});
    if (!next_bias_.tensor.empty()) spec.stored = std::exchange(next_bias_, {});
  }
  plan_.operations.emplace_back(op::Linear{full, rows, cols, bias, adds, from, to});
}

Slot PlanBuilder::linear(const std::string& name, Slot from, index_t rows, bool bias) {
  const Slot to = add_activation(name, rows, from);
  add_linear_operation(name, from, to, bias, false);
  return to;
}

void PlanBuilder::add_linear(const std::string& name, Slot from, bool bias, Slot to) {
  add_linear_operation(name, from, to, bias, true);
}

void PlanBuilder::share_tensor(const std::string& name, index_t rows, index_t cols) {
  shared_ = {prefix_ + name + ".weight", {rows, cols}, 0, cols};
}

void PlanBuilder::store_next(WeightHandle weights, WeightHandle bias) {
  const auto complete = [&](WeightHandle& place) {
    if (!place.tensor.empty()) place.tensor.insert(0, prefix_);
    return std::move(place);
  };
  next_ = complete(weights);
  next_bias_ = complete(bias);
}

Slot PlanBuilder::fixed_linear(const std::string& name, Slot from, index_t rows) {
  const Slot to = add_activation(name, rows);
  const std::string full = prefix_ + name;
  plan_.tensors.push_back({full + ".weight", {rows, width(from)}});
  plan_.operations.emplace_back(op::Linear{full, rows, width(from), false, false, from, to});
  return to;
}

Slot PlanBuilder::router(const std::string& name, Slot from, index_t rows, bool bias) {
  const Slot to = fixed_linear(name, from, rows);
  auto& linear = std::get<op::Linear>(plan_.operations.back());
  linear.bias = bias;
  linear.in_fp32 = true;
  if (bias) plan_.tensors.push_back({linear.name + ".bias", {rows}});
  return to;
}

Slot PlanBuilder::copy(Slot from, const char* name) {
  const Slot to = add_activation(name, width(from));
  plan_.operations.emplace_back(op::Copy{from, to});
  return to;
}

Slot PlanBuilder::make(const char* name, index_t width) { return add_activation(name, width); }

void PlanBuilder::copy_channels(const op::CopyChannels& copy) {
  plan_.operations.emplace_back(copy);
}

void PlanBuilder::rope(Slot x, const RopeShape& shape, int table) {
  plan_.operations.emplace_back(op::Rope{shape, table, x});
}

Slot PlanBuilder::attend(Slot q, Slot k, Slot v, const AttentionShape& shape,
                         const std::string& sinks) {
  const Slot to = add_activation("attention", shape.heads * shape.values());
  if (!sinks.empty()) plan_.tensors.push_back({prefix_ + sinks, {shape.heads}});
  plan_.operations.emplace_back(
      op::Attention{shape, sinks.empty() ? "" : prefix_ + sinks, q, k, v, to});
  return to;
}

void PlanBuilder::activate(Slot x) {
  plan_.operations.emplace_back(op::Activate{config_.activation, x});
}

void PlanBuilder::gate(Slot gate, Slot up) {
  plan_.operations.emplace_back(op::Gate{config_.activation, gate, up});
}

void PlanBuilder::gate_clamped(Slot gate, Slot up, const ClampedSwiglu& shape) {
  plan_.operations.emplace_back(op::GateClamped{shape, gate, up});
}

void PlanBuilder::scale(Slot x, double factor) {
  if (factor != 1) plan_.operations.emplace_back(op::Scale{static_cast<float>(factor), x});
}

void PlanBuilder::add(Slot from, Slot to) { plan_.operations.emplace_back(op::Add{from, to}); }

void PlanBuilder::add_rows(const std::string& tensor, std::vector<index_t> shape, index_t first,
                           Slot x) {
  plan_.tensors.push_back({prefix_ + tensor, std::move(shape)});
  plan_.operations.emplace_back(op::AddRows{prefix_ + tensor, first, x});
}

Slot PlanBuilder::route(Slot logits, const RouterShape& shape, const TensorSpec& correction) {
  const Slot routes = add_activation("routes", 2 * shape.chosen);
  std::string name;
  if (!correction.name.empty()) {
    name = prefix_ + correction.name;
    plan_.tensors.push_back({name, correction.shape});
  }
  plan_.operations.emplace_back(op::Route{shape, std::move(name), logits, routes});
  return routes;
}

Slot PlanBuilder::gather(Slot x, Slot routes, index_t expert, const RouterShape& shape,
                         bool weighted) {
  const auto first = [](const Operation& o) { return std::holds_alternative<op::Gather>(o); };
  if (std::ranges::none_of(plan_.operations, first))
    plan_.taps.push_back({x, std::ssize(plan_.operations), {}});
  const Slot to = add_activation(fmt::format("expert_{}", expert), width(x));
  plan_.activations[at(to)].rows = {
      routes, expert, static_cast<double>(shape.chosen) / static_cast<double>(shape.experts)};
  plan_.operations.emplace_back(op::Gather{x, routes, to, weighted});
  return to;
}

void PlanBuilder::scatter(Slot from, Slot routes, Slot to, bool weighted) {
  plan_.operations.emplace_back(op::Scatter{from, routes, to, weighted});
}

AttentionShape PlanBuilder::attention_shape(index_t block) const {
  const double scale =
      config_.attention_scale.value_or(1.0 / std::sqrt(static_cast<double>(config_.head_dim)));
  return {.heads = config_.heads,
          .kv_heads = config_.kv_heads,
          .head_dim = config_.head_dim,
          .scale = static_cast<float>(scale),
          .window = config_.window(block),
          .soft_cap = config_.score_cap,
          .chunk = config_.chunk(block)};
}

BlockPlan PlanBuilder::finish(Slot output) {
  plan_.output = output;
  plan_.lives = lives_of(plan_);
  plan_.experts = experts_of(plan_);
  mark_adding(plan_);
  place_carried(plan_);
  return std::move(plan_);
}

BlockBuilder::BlockBuilder(const ModelConfig& config, index_t block, const std::string& layers)
    : PlanBuilder(config, fmt::format("{}{}.", layers, block)),
      block_(block),
      residual_(input("residual", config.hidden)) {}

BlockBuilder::Heads BlockBuilder::project(const std::string& part, Slot from, bool bias) {
  const index_t keys = config().kv_heads * config().head_dim;
  const Slot q = linear(part + "q_proj", from, config().heads * config().head_dim, bias);
  const Slot k = linear(part + "k_proj", from, keys, bias);
  const Slot v = linear(part + "v_proj", from, keys, bias);
  return {q, k, v};
}

Slot BlockBuilder::attend(const Heads& heads, const std::string& sinks) {
  return PlanBuilder::attend(heads.q, heads.k, heads.v, attention_shape(block_), sinks);
}

void BlockBuilder::rope(const Heads& heads) {
  const ModelConfig& c = config();
  const int table = c.local_rope && c.window(block_) ? 1 : 0;
  RopeShape shape{.heads = c.heads, .head_dim = c.head_dim, .interleaved = c.rope.interleaved};
  PlanBuilder::rope(heads.q, shape, table);
  shape.heads = c.kv_heads;
  PlanBuilder::rope(heads.k, shape, table);
}

Slot BlockBuilder::attend_by_position(const Heads& heads, const std::string& sinks) {
  rope(heads);
  return attend(heads, sinks);
}

Slot BlockBuilder::gated(const std::string& part, Slot from, bool bias, index_t width) {
  const Slot gates = linear(part + "gate_proj", from, width, bias);
  const Slot up = linear(part + "up_proj", from, width, bias);
  gate(gates, up);
  return gates;
}

void BlockBuilder::add_experts(const ExpertNames& names, Slot x) {
  const ModelConfig& c = config();
  const RouterShape& shape = c.router;
  if (c.shared_intermediate > 0) {  // before the experts, which come and go
    const std::string shared = names.shared;
    add_to_residual(shared + "down_proj", gated(shared, x, false, c.shared_intermediate), false);
  }
  const Slot logits = router(names.router, x, shape.experts, false);
  TensorSpec correction{names.correction, {shape.experts}};
  if (names.correction_is_row) correction.shape = {1, shape.experts};
  const Slot routes = route(logits, shape, correction);
  for (index_t e = 0; e < shape.experts; ++e) {
    const std::string expert = fmt::format("{}{}.", names.experts, e);
    const Slot rows = gather(x, routes, e, shape);
    const Slot gates = linear(expert + names.gate, rows, c.expert_intermediate, false);
    gate(gates, linear(expert + names.up, rows, c.expert_intermediate, false));
    scatter(linear(expert + names.down, gates, c.hidden, false), routes, residual_);
  }
}

void BlockBuilder::add_experts_or_mlp(const ExpertNames& names, Slot x) {
  if (config().has_experts(block_)) return add_experts(names, x);
  add_to_residual("mlp.down_proj", gated("mlp.", x, false), false);
}

void BlockBuilder::add_to_residual(const std::string& name, Slot from, bool bias) {
  add_linear(name, from, bias, residual_);
}

void BlockBuilder::add_normed(const std::string& name, Slot from, bool bias,
                              const std::string& norm) {
  const Slot x = linear(name, from, config().hidden, bias);
  norm_by_head(norm, x, 1);
  add(x, residual_);
}

ModelPlan plan_decoder(const ModelConfig& c,
                       BlockPlan (*block)(const ModelConfig& config, index_t number)) {
  ModelPlan plan;
  plan.embedding = {c.root + "embed_tokens.weight", {c.vocabulary, c.hidden}};
  plan.head = head_of(c, plan.embedding);
  const auto add_rope = [&](const RopeConfig& rope) {
    plan.ropes.push_back(
        {rope_frequencies(rope, c.head_dim), static_cast<float>(rope.scaling.attention_factor)});
  };
  add_rope(c.rope);
  if (c.local_rope) add_rope(*c.local_rope);
  PlanBuilder embed(c, c.root);
  const Slot first = embed.copy(embed.input("embedding", c.hidden), "residual");
  embed.scale(first, c.embedding_scale);
  plan.embed = embed.finish(first);
  for (index_t b = 0; b < c.blocks; ++b) plan.blocks.push_back(block(c, b));
  PlanBuilder finish(c, c.root);
  const Slot last = finish.rms_norm("norm", finish.input("residual", c.hidden));
  finish.scale(last, c.head_scale);
  plan.finish = finish.finish(last);
  return plan;
}

}  // namespace quip
