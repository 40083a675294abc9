// Measures Rates on the spot, on the model's own shapes.
#pragma once

#include <filesystem>

#include "quip/plan/rates.hpp"
#include "quip/plan/walk.hpp"

namespace quip::plan {

/// Quantizes the heaviest block once, with a few samples of random tokens a rank, as a run does:
/// over `comm`, with the code that quantizes. Then tries these links with messages of the size of a
/// Hessian, and the file system beneath `scratch`. A measurement that takes less than `patience`
/// seconds is repeated for about that time. Collective. `layout` says how the ranks lie; rates of
/// the host come out per core. Where the backend is a device, the phases that run on it are its
/// rates. Throws Error for a job that cannot be planned or does not fit on the device.
[[nodiscard]] Rates calibrate(Collectives& comm, Backend& backend, const PlannedJob& job,
                              const Layout& layout, const std::filesystem::path& scratch,
                              double patience = 1);

}  // namespace quip::plan
