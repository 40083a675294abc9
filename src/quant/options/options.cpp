#include "quip/quant/options/options.hpp"

#include "quip/quant/transform/transform.hpp"

namespace quip {
namespace {

constexpr int default_passes = 5;  // of methods that consist of them

}  // namespace

std::string to_string(Method method) { return traits_of(method).name; }

std::string methods_that(bool (*have)(const MethodTraits& method)) {
  std::string names;
  for (const MethodTraits& method : methods) {
    if (have(method)) names += (names.empty() ? "" : ", ") + std::string(method.name);
  }
  return names;
}

int LayerOptions::effective_passes() const {
  const Passes allowed = traits_of(method).passes;
  if (allowed == Passes::never) return 0;
  return passes.value_or(allowed == Passes::on_request ? 0 : default_passes);
}

bool LayerOptions::suits_trellis() const {
  LayerOptions others;
  others.bits = bits;
  others.method = method;
  others.trellis = trellis;
  others.trellis_feedback = trellis_feedback;
  others.sharing = sharing;
  others.damping = damping;
  others.seed = seed;
  others.spectra = spectra;
  if (transform == TransformKind::hadamard_128) others.transform = transform;
  return *this == others && traits_of(method).units;
}

GroupFit LayerOptions::effective_groups() const {
  const bool grids_first = feedback() != Feedback::inverse || act_order || clamp == Clamp::pre;
  if (group_size == 0) return GroupFit::fixed;
  return groups.value_or(grids_first ? GroupFit::fixed : GroupFit::dynamic);
}

QuantizedLinear described(const LayerOptions& options, index_t rows, index_t cols) {
  QuantizedLinear layer;
  layer.rows = padded(options.effective_transform(), rows);
  layer.cols = padded(options.effective_transform(), cols);
  layer.row_padding = layer.rows - rows;
  layer.col_padding = layer.cols - cols;
  layer.codebook = options.has_trellis() ? CodebookKind::trellis : CodebookKind::scalar;
  layer.trellis = options.trellis;
  layer.bits = options.bits;
  layer.grid = options.grid();
  layer.transform = options.effective_transform();
  layer.group_size = options.group_size;
  layer.symmetric = options.symmetric;
  layer.half_scales = layer.grid == GridKind::minmax && options.scales() != ScaleType::fp32;
  layer.rescaled = options.rescale() && !options.has_trellis();
  layer.output_scaled = options.scales_outputs() && !options.has_trellis();
  return layer;
}

}  // namespace quip
