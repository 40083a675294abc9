// Quantization of one layer by a backend: its Hessian and its rows.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quip/comm/collectives.hpp"
#include "quip/linalg/distributed_matrix.hpp"
#include "quip/quant/layer.hpp"
#include "quip/quant/measure.hpp"

namespace quip {

/// Rows of W' = U W D̃ Vᵀ of one layer, in the backend's memory. `evaluate`, `round` and
/// `measure` are collective if the factor is not resident and the backend takes its panels as they
/// pass by.
class LayerRows {
 public:
  LayerRows() = default;
  LayerRows(const LayerRows&) = delete;
  LayerRows& operator=(const LayerRows&) = delete;
  virtual ~LayerRows() = default;

  /// Returns max|w'|.
  [[nodiscard]] virtual float largest() = 0;
  /// Does the work of RhoSearch::evaluate on these rows.
  [[nodiscard]] virtual std::vector<double> evaluate(const RhoSearch& search) = 0;
  /// Returns their codes; `rho` matters to the incoherent grid only.
  [[nodiscard]] virtual RoundedRows round(double rho) = 0;
  /// Does the work of measure_rows on these rows of `stored`, and uses up what lies in memory: the
  /// last call.
  [[nodiscard]] virtual std::vector<RowNorms> measure(const QuantizedLinear& stored) = 0;
};

/// Serial, in the sense of Backend: one call at a time. The bits do not depend on which rows a call
/// is asked for.
class Quantizer {
 public:
  Quantizer() = default;
  Quantizer(const Quantizer&) = delete;
  Quantizer& operator=(const Quantizer&) = delete;
  virtual ~Quantizer() = default;

  /// Does the work of prepare_layer, with the same errors.
  [[nodiscard]] virtual PreparedLayer prepare(MatrixView<const float> weights,
                                              Matrix<double> hessian, const LayerOptions& options,
                                              const std::string& layer) = 0;
  /// `weights` [m × n] and what is prepared are host memory; the result refers to `layer` and
  /// `options`. Collective if the factor is not resident.
  [[nodiscard]] virtual std::unique_ptr<LayerRows> rows(MatrixView<const float> weights,
                                                        const PreparedLayer& layer,
                                                        const LayerOptions& options,
                                                        Range rows) = 0;
  /// True if `rows` rows can be rounded here with a factor that is not resident. Where some rank
  /// lacks the room, host_quantizer does it on all.
  [[nodiscard]] virtual bool has_room(const PreparedLayer& /*layer*/,
                                      const LayerOptions& /*options*/, index_t /*rows*/) {
    return true;
  }

  /// Does a DistributedCholesky's work on the devices of the grid's ranks (cuSOLVERMp). Returns
  /// nothing and leaves `h` if the build or a rank's device cannot; collective if the build can.
  [[nodiscard]] virtual std::optional<index_t> grid_cholesky(Collectives& /*comm*/,
                                                             DistributedMatrix& /*h*/) {
    return std::nullopt;
  }
};

/// Returns the quantizer on the host, over its OpenMP threads.
[[nodiscard]] Quantizer& host_quantizer();

}  // namespace quip
