// LowerPanels on the device, and the norm that they define.
#pragma once

#include "context.hpp"

#include "quip/quant/factor/lower_panels.hpp"

namespace quip::cuda {

class PanelsOnDevice {
 public:
  /// `host` is referred to for its shape. Collective if it is not resident.
  PanelsOnDevice(Context& context, const LowerPanels& host);

  [[nodiscard]] const LowerPanels& shape() const { return host_; }
  [[nodiscard]] MatrixView<const float> panel(index_t b) const;
  /// The diagonal's elements from block b on.
  [[nodiscard]] const double* diagonal(index_t b) const {
    return diagonal_.data() + host_.first_column(b);
  }

 private:
  const LowerPanels& host_;
  DeviceBuffer<float> panels_;
  DeviceBuffer<double> diagonal_;
};

/// norm[r] += xᵣ H xᵣᵀ for every lane of x [n × lanes] (contiguous), with the factor of H.
void add_hessian_norm(Context& context, const PanelsOnDevice& factor, MatrixView<const float> x,
                      double* norm);

}  // namespace quip::cuda
