// Brings to the device what rounding needs there: its arithmetic, and the matrices of a layer.
#pragma once

#include "backend/cuda/kernels/quant_kernels.hpp"
#include "context.hpp"

#include "quip/quant/factor/factor.hpp"

namespace quip::cuda {

/// Works on the calling thread's lane.
class RoundingOnDevice final : public RoundingKernels {
 public:
  explicit RoundingOnDevice(Context& context) : context_(context) {}
  void clear(void* here, std::size_t bytes) const override;
  void copy(MatrixView<const float> x, MatrixView<float> y) const override;
  [[nodiscard]] std::unique_ptr<TileCoder> tile_coder(trellis::Codebook codebook,
                                                      int bits) const override;

 private:
  [[nodiscard]] cudaStream_t stream() const override { return context_.lane().get(); }
  [[nodiscard]] std::shared_ptr<void> allocate(std::size_t bytes,
                                               std::string_view what) const override;
  void to_here(const void* host, void* here, std::size_t bytes) const override;
  void to_host(const void* here, void* host, std::size_t bytes) const override;

  Context& context_;
};

/// Returns what rounding reads of a layer, with all panels of its matrices on the device.
/// Collective if a matrix is not resident.
[[nodiscard]] PreparedLayer layer_on_device(Context& context, const PreparedLayer& layer);

}  // namespace quip::cuda
