// Gathers the L of a layer, which no rank has as a whole, into the memory of the quantizer.
#pragma once

#include <memory>

#include "quip/backend/quantizer.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/quant/factor/panel_source.hpp"

namespace quip {

/// Returns all panels of L, held by `quantizer` to round `rows` rows of this rank (collective). The
/// result refers to `options` and to `layer`, whose factor is an outline. Null if some rank has no
/// room, or a quantizer holds no factors: no panels were exchanged then.
[[nodiscard]] std::unique_ptr<HeldFactor> gather_factor(Collectives& comm, Quantizer& quantizer,
                                                        const PreparedLayer& layer,
                                                        const LayerOptions& options, index_t rows,
                                                        PanelSource& panels);

}  // namespace quip
