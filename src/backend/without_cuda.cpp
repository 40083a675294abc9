// Stands in for backend/cuda in a build without the CUDA toolkit.
#include "quip/backend/cuda_backend.hpp"
#include "quip/core/error.hpp"

namespace quip {

bool cuda_is_built() { return false; }

int cuda_device_count() { return 0; }

std::unique_ptr<Backend> make_cuda_backend(int /*threads*/, DeviceTurn /*turn*/) {
  fail("--backend cuda: this build has no CUDA backend (cmake --preset cuda); use cpu or auto");
}

std::unique_ptr<Collectives> make_device_collectives(Backend& /*backend*/, Collectives& /*host*/,
                                                     double /*timeout*/) {
  return nullptr;
}

}  // namespace quip
