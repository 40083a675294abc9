// The part of a calibration that does not depend on the model's arithmetic.
#pragma once

#include <filesystem>

#include "quip/plan/rates.hpp"
#include "quip/plan/walk.hpp"

namespace quip::plan {

/// Returns the largest of all ranks' values, to the precision of fp32.
[[nodiscard]] double largest(Collectives& comm, double value);

/// Returns the resident memory of the largest rank with MPI, OpenMP, BLAS and HDF5 ready and
/// nothing else.
[[nodiscard]] index_t measure_baseline(Collectives& comm, const PlannedJob& job, int threads,
                                       const std::filesystem::path& scratch);

/// Measures the latency of each kind of exchange, and its bandwidth for pieces of a Hessian of that
/// order; nothing for one rank. Batches of calls begin until `patience` seconds have passed; one
/// does in any case.
void measure_links(Collectives& comm, index_t order, Rates& rates, double patience);

/// Writes hidden states as a run does, and small files; then reads them again, from memory most
/// likely: a file system's own rate has to be given by hand where that matters.
void measure_files(Collectives& comm, const PlannedJob& job, const std::filesystem::path& scratch,
                   Rates& rates, double patience);

}  // namespace quip::plan
