// What is known about how well a layer was rounded.
#pragma once

#include <optional>

#include "quip/core/matrix.hpp"
#include "quip/quant/factor/spectrum.hpp"

namespace quip {

/// H as it was summed, and as it was factorised (without damping).
struct Spectra {
  Spectrum before;
  Spectrum after;
};

/// What is known about how well a layer was rounded; goes to reports and attributes.
struct LayerStatistics {
  /// tr((Ŵ−W) H (Ŵ−W)ᵀ), undamped H. NaN, as the two ratios, where H or W is too small to tell.
  double proxy_loss = 0;
  double relative_proxy_loss = 0;  ///< the same over tr(W H Wᵀ)
  double trace_ratio = 0;          ///< tr(D)/tr(H) of the damped, transformed H
  /// The loss over ‖W‖²_F/n · tr(D) · 2^(−2·bits), the least that any code with so many bits leaves
  /// of Gaussian weights (rate–distortion bound).
  double rate_distortion_ratio = 0;
  double incoherence_before = 0;   ///< μ_W = max|W|·√(mn)/‖W‖_F of the weights as they came
  double incoherence_after = 0;    ///< the same of U W D̃ Vᵀ
  double damping = 0;              ///< λ that was added to diag(H), relative to mean(diag H)
  int damping_tries = 0;           ///< 1: the first λ made H positive definite
  index_t dead_channels = 0;       ///< inputs that were zero on all calibration tokens
  double rho = 0;                  ///< incoherent grid: half width over rms(W); else 0
  int rho_rounds = 0;              ///< of the search for ρ; 0: none. Of the run: not stored
  int passes = 0;                  ///< greedy passes until nothing changed, or all allowed
  std::optional<Spectra> spectra;  ///< if they were asked for
};

}  // namespace quip
