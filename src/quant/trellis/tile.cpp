#include "quip/quant/trellis/tile.hpp"

namespace quip::trellis {
namespace {

constexpr int word_bits = 16;

/// Returns where word i of the stream is stored.
constexpr int stored_at(int i) { return i ^ 1; }

}  // namespace

void to_steps(MatrixView<const float> tile, float* steps) {
  for (int i = 0; i < tile_steps; ++i) steps[i] = tile(place_of(i).output, place_of(i).input);
}

void from_steps(const float* steps, MatrixView<float> tile) {
  for (int i = 0; i < tile_steps; ++i) tile(place_of(i).output, place_of(i).input) = steps[i];
}

void pack_states(const std::uint16_t* states, int bits, std::uint16_t* packed) {
  std::uint32_t window = 0;
  int held = 0;
  int word = 0;
  for (int i = 0; i < tile_steps; ++i) {
    window = (window << bits) | (states[i] & ((1U << bits) - 1));
    held += bits;
    if (held >= word_bits) {
      held -= word_bits;
      packed[stored_at(word++)] = static_cast<std::uint16_t>(window >> held);
    }
  }
}

void unpack_states(const std::uint16_t* packed, int bits, std::uint16_t* states) {
  const auto words = static_cast<int>(packed_words(bits));
  // The state before the first step is the end of the stream.
  std::uint32_t window = packed[stored_at(words - 1)];
  int word = 0;
  int ahead = 0;
  for (int i = 0; i < tile_steps; ++i) {
    if (ahead < bits) {
      window = (window << word_bits) | packed[stored_at(word++)];
      ahead += word_bits;
    }
    ahead -= bits;
    states[i] = static_cast<std::uint16_t>(window >> ahead);
  }
}

}  // namespace quip::trellis
