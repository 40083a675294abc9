#include "quip/quant/factor/factor.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "method_factors.hpp"
#include "scales.hpp"

#include "quip/core/rng.hpp"
#include "quip/core/usage.hpp"
#include "quip/linalg/ldl.hpp"
#include "quip/quant/factor/damping.hpp"
#include "quip/quant/factor/work.hpp"

namespace quip {
namespace {

/// Returns μ_W = max|W|·√(mn)/‖W‖_F; 0 for W = 0.
double weight_incoherence(MatrixView<const float> w, const std::vector<double>& energy) {
  float largest = 0;
  for (index_t i = 0; i < w.rows; ++i) {
    for (index_t j = 0; j < w.cols; ++j) largest = std::max(largest, std::abs(w.row(i)[j]));
  }
  const double total = std::accumulate(energy.begin(), energy.end(), 0.0);
  const auto elements = static_cast<double>(w.rows) * static_cast<double>(w.cols);
  return total > 0 ? static_cast<double>(largest) * std::sqrt(elements / total) : 0.0;
}

/// Calls visit(h(i, j), h(j, i)) for all j < i, in tiles and in parallel.
template <typename Visit>
void visit_pairs(MatrixView<double> h, Visit visit) {
  constexpr index_t tile = 64;
#pragma omp parallel for schedule(dynamic)
  for (index_t i0 = 0; i0 < h.rows; i0 += tile) {
    for (index_t j0 = 0; j0 <= i0; j0 += tile) {
      for (index_t i = i0; i < std::min(h.rows, i0 + tile); ++i) {
        for (index_t j = j0; j < std::min(i, j0 + tile); ++j) visit(h(i, j), h(j, i));
      }
    }
  }
}

std::vector<double> diagonal_of(MatrixView<const double> h) {
  std::vector<double> diagonal(at(h.rows));
  for (index_t i = 0; i < h.rows; ++i) diagonal[at(i)] = h(i, i);
  return diagonal;
}

/// Scales H ← factor · diag(s) H diag(s); s empty means the identity.
void scale_both_sides(MatrixView<double> h, double factor, const std::vector<double>& s) {
#pragma omp parallel for schedule(static)
  for (index_t i = 0; i < h.rows; ++i) {
    double* row = h.row(i);
    const double left = factor * (s.empty() ? 1.0 : s[at(i)]);
    for (index_t j = 0; j < h.cols; ++j) row[j] *= left * (s.empty() ? 1.0 : s[at(j)]);
  }
}

/// Computes V H Vᵀ for symmetric H: V H, transposed (= H Vᵀ), and V on the left again.
void transform_both_sides(const HessianMath& math, const Transform& v, MatrixView<double> h) {
  if (v.is_identity()) return;
  math.transform(v, h);
  visit_pairs(h, [](double& lower, double& upper) { std::swap(lower, upper); });
  math.transform(v, h);
}

/// Damps and factorises; the upper triangle of `h` keeps H for another try.
void factorise(const HessianMath& math, MatrixView<double> h, const LayerOptions& options,
               PreparedLayer& layer, const std::string& name) {
  const index_t n = h.rows;
  Damping damping(diagonal_of(h), options.damping);
  for (;;) {
    for (index_t i = 0; i < n; ++i) h(i, i) = damping.damped()[at(i)];
    index_t minor = math.ldl_factor(h, layer.factor.diagonal);
    if (minor == 0) minor = fill_factors(math, h, damping.damped(), options, layer);
    if (minor == 0) {
      damping.record(layer);
      return;
    }
    damping.increase(name, minor);
    visit_pairs(h, [](double& lower, double& upper) { lower = upper; });
  }
}

std::vector<double> inverses_of(const std::vector<float>& values) {
  std::vector<double> inverse(values.size());
  for (std::size_t j = 0; j < inverse.size(); ++j) inverse[j] = 1.0 / values[j];
  return inverse;
}

}  // namespace

void reorder(std::vector<double>& values, const std::vector<index_t>& order) {
  if (order.empty()) return;
  std::vector<double> moved(values.size());
  for (std::size_t i = 0; i < order.size(); ++i) moved[i] = values[at(order[i])];
  values = std::move(moved);
}

void HessianMath::transform(const Transform& v, MatrixView<double> x) const {
  apply_in_slabs(v, x, false);
}

index_t HessianMath::ldl_factor(MatrixView<double> h, std::span<double> d) const {
  return quip::ldl_factor(h, d);
}

OutlinedLayer outline_layer(MatrixView<const float> weights, std::vector<double> diagonal,
                            const LayerOptions& options, const std::string& layer,
                            const LayerScales* scales) {
  const index_t n = weights.cols;
  OutlinedLayer outline;
  PreparedLayer& prepared = outline.layer;
  prepared.added.assign(at(n), 0.0);
  prepared.seed_u = derive_key(options.seed, layer, "U");
  prepared.seed_v = derive_key(options.seed, layer, "V");
  prepared.seed_rounding = derive_key(options.seed, layer, "rounding");
  prepared.dead_channels = std::count(diagonal.begin(), diagonal.end(), 0.0);
  const bool blind = prepared.dead_channels == n;

  std::vector<double> energy = column_energies(weights, {});
  prepared.weight_incoherence = weight_incoherence(weights, energy);
  if (options.scales_outputs()) {  // and W's rows over their scales
    LayerScales chosen =
        scales != nullptr ? *scales : candidate_scales(weights, diagonal, {}, options).front();
    prepared.rescale = std::move(chosen.input);
    prepared.output_scale = std::move(chosen.output);
    outline.rescale_unit = unit_of(diagonal);
    energy = column_energies(weights, prepared.output_scale);
  } else if (options.rescale() && !blind) {
    outline.rescale_unit = choose_rescale(diagonal, energy, prepared.rescale);
  }
  if (!prepared.rescale.empty()) {  // H ← D̃⁻¹ (H/max|H|) D̃⁻¹, W ← W D̃
    const std::vector<double> inverse = inverses_of(prepared.rescale);
    for (index_t j = 0; j < n; ++j) {
      diagonal[at(j)] *= outline.rescale_unit * inverse[at(j)] * inverse[at(j)];
      energy[at(j)] *= static_cast<double>(prepared.rescale[at(j)]) * prepared.rescale[at(j)];
    }
    prepared.loss_unit /= outline.rescale_unit;
  }
  if (blind) {  // nothing to go by but W: H ← I
    outline.identity = 1;
    prepared.loss_unit = 0;
  } else if (options.effective_transform() != TransformKind::none) {  // V (H·n/tr H + 10⁻² I) Vᵀ
    const double trace = std::accumulate(diagonal.begin(), diagonal.end(), 0.0);
    outline.transform_unit = trace > 0 ? static_cast<double>(n) / trace : 1.0;
    outline.identity = options.scales_outputs() ? 0.0 : identity_share;
    prepared.loss_unit /= outline.transform_unit;
    prepared.added.assign(at(n), outline.identity);
  } else {  // dead channels: Hⱼⱼ = 1, W[:, j] = 0
    for (index_t j = 0; j < n; ++j) {
      if (diagonal[at(j)] != 0.0) continue;
      if (prepared.dead.empty()) prepared.dead.assign(at(n), 0);
      prepared.dead[at(j)] = 1;
      prepared.added[at(j)] = 1.0;
      energy[at(j)] = 0.0;
    }
  }
  const double total = std::accumulate(energy.begin(), energy.end(), 0.0);
  prepared.weight_rms =
      std::sqrt(total / (static_cast<double>(weights.rows) * static_cast<double>(n)));
  return outline;
}

namespace {

/// Prepares a layer with scales as they are given; null: by the options. `hessian` is symmetric.
PreparedLayer prepare_scaled(MatrixView<const float> weights, Matrix<double> hessian,
                             const LayerOptions& options, const std::string& layer,
                             const HessianMath& math, const LayerScales* scales) {
  const index_t n = weights.cols;
  const MatrixView<double> h = hessian.view();
  OutlinedLayer outline = outline_layer(weights, diagonal_of(h), options, layer, scales);
  PreparedLayer prepared = std::move(outline.layer);
  prepared.factor = LowerPanels(n);
  if (options.spectra) prepared.spectra.before = spectrum_of(h, 0, layer);
  if (!prepared.rescale.empty()) {
    scale_both_sides(h, outline.rescale_unit, inverses_of(prepared.rescale));
  }
  const bool transformed = options.effective_transform() != TransformKind::none;
  if (transformed) scale_both_sides(h, outline.transform_unit, {});
  for (index_t j = 0; j < n; ++j) h(j, j) += outline.identity;
  if (transformed) {
    const auto v = make_transform(options.effective_transform(), n, prepared.seed_v, Side::input);
    transform_both_sides(math, *v, h);
  }
  if (options.spectra) prepared.spectra.after = spectrum_of(h, outline.identity, layer);
  for (std::size_t j = 0; j < prepared.dead.size(); ++j) {
    if (prepared.dead[j] != 0) h(static_cast<index_t>(j), static_cast<index_t>(j)) = 1.0;
  }
  prepared.order = column_order(options, diagonal_of(h));
  if (!prepared.order.empty()) permute_symmetric(h, prepared.order);
  reorder(prepared.added, prepared.order);
  factorise(math, h, options, prepared, layer);
  return prepared;
}

/// Returns what LDLQ loses of incoherent weights at a given rate, but for a constant: W' has the
/// same rms whatever the scales.
double expected_loss(const PreparedLayer& layer) {
  double rows = 0;
  for (const float scale : layer.output_scale) rows += double{scale} * scale;
  return rows * layer.weight_rms * layer.weight_rms * layer.trace_d * layer.loss_unit;
}

}  // namespace

void take_member(PreparedLayer& shared, std::span<const float> output_scale,
                 MatrixView<const float> weights, const LayerOptions& options,
                 const std::string& layer) {
  shared.output_scale.assign(output_scale.begin(), output_scale.end());
  shared.seed_u = derive_key(options.seed, layer, "U");
  shared.seed_rounding = derive_key(options.seed, layer, "rounding");
  shared.weight_incoherence = weight_incoherence(weights, column_energies(weights, {}));
  const std::vector<double> energy = column_energies(weights, shared.output_scale);
  double total = 0;
  for (std::size_t j = 0; j < energy.size(); ++j) {
    const double factor = shared.rescale.empty() ? 1.0 : double{shared.rescale[j]};
    const bool dead = !shared.dead.empty() && shared.dead[j] != 0;
    if (!dead) total += energy[j] * factor * factor;
  }
  shared.weight_rms =
      std::sqrt(total / (static_cast<double>(weights.rows) * static_cast<double>(weights.cols)));
}

PreparedLayer prepare_layer(MatrixView<const float> weights, Matrix<double> hessian,
                            const LayerOptions& options, const std::string& layer,
                            const HessianMath& math) {
  const index_t n = weights.cols;
  const index_t rows = padded(options.effective_transform(), weights.rows);
  const index_t cols = padded(options.effective_transform(), n);
  if (rows != weights.rows || cols != n) {
    Matrix<double> wider = pad(hessian.cview(), cols, cols);
    hessian = {};
    PreparedLayer prepared =
        prepare_layer(pad(weights, rows, cols).cview(), std::move(wider), options, layer, math);
    prepared.dead_channels -= cols - n;
    return prepared;
  }
  const MatrixView<double> h = hessian.view();
  visit_pairs(h, [](double& lower, double& upper) { upper = lower; });
  const auto counted = [&](PreparedLayer prepared) {
    UsageMeter::current().add_flops(factor_flops(n, options, prepared.damping_tries));
    return prepared;
  };
  if (!options.scales_outputs()) {
    return counted(prepare_scaled(weights, std::move(hessian), options, layer, math, nullptr));
  }
  const std::vector<LayerScales> candidates = candidate_scales(weights, diagonal_of(h), h, options);
  PreparedLayer best;
  double least = 0;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const bool last = i + 1 == candidates.size();
    Matrix<double> own =
        last ? std::exchange(hessian, Matrix<double>()) : pad(MatrixView<const double>(h), n, n);
    PreparedLayer tried =
        prepare_scaled(weights, std::move(own), options, layer, math, &candidates[i]);
    const double loss = expected_loss(tried);
    if (i == 0 || loss < least) {
      least = loss;
      best = std::move(tried);
    }
  }
  return counted(std::move(best));
}

}  // namespace quip
