// Matrix products on tensor cores, through cublasLt.
#pragma once

#include <map>
#include <tuple>

#include "check.hpp"
#include "device.hpp"
#include <cuda_bf16.h>

namespace quip::cuda {

/// C = A Bᵀ (+ C) for row-major A [m × k], B [n × k], C [m × n]. One for each stream: its workspace
/// is in use until the stream gets there. The algorithm is chosen once for each shape, so that
/// equal shapes have equal bits.
class Matmul {
 public:
  Matmul(Device& device, const Stream& stream);
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  // A and B are aligned to 16 bytes, each of their rows too.

  /// Multiplies with fp32 accumulation; `add`: adds to C.
  void multiply(MatrixView<const __nv_bfloat16> a, MatrixView<const __nv_bfloat16> b, bool add,
                MatrixView<float> c);
  /// Multiplies exactly while the sums fit in 32 bits. k, n and all strides are multiples of 4.
  void multiply(MatrixView<const std::int8_t> a, MatrixView<const std::int8_t> b, bool add,
                MatrixView<std::int32_t> c);

 private:
  struct Plan;
  /// True for bytes; m, n, k; the three strides; the alignment of C in bytes.
  using Key = std::tuple<bool, index_t, index_t, index_t, index_t, index_t, index_t, std::uint32_t>;
  const Plan& plan_for(const Key& key);
  void run(const Key& key, const void* a, const void* b, const void* beta, void* c);

  const Stream& stream_;
  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer<std::byte> workspace_;
  std::map<Key, std::unique_ptr<const Plan>> plans_;
};

}  // namespace quip::cuda
