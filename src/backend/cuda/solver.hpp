// LDLᵀ on the device, by cuSOLVER, and the transforms of a Hessian.
#pragma once

#include "context.hpp"

#include "quip/quant/factor/factor.hpp"

namespace quip::cuda {

/// The costly steps of prepare_layer, on the host if the device lacks room, which it says once.
class HessianMathOnDevice final : public HessianMath {
 public:
  explicit HessianMathOnDevice(Context& context) : context_(context) {}

  /// Transforms slab by slab: the device holds some columns at a time.
  void transform(const Transform& v, MatrixView<double> x) const override;
  /// Holds all of h on the device.
  [[nodiscard]] index_t ldl_factor(MatrixView<double> h, std::span<double> d) const override;

 private:
  Context& context_;
  mutable bool warned_ = false;
};

}  // namespace quip::cuda
