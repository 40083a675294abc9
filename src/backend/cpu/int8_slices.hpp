// A chunk of rounded activations as two 8-bit slices, laid out for the tile kernels.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "quip/backend/backend.hpp"

namespace quip::cpu {

/// A 16-bit z is written as z = 2⁸·high + low + 128 with signed bytes high and low.
enum class Slice { high, low };

/// In a product aᵀb, a is the left and b the right factor.
enum class Side { left, right };

/// Channels come in groups of 16, tokens in steps of 64. One group and one step make a tile of
/// 1 KiB; the tiles of a group lie one behind the other.
///   left tile:  16 channels, each with its 64 tokens
///   right tile: 16 quadruples of tokens, each with 16 channels × 4 tokens
/// A left tile is therefore the transpose of the right one, in units of 4 bytes.
class Int8Slices {
 public:
  static constexpr index_t group_channels = 16;
  static constexpr index_t step_tokens = 64;
  static constexpr index_t tile_bytes = group_channels * step_tokens;
  /// The bytes kept per activation: two slices, two sides.
  static constexpr index_t bytes_per_element = 4;

  /// Allocates storage for up to `tokens` tokens of `channels` channels.
  Int8Slices(index_t tokens, index_t channels);

  /// Rounds x [tokens × channels] · scale and slices it, over `threads` threads. Sets `outside`
  /// if an integer does not fit in 16 bits.
  void pack(ConstTensorView x, std::span<const float> scale, int threads,
            std::atomic<bool>& outside);

  /// Returns the tokens of the last pack, in steps; the last step is filled up with zero bytes.
  [[nodiscard]] index_t steps() const { return steps_; }
  /// Returns the tiles of a group; the next group follows them.
  [[nodiscard]] const std::int8_t* tiles(Slice slice, Side side, index_t group) const;
  /// Returns Σ_t of the slice's bytes, one for each channel, from the first of `group` on.
  [[nodiscard]] const std::int32_t* sums(Slice slice, index_t group) const;

 private:
  void pack_step(ConstTensorView x, std::span<const float> scale, index_t group, index_t step,
                 std::atomic<bool>& outside);
  [[nodiscard]] std::uint32_t* words(Slice slice, Side side, index_t group) const;

  index_t groups_;
  index_t steps_ = 0;
  index_t capacity_;  ///< words of 4 bytes in one slice of one side
  Buffer<std::uint32_t> words_;
  Buffer<std::int32_t> sums_;
};

}  // namespace quip::cpu
