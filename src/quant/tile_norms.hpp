// The norms that losses and output scales come from, of one tile of rows, on the host or on a GPU.
#pragma once

#include <vector>

#include "quip/quant/measure.hpp"
#include "quip/quant/round/rounding_math.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip {

/// What is done to W before it is compared with what is coded: all but U and the output scales,
/// which are undone there.
struct InputSide {
  PreparedLayer layer;
  LayerTransforms transforms;

  InputSide(const QuantizedLinear& stored, const PreparedLayer& prepared);
};

/// Norms under H of the lanes of one tile [n × lanes], to which the factor's panels come one after
/// the other. Both matrices have to stay.
class TileNorms {
 public:
  TileNorms(const RoundingMath& math, MatrixView<const float> coded, MatrixView<const float> plain);

  void add(const LowerPanels& factor, index_t b, MatrixView<const float> panel);
  /// Takes off what damping has added to H, and returns the norms of all lanes.
  [[nodiscard]] std::vector<RowNorms> finish(const std::vector<double>& added);

 private:
  template <typename Visit>
  void each(const Visit& visit);

  const RoundingMath& math_;
  MatrixView<const float> coded_;
  MatrixView<const float> plain_;
  Lanes<float> difference_;
  Lanes<float> projected_;
  Lanes<double> norms_;  ///< [coded, plain, difference]
};

}  // namespace quip
