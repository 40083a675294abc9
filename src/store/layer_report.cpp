#include "quip/store/packed_writer.hpp"

namespace quip {
namespace {

/// Returns the bytes of codes, scales, zero points (packed) and D̃.
index_t stored_bytes(const QuantizedLinear& layer) {
  const auto floats = std::ssize(layer.scale) + std::ssize(layer.rescale);
  return std::ssize(layer.codes) + 4 * floats + (std::ssize(layer.zero) * layer.bits + 7) / 8;
}

}  // namespace

nlohmann::json to_json(const StoredLayer& layer) {
  const LayerStatistics& s = layer.statistics;
  nlohmann::json out = {{"name", layer.name},
                        {"rows", layer.layer.rows},
                        {"cols", layer.layer.cols},
                        {"bits", layer.layer.bits},
                        {"method", layer.method},
                        {"proxy_loss", s.proxy_loss},
                        {"relative_proxy_loss", s.relative_proxy_loss},
                        {"trace_ratio", s.trace_ratio},
                        {"rate_distortion_ratio", s.rate_distortion_ratio},
                        {"mu_w_before", s.incoherence_before},
                        {"mu_w_after", s.incoherence_after},
                        {"damping", s.damping},
                        {"damping_tries", s.damping_tries},
                        {"dead_channels", s.dead_channels},
                        {"rho", s.rho},
                        {"rho_rounds", s.rho_rounds},
                        {"passes", s.passes},
                        {"stored_bytes", stored_bytes(layer.layer)}};
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
