#include "lane_rounding.hpp"

#include <algorithm>
#include <limits>

#include "copies.hpp"
#include "quant/round/dither.hpp"

#include "quip/core/error.hpp"
#include "quip/quant/code/grid.hpp"

namespace quip::cuda {
namespace {

std::optional<PanelsOnDevice> panels_if_any(Context& context, const LowerPanels& panels) {
  if (panels.empty()) return std::nullopt;
  return std::optional<PanelsOnDevice>(std::in_place, context, panels);
}

}  // namespace

LayerOnDevice::LayerOnDevice(Context& context, const PreparedLayer& layer,
                             const LayerOptions& layer_options)
    : host(layer),
      options(layer_options),
      factor(context, layer.factor),
      feedback(panels_if_any(context, layer.feedback)),
      hessian(panels_if_any(context, layer.hessian)),
      added(to_device(context, std::span<const double>(layer.added), "what damping added")),
      places(context, layer.factor.n, layer.order, layer_options.group_size) {}

LaneRounding::LaneRounding(Context& context, const LayerOnDevice& layer, GridsOnDevice& grids,
                           const std::vector<index_t>& rows, DeviceBuffer<float> coordinates)
    : context_(context),
      layer_(layer),
      grids_(grids),
      lanes_(std::ssize(rows)),
      top_(top_level(layer.options.bits)),
      coordinates_(std::move(coordinates)),
      q_(context.buffer<float>(layer.n() * lanes_, "levels of rows")),
      error_(context.buffer<float>(layer.n() * lanes_, "errors of rows")),
      loss_(context.buffer<double>(lanes_, "losses of rows")) {
  QUIP_CUDA(cudaMemsetAsync(loss_.data(), 0, loss_.bytes(), context.lane().get()));
  if (layer.options.rounding == Rounding::stochastic) {
    const Matrix<float> dither(layer.n(), lanes_);
    fill_dither(layer.host, rows, dither.view());
    dither_ = to_device(context, std::span<const float>(dither.span()), "offsets of rounding");
  }
  if (layer.options.clamp == Clamp::pre) {
    clamped_ = context.buffer<float>(layer.n() * lanes_, "clamped rows");
    copy(coordinates_.data(), clamped_.data(), layer.n());
    clamp_coordinates(context.lane().get(), grids.view(0), top_, view(clamped_));
  }
}

void LaneRounding::copy(const float* from, float* to, index_t rows) const {
  QUIP_CUDA(cudaMemcpyAsync(to, from, static_cast<std::size_t>(rows * lanes_) * sizeof(float),
                            cudaMemcpyDeviceToDevice, context_.lane().get()));
}

void LaneRounding::round() {
  if (lanes_ == 0) return;
  const cudaStream_t stream = context_.lane().get();
  const bool known = run_method();
  // Until now the coordinates of dynamic groups were the weights.
  if (grids_.dynamic()) grids_.to_coordinates(view(coordinates_), view(coordinates_));
  level_difference(stream, levels(), grids_.view(0), view(coordinates_), view(error_));
  if (!known || clamped_.size() > 0) {  // clamped: the rounder saw other weights than ours
    QUIP_CUDA(cudaMemsetAsync(loss_.data(), 0, loss_.bytes(), stream));
    add_hessian_norm(context_, layer_.factor, view(error_), loss_.data());
  }
  add_weighted_squares(stream, view(error_), layer_.added.data(), -1.0, loss_.data());
}

std::vector<double> LaneRounding::losses() const {
  std::vector<double> losses(static_cast<std::size_t>(lanes_));
  download<double>(context_.lane(), loss_.data(), losses);
  for (index_t r = 0; r < lanes_; ++r) {
    const double unit = grids_.unit(r);
    losses[static_cast<std::size_t>(r)] *= unit * unit;
  }
  return losses;
}

bool LaneRounding::run_method() {
  const int passes = layer_.options.effective_passes();
  const Clamp clamp = layer_.options.clamp;
  switch (layer_.options.method) {
    case Method::nearest:
      round_nearest();
      return false;
    case Method::ldlq:
    case Method::ldlq_rg:
      round_with_feedback(layer_.factor);
      greedy_passes(passes, clamp);
      return passes == 0;
    case Method::optq:
      round_optq();
      return true;
    case Method::greedy:
      unrounded_levels(context_.lane().get(), seen(), grids_.view(0), view(q_));
      greedy_passes(passes, clamp);
      return false;
    case Method::ldl_admm:
      round_with_feedback(*layer_.feedback);
      greedy_passes(passes, Clamp::feedback);
      return false;
  }
  fail("a rounding method without a rounder on the GPU");
}

ColumnBlock LaneRounding::block(const PanelsOnDevice& panels, index_t b, index_t first,
                                index_t last) const {
  const index_t skipped = first - panels.shape().first_column(b);
  const MatrixView<const float> panel = panels.panel(b);
  ColumnBlock block;
  block.width = last - first;
  block.lanes = block.ld = lanes_;
  block.panel = panel.row(skipped) + skipped;
  block.panel_ld = panel.ld;
  block.diagonal = panels.diagonal(b) + skipped;
  block.top = top_;
  block.grid = grids_.view(first);
  block.offset = dither_.size() > 0 ? row(dither_, first) : nullptr;
  block.base = seen().row(first);
  block.q = row(q_, first);
  block.error = row(error_, first);
  block.loss = loss_.data();
  return block;
}

void LaneRounding::round_nearest() {
  const cudaStream_t stream = context_.lane().get();
  const float* offset = dither_.size() > 0 ? dither_.data() : nullptr;
  round_to_nearest(stream, seen(), grids_.view(0), offset, top_, view(q_));
}

// quant/round/ldlq: per block one product for what lies beyond it, and one walk.
void LaneRounding::round_with_feedback(const PanelsOnDevice& feedback) {
  const cudaStream_t stream = context_.lane().get();
  const auto target = context_.buffer<float>(LowerPanels::block * lanes_, "targets of rows");
  const LowerPanels& shape = feedback.shape();
  for (index_t b = shape.blocks() - 1; b >= 0; --b) {
    const index_t first = shape.first_column(b);
    const index_t width = shape.width(b);
    const index_t beyond = first + width;
    copy(seen().row(first), target.data(), width);
    OrderedProduct<float> product;
    product.m = width;
    product.n = lanes_;
    product.k = shape.n - beyond;
    product.a = {feedback.panel(b).row(width), 1, width};
    product.b = row(error_, beyond);
    product.c = target.data();
    product.ldb = product.ldc = lanes_;
    product.add = true;
    ordered_product(stream, product);
    ColumnBlock columns = block(feedback, b, first, beyond);
    columns.target = target.data();
    cuda::round_with_feedback(stream, columns);
  }
}

// quant/round/optq: runs of columns end with their block, or before the next dynamic group.
void LaneRounding::round_optq() {
  const cudaStream_t stream = context_.lane().get();
  const PanelsOnDevice& inverse = *layer_.feedback;
  const LowerPanels& shape = inverse.shape();
  const auto w = context_.buffer<float>(shape.n * lanes_, "rows in the course of rounding");
  copy(seen().data, w.data(), shape.n);
  const index_t group = grids_.dynamic() ? layer_.options.group_size : shape.n;
  for (index_t b = 0; b < shape.blocks(); ++b) {
    const index_t block_end = shape.first_column(b) + shape.width(b);
    for (index_t from = shape.first_column(b); from < block_end;) {
      const index_t to = std::min(block_end, (from / group + 1) * group);
      if (grids_.dynamic() && from % group == 0) grids_.fit_group(from, view(w));
      ColumnBlock run = block(inverse, b, from, to);
      run.base = run.target = row(w, from);
      cuda::round_optq(stream, run);
      OrderedProduct<float> product;  // w_{>run} += R_{run, >run}ᵀ error
      product.m = shape.n - to;
      product.n = lanes_;
      product.k = run.width;
      product.a = {run.panel + run.width * run.panel_ld, run.panel_ld, 1};
      product.b = run.error;
      product.c = row(w, to);
      product.ldb = product.ldc = lanes_;
      product.add = true;
      ordered_product(stream, product);
      from = to;
    }
  }
}

/// Has no row changed in this pass?
bool LaneRounding::settled() const {
  std::vector<double> changes(static_cast<std::size_t>(lanes_));
  download<double>(context_.lane(), loss_.data(), changes);
  return std::all_of(changes.begin(), changes.end(), [](double count) { return count == 0; });
}

/// out [width × lanes] = Σ_{j outside block b} H_jk sⱼ, j ascending.
void LaneRounding::gather_outside(index_t b, MatrixView<const float> s,
                                  const DeviceBuffer<float>& out) const {
  const cudaStream_t stream = context_.lane().get();
  const PanelsOnDevice& h = *layer_.hessian;
  const LowerPanels& shape = h.shape();
  OrderedProduct<float> product;
  product.m = shape.width(b);
  product.n = lanes_;
  product.ldb = product.ldc = lanes_;
  product.c = out.data();
  product.add = true;
  QUIP_CUDA(cudaMemsetAsync(out.data(), 0, out.bytes(), stream));
  for (index_t c = 0; c < b; ++c) {
    const MatrixView<const float> panel = h.panel(c);
    product.k = panel.cols;
    product.a = {panel.row(shape.first_column(b) - shape.first_column(c)), panel.ld, 1};
    product.b = s.row(shape.first_column(c));
    ordered_product(stream, product);
  }
  const MatrixView<const float> panel = h.panel(b);
  product.k = panel.rows - panel.cols;
  product.a = {panel.row(panel.cols), 1, panel.ld};
  product.b = s.row(shape.first_column(b) + panel.cols);
  ordered_product(stream, product);
}

// quant/round/greedy.
void LaneRounding::greedy_passes(int passes, Clamp clamp) {
  if (passes == 0) return;
  const cudaStream_t stream = context_.lane().get();
  const bool inside = clamp == Clamp::feedback;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const LowerPanels& shape = layer_.hessian->shape();
  const auto base = context_.buffer<float>(shape.n * lanes_, "rows in the course of rounding");
  const auto target = context_.buffer<float>(LowerPanels::block * lanes_, "targets of rows");
  copy(seen().data, base.data(), shape.n);
  level_difference(stream, levels(), grids_.view(0), view(base), view(error_));
  for (int pass = 1; pass <= passes; ++pass) {
    passes_ = pass;
    QUIP_CUDA(cudaMemsetAsync(loss_.data(), 0, loss_.bytes(), stream));
    for (index_t b = shape.blocks() - 1; b >= 0; --b) {
      gather_outside(b, view(error_), target);
      const index_t first = shape.first_column(b);
      ColumnBlock columns = block(*layer_.hessian, b, first, first + shape.width(b));
      columns.base = row(base, first);
      columns.target = target.data();
      if (!inside) columns.top = infinity;
      descend(stream, columns, inside ? 0.0F : -infinity);
    }
    if (!inside) cut_levels(stream, grids_.view(0), top_, view(q_), view(base));
    if (settled()) break;
  }
}

}  // namespace quip::cuda
