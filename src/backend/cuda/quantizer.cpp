#include "quantizer.hpp"

#include <utility>

#include "grid_cholesky.hpp"
#include "rows_on_device.hpp"
#include "solver.hpp"
#include <spdlog/spdlog.h>

#include "quip/backend/device_work.hpp"

namespace quip::cuda {
namespace {

class CudaQuantizer final : public Quantizer {
 public:
  explicit CudaQuantizer(Context& context)
      : context_(context), hessian_math_(context), grid_cholesky_(make_grid_cholesky(context)) {}

  [[nodiscard]] PreparedLayer prepare(MatrixView<const float> weights, Matrix<double> hessian,
                                      const LayerOptions& options,
                                      const std::string& layer) override {
    return prepare_layer(weights, std::move(hessian), options, layer, hessian_math_);
  }
  [[nodiscard]] std::unique_ptr<LayerRows> rows(MatrixView<const float> weights,
                                                const PreparedLayer& layer,
                                                const LayerOptions& options, Range rows) override {
    if (!is_portable(options)) return host_quantizer().rows(weights, layer, options, rows);
    return rows_on_device(context_, weights, layer, options, rows);
  }
  [[nodiscard]] bool has_room(const PreparedLayer& layer, const LayerOptions& options,
                              index_t rows) override {
    if (!is_portable(options)) return false;
    const RhoSearch search(rows, options.bits);
    const index_t bytes = rounding_bytes(layer.factor.n, options, rows,
                                         search.sampled() * std::ssize(search.candidates()));
    if (at(bytes) <= context_.device().available()) return true;
    spdlog::warn(
        "{}: no {:.2f} GiB to round {} rows of a layer of {} inputs; the processors do it, slower "
        "(more GPUs or nodes, or fewer --samples, leave room)",
        context_.device().describe(), static_cast<double>(bytes) / (1 << 30), rows, layer.factor.n);
    return false;
  }
  [[nodiscard]] std::optional<index_t> grid_cholesky(Collectives& comm,
                                                     DistributedMatrix& h) override {
    return grid_cholesky_ ? grid_cholesky_->factor(comm, h) : std::nullopt;
  }

 private:
  [[nodiscard]] bool is_portable(const LayerOptions& options) {
    const bool portable = make_rounder(options)->portable();
    if (!portable && !std::exchange(warned_, true)) {
      const bool inside = options.trellis_feedback == TrellisFeedback::step;
      spdlog::warn("{}: no kernels for {}; the processors round its layers, slower",
                   context_.device().describe(),
                   inside ? "--trellis-feedback step" : "--method " + to_string(options.method));
    }
    return portable;
  }

  Context& context_;
  HessianMathOnDevice hessian_math_;
  std::unique_ptr<GridCholesky> grid_cholesky_;
  bool warned_ = false;  ///< of a method without kernels: once is enough
};

}  // namespace

std::unique_ptr<Quantizer> make_quantizer(Context& context) {
  return std::make_unique<CudaQuantizer>(context);
}

}  // namespace quip::cuda
