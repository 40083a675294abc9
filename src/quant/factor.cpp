#include "quip/quant/factor.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "method_factors.hpp"

#include "quip/core/error.hpp"
#include "quip/core/rng.hpp"
#include "quip/core/usage.hpp"
#include "quip/linalg/ldl.hpp"
#include "quip/quant/work.hpp"

namespace quip {
namespace {

constexpr double smallest_diagonal = 1e-8;  // the authors' clamp for D̃
constexpr double identity_share = 1e-2;     // added to H before the transform (QuIP, supplement)
constexpr int most_damping_tries = 5;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

/// (WᵀW)ⱼⱼ for every column j, rows added in order.
std::vector<double> column_energies(MatrixView<const float> w) {
  std::vector<double> energy(at(w.cols), 0.0);
  for (index_t i = 0; i < w.rows; ++i) {
    const float* row = w.row(i);
    for (index_t j = 0; j < w.cols; ++j) energy[at(j)] += static_cast<double>(row[j]) * row[j];
  }
  return energy;
}

/// μ_W = max|W|·√(mn)/‖W‖_F; 0 for W = 0.
double weight_incoherence(MatrixView<const float> w, const std::vector<double>& energy) {
  float largest = 0;
  for (index_t i = 0; i < w.rows; ++i) {
    for (index_t j = 0; j < w.cols; ++j) largest = std::max(largest, std::abs(w.row(i)[j]));
  }
  const double total = std::accumulate(energy.begin(), energy.end(), 0.0);
  const auto elements = static_cast<double>(w.rows) * static_cast<double>(w.cols);
  return total > 0 ? static_cast<double>(largest) * std::sqrt(elements / total) : 0.0;
}

void mirror_lower(MatrixView<double> h) {
  constexpr index_t tile = 64;
#pragma omp parallel for schedule(dynamic)
  for (index_t i0 = 0; i0 < h.rows; i0 += tile) {
    for (index_t j0 = 0; j0 <= i0; j0 += tile) {
      for (index_t i = i0; i < std::min(h.rows, i0 + tile); ++i) {
        for (index_t j = j0; j < std::min(i, j0 + tile); ++j) h(j, i) = h(i, j);
      }
    }
  }
}

void transpose_in_place(MatrixView<double> h) {
  constexpr index_t tile = 64;
#pragma omp parallel for schedule(dynamic)
  for (index_t i0 = 0; i0 < h.rows; i0 += tile) {
    for (index_t j0 = 0; j0 <= i0; j0 += tile) {
      for (index_t i = i0; i < std::min(h.rows, i0 + tile); ++i) {
        for (index_t j = j0; j < std::min(i, j0 + tile); ++j) std::swap(h(j, i), h(i, j));
      }
    }
  }
}

double diagonal_sum(MatrixView<const double> h) {
  double sum = 0;
  for (index_t i = 0; i < h.rows; ++i) sum += h(i, i);
  return sum;
}

std::vector<double> diagonal_of(MatrixView<const double> h) {
  std::vector<double> diagonal(at(h.rows));
  for (index_t i = 0; i < h.rows; ++i) diagonal[at(i)] = h(i, i);
  return diagonal;
}

/// H ← factor · diag(s) H diag(s); s empty means the identity.
void scale_both_sides(MatrixView<double> h, double factor, const std::vector<double>& s) {
#pragma omp parallel for schedule(static)
  for (index_t i = 0; i < h.rows; ++i) {
    double* row = h.row(i);
    const double left = factor * (s.empty() ? 1.0 : s[at(i)]);
    for (index_t j = 0; j < h.cols; ++j) row[j] *= left * (s.empty() ? 1.0 : s[at(j)]);
  }
}

/// D̃ⱼ = (Hⱼⱼ / (WᵀW)ⱼⱼ)^¼ with H scaled to max|H| = 1; returns that scale.
double choose_rescale(MatrixView<const double> h, const std::vector<double>& energy,
                      std::vector<float>& rescale) {
  double largest = 0;  // of a positive semi-definite matrix: on the diagonal
  for (index_t i = 0; i < h.rows; ++i) largest = std::max(largest, h(i, i));
  const double scale = largest > 0 ? 1.0 / largest : 1.0;
  rescale.resize(at(h.rows));
  for (index_t j = 0; j < h.rows; ++j) {
    const double hjj = std::max(h(j, j) * scale, smallest_diagonal);
    const double wjj = std::max(energy[at(j)], smallest_diagonal);
    rescale[at(j)] =
        static_cast<float>(std::max(std::sqrt(std::sqrt(hjj / wjj)), smallest_diagonal));
  }
  return scale;
}

/// V H Vᵀ for symmetric H: V H, transposed (= H Vᵀ), and V on the left again.
void transform_both_sides(const Transform& v, MatrixView<double> h) {
  if (v.is_identity()) return;
  apply_in_slabs(v, h, false);
  transpose_in_place(h);
  apply_in_slabs(v, h, false);
}

/// Damps and factorises; the upper triangle of `h` keeps H for another try.
void factorise(MatrixView<double> h, const LayerOptions& options, PreparedLayer& layer,
               const std::string& name) {
  const index_t n = h.rows;
  const std::vector<double> diagonal = diagonal_of(h);
  std::vector<double> damped(at(n));
  const double mean = diagonal_sum(h) / static_cast<double>(n);
  double alpha = options.damping;
  for (int attempt = 1;; ++attempt) {
    const double lambda = alpha * mean;
    for (index_t i = 0; i < n; ++i) h(i, i) = damped[at(i)] = diagonal[at(i)] + lambda;
    index_t minor = ldl_factor(h, layer.factor.diagonal);
    if (minor == 0) minor = fill_factors(h, damped, options, layer);
    if (minor == 0) {
      layer.damping = alpha;
      layer.damping_tries = attempt;
      for (double& value : layer.added) value += lambda;
      const double trace_h = mean * static_cast<double>(n) + lambda * static_cast<double>(n);
      layer.trace_d =
          std::accumulate(layer.factor.diagonal.begin(), layer.factor.diagonal.end(), 0.0);
      layer.trace_ratio = layer.trace_d / trace_h;
      return;
    }
    if (attempt == most_damping_tries || !std::isfinite(mean)) {
      fail(
          "layer {}: the Hessian is not positive definite (leading minor {} of {}, λ = {:.3g} "
          "after {} tries); use more calibration samples or a larger --damp",
          name, minor, n, lambda, attempt);
    }
    alpha = alpha > 0 ? 10 * alpha : 1e-6;
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < i; ++j) h(i, j) = h(j, i);
    }
  }
}

}  // namespace

PreparedLayer prepare_layer(MatrixView<const float> weights, Matrix<double> hessian,
                            const LayerOptions& options, const std::string& layer) {
  const index_t n = weights.cols;
  PreparedLayer prepared;
  prepared.factor = LowerPanels(n);
  prepared.added.assign(at(n), 0.0);
  prepared.seed_u = derive_key(options.seed, layer, "U");
  prepared.seed_v = derive_key(options.seed, layer, "V");
  prepared.seed_rounding = derive_key(options.seed, layer, "rounding");
  const MatrixView<double> h = hessian.view();
  mirror_lower(h);
  for (index_t j = 0; j < n; ++j) prepared.dead_channels += h(j, j) == 0.0 ? 1 : 0;

  std::vector<double> energy = column_energies(weights);
  prepared.weight_incoherence = weight_incoherence(weights, energy);
  if (options.spectra) prepared.spectra.before = spectrum_of(h, 0, layer);
  if (options.rescale()) {  // H ← D̃⁻¹ (H/max|H|) D̃⁻¹, W ← W D̃
    const double scale = choose_rescale(h, energy, prepared.rescale);
    std::vector<double> inverse(at(n));
    for (index_t j = 0; j < n; ++j) {
      inverse[at(j)] = 1.0 / prepared.rescale[at(j)];
      energy[at(j)] *= static_cast<double>(prepared.rescale[at(j)]) * prepared.rescale[at(j)];
    }
    scale_both_sides(h, scale, inverse);
    prepared.loss_unit /= scale;
  }
  if (options.effective_transform() != TransformKind::none) {  // H ← V (H·n/tr H + 10⁻² I) Vᵀ
    const double trace = diagonal_sum(h);
    const double scale = trace > 0 ? static_cast<double>(n) / trace : 1.0;
    scale_both_sides(h, scale, {});
    prepared.loss_unit /= scale;
    for (index_t j = 0; j < n; ++j) {
      h(j, j) += identity_share;
      prepared.added[at(j)] += identity_share;
    }
    const auto v = make_transform(options.effective_transform(), n, prepared.seed_v, Side::input);
    transform_both_sides(*v, h);
  }
  if (options.spectra) prepared.spectra.after = spectrum_of(h, prepared.added[0], layer);
  for (index_t j = 0; j < n; ++j) {  // dead channels: Hⱼⱼ = 1, W[:, j] = 0
    if (h(j, j) != 0.0) continue;
    if (prepared.dead.empty()) prepared.dead.assign(at(n), 0);
    prepared.dead[at(j)] = 1;
    h(j, j) = 1.0;
    prepared.added[at(j)] += 1.0;
    energy[at(j)] = 0.0;
  }
  const double total = std::accumulate(energy.begin(), energy.end(), 0.0);
  prepared.weight_rms =
      std::sqrt(total / (static_cast<double>(weights.rows) * static_cast<double>(n)));
  prepared.order = column_order(options, diagonal_of(h));
  if (!prepared.order.empty()) {
    permute_symmetric(h, prepared.order);
    permute(prepared.added, prepared.order);
  }
  factorise(h, options, prepared, layer);
  UsageMeter::current().add_flops(factor_flops(n, options, prepared.damping_tries));
  return prepared;
}

}  // namespace quip
