// One linear layer after quantization, as it is stored.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "quip/core/matrix.hpp"
#include "quip/quant/code/packing.hpp"
#include "quip/quant/transform/transform_kind.hpp"
#include "quip/quant/trellis/codebook.hpp"
#include "quip/quant/trellis/decode.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip {

/// What a code stands for: a level of a grid, or with 255 others the path through a trellis.
enum class CodebookKind { scalar, trellis };
enum class GridKind { minmax, incoherent };

/// Prints it as users write it ("minmax"). A parser throws Error listing the choices.
[[nodiscard]] std::string to_string(CodebookKind kind);
[[nodiscard]] CodebookKind parse_codebook_kind(const std::string& text);
[[nodiscard]] std::string to_string(GridKind kind);
[[nodiscard]] GridKind parse_grid(const std::string& text);

/// True for the bits that codes of grids may have.
[[nodiscard]] constexpr bool is_scalar_width(int bits) {
  return bits == 2 || bits == 3 || bits == 4 || bits == 8;
}

/// Returns the groups of `group_size` columns in a row of `cols`; the last may be shorter. 0: one.
[[nodiscard]] inline index_t groups_of(index_t cols, index_t group_size) {
  return group_size == 0 ? 1 : (cols + group_size - 1) / group_size;
}

/// All that reconstructs Ŵ [rows × cols], of which W lacks the last `row_padding` rows and
/// `col_padding` columns:
///   grid value q → w' = scale·(2q/(2^bits − 1) − 1)   (incoherent, one scale)
///                  w' = scaleᵢⱼ·(q − zeroᵢⱼ)           (minmax, per row i and group j of columns)
///   Ŵ = diag(output_scale) Uᵀ w' V diag(1/rescale)     (U, V from transform and seeds)
/// With the trellis, w' are the values of its states and (EXL3's terms, which hold U's and V's
/// signs)
///   Ŵ = diag(svh) (I ⊗ H₁₂₈) w' (I ⊗ H₁₂₈) diag(suh)
/// Without elements it describes a layer that is still to be made.
struct QuantizedLinear {
  index_t rows = 0;
  index_t cols = 0;
  index_t row_padding = 0;
  index_t col_padding = 0;
  CodebookKind codebook = CodebookKind::scalar;
  trellis::Codebook trellis = trellis::Codebook::mul1;
  int bits = 0;
  GridKind grid = GridKind::incoherent;
  TransformKind transform = TransformKind::kronecker;
  index_t group_size = 0;    ///< minmax: columns of w' that share a scale; 0: the whole row
  bool symmetric = false;    ///< minmax: every zero point is 2^(bits−1) and not stored
  bool half_scales = false;  ///< minmax: scales are IEEE halves
  bool rescaled = false;     ///< True if D̃ is stored
  bool output_scaled = false;
  std::uint64_t seed_u = 0;
  std::uint64_t seed_v = 0;

  // The shapes of the elements are those of visit_parts.
  /// Scalar: row i starts at i·row_bytes(), packed by pack_row. Trellis: tiles of 16 × 16, those of
  /// 16 rows after those of the 16 before, each of trellis::packed_words(bits) words.
  std::vector<std::uint8_t> codes;
  std::vector<float> scale;                 ///< unless half_scales
  std::vector<std::uint16_t> half_scale;    ///< if half_scales
  std::vector<std::uint8_t> zero;           ///< each < 2^bits
  std::vector<float> rescale;               ///< D̃
  std::vector<std::uint16_t> output_scale;  ///< IEEE halves
  std::vector<std::uint16_t> suh;           ///< IEEE halves: sign and scale of every input
  std::vector<std::uint16_t> svh;           ///< those of every output

  [[nodiscard]] index_t row_bytes() const { return packed_bytes(cols, bits); }
  [[nodiscard]] index_t groups() const { return groups_of(cols, group_size); }
  [[nodiscard]] index_t grids() const { return grid == GridKind::minmax ? rows * groups() : 1; }
  /// True if W is smaller: the other rows and columns stand for zeros.
  [[nodiscard]] bool padded() const { return row_padding != 0 || col_padding != 0; }
  /// Return the sides of W.
  [[nodiscard]] index_t outputs() const { return rows - row_padding; }
  [[nodiscard]] index_t inputs() const { return cols - col_padding; }
  /// True if outputs have scales, as those of a trellis always do.
  [[nodiscard]] bool scales_rows() const {
    return output_scaled || codebook == CodebookKind::trellis;
  }
  /// Returns the part that has them: halves, a trellis' with their signs.
  [[nodiscard]] const std::vector<std::uint16_t>& row_scales() const {
    return codebook == CodebookKind::trellis ? svh : output_scale;
  }
  [[nodiscard]] std::vector<std::uint16_t>& row_scales() {
    return codebook == CodebookKind::trellis ? svh : output_scale;
  }
};

/// One part of a stored layer.
struct Part {
  const char* name;
  std::vector<index_t> shape;  ///< elements in memory; [0] if the layer is without it
  int bits;                    ///< an element takes in a file; packed there if below 8
  bool by_row;                 ///< True if each row has elements of its own

  [[nodiscard]] index_t count() const;
  [[nodiscard]] index_t bytes() const { return packed_bytes(count(), bits); }  ///< in a file
  [[nodiscard]] bool packed() const { return bits < 8; }
};

/// Lists a layer's parts: calls visit(part, elements…) for each, with the vectors of all layers
/// that are given. The parts are those that `layer` says it has, whatever it holds.
template <typename Visit, typename Layer, typename... Layers>
void visit_parts(const Visit& visit, Layer& layer, Layers&... others) {
  if (layer.codebook == CodebookKind::trellis) {
    constexpr index_t side = trellis::tile_side;
    const index_t tile_bytes = 2 * trellis::packed_words(layer.bits);
    visit(Part{"codes", {layer.rows / side, layer.cols / side, tile_bytes}, 8, true}, layer.codes,
          others.codes...);
    visit(Part{"suh", {layer.cols}, 16, false}, layer.suh, others.suh...);
    visit(Part{"svh", {layer.rows}, 16, true}, layer.svh, others.svh...);
    return;
  }
  const bool minmax = layer.grid == GridKind::minmax;
  const bool zeros = minmax && !layer.symmetric;
  visit(Part{"codes", {layer.rows, layer.row_bytes()}, 8, true}, layer.codes, others.codes...);
  if (layer.half_scales) {
    visit(Part{"scale", {layer.grids()}, 16, minmax}, layer.half_scale, others.half_scale...);
  } else {
    visit(Part{"scale", {layer.grids()}, 32, minmax}, layer.scale, others.scale...);
  }
  visit(Part{"zero", {zeros ? layer.grids() : 0}, layer.bits, zeros}, layer.zero, others.zero...);
  visit(Part{"rescale", {layer.rescaled ? layer.cols : 0}, 32, false}, layer.rescale,
        others.rescale...);
  if (layer.output_scaled) {
    visit(Part{"output_scale", {layer.rows}, 16, true}, layer.output_scale, others.output_scale...);
  }
}

/// A scalar that is stored with a layer, and the range that whole numbers have to keep.
struct Attribute {
  const char* name;
  index_t least = std::numeric_limits<index_t>::min();
  index_t most = std::numeric_limits<index_t>::max();
  bool added = false;  ///< True if older files lack it, for which the default is right
};

/// Bounds the sides of a layer: keeps products of damaged sizes from overflowing.
constexpr index_t max_extent = index_t{1} << 28;

/// Lists a layer's attributes in the order of files: calls visit(attribute, value…).
template <typename Visit, typename... Layers>
void visit_attributes(const Visit& visit, Layers&... layers) {
  visit(Attribute{"bits", 1, 8}, layers.bits...);
  visit(Attribute{"rows", 1, max_extent}, layers.rows...);
  visit(Attribute{"cols", 1, max_extent}, layers.cols...);
  visit(Attribute{"row_padding", 0, max_extent, true}, layers.row_padding...);
  visit(Attribute{"col_padding", 0, max_extent, true}, layers.col_padding...);
  visit(Attribute{.name = "codebook", .added = true}, layers.codebook...);
  visit(Attribute{.name = "trellis", .added = true}, layers.trellis...);
  visit(Attribute{"grid"}, layers.grid...);
  visit(Attribute{"transform"}, layers.transform...);
  visit(Attribute{"group_size", 0, max_extent}, layers.group_size...);
  visit(Attribute{"symmetric", 0, 1}, layers.symmetric...);
  visit(Attribute{"half_scales", 0, 1, true}, layers.half_scales...);
  visit(Attribute{"output_scaled", 0, 1, true}, layers.output_scaled...);
  visit(Attribute{"seed_u"}, layers.seed_u...);
  visit(Attribute{"seed_v"}, layers.seed_v...);
}

/// Returns the bytes of all parts in a file; of a layer that is still to be made, too.
[[nodiscard]] index_t stored_bytes(const QuantizedLinear& layer);

/// Returns a digest of everything that reconstructs the layer (not its statistics).
[[nodiscard]] std::string digest_of(const QuantizedLinear& layer);

/// Throws Error naming `layer_name` if sizes, bits or kinds do not fit together.
void validate(const QuantizedLinear& layer, const std::string& layer_name);

}  // namespace quip
