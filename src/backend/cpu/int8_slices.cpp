#include "int8_slices.hpp"

#include <algorithm>
#include <cstring>

#include "hessian.hpp"

namespace quip::cpu {
namespace {

constexpr index_t kGroup = Int8Slices::kGroup;
constexpr index_t kStep = Int8Slices::kStep;
constexpr std::int32_t kZeroBytes = 128;  // the integer whose two bytes are zero

/// 64 tokens × 16 channels of integers.
using Step = std::int32_t[kStep][kGroup];
/// A tile in units of 4 bytes.
using TileWords = std::uint32_t[kGroup][kGroup];

/// Rounds the part of a step that exists and fills up the rest.
QUIP_SIMD bool round_step(ConstTensorView x, const float* scale, Step& z) {
  std::uint32_t beyond = 0;
  for (index_t t = 0; t < kStep; ++t) {
    if (t >= x.rows || x.cols < kGroup) std::fill_n(z[t], kGroup, kZeroBytes);
    if (t >= x.rows) continue;
    const float* row = x.row(t);
#pragma omp simd reduction(| : beyond)
    for (index_t c = 0; c < x.cols; ++c) {
      z[t][c] = to_integer(row[c] * scale[c]);
      beyond |= excess(z[t][c]);
    }
  }
  return beyond == 0;
}

/// The right tiles: word [q][c] holds tokens 4q … 4q+3 of channel c, the first in its low byte.
QUIP_SIMD void slice_step(const Step& z, TileWords& high, TileWords& low, std::int32_t* high_sum,
                          std::int32_t* low_sum) {
  for (index_t q = 0; q < kGroup; ++q) {
#pragma omp simd
    for (index_t c = 0; c < kGroup; ++c) {
      std::uint32_t high_word = 0;
      std::uint32_t low_word = 0;
      for (index_t t = 0; t < 4; ++t) {
        const std::int32_t value = z[4 * q + t][c];
        const std::int32_t high_byte = value >> 8;
        const std::int32_t low_byte = (value & 255) - 128;
        high_sum[c] += high_byte;
        low_sum[c] += low_byte;
        high_word |= (static_cast<std::uint32_t>(high_byte) & 255U) << (8 * t);
        low_word |= (static_cast<std::uint32_t>(low_byte) & 255U) << (8 * t);
      }
      high[q][c] = high_word;
      low[q][c] = low_word;
    }
  }
}

void store(const TileWords& right, std::int8_t* right_tile, std::int8_t* left_tile) {
  TileWords left;
  for (index_t i = 0; i < kGroup; ++i) {
    for (index_t j = 0; j < kGroup; ++j) left[i][j] = right[j][i];
  }
  std::memcpy(right_tile, right, sizeof(right));
  std::memcpy(left_tile, left, sizeof(left));
}

index_t round_up(index_t value, index_t unit) { return (value + unit - 1) / unit; }

}  // namespace

// An even number of groups, because the kernels take two at a time.
Int8Slices::Int8Slices(index_t tokens, index_t channels)
    : groups_(2 * round_up(channels, 2 * kGroup)),
      capacity_(groups_ * round_up(tokens, kStep) * kTileBytes),
      bytes_(4 * capacity_),
      sums_(2 * groups_ * kGroup) {}

std::int8_t* Int8Slices::mutable_tiles(Slice slice, Side side, index_t group) const {
  const index_t part = 2 * static_cast<index_t>(slice) + static_cast<index_t>(side);
  return bytes_.data() + part * capacity_ + group * steps_ * kTileBytes;
}

const std::int8_t* Int8Slices::tiles(Slice slice, Side side, index_t group) const {
  return mutable_tiles(slice, side, group);
}

const std::int32_t* Int8Slices::sums(Slice slice, index_t group) const {
  return sums_.data() + (static_cast<index_t>(slice) * groups_ + group) * kGroup;
}

void Int8Slices::pack_step(ConstTensorView x, std::span<const float> scale, index_t group,
                           index_t step, std::atomic<bool>& outside) {
  const index_t token = step * kStep;
  const index_t channel = std::min(group * kGroup, x.cols);
  const ConstTensorView part = x.middle_rows(token, std::min(kStep, x.rows - token))
                                   .middle_cols(channel, std::min(kGroup, x.cols - channel));
  alignas(64) Step z;
  if (!round_step(part, scale.data() + channel, z)) outside = true;
  alignas(64) TileWords high;
  alignas(64) TileWords low;
  std::int32_t* high_sum = sums_.data() + group * kGroup;
  slice_step(z, high, low, high_sum, high_sum + groups_ * kGroup);
  const index_t at = step * kTileBytes;
  store(high, mutable_tiles(Slice::high, Side::right, group) + at,
        mutable_tiles(Slice::high, Side::left, group) + at);
  store(low, mutable_tiles(Slice::low, Side::right, group) + at,
        mutable_tiles(Slice::low, Side::left, group) + at);
}

void Int8Slices::pack(ConstTensorView x, std::span<const float> scale, int threads,
                      std::atomic<bool>& outside) {
  // Four groups are 256 contiguous bytes of a row of x.
  constexpr index_t kGroupsPerTask = 4;
  steps_ = round_up(x.rows, kStep);
  std::fill_n(sums_.data(), sums_.size(), 0);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (index_t first = 0; first < groups_; first += kGroupsPerTask) {
    const index_t last = std::min(first + kGroupsPerTask, groups_);
    for (index_t step = 0; step < steps_; ++step) {
      for (index_t group = first; group < last; ++group) {
        pack_step(x, scale, group, step, outside);
      }
    }
  }
}

}  // namespace quip::cpu
