#include "int8_slices.hpp"

#include <algorithm>

#include "hessian.hpp"

namespace quip::cpu {
namespace {

constexpr index_t group_channels = Int8Slices::group_channels;
constexpr index_t step_tokens = Int8Slices::step_tokens;
constexpr index_t tile_words = group_channels * group_channels;

/// 64 tokens × 16 channels of integers.
using Step = std::int32_t[step_tokens][group_channels];

/// Rounds one token's activations; a full group has its own loop, of known length.
QUIP_INLINE std::uint32_t round_row(const float* x, const float* scale, index_t channels,
                                    std::int32_t* z) {
  std::uint32_t beyond = 0;
#pragma omp simd reduction(| : beyond)
  for (index_t c = 0; c < channels; ++c) {
    z[c] = to_integer(x[c] * scale[c]);
    beyond |= excess(z[c]);
  }
  return beyond;
}

/// Rounds the part of a step that exists and fills up the rest.
QUIP_SIMD bool round_step(ConstTensorView x, const float* scale, Step& z) {
  std::uint32_t beyond = 0;
  for (index_t t = 0; t < x.rows; ++t) {
    // Rows are far apart: the processor does not foresee the next step by itself.
    __builtin_prefetch(x.row(t + step_tokens));
    if (x.cols == group_channels) {
      beyond |= round_row(x.row(t), scale, group_channels, z[t]);
    } else {
      std::fill_n(z[t], group_channels, zero_bytes);
      beyond |= round_row(x.row(t), scale, x.cols, z[t]);
    }
  }
  for (index_t t = x.rows; t < step_tokens; ++t) std::fill_n(z[t], group_channels, zero_bytes);
  return beyond == 0;
}

/// Fills the right tiles: word [q][c] has tokens 4q … 4q+3 of channel c, the first in its low byte.
QUIP_SIMD void slice_step(const Step& z, std::uint32_t* high, std::uint32_t* low,
                          std::int32_t* high_sum, std::int32_t* low_sum) {
  for (index_t q = 0; q < group_channels; ++q) {
#pragma omp simd
    for (index_t c = 0; c < group_channels; ++c) {
      std::uint32_t high_word = 0;
      std::uint32_t low_word = 0;
      for (index_t t = 0; t < 4; ++t) {
        const std::int32_t value = z[4 * q + t][c];
        const std::int32_t high_byte = high_byte_of(value);  // NOLINT: the sign is wanted
        const std::int32_t low_byte = low_byte_of(value);    // NOLINT: the sign is wanted
        high_sum[c] += high_byte;
        low_sum[c] += low_byte;
        high_word |= (static_cast<std::uint32_t>(high_byte) & 255U) << (8 * t);
        low_word |= (static_cast<std::uint32_t>(low_byte) & 255U) << (8 * t);
      }
      high[q * group_channels + c] = high_word;
      low[q * group_channels + c] = low_word;
    }
  }
}

/// Interleaves the halves of a tile: the cards of a perfect shuffle.
QUIP_INLINE void shuffle(const std::uint32_t* tile, std::uint32_t* shuffled) {
#pragma omp simd
  for (index_t word = 0; word < tile_words / 2; ++word) {
    shuffled[2 * word] = tile[word];
    shuffled[2 * word + 1] = tile[word + tile_words / 2];
  }
}

/// Transposes a tile of 16 × 16 words: four shuffles rotate the 8 bits of a word's index by four.
QUIP_SIMD void transpose(const std::uint32_t* tile, std::uint32_t* transposed) {
  alignas(64) std::uint32_t scratch[tile_words];
  shuffle(tile, scratch);
  shuffle(scratch, transposed);
  shuffle(transposed, scratch);
  shuffle(scratch, transposed);
}

index_t round_up(index_t value, index_t unit) { return (value + unit - 1) / unit; }

}  // namespace

// An even number of groups, because the kernels take two at a time.
Int8Slices::Int8Slices(index_t tokens, index_t channels)
    : groups_(2 * round_up(channels, 2 * group_channels)),
      capacity_(groups_ * round_up(tokens, step_tokens) * tile_words),
      words_(4 * capacity_),
      sums_(2 * groups_ * group_channels) {}

std::uint32_t* Int8Slices::words(Slice slice, Side side, index_t group) const {
  const index_t part = 2 * static_cast<index_t>(slice) + static_cast<index_t>(side);
  return words_.data() + part * capacity_ + group * steps_ * tile_words;
}

const std::int8_t* Int8Slices::tiles(Slice slice, Side side, index_t group) const {
  return reinterpret_cast<const std::int8_t*>(words(slice, side, group));
}

const std::int32_t* Int8Slices::sums(Slice slice, index_t group) const {
  return sums_.data() + (static_cast<index_t>(slice) * groups_ + group) * group_channels;
}

void Int8Slices::pack_step(ConstTensorView x, std::span<const float> scale, index_t group,
                           index_t step, std::atomic<bool>& outside) {
  const index_t token = step * step_tokens;
  const index_t channel = std::min(group * group_channels, x.cols);
  const ConstTensorView part =
      x.middle_rows(token, std::min(step_tokens, x.rows - token))
          .middle_cols(channel, std::min(group_channels, x.cols - channel));
  alignas(64) Step z;
  if (!round_step(part, scale.data() + channel, z)) outside = true;
  const index_t at = step * tile_words;
  std::uint32_t* high = words(Slice::high, Side::right, group) + at;
  std::uint32_t* low = words(Slice::low, Side::right, group) + at;
  std::int32_t* high_sum = sums_.data() + group * group_channels;
  slice_step(z, high, low, high_sum, high_sum + groups_ * group_channels);
  transpose(high, words(Slice::high, Side::left, group) + at);
  transpose(low, words(Slice::low, Side::left, group) + at);
}

void Int8Slices::pack(ConstTensorView x, std::span<const float> scale, int threads,
                      std::atomic<bool>& outside) {
  // Four groups are 256 contiguous bytes of a row of x.
  constexpr index_t groups_per_task = 4;
  steps_ = round_up(x.rows, step_tokens);
  std::fill_n(sums_.data(), sums_.size(), 0);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (index_t first = 0; first < groups_; first += groups_per_task) {
    const index_t last = std::min(first + groups_per_task, groups_);
    for (index_t step = 0; step < steps_; ++step) {
      for (index_t group = first; group < last; ++group) {
        pack_step(x, scale, group, step, outside);
      }
    }
  }
}

}  // namespace quip::cpu
