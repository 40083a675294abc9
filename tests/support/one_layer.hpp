// One layer from weights and Hessian to codes, as the pipeline does it on `parts` ranks.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "quip/core/rng.hpp"
#include "quip/quant/code/dequantize.hpp"
#include "quip/quant/layer.hpp"

namespace quip {

inline Matrix<float> random_weights(index_t m, index_t n, std::uint64_t key) {
  const RandomStream random(key);
  Matrix<float> w(m, n);
  for (index_t i = 0; i < m * n; ++i) {
    w.data()[i] = 0.05F * static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  return w;
}

/// Returns the H of correlated inputs with a decaying spectrum, like activations.
inline Matrix<double> random_hessian(index_t n, index_t tokens, std::uint64_t key) {
  const RandomStream random(key);
  Matrix<double> x(tokens, n);
  for (index_t t = 0; t < tokens; ++t) {
    double previous = 0;
    for (index_t j = 0; j < n; ++j) {
      const double fresh = random.normal(static_cast<std::uint64_t>(t * n + j));
      previous = 0.8 * previous + fresh;
      x(t, j) = previous / (1.0 + 0.05 * static_cast<double>(j));
    }
  }
  Matrix<double> h(n, n, 0.0);
  for (index_t t = 0; t < tokens; ++t) {
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < n; ++j) h(i, j) += x(t, i) * x(t, j) / static_cast<double>(tokens);
    }
  }
  return h;
}

inline Matrix<double> copy_of(const Matrix<double>& h) {
  Matrix<double> out(h.rows(), h.cols());
  std::copy_n(h.data(), h.size(), out.data());
  return out;
}

/// Returns tr(Δ H Δᵀ) from the definition.
inline double trace_loss(MatrixView<const float> delta, const Matrix<double>& h) {
  double sum = 0;
  for (index_t r = 0; r < delta.rows; ++r) {
    for (index_t i = 0; i < delta.cols; ++i) {
      double row = 0;
      for (index_t j = 0; j < delta.cols; ++j) row += h(i, j) * delta(r, j);
      sum += row * delta(r, i);
    }
  }
  return sum;
}

struct Outcome {
  QuantizedLinear layer;
  double loss = 0;  ///< as the program reports it, in H's units
  double reference = 0;
};

inline Outcome quantize(const Matrix<float>& w, const Matrix<double>& h,
                        const LayerOptions& options, int parts = 1) {
  const PreparedLayer prepared = prepare_layer(w.cview(), copy_of(h), options, "test");
  const LayerTransforms transforms = make_transforms(options.effective_transform(), w.rows(),
                                                     w.cols(), prepared.seed_u, prepared.seed_v);
  std::vector<RowTiles> tiles;
  tiles.reserve(static_cast<std::size_t>(parts));
  for (int part = 0; part < parts; ++part) {
    tiles.push_back(
        transform_rows(w.cview(), prepared, transforms, share_of(w.rows(), part, parts)));
  }
  double rho = options.rho.value_or(0.0);
  if (!options.rho && options.grid() == GridKind::incoherent) {
    RhoSearch search(w.rows(), options.bits);
    while (!search.candidates().empty()) {
      std::vector<double> sum;
      for (const RowTiles& tile : tiles) {
        const std::vector<double> losses = search.evaluate(tile, prepared, options);
        sum.resize(losses.size(), 0.0);
        for (std::size_t i = 0; i < losses.size(); ++i) sum[i] += losses[i];
      }
      search.advance(sum);
    }
    rho = search.result();
  }
  Outcome out;
  for (const RowTiles& tile : tiles) {
    const RoundedRows rows = round_rows(tile, prepared, options, rho);
    if (out.layer.rows == 0) {
      out.layer = rows.layer;
    } else {
      visit_parts(
          [](const Part& part, auto& all, const auto& mine) {
            if (part.by_row) all.insert(all.end(), mine.begin(), mine.end());
          },
          out.layer, rows.layer);
      out.layer.rows += rows.layer.rows;
    }
    for (const RowLoss& row : rows.losses) {
      out.loss += row.loss * prepared.loss_unit;
      out.reference += row.reference * prepared.loss_unit;
    }
  }
  validate(out.layer, "test");
  return out;
}

}  // namespace quip
