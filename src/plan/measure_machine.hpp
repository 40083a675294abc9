// The part of a calibration that does not depend on the model's arithmetic.
#pragma once

#include <filesystem>

#include "quip/plan/rates.hpp"
#include "quip/plan/walk.hpp"

namespace quip::plan {

/// Resident memory of the largest rank with MPI, OpenMP, BLAS and HDF5 ready and nothing else.
[[nodiscard]] index_t measure_baseline(Collectives& comm, const PlannedJob& job, int threads,
                                       const std::filesystem::path& scratch);

/// Latency and bandwidth of each kind of exchange; nothing for one rank.
void measure_links(Collectives& comm, Rates& rates);

/// Hidden states as a run writes them, and small files; then what was written is read again, from
/// memory most likely: a file system's own rate has to be given by hand where that matters.
void measure_files(Collectives& comm, const PlannedJob& job, const std::filesystem::path& scratch,
                   Rates& rates);

}  // namespace quip::plan
