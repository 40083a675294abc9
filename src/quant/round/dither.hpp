// Random offsets for stochastic rounding.
#pragma once

#include <span>

#include "quip/quant/factor/factor.hpp"

namespace quip {

/// Draws offset(k, r) ~ U[0, 1) for the element of W at row rows[r] and the column at position k: a
/// function of the layer's key, the row and the column alone, so that neither tiles nor ranks nor
/// the order of columns matter. Lanes beyond `rows` get ½.
void fill_dither(const PreparedLayer& layer, std::span<const index_t> rows,
                 MatrixView<float> offset);

}  // namespace quip
