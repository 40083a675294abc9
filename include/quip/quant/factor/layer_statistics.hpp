// The quality of a layer's rounding, for reports and attributes.
#pragma once

#include <optional>

#include "quip/core/matrix.hpp"
#include "quip/quant/factor/spectrum.hpp"

namespace quip {

/// Those of H as it was summed, and as it was factorised (without damping).
struct Spectra {
  Spectrum before;
  Spectrum after;
};

struct LayerStatistics {
  /// tr((Ŵ−W) H (Ŵ−W)ᵀ), undamped H. NaN, as the two ratios, where H or W is too small to tell.
  double proxy_loss = 0;
  double relative_proxy_loss = 0;  ///< the same over tr(W H Wᵀ)
  double trace_ratio = 0;          ///< tr(D)/tr(H) of the damped, transformed H
  /// The loss over ‖W‖²_F/n · tr(D) · 2^(−2·bits), the least that any code with this many bits
  /// leaves of Gaussian weights (rate–distortion bound).
  double rate_distortion_ratio = 0;
  double incoherence_before = 0;   ///< μ_W = max|W|·√(mn)/‖W‖_F of the weights as they came
  double incoherence_after = 0;    ///< the same of U W D̃ Vᵀ
  double damping = 0;              ///< λ that was added to diag(H), relative to mean(diag H)
  int damping_tries = 0;           ///< 1: the first λ made H positive definite
  index_t dead_channels = 0;       ///< inputs that were zero on all calibration tokens
  double rho = 0;                  ///< incoherent grid: half width over rms(W); else 0
  int rho_rounds = 0;              ///< rounds of the search for ρ; 0: none. Not stored
  int passes = 0;                  ///< greedy passes until nothing changed, or all allowed
  std::optional<Spectra> spectra;  ///< if they were asked for
  /// ‖W*−W‖/‖W‖ of a layer that was rounded to W* (--target stream); losses are then those from W*.
  std::optional<double> target_shift;
  std::optional<index_t> tokens;  ///< an expert's layer: calibration tokens routed to the expert
};

/// Lists the statistics that are stored: calls visit(name, value…) for each, and for spectra where
/// all that are given have them.
template <typename Visit, typename... Statistics>
void visit_statistics(const Visit& visit, Statistics&... all) {
  visit("proxy_loss", all.proxy_loss...);
  visit("relative_proxy_loss", all.relative_proxy_loss...);
  visit("trace_ratio", all.trace_ratio...);
  visit("rate_distortion_ratio", all.rate_distortion_ratio...);
  visit("mu_w_before", all.incoherence_before...);
  visit("mu_w_after", all.incoherence_after...);
  visit("damping", all.damping...);
  visit("damping_tries", all.damping_tries...);
  visit("dead_channels", all.dead_channels...);
  visit("rho", all.rho...);
  visit("passes", all.passes...);
  if ((all.target_shift && ...)) visit("target_shift", *all.target_shift...);
  if ((all.tokens && ...)) visit("tokens", *all.tokens...);
  if (!(all.spectra && ...)) return;
  visit("mu_h_before", all.spectra->before.incoherence...);
  visit("rank_before", all.spectra->before.rank...);
  visit("rank_1pct_before", all.spectra->before.approximate_rank...);
  visit("mu_h_after", all.spectra->after.incoherence...);
  visit("rank_after", all.spectra->after.rank...);
  visit("rank_1pct_after", all.spectra->after.approximate_rank...);
}

}  // namespace quip
