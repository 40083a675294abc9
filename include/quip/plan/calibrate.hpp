// Measures Rates on the spot, on the model's own shapes.
#pragma once

#include <filesystem>

#include "quip/plan/rates.hpp"
#include "quip/plan/walk.hpp"

namespace quip::plan {

/// Every rank takes a few samples of random activations through one block with random weights,
/// with the code that quantizes, all ranks at the same time; then they try the network, and the
/// file system beneath `scratch`. Collective. `layout` says how the ranks lie; rates of the host
/// come out per core. Where the backend is a device, the phases that run on it are its rates.
[[nodiscard]] Rates calibrate(Collectives& comm, Backend& backend, const PlannedJob& job,
                              const Layout& layout, const std::filesystem::path& scratch);

}  // namespace quip::plan
