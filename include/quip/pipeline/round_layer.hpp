// One layer over all ranks: the owner's factor goes out, every rank rounds its rows, the codes
// come together.
#pragma once

#include "quip/backend/quantizer.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/quant/factor/factor.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {

/// Returns the rows that a rank rounds: whole vectors of lanes, so that no rank pads more than one.
[[nodiscard]] Range row_share(index_t rows, int rank, int size);

/// Returns the offsets at which each rank's rows begin in a buffer of all, `row_bytes` each, and
/// the end; [ranks + 1].
[[nodiscard]] std::vector<index_t> row_offsets(index_t rows, int ranks, index_t row_bytes);

/// Sends `layer` from `root` to all ranks (collective). On other ranks its contents are replaced.
void broadcast_prepared(Collectives& comm, PreparedLayer& layer, int root);

/// Rounds one layer (collective; `layer` as broadcast, `weights` whole on every rank). Every
/// rank returns the same complete layer. Panels of a factor that is not resident come once and stay
/// with `quantizer` if it has room on all ranks; else they come for every step of the search for ρ
/// and for the rounding, and pass by on the host.
[[nodiscard]] StoredLayer round_layer(Collectives& comm, const std::string& name,
                                      MatrixView<const float> weights, const PreparedLayer& layer,
                                      const LayerOptions& options,
                                      Quantizer& quantizer = host_quantizer());

}  // namespace quip
