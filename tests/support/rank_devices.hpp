// A device for each rank of a test.
#pragma once

#include <memory>

#include "backend/cuda/context.hpp"

#include "quip/comm/collectives.hpp"

namespace quip::test {

/// Returns a GPU of this rank's own, emulated where there is none; null if its machine has too few.
inline std::unique_ptr<cuda::Context> own_device(const Collectives& comm) {
  const NodePlace place = comm.place();
  int devices = 0;
#ifdef QUIP_CUDA_ON_HOST
  cuda_on_host::set_devices(comm.size());
#endif
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < place.machine_size) return nullptr;
  return std::make_unique<cuda::Context>(place.machine_rank, 1, 1);
}

}  // namespace quip::test
