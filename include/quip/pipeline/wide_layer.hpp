// A layer so wide that no rank holds its Hessian: all ranks sum, factorise and round it together.
#pragma once

#include <string>

#include "quip/backend/quantizer.hpp"
#include "quip/core/phases.hpp"
#include "quip/pipeline/wide_options.hpp"
#include "quip/quant/factor/factor.hpp"

namespace quip {

class Backend;
class Collectives;

/// A layer as prepare_layer makes it, but with L spread over ranks: its panels are gathered
/// whenever they are asked for.
struct WideLayer {
  PreparedLayer layer;
  std::string cholesky;  ///< maker of L: "blocks" (this program), "scalapack" or "cusolvermp"
};

/// This rank's inputs of a layer.
struct LayerInputs {
  MatrixView<const float> x;  ///< [tokens × n], in the backend's memory
  index_t first_sample = 0;
  index_t sample_length = 0;
};

/// Sums and factorises (collective): D̃ from the inputs' norms, H = Σ x'ᵀx'/T of the inputs
/// x' = V D̃⁻¹ x, which are transformed one by one beforehand, damping, LDLᵀ. The same on any number
/// of ranks unless `wide` names a grid. Errors as prepare_layer and exact_hessian.
[[nodiscard]] WideLayer prepare_wide_layer(Collectives& comm, Backend& backend,
                                           const LayerInputs& inputs,
                                           MatrixView<const float> weights,
                                           const LayerOptions& options, const WideOptions& wide,
                                           const std::string& name, Phases& phases);

}  // namespace quip
