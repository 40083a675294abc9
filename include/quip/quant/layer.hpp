// One layer, any range of its rows: search the grid, round, pack. Free of MPI: a caller splits
// the rows and joins the parts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quip/quant/options/options.hpp"
#include "quip/quant/round/rounder.hpp"
#include "quip/quant/round/tiles.hpp"

namespace quip {

/// tr(Δ H Δᵀ) and tr(W H Wᵀ) of one row, undamped, in the units of the prepared H.
struct RowLoss {
  double loss = 0;
  double reference = 0;
};

/// One range of rows, rounded.
struct RoundedRows {
  Range rows;
  QuantizedLinear layer;        ///< these rows as a layer of their own
  std::vector<RowLoss> losses;  ///< per row
  int passes = 0;               ///< greedy passes that the slowest row needed
};

/// Returns room for `rows` of a layer of `cols` inputs, complete but for codes, grids and losses.
[[nodiscard]] RoundedRows room_for(Range rows, index_t cols, const PreparedLayer& layer,
                                   const LayerOptions& options, double rho);

class TileRounding;
/// Writes down losses and minmax grids of the `count` rows of a tile, the first of which is row
/// `first` of `out`.
void store_grids_and_losses(const TileRounding& tile, index_t first, index_t count,
                            RoundedRows& out);

/// Rounds the rows of `tiles`; `rho` matters to the incoherent grid only. Parallel, and collective
/// if the panels of `layer.factor` are not in memory: then all ranks come, with rows or without.
[[nodiscard]] RoundedRows round_rows(const RowTiles& tiles, const PreparedLayer& layer,
                                     const LayerOptions& options, double rho);

/// Returns the half width of the incoherent grid.
[[nodiscard]] float incoherent_scale(const PreparedLayer& layer, double rho);

/// The search for ρ: losses of a fixed sample of rows on a ladder of candidates. The sample and
/// the ladder depend on the layer's shape and on earlier losses alone, so that all ranks walk
/// the same path; each rank contributes the sampled rows it holds.
class RhoSearch {
 public:
  RhoSearch(index_t rows, int bits);

  /// Returns the number of rows in the sample.
  [[nodiscard]] index_t sampled() const { return static_cast<index_t>(sample_.size()); }
  /// Returns the candidates to evaluate now; empty when the search is over.
  [[nodiscard]] const std::vector<double>& candidates() const { return candidates_; }
  /// A row of the sample with a candidate, and the place of its loss in the result of `evaluate`.
  struct Trial {
    index_t row;
    double rho;
    std::size_t place;
  };
  /// Returns those of the sampled rows that lie in `rows`.
  [[nodiscard]] std::vector<Trial> trials(Range rows) const;
  /// Returns undamped losses [sampled rows × candidates], row-major, zero where the row is another
  /// rank's. Sum it over ranks, then pass it to `advance`. Parallel or collective as round_rows.
  [[nodiscard]] std::vector<double> evaluate(const RowTiles& tiles, const PreparedLayer& layer,
                                             const LayerOptions& options) const;
  void advance(std::span<const double> losses);
  /// Returns the rows on which candidates are tried, ascending.
  [[nodiscard]] const std::vector<index_t>& sample() const { return sample_; }
  /// Returns the ρ found: the minimum of a parabola through the best candidate and its neighbours.
  [[nodiscard]] double result() const { return result_; }

 private:
  struct Point {
    double rho;
    double loss;
  };
  void conclude(std::size_t best);

  std::vector<index_t> sample_;
  std::vector<double> candidates_;
  std::vector<Point> known_;  ///< ascending in ρ
  int rounds_ = 0;
  double result_ = 0;
};

}  // namespace quip
