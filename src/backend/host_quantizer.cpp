// Quantization on the host: the functions of quant/ behind the backends' interface.
#include <utility>

#include "quip/backend/quantizer.hpp"

namespace quip {
namespace {

class HostRows final : public LayerRows {
 public:
  HostRows(MatrixView<const float> weights, RowTiles tiles, const PreparedLayer& layer,
           const LayerOptions& options)
      : weights_(weights), tiles_(std::move(tiles)), layer_(layer), options_(options) {}

  [[nodiscard]] float largest() override { return largest_element(tiles_); }
  [[nodiscard]] std::vector<double> evaluate(const RhoSearch& search) override {
    return search.evaluate(tiles_, layer_, options_);
  }
  [[nodiscard]] RoundedRows round(double rho) override {
    return round_rows(tiles_, layer_, options_, rho);
  }
  [[nodiscard]] std::vector<RowNorms> measure(const QuantizedLinear& stored) override {
    const Range rows = tiles_.rows();
    tiles_ = RowTiles(tiles_.n(), {});
    return measure_rows(stored, weights_, layer_, rows);
  }

 private:
  MatrixView<const float> weights_;
  RowTiles tiles_;
  const PreparedLayer& layer_;
  const LayerOptions& options_;
};

class HostQuantizer final : public Quantizer {
 public:
  [[nodiscard]] PreparedLayer prepare(MatrixView<const float> weights, Matrix<double> hessian,
                                      const LayerOptions& options,
                                      const std::string& layer) override {
    return prepare_layer(weights, std::move(hessian), options, layer);
  }
  [[nodiscard]] std::unique_ptr<LayerRows> rows(MatrixView<const float> weights,
                                                const PreparedLayer& layer,
                                                const LayerOptions& options, Range rows) override {
    const LayerTransforms transforms = make_transforms(options.effective_transform(), weights.rows,
                                                       weights.cols, layer.seed_u, layer.seed_v);
    return std::make_unique<HostRows>(weights, transform_rows(weights, layer, transforms, rows),
                                      layer, options);
  }
};

}  // namespace

Quantizer& host_quantizer() {
  static HostQuantizer quantizer;
  return quantizer;
}

}  // namespace quip
