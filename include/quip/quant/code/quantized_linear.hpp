// One linear layer after quantization: what is stored, and nothing else.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quip/core/matrix.hpp"
#include "quip/quant/spectrum.hpp"

namespace quip {

enum class GridKind { minmax, incoherent };
enum class TransformKind {
  none,
  kronecker,            ///< P₁ (O₁ ⊗ O₂) P₂
  kronecker_blocked,    ///< a different small factor for every block
  kronecker_nopermute,  ///< O₁ ⊗ O₂
  hadamard,             ///< random signs, fast Walsh–Hadamard
  dense                 ///< Haar-distributed as a whole; small layers only
};

/// As users write them ("kronecker-blocked"). The parsers throw Error listing the choices.
[[nodiscard]] std::string to_string(GridKind kind);
[[nodiscard]] std::string to_string(TransformKind kind);
[[nodiscard]] GridKind parse_grid(const std::string& text);
[[nodiscard]] TransformKind parse_transform(const std::string& text);

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

/// H as it was summed, and as it was factorised (without damping).
struct Spectra {
  Spectrum before;
  Spectrum after;
};

/// What is known about how well a layer was rounded; goes to reports and attributes.
struct LayerStatistics {
  double proxy_loss = 0;           ///< tr((Ŵ−W) H (Ŵ−W)ᵀ), undamped H
  double relative_proxy_loss = 0;  ///< the same over tr(W H Wᵀ)
  double trace_ratio = 0;          ///< tr(D)/tr(H) of the damped, transformed H
  /// The loss over ‖W‖²_F/n · tr(D) · 2^(−2·bits), the least that any code with so many bits leaves
  /// of Gaussian weights (rate–distortion bound).
  double rate_distortion_ratio = 0;
  double incoherence_before = 0;   ///< μ_W = max|W|·√(mn)/‖W‖_F of the weights as they came
  double incoherence_after = 0;    ///< the same of U W D̃ Vᵀ
  double damping = 0;              ///< λ that was added to diag(H), relative to mean(diag H)
  int damping_tries = 0;           ///< 1: the first λ made H positive definite
  index_t dead_channels = 0;       ///< inputs that were zero on all calibration tokens
  double rho = 0;                  ///< incoherent grid: half width over rms(W); else 0
  int rho_rounds = 0;              ///< of the search for ρ; 0: none. Of the run: not stored
  int passes = 0;                  ///< greedy passes until nothing changed, or all allowed
  std::optional<Spectra> spectra;  ///< if they were asked for
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
