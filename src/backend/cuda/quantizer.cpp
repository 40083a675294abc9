#include "quantizer.hpp"

#include <utility>

#include "copies.hpp"
#include "kernels/kernels.hpp"
#include "kernels/quant_kernels.hpp"
#include "rows_on_device.hpp"
#include "solver.hpp"
#include "transform_on_device.hpp"
#include <spdlog/spdlog.h>

#include "quip/backend/device_work.hpp"
#include "quip/core/usage.hpp"
#include "quip/quant/grid.hpp"
#include "quip/quant/work.hpp"

namespace quip::cuda {
namespace {

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

/// A factor that comes panel by panel, and with it what else is known of the layer.
class FactorOnDevice final : public HeldFactor {
 public:
  FactorOnDevice(Context& context, const PreparedLayer& layer, const LayerOptions& options)
      : context_(context), layer_(std::make_shared<LayerOnDevice>(context, layer, options)) {}

  void take(index_t b, MatrixView<const float> panel) override {
    layer_->factor.take(context_, b, panel);
  }
  [[nodiscard]] std::unique_ptr<LayerRows> rows(MatrixView<const float> weights,
                                                Range rows) override {
    return rows_on_device(context_, weights, layer_, rows);
  }

 private:
  Context& context_;
  std::shared_ptr<LayerOnDevice> layer_;
};

class CudaQuantizer final : public Quantizer {
 public:
  explicit CudaQuantizer(Context& context) : context_(context) {}

  [[nodiscard]] PreparedLayer prepare(MatrixView<const float> weights, Matrix<double> hessian,
                                      const LayerOptions& options,
                                      const std::string& layer) override {
    return prepare_layer(weights, std::move(hessian), options, layer,
                         HessianMathOnDevice(context_));
  }
  [[nodiscard]] std::unique_ptr<LayerRows> rows(MatrixView<const float> weights,
                                                const PreparedLayer& layer,
                                                const LayerOptions& options, Range rows) override {
    return rows_on_device(context_, weights,
                          std::make_shared<const LayerOnDevice>(context_, layer, options), rows);
  }
  [[nodiscard]] bool holds_factors() const override { return true; }
  [[nodiscard]] std::unique_ptr<HeldFactor> hold_factor(const PreparedLayer& layer,
                                                        const LayerOptions& options,
                                                        index_t rows) override {
    const RhoSearch search(rows, options.bits);
    const index_t bytes = rounding_bytes(layer.factor.n, options, rows,
                                         search.sampled() * std::ssize(search.candidates()));
    if (static_cast<std::size_t>(bytes) <= context_.device().available()) {
      return std::make_unique<FactorOnDevice>(context_, layer, options);
    }
    spdlog::warn(
        "{}: no {:.2f} GiB to round {} rows of a layer of {} inputs; the processors do it, slower "
        "(more GPUs or nodes, or fewer --samples, leave room)",
        context_.device().describe(), static_cast<double>(bytes) / (1 << 30), rows, layer.factor.n);
    return nullptr;
  }

 private:
  Context& context_;
};

/// Steps and offsets as the kernel reads them.
void grids_of(const QuantizedLinear& layer, std::vector<float>& step, std::vector<float>& offset) {
  if (layer.grid == GridKind::incoherent) {
    const RowGrid grid = incoherent_grid(layer.scale[0], layer.bits);
    step = {grid.step};
    offset = {grid.offset};
    return;
  }
  for (std::size_t i = 0; i < layer.scale.size(); ++i) {
    const std::uint8_t zero = layer.symmetric ? middle_level(layer.bits) : layer.zero[i];
    const RowGrid grid = minmax_grid(layer.scale[i], zero);
    step.push_back(grid.step);
    offset.push_back(grid.offset);
  }
}

}  // namespace

std::unique_ptr<Quantizer> make_quantizer(Context& context) {
  return std::make_unique<CudaQuantizer>(context);
}

void dequantize(Context& context, const QuantizedLinear& layer, TensorView out) {
  const cudaStream_t stream = context.lane().get();
  const LayerTransforms transforms =
      make_transforms(layer.transform, layer.rows, layer.cols, layer.seed_u, layer.seed_v);
  std::vector<float> steps;
  std::vector<float> offsets;
  grids_of(layer, steps, offsets);
  const auto codes = to_device(context, std::span<const std::uint8_t>(layer.codes), "packed codes");
  const auto step = to_device(context, std::span<const float>(steps), "grids");
  const auto offset = to_device(context, std::span<const float>(offsets), "grids");
  auto w = context.buffer<float>(layer.rows * layer.cols, "weights being dequantized");
  auto scratch = context.buffer<float>(w.size(), "weights being dequantized");
  const CodeGrid grid{step.data(), offset.data(), layer.groups(), layer.group_size,
                      layer.grid == GridKind::incoherent};
  unpack_codes(stream, codes.data(), layer.row_bytes(), layer.bits, grid,
               w.view(layer.cols, layer.rows));
  TransformOnDevice<float>(context, *transforms.v).apply(w, scratch, layer.rows, true);  // w' V
  transpose(stream, w.cview(layer.cols, layer.rows), scratch.view(layer.rows, layer.cols));
  std::swap(w, scratch);
  TransformOnDevice<float>(context, *transforms.u).apply(w, scratch, layer.cols, true);  // Uᵀ …
  if (!layer.rescale.empty()) {  // … D̃⁻¹
    const auto rescale = to_device(context, std::span<const float>(layer.rescale), "D̃");
    divide_columns(stream, w.view(layer.rows, layer.cols), rescale.data());
  }
  QUIP_CUDA(cudaMemcpy2DAsync(out.data, static_cast<std::size_t>(out.ld) * sizeof(float), w.data(),
                              at(layer.cols) * sizeof(float), at(layer.cols) * sizeof(float),
                              at(layer.rows), cudaMemcpyDeviceToDevice, stream));
  UsageMeter::current().add_flops(
      transform_rows_flops(layer.transform, layer.rows, layer.cols, layer.rows));
}

}  // namespace quip::cuda
