// Options for tests of scalar grids on which no output scales weigh the rows, so that rounding
// itself adds up the loss.
#pragma once

#include "quip/quant/options/options.hpp"

namespace quip {

inline LayerOptions scalar_options() {
  LayerOptions options;
  options.codebook = CodebookKind::scalar;
  options.output_scaling = false;
  return options;
}

/// The same with Kronecker products, of which tests know the flops and bytes.
inline LayerOptions kronecker_options() {
  LayerOptions options = scalar_options();
  options.transform = TransformKind::kronecker;
  return options;
}

}  // namespace quip
