// Quantization of one layer by a backend: its Hessian and its rows.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quip/comm/collectives.hpp"
#include "quip/linalg/distributed_matrix.hpp"
#include "quip/quant/layer.hpp"

namespace quip {

/// Rows of W' = U W D̃ Vᵀ of one layer, in the backend's memory.
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
};

/// The factor of a layer in the backend's memory, where L arrives panel by panel.
class HeldFactor {
 public:
  HeldFactor() = default;
  HeldFactor(const HeldFactor&) = delete;
  HeldFactor& operator=(const HeldFactor&) = delete;
  virtual ~HeldFactor() = default;

  /// Takes panel b of a PanelSource, once each, in any order. Returns when `panel` may be
  /// overwritten.
  virtual void take(index_t b, MatrixView<const float> panel) = 0;
  /// Does the work of Quantizer::rows with this factor, all of whose panels have come.
  [[nodiscard]] virtual std::unique_ptr<LayerRows> rows(MatrixView<const float> weights,
                                                        Range rows) = 0;
};

/// Serial, in the sense of Backend: one call at a time. The bits do not depend on the rows that a
/// call asks for.
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
  /// Returns the rows of a layer. `weights` [m × n] and `layer` are host memory; the result refers
  /// to `layer` and `options`.
  [[nodiscard]] virtual std::unique_ptr<LayerRows> rows(MatrixView<const float> weights,
                                                        const PreparedLayer& layer,
                                                        const LayerOptions& options,
                                                        Range rows) = 0;

  /// True if factors that no rank has can be held. The same on all ranks of a job: operations that
  /// follow from it may be collective.
  [[nodiscard]] virtual bool holds_factors() const { return false; }
  /// Makes room for the L of a layer whose `factor` is an outline; null if there is too little
  /// beside the needs of rounding `rows` of its rows. Methods ldlq and nearest. The result refers
  /// to `layer` and `options`.
  [[nodiscard]] virtual std::unique_ptr<HeldFactor> hold_factor(const PreparedLayer& layer,
                                                                const LayerOptions& options,
                                                                index_t rows);

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
