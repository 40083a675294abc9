// The one place where the hardware is chosen.
#include "quip/backend/backend.hpp"

#include "quip/core/error.hpp"

namespace quip {

void Backend::accumulate_hessian_panel(ConstTensorView /*x*/, std::span<const float> /*scale*/,
                                       index_t /*first*/, MatrixView<double> /*sum*/) {
  fail("{}: cannot sum a Hessian by panels; use --backend cpu or a larger --wide", describe());
}

std::unique_ptr<Backend> make_backend(std::string_view choice, int threads) {
  if (choice == "auto" || choice == "cpu") return make_cpu_backend(threads);
  if (choice == "cuda") fail("--backend cuda: this build has no CUDA backend; use cpu or auto");
  fail("--backend {}: unknown; choose auto, cpu or cuda", choice);
}

}  // namespace quip
