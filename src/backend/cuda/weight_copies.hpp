// Weights in bfloat16, as the tensor cores read them, made when they are first used.
#pragma once

#include <map>
#include <mutex>

#include "context.hpp"
#include <cuda_bf16.h>

#include "quip/backend/backend.hpp"
#include "quip/backend/device_work.hpp"

namespace quip::cuda {

/// Keyed by the address of the fp32 weights: code that writes to memory, or frees it, calls forget.
class WeightCopies {
 public:
  explicit WeightCopies(Context& context) : context_(context) {}

  /// Returns w in bfloat16, ready for every lane. Thread-safe.
  [[nodiscard]] MatrixView<const __nv_bfloat16> of(ConstTensorView w);
  /// Drops the copies of weights that overlap [first, last).
  void forget(const float* first, const float* last);

 private:
  struct Copy {
    ConstTensorView of;
    index_t ld;
    DeviceBuffer<__nv_bfloat16> data;
  };
  Context& context_;
  std::mutex mutex_;
  std::map<const float*, Copy> copies_;  ///< by first element
};

}  // namespace quip::cuda
