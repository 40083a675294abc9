// The codebooks of trellis codes in the EXL3 format: a value for each state.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace quip::trellis {

/// A state is a window of that many bits of a tile's stream.
constexpr int state_bits = 16;
constexpr int state_count = 1 << state_bits;
/// Bits a weight may have: 1 … max_bits.
constexpr int max_bits = 8;

/// Which function of the state the values are (exllamav3's names).
enum class Codebook { mul1, mcg, three_inst };

/// As users write them: "mul1", "mcg", "3inst". The parser throws Error listing the choices.
[[nodiscard]] std::string to_string(Codebook codebook);
[[nodiscard]] Codebook parse_codebook(const std::string& text);

/// Returns the 65536 values by state, as the bits of IEEE halves.
[[nodiscard]] std::span<const std::uint16_t, state_count> codebook_halves(Codebook codebook);
/// Returns the same in fp32, exactly.
[[nodiscard]] std::span<const float, state_count> codebook_values(Codebook codebook);
/// Returns the root of the mean square of all values: about 1 (mul1) or 1.24.
[[nodiscard]] float codebook_rms(Codebook codebook);

}  // namespace quip::trellis
