#include "quip/model/block_plan.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

namespace quip {
namespace {

struct OperandsOf {
  Operands operator()(const op::RmsNorm& o) const { return {{o.from}, {o.to}}; }
  Operands operator()(const op::LayerNorm& o) const { return {{o.from}, {o.to}}; }
  Operands operator()(const op::Linear& o) const {
    if (o.adds) return {{o.from, o.to}, {o.to}};
    return {{o.from}, {o.to}};
  }
  Operands operator()(const op::Rope& o) const { return {{o.x}, {o.x}}; }
  Operands operator()(const op::Attention& o) const { return {{o.q, o.k, o.v}, {o.to}}; }
  Operands operator()(const op::Activate& o) const { return {{o.x}, {o.x}}; }
  Operands operator()(const op::Gate& o) const { return {{o.gate, o.up}, {o.gate}}; }
  Operands operator()(const op::GateClamped& o) const { return {{o.gate, o.up}, {o.gate}}; }
  Operands operator()(const op::AddRows& o) const { return {{o.x}, {o.x}}; }
  Operands operator()(const op::Scale& o) const { return {{o.x}, {o.x}}; }
  Operands operator()(const op::Add& o) const { return {{o.from, o.to}, {o.to}}; }
  Operands operator()(const op::Route& o) const { return {{o.logits}, {o.routes}}; }
  Operands operator()(const op::Gather& o) const { return {{o.from, o.routes}, {o.to}}; }
  Operands operator()(const op::Scatter& o) const { return {{o.from, o.routes, o.to}, {o.to}}; }
  Operands operator()(const op::Copy& o) const { return {{o.from}, {o.to}}; }
  Operands operator()(const op::CopyChannels& o) const { return {{o.from}, {o.to}}; }
};

index_t elements_of(const std::vector<index_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), index_t{1}, std::multiplies<>());
}

}  // namespace

bool WeightHandle::is_whole(index_t elements) const { return elements_of(shape) == elements; }

index_t TensorSpec::elements() const { return elements_of(shape); }

Operands operands(const Operation& operation) { return std::visit(OperandsOf(), operation); }

index_t BlockPlan::width_at(const Tap& tap) const {
  index_t width_of_all = 0;
  for (const Slot slot : tap.carried) {
    width_of_all = std::max(width_of_all, columns[at(slot)] + width(slot));
  }
  return width_of_all;
}

Range BlockPlan::stage(int number) const {
  const index_t first = number == 0 ? 0 : taps[at(number - 1)].operation;
  const bool last = number == static_cast<int>(taps.size());
  return {first, last ? std::ssize(operations) : taps[at(number)].operation};
}

bool adds_to_residual(const BlockPlan& plan) {
  return std::ranges::any_of(plan.linears, [](const LinearSpec& linear) { return linear.adds; });
}

std::vector<index_t> live_widths(const BlockPlan& plan) {
  std::vector<index_t> widths(plan.operations.size(), 0);
  for (Slot slot = 0; slot < static_cast<Slot>(plan.activations.size()); ++slot) {
    if (slot == plan.input || slot == plan.output) continue;
    const Range life = plan.lives[at(slot)];
    for (index_t i = life.first; i <= life.last; ++i) widths[at(i)] += plan.width(slot);
  }
  return widths;
}

}  // namespace quip
