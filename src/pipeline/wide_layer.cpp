#include "quip/pipeline/wide_layer.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "quip/calib/distributed_hessian.hpp"
#include "quip/core/usage.hpp"
#include "quip/linalg/distributed_ldl.hpp"
#include "quip/quant/factor/damping.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip {
namespace {

constexpr index_t tokens_at_once = 64;

/// Returns x' = V D̃⁻¹ x of every token (`flops_each`), padded as V is, its channels in the order in
/// which the layer's columns are rounded.
Tensor transform_inputs(Backend& backend, ConstTensorView x, const PreparedLayer& layer,
                        const Transform& v, double flops_each) {
  const index_t n = v.size();
  Tensor out = backend.allocate_samples(x.rows, n);
  backend.for_each_unit((x.rows + tokens_at_once - 1) / tokens_at_once, [&](index_t unit) {
    const index_t first = unit * tokens_at_once;
    const index_t count = std::min(tokens_at_once, x.rows - first);
    Matrix<float> room;
    const ConstTensorView tokens = backend.on_host(x.middle_rows(first, count), room);
    const Matrix<float> slab(n, count, 0.0F);
    const Buffer<float> scratch(n * count);
    for (index_t j = 0; j < x.cols; ++j) {
      const float factor = layer.rescale.empty() ? 1.0F : layer.rescale[at(j)];
      for (index_t t = 0; t < count; ++t) slab(j, t) = tokens(t, j) / factor;
    }
    if (!v.is_identity()) v.apply(slab.view(), scratch.data());
    const Matrix<float> turned(count, n);
    for (index_t k = 0; k < n; ++k) {
      const float* channel = slab.row(layer.order.empty() ? k : layer.order[at(k)]);
      for (index_t t = 0; t < count; ++t) turned(t, k) = channel[t];
    }
    backend.upload(turned.span(), out.view().middle_rows(first, count));
  });
  UsageMeter::current().add_flops(static_cast<double>(x.rows) * flops_each);
  return out;
}

/// The sum over x': H as prepare_layer factorises it, before damping.
class WideHessian {
 public:
  WideHessian(Collectives& comm, Backend& backend, const LayerInputs& inputs,
              const OutlinedLayer& outline, const LayerOptions& options, const std::string& name)
      : comm_(comm), backend_(backend), unit_(outline.rescale_unit * outline.transform_unit) {
    agree(comm, [&] {
      const TransformKind kind = options.effective_transform();
      const index_t n = padded(kind, inputs.x.cols);
      const auto v = make_transform(kind, n, outline.layer.seed_v, Side::input);
      x_ = transform_inputs(backend, inputs.x, outline.layer, *v, transform_flops(kind, n));
    });
    scales_ = measure_channels(comm, backend, x_.cview(), inputs.first_sample, inputs.sample_length,
                               name);
  }

  void fill(DistributedMatrix& h) const {
    distributed_hessian(comm_, backend_, x_.cview(), scales_, unit_, h);
  }

 private:
  Collectives& comm_;
  Backend& backend_;
  double unit_;
  Tensor x_;
  ChannelScales scales_;
};

/// Factorises with the program's own blocks; on a grid that was named, on the devices if they can,
/// else with ScaLAPACK. Says in `how` which it was.
index_t cholesky(Collectives& comm, Quantizer& quantizer, bool named_grid, DistributedMatrix& h,
                 std::string& how) {
  how = "blocks";
  if (!named_grid) return block_cholesky(comm, h);
  how = "cusolvermp";
  if (const std::optional<index_t> minor = quantizer.grid_cholesky(comm, h)) return *minor;
  how = "scalapack";
  return scalapack_cholesky(comm, h);
}

/// Damps and factorises; a Hessian that was overwritten in vain is summed again.
void factorise(Collectives& comm, const WideHessian& hessian, Quantizer& quantizer, bool named_grid,
               const LayerOptions& options, double identity, const std::string& name,
               DistributedMatrix& factor, WideLayer& wide) {
  const DistributedCholesky how = [&](Collectives& ranks, DistributedMatrix& h) {
    return cholesky(ranks, quantizer, named_grid, h, wide.cholesky);
  };
  PreparedLayer& layer = wide.layer;
  std::vector<double> diagonal = factor.diagonal(comm);  // and on it: I's share, 1 for dead inputs
  for (std::size_t j = 0; j < diagonal.size(); ++j) {
    diagonal[j] += std::max(layer.added[j], identity);
  }
  Damping damping(std::move(diagonal), options.damping);
  for (;;) {
    factor.set_diagonal(damping.damped());
    const index_t minor = distributed_ldl(comm, factor, how, layer.factor.diagonal);
    if (minor == 0) break;
    agree(comm, [&] { damping.increase(name, minor); });
    hessian.fill(factor);
  }
  damping.record(layer);
}

/// The panels of L, gathered from the ranks that hold their blocks.
class GatheredPanels final : public PanelSource {
 public:
  GatheredPanels(Collectives& comm, DistributedMatrix factor)
      : comm_(comm),
        factor_(std::move(factor)),
        column_(factor_.layout()),
        panel_(factor_.layout().n() * factor_.layout().cols.block) {}

  void start() override {
    agree(comm_, [] {});
  }
  MatrixView<const float> panel(index_t b) override {
    column_.gather(comm_, factor_, b, b);
    const MatrixView<float> out = column_.copy_to(panel_.data());
    for (index_t r = 0; r < out.cols; ++r) std::fill_n(out.row(r) + r, out.cols - r, 0.0F);
    return out;
  }

 private:
  Collectives& comm_;
  DistributedMatrix factor_;
  BlockColumn<float> column_;
  Buffer<float> panel_;
};

}  // namespace

WideLayer prepare_wide_layer(Collectives& comm, Backend& backend, const LayerInputs& inputs,
                             MatrixView<const float> weights, const LayerOptions& options,
                             const WideOptions& wide, const std::string& name, Phases& phases) {
  const TransformKind kind = options.effective_transform();
  const index_t n = padded(kind, inputs.x.cols);
  OutlinedLayer outline;
  DistributedMatrix factor;
  std::unique_ptr<WideHessian> hessian;
  {
    const auto scope = phases.measure("hessian");
    const ChannelScales scales =
        measure_channels(comm, backend, inputs.x, inputs.first_sample, inputs.sample_length, name);
    std::vector<double> norms = hessian_diagonal(comm, backend, inputs.x, scales);
    agree(comm, [&] {
      norms.resize(at(n), 0.0);
      const index_t rows = padded(kind, weights.rows);
      const bool wider = rows != weights.rows || n != weights.cols;
      const Matrix<float> all = wider ? pad(weights, rows, n) : Matrix<float>();
      outline = outline_layer(wider ? all.cview() : weights, norms, options, name);
      outline.layer.dead_channels -= n - inputs.x.cols;
      outline.layer.order = column_order(options, norms);
      reorder(outline.layer.added, outline.layer.order);
      factor = DistributedMatrix(wide.layout(n, comm.size()), comm.rank());
    });
    hessian = std::make_unique<WideHessian>(comm, backend, inputs, outline, options, name);
    hessian->fill(factor);
  }
  const auto scope = phases.measure("factor");
  const auto unit = phases.timeline().record("factor " + name);
  WideLayer out{std::move(outline.layer), {}};
  out.layer.factor = LowerPanels::outline(n);
  factorise(comm, *hessian, backend.quantizer(), wide.process_grid.has_value(), options,
            outline.identity, name, factor, out);
  agree(comm, [&] {
    out.layer.factor.source = std::make_unique<GatheredPanels>(comm, std::move(factor));
  });
  return out;
}

}  // namespace quip
