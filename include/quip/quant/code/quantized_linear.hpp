// One linear layer after quantization: what is stored, and nothing else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quip/core/matrix.hpp"
#include "quip/quant/transform/transform_kind.hpp"

namespace quip {

enum class GridKind { minmax, incoherent };

/// As users write them ("minmax"). The parser throws Error listing the choices.
[[nodiscard]] std::string to_string(GridKind kind);
[[nodiscard]] GridKind parse_grid(const std::string& text);

/// Groups of `group_size` columns in a row of `cols`; the last may be shorter. 0: one.
[[nodiscard]] inline index_t groups_of(index_t cols, index_t group_size) {
  return group_size == 0 ? 1 : (cols + group_size - 1) / group_size;
}

/// What reconstructs Ŵ [rows × cols]:
///   grid value q → w' = scale·(2q/(2^bits − 1) − 1)   (incoherent, one scale)
///                  w' = scaleᵢⱼ·(q − zeroᵢⱼ)           (minmax, per row i and group j of columns)
///   Ŵ = Uᵀ w' V diag(1/rescale)                        (U, V from transform and seeds)
struct QuantizedLinear {
  index_t rows = 0;
  index_t cols = 0;
  int bits = 0;
  GridKind grid = GridKind::incoherent;
  TransformKind transform = TransformKind::kronecker;
  index_t group_size = 0;  ///< minmax: columns of w' that share a scale; 0: the whole row
  bool symmetric = false;  ///< minmax: every zero point is 2^(bits−1) and not stored
  std::uint64_t seed_u = 0;
  std::uint64_t seed_v = 0;

  /// Packed codes: row i starts at i·row_bytes(); code k of a row occupies bits
  /// [k·bits, (k+1)·bits) of the row, least significant bit first.
  std::vector<std::uint8_t> codes;
  std::vector<float> scale;        ///< 1 (incoherent) or [rows × groups] (minmax)
  std::vector<std::uint8_t> zero;  ///< empty, or [rows × groups] (minmax), each < 2^bits
  std::vector<float> rescale;      ///< empty, or D̃ [cols]

  [[nodiscard]] index_t row_bytes() const { return (cols * bits + 7) / 8; }
  [[nodiscard]] index_t groups() const { return groups_of(cols, group_size); }
};

/// Packs `cols` codes (each < 2^bits, one byte each) into row_bytes bytes.
void pack_row(const std::uint8_t* codes, index_t cols, int bits, std::uint8_t* packed);
/// The inverse.
void unpack_row(const std::uint8_t* packed, index_t cols, int bits, std::uint8_t* codes);

/// Digest over everything that reconstructs the layer (not its statistics).
[[nodiscard]] std::string digest_of(const QuantizedLinear& layer);

/// Throws Error naming `layer_name` if sizes, bits or kinds do not fit together.
void validate(const QuantizedLinear& layer, const std::string& layer_name);

}  // namespace quip
