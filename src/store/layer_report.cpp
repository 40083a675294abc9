#include <cmath>

#include "quip/quant/factor/factor.hpp"
#include "quip/store/packed_writer.hpp"

namespace quip {
namespace {

/// Says why the losses of a layer are not known.
std::string why_unmeasured(const StoredLayer& stored) {
  const LayerStatistics& s = stored.statistics;
  if (s.dead_channels == stored.layer.inputs())
    return "all inputs are zero on the calibration tokens";
  if (s.incoherence_before == 0) return "all weights are zero";
  return "weights or Hessian are too small beside the damping";
}

/// Returns tr(D) without what damping gave to it, over mean(diag H): about the number of directions
/// that the calibration tokens span, 1 if all inputs are alike.
double directions(const StoredLayer& stored) {
  const LayerStatistics& s = stored.statistics;
  if (s.dead_channels == stored.layer.inputs()) return 0;
  const bool added_identity =
      stored.layer.transform != TransformKind::none && !stored.layer.scales_rows();
  const double identity = added_identity ? identity_share : 0.0;
  const double undamped = s.trace_ratio * (1 + identity) * (1 + s.damping);
  const double added = identity + (1 + identity) * s.damping;
  return static_cast<double>(stored.layer.inputs()) * (undamped - added);
}

}  // namespace

nlohmann::json to_json(const StoredLayer& layer) {
  nlohmann::json out = {{"name", layer.name},
                        {"rows", layer.layer.outputs()},
                        {"cols", layer.layer.inputs()},
                        {"bits", layer.layer.bits},
                        {"codebook", to_string(layer.layer.codebook)},
                        {"method", layer.method},
                        {"directions", directions(layer)},
                        {"rho_rounds", layer.statistics.rho_rounds},
                        {"stored_bytes", stored_bytes(layer.layer)}};
  if (layer.layer.codebook == CodebookKind::trellis) {
    out["trellis"] = trellis::to_string(layer.layer.trellis);
  } else {
    out.update({{"grid", to_string(layer.layer.grid)},
                {"transform", to_string(layer.layer.transform)},
                {"group_size", layer.layer.group_size},
                {"symmetric", layer.layer.symmetric},
                {"half_scales", layer.layer.half_scales},
                {"rescaled", layer.layer.rescaled},
                {"output_scaled", layer.layer.output_scaled}});
  }
  visit_statistics([&](const char* name, const auto& value) { out[name] = value; },
                   layer.statistics);
  if (std::isnan(layer.statistics.relative_proxy_loss)) {  // null in the file
    out["unmeasured"] = why_unmeasured(layer);
  }
  return out;
}

}  // namespace quip
