// The choice of the hardware.
#include "quip/backend/backend.hpp"

#include "quip/backend/cuda_backend.hpp"
#include "quip/backend/quantizer.hpp"
#include "quip/core/error.hpp"

namespace quip {

void Backend::accumulate_hessian_panel(ConstTensorView /*x*/, std::span<const float> /*scale*/,
                                       index_t /*first*/, MatrixView<double> /*sum*/) {
  fail("{}: cannot sum a Hessian by panels; use --backend cpu or a larger --wide", describe());
}

Quantizer& Backend::quantizer() { return host_quantizer(); }

std::optional<Tensor> Backend::dequantize(const QuantizedLinear& /*layer*/) { return std::nullopt; }

std::unique_ptr<Backend> make_backend(std::string_view choice, int threads, DeviceTurn turn) {
  if (choice == "cpu") return make_cpu_backend(threads);
  if (choice == "cuda") return make_cuda_backend(threads, turn);
  if (choice != "auto") fail("--backend {}: unknown; choose auto, cpu or cuda", choice);
  // A GPU that is there and does not work is an error, not a reason to be slow.
  if (cuda_device_count() > 0) return make_cuda_backend(threads, turn);
  return make_cpu_backend(threads);
}

}  // namespace quip
