// The search for the best states of a tile: Viterbi's, over a trellis that closes to a ring.
#pragma once

#include <cstdint>
#include <memory>

#include "quip/core/matrix.hpp"
#include "quip/quant/trellis/codebook.hpp"

namespace quip::trellis {

struct Kernels;

/// How the state at the seam, where the last step meets the first, is found: by a search that
/// starts half-way round, over all steps or only those within a quarter of a round of the seam. The
/// second takes three quarters of the time and has 0.7 % more error at 2 bits.
enum class SeamSearch { whole_round, near_seam };

/// Finds states whose values are close to targets. The arithmetic is in integers and exact, so that
/// states depend on nothing but targets, codebook, bits and the kind of seam search. Threads may
/// share one, each with a workspace of its own.
class TileSearch {
 public:
  class Workspace {
   public:
    virtual ~Workspace() = default;
  };

  virtual ~TileSearch() = default;

  [[nodiscard]] virtual std::unique_ptr<Workspace> workspace() const = 0;

  /// Codes `count` tiles: from targets [count × 256], in the order of steps and the codebook's
  /// terms, to states [count × 256]. Targets must not be NaN; beyond the codebook's range they are
  /// taken as its ends.
  virtual void encode(const float* targets, index_t count, Workspace& workspace,
                      std::uint16_t* states) const = 0;

  /// Returns the node between the last and the first step of a tile: the bits of the last state
  /// that the first one still holds.
  [[nodiscard]] virtual int seam_node(const float* targets, Workspace& workspace) const = 0;
};

/// Makes a search with the kernels that are best here. `bits`: 1 … max_bits.
[[nodiscard]] std::unique_ptr<TileSearch> make_tile_search(
    Codebook codebook, int bits, SeamSearch seam = SeamSearch::whole_round);
/// The same with kernels of choice.
[[nodiscard]] std::unique_ptr<TileSearch> make_tile_search(Codebook codebook, int bits,
                                                           SeamSearch seam, const Kernels& kernels);

/// Writes the values of states, in the codebook's terms.
void decode_states(Codebook codebook, const std::uint16_t* states, index_t count, float* values);

}  // namespace quip::trellis
