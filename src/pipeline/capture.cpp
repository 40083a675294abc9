#include "quip/pipeline/capture.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "quip/calib/hessian.hpp"
#include "quip/core/usage.hpp"
#include "quip/model/work.hpp"

namespace quip {

Capture::Capture(Collectives& comm, Backend& backend, const Family& family, index_t block,
                 const SampleShard& shard, Phases& phases)
    : comm_(comm),
      backend_(backend),
      family_(family),
      plan_(family.block(block)),
      shard_(shard),
      phases_(phases) {}

Capture::Capture(Collectives& comm, Backend& backend, const Family& family, index_t block,
                 const SampleShard& shard, ConstTensorView states, Phases& phases)
    : Capture(comm, backend, family, block, shard, phases) {
  auto scope = phases_.measure("capture");
  agree(comm_, [&] {
    residual_ = backend_.allocate_samples(states.rows, states.cols);
    backend_.copy(states, residual_.view());
    carried_ = backend_.allocate_samples(shard.tokens(), plan_.carried_width);
  });
}

Capture::Capture(Collectives& comm, Backend& backend, const Family& family, index_t block,
                 const SampleShard& shard, Tensor states, Phases& phases)
    : Capture(comm, backend, family, block, shard, phases) {
  residual_ = std::move(states);
  auto scope = phases_.measure("capture");
  agree(comm_, [&] { carried_ = backend_.allocate_samples(shard.tokens(), plan_.carried_width); });
}

TensorView Capture::place_of(Slot slot) const {
  return carried_.view().middle_cols(plan_.columns[at(slot)], plan_.width(slot));
}

void Capture::run_stage(const WeightSet& weights, const std::vector<Slot>& after) {
  auto scope = phases_.measure("capture");
  const Range operations = plan_.stage(tap_ + 1);
  const std::vector<Slot> before = tap_ < 0 ? std::vector<Slot>{} : plan_.taps[at(tap_)].carried;
  ++tap_;
  agree(comm_, [&] {
    backend_.for_each_unit(shard_.samples.count(), [&](index_t s) {
      const auto rows_of = [&](TensorView all) { return shard_.rows_of(all, s); };
      SampleState state(plan_, shard_.length);
      state.bind(plan_.input, rows_of(residual_.view()));
      for (const Slot slot : before) state.bind(slot, rows_of(place_of(slot)));
      family_.run(plan_, operations, backend_, weights, state);
      // Only now: what is carried on may take the place of what was carried here.
      for (const Slot slot : after) {
        if (std::ranges::find(before, slot) != before.end()) continue;
        backend_.copy(state[slot], rows_of(place_of(slot)));
      }
      UsageMeter::current().add_flops(stage_flops(plan_, tap_, shard_.length));
    });
  });
}

void Capture::advance(const WeightSet& weights) {
  run_stage(weights, plan_.taps[at(tap_ + 1)].carried);
}

Tensor Capture::finish(const WeightSet& weights) {
  run_stage(weights, {});
  return std::move(residual_);
}

LayerInputs Capture::inputs() const {
  return {place_of(plan_.taps[at(tap_)].slot), shard_.samples.first, shard_.length};
}

Matrix<double> Capture::hessian(const std::string& layer) {
  auto scope = phases_.measure("hessian");
  const auto [x, first_sample, sample_length] = inputs();
  return exact_hessian(comm_, backend_, x, first_sample, sample_length, layer);
}

}  // namespace quip
