#include "quip/pipeline/capture.hpp"

#include <algorithm>

#include "quip/calib/hessian.hpp"

namespace quip {

Capture::Capture(Collectives& comm, Backend& backend, const Family& family, index_t block,
                 const SampleShard& shard, ConstTensorView states, Phases& phases)
    : comm_(comm),
      backend_(backend),
      family_(family),
      shard_(shard),
      phases_(phases),
      block_(block) {
  index_t widest = 0;
  for (int tap = 0; tap < family.taps(); ++tap) widest = std::max(widest, family.tap_width(tap));
  agree(comm_, [&] {
    residual_ = backend_.allocate(states.rows, states.cols);
    backend_.copy(states, residual_.view());
    captured_ = backend_.allocate(shard.tokens(), widest);
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
    });
  });
}

Matrix<double> Capture::hessian(const std::string& layer) {
  auto scope = phases_.measure("hessian");
  const index_t sent = comm_.bytes_sent();
  const index_t width = family_.tap_width(tap_);
  Matrix<double> h = exact_hessian(comm_, backend_, captured_.cview().middle_cols(0, width),
                                   shard_.samples.first, shard_.length, layer);
  scope.add_bytes_sent(comm_.bytes_sent() - sent);
  scope.add_flops(static_cast<double>(shard_.tokens()) * static_cast<double>(width) *
                  static_cast<double>(width));
  return h;
}

}  // namespace quip
