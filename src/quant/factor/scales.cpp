#include "scales.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "quip/core/dtype.hpp"
#include "quip/linalg/eigen.hpp"

namespace quip {
namespace {

constexpr double smallest_diagonal = 1e-8;  // the authors' clamp for D̃
constexpr double unseen_share = 1e-3;       // far below the bundled models' smallest, 2.6e-3
constexpr int rounds = 3;                   // output and input scales in turn
constexpr int refinements = 6;
constexpr index_t most_refined_inputs = 2048;  // n³ each: beyond, longer than the search for codes
constexpr double root_damping = 0.01;
constexpr double least_output_scale = 1.0 / 256;
constexpr float most_input_scale = 1024;  // over the median: halves have no more range to give

constexpr double smallest_unit = 0x1p-40;  // shared by two halves

/// The rms of weights, in the values' own, that leaves LDLQ the least loss. It is below 1: targets
/// are wider than weights by what feedback adds.
constexpr std::array<double, trellis::max_bits + 1> best_rms{0,    0.92, 0.885, 0.86, 0.84,
                                                             0.82, 0.80, 0.78,  0.76};

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double median_of(std::vector<float> values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Returns Σⱼ (Wᵢⱼ sⱼ)² for every row.
std::vector<double> row_energies(MatrixView<const float> w, const std::vector<float>& s) {
  std::vector<double> energy(at(w.rows), 0.0);
#pragma omp parallel for schedule(static)
  for (index_t i = 0; i < w.rows; ++i) {
    const float* row = w.row(i);
    double sum = 0;
    for (index_t j = 0; j < w.cols; ++j) {
      const double value = static_cast<double>(row[j]) * s[at(j)];
      sum += value * value;
    }
    energy[at(i)] = sum;
  }
  return energy;
}

/// Returns the root of each row's norm, 1 in the mean.
std::vector<float> output_scales(MatrixView<const float> w, const std::vector<float>& s) {
  std::vector<double> scale = row_energies(w, s);
  for (double& value : scale) value = std::sqrt(std::sqrt(value));
  const double mean = mean_of(scale);
  std::vector<float> out(scale.size(), 1.0F);
  if (mean <= 0) return out;
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<float>(std::max(scale[i] / mean, least_output_scale));
  }
  return out;
}

/// Refines D̃ for tr(H'^½)·‖W'‖, what LDLQ loses under incoherence: input j gets the share of ‖W'‖²
/// that is its share of the trace. `energy` is that of W's columns.
void refine(MatrixView<const double> hessian, const std::vector<double>& energy,
            std::vector<float>& s) {
  const index_t n = hessian.rows;
  double mean_diagonal = 0;
  for (index_t i = 0; i < n; ++i) mean_diagonal += hessian(i, i) / static_cast<double>(n);
  Matrix<double> q(n, n);
  std::vector<double> root(at(n));
  std::vector<double> share(at(n));
  for (int round = 0; round < refinements; ++round) {
    double trace = 0;
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < n; ++j) q(i, j) = hessian(i, j) / (double{s[at(i)]} * s[at(j)]);
      trace += q(i, i);
    }
    const double damping = root_damping * trace / static_cast<double>(n);
    for (index_t i = 0; i < n; ++i) q(i, i) += damping;
    const std::vector<double> values = symmetric_eigen(q.view());
    double root_trace = 0;
    double total = 0;
    root.assign(at(n), 0.0);
    for (index_t k = 0; k < n; ++k) {  // eigenvectors are rows
      const double value = std::sqrt(std::max(values[at(k)], 0.0));
      for (index_t i = 0; i < n; ++i) root[at(i)] += value * q(k, i) * q(k, i);
    }
    for (index_t i = 0; i < n; ++i) {
      share[at(i)] = double{s[at(i)]} * s[at(i)] * energy[at(i)];
      root_trace += root[at(i)];
      total += share[at(i)];
    }
    for (index_t i = 0; i < n; ++i) {
      // D̃ knows what to do with an input of which H says (almost) nothing.
      if (hessian(i, i) <= unseen_share * unseen_share * mean_diagonal) continue;
      if (share[at(i)] <= unseen_share * total / static_cast<double>(n)) continue;
      const double ratio = (root[at(i)] / root_trace) / (share[at(i)] / total);
      s[at(i)] *= static_cast<float>(std::sqrt(std::sqrt(ratio)));
    }
  }
}

/// Scales what belongs to a block of 128 rows (columns) together, so that its weights get the rms
/// of all: the transform does not mix blocks, and the codebook has one scale. Blocks of zeros stay.
void equalise_blocks(const std::vector<double>& energy, double sign, std::vector<float>& scale) {
  const double mean = mean_of(energy);
  const index_t n = std::ssize(energy);
  for (index_t first = 0; first < n; first += trellis::hadamard_side) {
    const index_t last = std::min(n, first + trellis::hadamard_side);
    const double own = std::accumulate(energy.begin() + first, energy.begin() + last, 0.0) /
                       static_cast<double>(last - first);
    if (own <= 0) continue;
    const auto factor = static_cast<float>(std::pow(own / mean, sign / 2));
    for (index_t i = first; i < last; ++i) scale[at(i)] *= factor;
  }
}

float to_half_and_back(double value) { return from_f16(to_f16(static_cast<float>(value))); }

/// Makes 1 the middle, and limits what is beyond the range of halves.
void limit(const std::vector<double>& energy, std::vector<float>& scale) {
  std::vector<float> used;
  for (std::size_t j = 0; j < scale.size(); ++j) {
    if (energy[j] > 0) used.push_back(scale[j]);
  }
  const double median = used.empty() ? 1.0 : median_of(std::move(used));
  for (std::size_t j = 0; j < scale.size(); ++j) {
    // An input without weights has no scale of its own.
    const double relative = energy[j] > 0 ? scale[j] / median : 1.0;
    scale[j] = std::clamp(static_cast<float>(relative), 1 / most_input_scale, most_input_scale);
  }
}

/// Gives every block of 128 × 128 the same rms.
void level(LayerScales& scales, MatrixView<const float> weights) {
  for (int round = 0; round < rounds; ++round) {
    std::vector<double> inputs = column_energies(weights, scales.output);
    for (std::size_t j = 0; j < inputs.size(); ++j) {
      inputs[j] *= double{scales.input[j]} * scales.input[j];
    }
    equalise_blocks(inputs, -1.0, scales.input);
    std::vector<double> outputs = row_energies(weights, scales.input);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      outputs[i] /= double{scales.output[i]} * scales.output[i];
    }
    equalise_blocks(outputs, 1.0, scales.output);
  }
}

/// Rounds to halves, and gives weights the rms that suits the codebook.
void fit_to_trellis(LayerScales& scales, MatrixView<const float> weights,
                    const LayerOptions& options) {
  double energy = 0;
  const std::vector<double> rows = row_energies(weights, scales.input);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    energy += rows[i] / (double{scales.output[i]} * scales.output[i]);
  }
  const double rms = std::sqrt(energy / static_cast<double>(weights.size()));
  const double values_rms = best_rms[at(options.bits)] * trellis::codebook_rms(options.trellis);
  // Weights too small for halves are left to the refit, which makes them zeros.
  const double unit = rms / values_rms >= smallest_unit ? rms / values_rms : 1.0;
  // Shares the unit between both, so that neither leaves the range of halves.
  const double half_unit = std::exp2(std::round(std::log2(unit) / 2));
  for (float& value : scales.input) value = 1.0F / to_half_and_back(half_unit / double{value});
  for (float& value : scales.output) value = to_half_and_back(unit / half_unit * double{value});
}

}  // namespace

int candidate_count(index_t n) { return n <= most_refined_inputs ? 3 : 2; }

double candidate_flops(index_t n) {
  const auto order = static_cast<double>(n);
  return n <= most_refined_inputs ? refinements * 9 * order * order * order : 0;
}

std::vector<double> column_energies(MatrixView<const float> w, const std::vector<float>& t) {
  std::vector<double> energy(at(w.cols), 0.0);
  for (index_t i = 0; i < w.rows; ++i) {
    const float* row = w.row(i);
    const double unit = t.empty() ? 1.0 : 1.0 / (double{t[at(i)]} * t[at(i)]);
    for (index_t j = 0; j < w.cols; ++j) {
      energy[at(j)] += static_cast<double>(row[j]) * row[j] * unit;
    }
  }
  return energy;
}

double unit_of(const std::vector<double>& diagonal) {
  // Of a positive semi-definite matrix the largest element is on the diagonal.
  const double largest = *std::max_element(diagonal.begin(), diagonal.end());
  return largest > 0 ? 1.0 / largest : 1.0;
}

double choose_rescale(const std::vector<double>& diagonal, const std::vector<double>& energy,
                      std::vector<float>& rescale) {
  const double scale = unit_of(diagonal);
  std::vector<double> seen;
  for (std::size_t j = 0; j < diagonal.size(); ++j) {
    if (diagonal[j] * scale > 0 && energy[j] > 0)
      seen.push_back(std::sqrt(diagonal[j] * scale * energy[j]));
  }
  const auto middle = seen.begin() + std::ssize(seen) / 2;
  if (!seen.empty()) std::nth_element(seen.begin(), middle, seen.end());
  const double median = seen.empty() ? 0.0 : *middle;
  rescale.resize(diagonal.size());
  for (std::size_t j = 0; j < rescale.size(); ++j) {
    const double hjj = std::max(diagonal[j] * scale, smallest_diagonal);
    const double wjj = std::max(energy[j], smallest_diagonal);
    const bool unseen = std::sqrt(diagonal[j] * scale * wjj) < unseen_share * median;
    const double squared = unseen ? median / wjj : std::sqrt(hjj / wjj);
    rescale[j] = static_cast<float>(std::max(std::sqrt(squared), smallest_diagonal));
  }
  return scale;
}

std::vector<LayerScales> candidate_scales(MatrixView<const float> weights,
                                          const std::vector<double>& diagonal,
                                          MatrixView<const double> hessian,
                                          const LayerOptions& options) {
  LayerScales scales;
  scales.input.assign(at(weights.cols), 1.0F);
  std::vector<double> energy;
  for (int round = 0; round < rounds; ++round) {
    scales.output = output_scales(weights, scales.input);
    energy = column_energies(weights, scales.output);
    const double mean = mean_of(energy);  // for limits in choose_rescale that are not relative
    if (mean > 0) {
      for (double& value : energy) value /= mean;
    }
    choose_rescale(diagonal, energy, scales.input);
  }
  std::vector<LayerScales> candidates{scales};
  const bool blind = *std::max_element(diagonal.begin(), diagonal.end()) <= 0;
  if (hessian.rows > 0 && !blind) {
    LayerScales& even = candidates.emplace_back(scales);
    for (std::size_t j = 0; j < energy.size(); ++j) {
      if (energy[j] > 0) even.input[j] = static_cast<float>(1.0 / std::sqrt(energy[j]));
    }
    if (hessian.rows <= most_refined_inputs) {
      refine(hessian, energy, candidates.emplace_back(scales).input);
    }
  }
  for (LayerScales& candidate : candidates) {
    limit(energy, candidate.input);
    if (options.effective_transform() == TransformKind::hadamard_128) level(candidate, weights);
    if (options.has_trellis()) {
      fit_to_trellis(candidate, weights, options);
    } else {
      for (float& value : candidate.output) value = to_half_and_back(value);
    }
  }
  return candidates;
}

}  // namespace quip
