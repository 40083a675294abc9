#include "panels_on_device.hpp"

#include "backend/cuda/kernels/quant_kernels.hpp"
#include "copies.hpp"

namespace quip::cuda {

PanelsOnDevice::PanelsOnDevice(Context& context, const LowerPanels& host)
    : host_(host),
      panels_(context.buffer<float>(host.panel_offset(host.blocks()), "the factor of a Hessian")),
      diagonal_(to_device(context, std::span<const double>(host.diagonal), "a diagonal")) {
  host.for_each_panel(false, [&](index_t b, MatrixView<const float> panel) {
    float* const place = panels_.data() + host.panel_offset(b);
    upload<float>(context.lane(), panel, MatrixView<float>(place, panel.rows, panel.cols));
  });
}

MatrixView<const float> PanelsOnDevice::panel(index_t b) const {
  return {panels_.data() + host_.panel_offset(b), host_.n - host_.first_column(b), host_.width(b)};
}

// As in quant/round/rounder.cpp: x (L+I) block by block from the last on, and Σₖ Dₖ (…)ₖ².
void add_hessian_norm(Context& context, const PanelsOnDevice& factor, MatrixView<const float> x,
                      double* norm) {
  if (x.size() == 0) return;
  const cudaStream_t stream = context.lane().get();
  const auto projected = context.buffer<float>(LowerPanels::block * x.cols, "projected rows");
  for (index_t b = factor.shape().blocks() - 1; b >= 0; --b) {
    const index_t first = factor.shape().first_column(b);
    const MatrixView<const float> panel = factor.panel(b);
    QUIP_CUDA(cudaMemcpyAsync(projected.data(), x.row(first),
                              static_cast<std::size_t>(panel.cols * x.cols) * sizeof(float),
                              cudaMemcpyDeviceToDevice, stream));
    OrderedProduct<float> product;
    product.m = panel.cols;
    product.n = x.cols;
    product.k = panel.rows;
    product.a = {panel.data, 1, panel.ld};
    product.b = x.row(first);
    product.ldb = product.ldc = x.cols;
    product.c = projected.data();
    product.add = true;
    ordered_product(stream, product);
    add_weighted_squares(stream, projected.cview(panel.cols, x.cols), factor.diagonal(b), 1.0,
                         norm);
  }
}

}  // namespace quip::cuda
