// Orthogonal transforms on the device, with the CPU's bits.
#pragma once

#include <vector>

#include "context.hpp"

#include "quip/quant/transform.hpp"

namespace quip::cuda {

/// The steps of a Transform with their data on the device.
template <typename T>
class TransformOnDevice {
 public:
  TransformOnDevice(Context& context, const Transform& transform);

  /// X ← Q X or Qᵀ X for X [n × cols], contiguous in `x`; `scratch` is as large, and may change
  /// places with it.
  void apply(DeviceBuffer<T>& x, DeviceBuffer<T>& scratch, index_t cols, bool transposed) const;

 private:
  struct Step {
    TransformStep shape;  ///< without its host data
    DeviceBuffer<index_t> order;
    DeviceBuffer<T> values;  ///< of `scale` or of the factors, one behind the other
    index_t factor_order = 0;
    bool many = false;  ///< a factor for each batch
  };
  [[nodiscard]] Step upload(const TransformStep& step) const;
  void run(const Step& step, DeviceBuffer<T>& x, DeviceBuffer<T>& scratch, index_t cols,
           bool transposed) const;
  void multiply(const Step& step, const T* x, T* y, index_t cols, bool transposed) const;

  Context& context_;
  index_t n_;
  std::vector<Step> steps_;
};

extern template class TransformOnDevice<float>;
extern template class TransformOnDevice<double>;

}  // namespace quip::cuda
