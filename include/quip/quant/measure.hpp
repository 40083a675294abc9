// The proxy loss of a layer as it is decoded, and the output scales that are best for it.
#pragma once

#include <cstdint>
#include <vector>

#include "quip/quant/layer.hpp"

namespace quip {

/// Norms of a row of Ŵ, W and their difference under the undamped H, in the prepared H's units.
struct RowNorms {
  double coded = 0;
  double plain = 0;
  double difference = 0;
};

/// Measures rows `rows` of a layer whose codes are complete, `weights` [rows × cols] with its
/// padding. Collective if the factor is not resident, else parallel. For layers with output scales:
/// where none weigh the rows, the loss is that of rows of W', which rounding knows.
[[nodiscard]] std::vector<RowNorms> measure_rows(const QuantizedLinear& stored,
                                                 MatrixView<const float> weights,
                                                 const PreparedLayer& layer, Range rows);

/// Changes a row's stored scale, which may have a sign, by the factor that least squares finds in
/// the metric of H, if that still helps when it is rounded. Returns the loss of the row.
[[nodiscard]] RowLoss refit(const RowNorms& norms, std::uint16_t& scale);

}  // namespace quip
