// L of a layer that no rank has as a whole, gathered into the memory of what rounds with it.
#pragma once

#include <memory>

#include "quip/backend/quantizer.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/quant/factor/panel_source.hpp"

namespace quip {

/// All panels of L, held by `quantizer` to round `rows` rows of this rank (collective; `layer`, of
/// whose factor only the shape and the diagonal are there, and `options` are referred to). Null
/// where some rank has no room, or a quantizer holds no factors: then nothing was exchanged but, in
/// the former case, that.
[[nodiscard]] std::unique_ptr<HeldFactor> gather_factor(Collectives& comm, Quantizer& quantizer,
                                                        const PreparedLayer& layer,
                                                        const LayerOptions& options, index_t rows,
                                                        PanelSource& panels);

}  // namespace quip
