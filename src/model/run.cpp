// Runs plans: the one place where operations meet the backend.
#include <algorithm>
#include <utility>

#include "quip/core/error.hpp"
#include "quip/model/family.hpp"
#include "quip/model/rope.hpp"

namespace quip {

ConstTensorView WeightSet::operator[](const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end() && under_ != nullptr) return (*under_)[name];
  if (found == tensors_.end()) fail("tensor {} was not loaded", name);
  return found->second.cview();
}

ConstTensorView WeightSet::optional(const std::string& name) const {
  return name.empty() ? ConstTensorView{} : (*this)[name];
}

SampleState::SampleState(const BlockPlan& plan, index_t length)
    : plan_(plan), length_(length), places_(plan.activations.size()) {}

TensorView SampleState::operator[](Slot slot) const {
  if (!holds(slot)) fail("activation {} is not there", plan_.activations[at(slot)].name);
  return places_[at(slot)].view;
}

void SampleState::make(Slot slot, Backend& backend) {
  if (holds(slot)) return;
  const bool has_all = !plan_.activations[at(slot)].rows;
  const index_t rows = has_all ? length_ : std::ssize(routed(slot, backend).tokens);
  Tensor owned = backend.allocate(rows, plan_.width(slot));
  const TensorView view = owned.view();
  places_[at(slot)] = {view, std::move(owned), true};
}

Routing routing_of(ConstTensorView routes) {
  Routing routing;
  const index_t chosen = routes.cols / 2;
  for (index_t t = 0; t < routes.rows; ++t) {
    for (index_t i = 0; i < chosen; ++i) {
      RoutedTokens& expert = routing[static_cast<index_t>(routes(t, i))];
      expert.tokens.push_back(t);
      expert.weights.push_back(routes(t, chosen + i));
    }
  }
  return routing;
}

const RoutedTokens& SampleState::routed(Slot slot, Backend& backend) {
  static const RoutedTokens none;
  const RoutedRows& rows = plan_.activations[at(slot)].rows.value();
  const Routing*& routing = routings_[rows.routes];
  if (routing == nullptr) {
    Matrix<float> room;
    const auto made =
        own_.emplace(rows.routes, routing_of(backend.on_host((*this)[rows.routes], room)));
    routing = &made.first->second;
  }
  const auto found = routing->find(rows.expert);
  return found == routing->end() ? none : found->second;
}

namespace {

/// Returns a matrix with a row for each head of each token.
TensorView by_head(TensorView x, index_t heads) {
  if (heads == 1) return x;
  if (x.ld != x.cols) fail("heads of a matrix whose rows are {} apart and {} long", x.ld, x.cols);
  return {x.data, x.rows * heads, x.cols / heads};
}

}  // namespace

/// Does one operation after the other on the activations of a sample.
class Runner {
 public:
  Runner(const Family& family, Backend& backend, const WeightSet& weights, SampleState& state)
      : family_(family), backend_(backend), weights_(weights), state_(state) {}

  void operator()(const op::RmsNorm& o) const {
    backend_.rms_norm(by_head(state_[o.from], o.heads), {weights_.optional(o.gain), o.plus},
                      o.epsilon, by_head(state_[o.to], o.heads));
  }
  void operator()(const op::LayerNorm& o) const {
    backend_.layer_norm(state_[o.from], weights_.optional(o.gain), weights_.optional(o.bias),
                        o.epsilon, state_[o.to]);
  }
  void operator()(const op::Linear& o) const {
    const ConstTensorView weight = weights_[o.name + ".weight"];
    const ConstTensorView bias = o.bias ? weights_[o.name + ".bias"] : ConstTensorView{};
    if (o.in_fp32) {
      backend_.linear_in_fp32(state_[o.from], weight, bias, state_[o.to]);
    } else if (o.adds) {
      backend_.linear_add(state_[o.from], weight, bias, state_[o.to]);
    } else {
      backend_.linear(state_[o.from], weight, bias, state_[o.to]);
    }
  }
  void operator()(const op::Rope& o) const {
    const TensorView x = state_[o.x];
    const Family::Angles& angles = family_.angles_[at(o.table)];
    backend_.rope(x, o.shape, angles.cosine.cview().middle_rows(0, x.rows),
                  angles.sine.cview().middle_rows(0, x.rows));
  }
  void operator()(const op::Attention& o) const {
    backend_.attention(state_[o.q], state_[o.k], state_[o.v], o.shape, weights_.optional(o.sinks),
                       state_[o.to]);
  }
  void operator()(const op::Activate& o) const { backend_.activate(o.kind, state_[o.x]); }
  void operator()(const op::Gate& o) const {
    backend_.gated_activate(o.kind, state_[o.gate], state_[o.up]);
  }
  void operator()(const op::GateClamped& o) const {
    backend_.clamped_swiglu(o.shape, state_[o.gate], state_[o.up]);
  }
  void operator()(const op::AddRows& o) const {
    const TensorView x = state_[o.x];
    backend_.add(weights_[o.tensor].middle_rows(o.first, x.rows), x);
  }
  void operator()(const op::Scale& o) const { backend_.scale(o.factor, state_[o.x]); }
  void operator()(const op::Add& o) const { backend_.add(state_[o.from], state_[o.to]); }
  void operator()(const op::Route& o) const {
    backend_.route(state_[o.logits], o.shape, weights_.optional(o.correction), state_[o.routes]);
  }
  void operator()(const op::Gather& o) const {
    const RoutedTokens& rows = state_.routed(o.to, backend_);
    backend_.gather_rows(state_[o.from], rows.tokens, state_[o.to]);
    if (o.weighted) backend_.scale_rows(rows.weights, state_[o.to]);
  }
  void operator()(const op::Scatter& o) const {
    const RoutedTokens& rows = state_.routed(o.from, backend_);
    const std::vector<float> ones(o.weighted ? 0 : rows.tokens.size(), 1.0F);
    backend_.scatter_add_rows(state_[o.from], rows.tokens, o.weighted ? rows.weights : ones,
                              state_[o.to]);
  }
  void operator()(const op::Copy& o) const { backend_.copy(state_[o.from], state_[o.to]); }
  void operator()(const op::CopyChannels& o) const {
    const TensorView from = state_[o.from];
    const TensorView to = state_[o.to];
    if (!o.common) {
      backend_.copy(by_head(from, o.heads).middle_cols(o.from_first, o.count),
                    by_head(to, o.heads).middle_cols(o.to_first, o.count));
      return;
    }
    for (index_t h = 0; h < o.heads; ++h) {
      backend_.copy(from.middle_cols(o.from_first, o.count),
                    to.middle_cols(h * (to.cols / o.heads) + o.to_first, o.count));
    }
  }

 private:
  const Family& family_;
  Backend& backend_;
  const WeightSet& weights_;
  SampleState& state_;
};

Family::Family(ModelConfig config, ModelPlan plan)
    : config_(std::move(config)), plan_(std::move(plan)) {}

std::vector<TensorSpec> Family::end_tensors() const {
  std::vector<TensorSpec> tensors = plan_.embed.tensors;
  tensors.insert(tensors.end(), plan_.finish.tensors.begin(), plan_.finish.tensors.end());
  return tensors;
}

void Family::prepare(Backend& backend, index_t length) {
  if (length > config_.max_positions) {
    fail(
        "sequences of {} tokens are too long: config.json has max_position_embeddings = {}; make "
        "a token set of shorter sequences",
        length, config_.max_positions);
  }
  angles_.clear();
  for (const RopeAngles& rope : plan_.ropes) {
    const RopeTables tables =
        rope_tables(rope.frequencies, length, rope.magnitude, rope.temperature);
    Angles angles{backend.allocate(length, tables.cosine.cols()),
                  backend.allocate(length, tables.sine.cols())};
    backend.upload(tables.cosine.span(), angles.cosine.view());
    backend.upload(tables.sine.span(), angles.sine.view());
    angles_.push_back(std::move(angles));
  }
}

void Family::run(const BlockPlan& plan, Range operations, Backend& backend,
                 const WeightSet& weights, SampleState& state) const {
  const Runner runner(*this, backend, weights, state);
  for (index_t i = operations.first; i < operations.last; ++i) {
    const Operation& operation = plan.operations[at(i)];
    const Operands slots = operands(operation);
    for (const Slot slot : slots.written) state.make(slot, backend);
    // An expert may have no token.
    const bool idle = std::ranges::any_of(slots.read, [&](Slot s) { return state[s].rows == 0; });
    if (!idle) std::visit(runner, operation);
    for (const std::vector<Slot>& used : {slots.read, slots.written}) {
      for (const Slot slot : used) {
        if (plan.lives[at(slot)].last == i) state.drop(slot);
      }
    }
  }
}

void Family::run_whole(const BlockPlan& plan, Backend& backend, const WeightSet& weights,
                       TensorView input, TensorView output) const {
  SampleState state(plan, input.rows);
  state.bind(plan.input, input);
  state.bind(plan.output, output);
  run(plan, {0, std::ssize(plan.operations)}, backend, weights, state);
}

void Family::embed(Backend& backend, const WeightSet& ends, TensorView rows,
                   TensorView residual) const {
  run_whole(plan_.embed, backend, ends, rows, residual);
}

void Family::forward(index_t number, Backend& backend, const WeightSet& weights,
                     TensorView residual) const {
  run_whole(block(number), backend, weights, residual, residual);
}

void Family::finish(Backend& backend, const WeightSet& ends, TensorView residual,
                    TensorView result) const {
  run_whole(plan_.finish, backend, ends, residual, result);
}

}  // namespace quip
