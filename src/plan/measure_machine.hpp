// The part of a calibration that does not depend on the model's arithmetic.
#pragma once

#include <filesystem>

#include "quip/plan/rates.hpp"
#include "quip/plan/walk.hpp"

namespace quip::plan {

/// The largest of all ranks' values, to the precision of fp32.
[[nodiscard]] double largest(Collectives& comm, double value);

/// Resident memory of the largest rank with MPI, OpenMP, BLAS and HDF5 ready and nothing else.
[[nodiscard]] index_t measure_baseline(Collectives& comm, const PlannedJob& job, int threads,
                                       const std::filesystem::path& scratch);

/// Latency of each kind of exchange, and bandwidth for pieces of a Hessian of that order; nothing
/// for one rank. Batches of calls begin until `patience` seconds have passed; one does in any case.
void measure_links(Collectives& comm, index_t order, Rates& rates, double patience);

/// Hidden states as a run writes them, and small files; then what was written is read again, from
/// memory most likely: a file system's own rate has to be given by hand where that matters.
void measure_files(Collectives& comm, const PlannedJob& job, const std::filesystem::path& scratch,
                   Rates& rates, double patience);

}  // namespace quip::plan
