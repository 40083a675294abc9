// The search for the states of a tile with feedback between its weights.
#pragma once

#include <cstdint>
#include <memory>

#include "quip/core/matrix.hpp"
#include "quip/quant/trellis/codebook.hpp"
#include "quip/quant/trellis/search.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip::trellis {

/// A search with feedback takes at most this many bits.
constexpr int max_feedback_bits = 4;

/// A diagonal block D [16 × 16] of the block LDL of a Hessian, factorised so that an output's error
/// e (a row, target − value) costs e D eᵀ = Σ dᵢ εᵢ², with εᵢ = eᵢ + fᵢ and fᵢ = Σⱼ εⱼ lⱼᵢ over the
/// inputs j that the tile visits before i.
class TileFeedback {
 public:
  /// `block` is symmetric and positive semidefinite, inputs in their natural order; only its lower
  /// triangle is read. An input of which the others leave nothing has weight 0.
  explicit TileFeedback(MatrixView<const double> block);

  /// dᵢ of the i-th input visited, the greatest of all being 1.
  [[nodiscard]] double weight(int i) const { return weight_[i]; }
  /// lⱼᵢ of the j-th and the i-th input visited.
  [[nodiscard]] double factor(int j, int i) const { return factor_[j][i]; }

 private:
  double weight_[tile_side] = {};
  double factor_[tile_side][tile_side] = {};
};

/// Finds states as TileSearch does, but for the sum of e D eᵀ over the tile's outputs: each path
/// carries the feedback that its values give to inputs still to come. It keeps the best path to
/// each node, which with feedback need not be the best of all. The state at the seam is the one
/// that is found without feedback. Takes two to five times as long.
class FeedbackSearch {
 public:
  using Workspace = TileSearch::Workspace;

  virtual ~FeedbackSearch() = default;

  [[nodiscard]] virtual std::unique_ptr<Workspace> workspace() const = 0;

  /// Codes `count` tiles of one block of inputs: from targets [count × 256] to states [count ×
  /// 256], as TileSearch does.
  virtual void encode(const float* targets, index_t count, const TileFeedback& feedback,
                      Workspace& workspace, std::uint16_t* states) const = 0;
};

/// Makes a search with the kernels that are best here. `bits`: 1 … max_feedback_bits.
[[nodiscard]] std::unique_ptr<FeedbackSearch> make_feedback_search(
    Codebook codebook, int bits, SeamSearch seam = SeamSearch::whole_round);
/// The same with kernels of choice.
[[nodiscard]] std::unique_ptr<FeedbackSearch> make_feedback_search(Codebook codebook, int bits,
                                                                   SeamSearch seam,
                                                                   const Kernels& kernels);

}  // namespace quip::trellis
