#include "quip/pipeline/capture.hpp"

#include "quip/calib/hessian.hpp"
#include "quip/core/usage.hpp"
#include "quip/model/work.hpp"
#include "quip/pipeline/device_memory.hpp"

namespace quip {

Capture::Capture(Collectives& comm, Backend& backend, const Family& family, index_t block,
                 const SampleShard& shard, ConstTensorView states, Phases& phases)
    : comm_(comm),
      backend_(backend),
      family_(family),
      shard_(shard),
      phases_(phases),
      block_(block) {
  auto scope = phases_.measure("capture");
  agree(comm_, [&] {
    residual_ = backend_.allocate_samples(states.rows, states.cols);
    backend_.copy(states, residual_.view());
    captured_ = backend_.allocate_samples(shard.tokens(), widest_tap(family));
  });
}

void Capture::advance(const WeightSet& weights) {
  auto scope = phases_.measure("capture");
  const index_t previous = tap_ < 0 ? 0 : family_.tap_width(tap_);
  const index_t width = family_.tap_width(++tap_);
  agree(comm_, [&] {
    backend_.for_each_unit(shard_.samples.count(), [&](index_t s) {
      const index_t row = s * shard_.length;
      const TensorView slot = captured_.view().middle_rows(row, shard_.length);
      Tensor next = backend_.allocate(shard_.length, width);
      family_.advance(tap_, block_, backend_, weights,
                      residual_.view().middle_rows(row, shard_.length),
                      slot.middle_cols(0, previous), next.view());
      backend_.copy(next.cview(), slot.middle_cols(0, width));
      UsageMeter::current().add_flops(stage_flops(family_, block_, tap_, shard_.length));
    });
  });
}

LayerInputs Capture::inputs() const {
  return {captured_.cview().middle_cols(0, family_.tap_width(tap_)), shard_.samples.first,
          shard_.length};
}

Matrix<double> Capture::hessian(const std::string& layer) {
  auto scope = phases_.measure("hessian");
  const auto [x, first_sample, sample_length] = inputs();
  return exact_hessian(comm_, backend_, x, first_sample, sample_length, layer);
}

}  // namespace quip
