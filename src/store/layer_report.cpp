#include <cmath>

#include "quip/quant/factor/factor.hpp"
#include "quip/store/packed_writer.hpp"

namespace quip {
namespace {

/// Codes, scales, zero points (packed) and D̃.
index_t stored_bytes(const QuantizedLinear& layer) {
  const auto floats = std::ssize(layer.scale) + std::ssize(layer.rescale);
  return std::ssize(layer.codes) + 4 * floats + (std::ssize(layer.zero) * layer.bits + 7) / 8;
}

nlohmann::json measured(double value) {
  return std::isnan(value) ? nlohmann::json() : nlohmann::json(value);
}

/// Says why the losses of a layer are not known.
std::string why_unmeasured(const StoredLayer& stored) {
  const LayerStatistics& s = stored.statistics;
  if (s.dead_channels == stored.layer.cols) return "all inputs are zero on the calibration tokens";
  if (s.incoherence_before == 0) return "all weights are zero";
  return "weights or Hessian are too small beside the damping";
}

/// Returns tr(D) without what damping gave to it, over mean(diag H): about the number of directions
/// that the calibration tokens span, 1 if all inputs are alike.
double directions(const StoredLayer& stored) {
  const LayerStatistics& s = stored.statistics;
  if (s.dead_channels == stored.layer.cols) return 0;
  const double identity = stored.layer.transform == TransformKind::none ? 0.0 : identity_share;
  const double undamped = s.trace_ratio * (1 + identity) * (1 + s.damping);
  const double added = identity + (1 + identity) * s.damping;
  return static_cast<double>(stored.layer.cols) * (undamped - added);
}

}  // namespace

nlohmann::json to_json(const StoredLayer& layer) {
  const LayerStatistics& s = layer.statistics;
  nlohmann::json out = {{"name", layer.name},
                        {"rows", layer.layer.rows},
                        {"cols", layer.layer.cols},
                        {"bits", layer.layer.bits},
                        {"method", layer.method},
                        {"proxy_loss", measured(s.proxy_loss)},
                        {"relative_proxy_loss", measured(s.relative_proxy_loss)},
                        {"trace_ratio", s.trace_ratio},
                        {"directions", directions(layer)},
                        {"rate_distortion_ratio", measured(s.rate_distortion_ratio)},
                        {"mu_w_before", s.incoherence_before},
                        {"mu_w_after", s.incoherence_after},
                        {"damping", s.damping},
                        {"damping_tries", s.damping_tries},
                        {"dead_channels", s.dead_channels},
                        {"rho", s.rho},
                        {"rho_rounds", s.rho_rounds},
                        {"passes", s.passes},
                        {"stored_bytes", stored_bytes(layer.layer)}};
  if (std::isnan(s.relative_proxy_loss)) out["unmeasured"] = why_unmeasured(layer);
  if (s.spectra) {
    out.update({{"mu_h_before", s.spectra->before.incoherence},
                {"mu_h_after", s.spectra->after.incoherence},
                {"rank_before", s.spectra->before.rank},
                {"rank_after", s.spectra->after.rank},
                {"rank_1pct_before", s.spectra->before.approximate_rank},
                {"rank_1pct_after", s.spectra->after.approximate_rank}});
  }
  return out;
}

}  // namespace quip
