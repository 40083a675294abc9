#include "quip/quant/code/dequantize.hpp"

#include <algorithm>
#include <vector>

#include "quip/core/dtype.hpp"
#include "quip/core/usage.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip {
namespace {

constexpr index_t rows_at_once = 64;

/// Writes w' of the rows from `first` on, transposed, to `tile` [cols × count].
void unpack_rows(const QuantizedLinear& layer, index_t first, MatrixView<float> tile) {
  std::vector<std::uint8_t> codes(at(layer.cols));
  for (index_t i = 0; i < tile.cols; ++i) {
    unpack_row(layer.codes.data() + (first + i) * layer.row_bytes(), layer.cols, layer.bits,
               codes.data());
    for (index_t group = 0; group < layer.groups(); ++group) {
      const RowGrid grid = grid_of(layer, (first + i) * layer.groups() + group);
      const index_t begin = group * layer.group_size;
      const index_t end =
          layer.group_size == 0 ? layer.cols : std::min(layer.cols, begin + layer.group_size);
      for (index_t k = begin; k < end; ++k) {
        const auto level = static_cast<float>(codes[at(k)]);
        tile(k, i) = (level - grid.offset) * grid.step;
      }
    }
  }
}

void decode_tile_columns(const QuantizedLinear& layer, index_t first, MatrixView<float> out) {
  constexpr index_t side = trellis::tile_side;
  const index_t bytes = 2 * trellis::packed_words(layer.bits);
  const index_t across = layer.cols / side;
  const index_t count = out.cols / side;
  std::vector<float> values(at(count * trellis::tile_steps));
  for (index_t row = 0; row < layer.rows; row += side) {
    const index_t tile = row / side * across + first / side;
    trellis::decode_tiles(layer.trellis, layer.bits, layer.codes.data() + tile * bytes, count,
                          values.data());
    for (index_t t = 0; t < count; ++t) {
      trellis::from_steps(values.data() + t * trellis::tile_steps,
                          out.middle_rows(row, side).middle_cols(t * side, side));
    }
  }
}

/// Decodes the blocks of 128 outputs that begin in [begin, end).
void decode_rows(const QuantizedLinear& layer, index_t begin, index_t end, MatrixView<float> out) {
  constexpr index_t side = trellis::hadamard_side;
  const trellis::TrellisLayer coded{.inputs = layer.cols,
                                    .outputs = layer.rows,
                                    .bits = layer.bits,
                                    .codebook = layer.trellis,
                                    .codes = layer.codes,
                                    .suh = layer.suh,
                                    .svh = layer.svh};
  const index_t first = (begin + side - 1) / side;
  const index_t last = (end + side - 1) / side;
#pragma omp parallel for schedule(dynamic)
  for (index_t block = first; block < last; ++block) {
    trellis::decode_outputs(coded, block, out.middle_rows(block * side, side));
  }
}

}  // namespace

RowGrid grid_of(const QuantizedLinear& layer, index_t i) {
  if (layer.grid == GridKind::incoherent) return incoherent_grid(layer.scale[0], layer.bits);
  return minmax_grid(layer.half_scales ? from_f16(layer.half_scale[at(i)]) : layer.scale[at(i)],
                     layer.symmetric ? middle_level(layer.bits) : layer.zero[at(i)]);
}

void decode_columns(const QuantizedLinear& layer, index_t first, MatrixView<float> out) {
  if (layer.codebook == CodebookKind::trellis) return decode_tile_columns(layer, first, out);
  std::vector<std::uint8_t> codes(at(out.cols));
  for (index_t i = 0; i < layer.rows; ++i) {
    unpack_row(layer.codes.data() + i * layer.row_bytes() + packed_bytes(first, layer.bits),
               out.cols, layer.bits, codes.data());
    index_t group = -1;
    RowGrid grid;
    for (index_t k = 0; k < out.cols; ++k) {
      const index_t of = layer.group_size == 0 ? 0 : (first + k) / layer.group_size;
      if (of != group) grid = grid_of(layer, i * layer.groups() + of);
      group = of;
      out(i, k) = (static_cast<float>(codes[at(k)]) - grid.offset) * grid.step;
    }
  }
}

Dequantizer::Dequantizer(const QuantizedLinear& layer) : layer_(layer) {
  if (layer.codebook == CodebookKind::trellis) return;
  transforms_ =
      make_transforms(layer.transform, layer.rows, layer.cols, layer.seed_u, layer.seed_v);
}

void Dequantizer::fill_rows(index_t begin, index_t end, MatrixView<float> out) const {
  UsageMeter::current().add_flops(static_cast<double>(end - begin) *
                                  transform_flops(layer_.transform, layer_.cols));
  if (layer_.codebook == CodebookKind::trellis) return decode_rows(layer_, begin, end, out);
#pragma omp parallel
  {
    Matrix<float> tile(layer_.cols, rows_at_once);
    Buffer<float> scratch(layer_.cols * rows_at_once);
#pragma omp for schedule(dynamic)
    for (index_t first = begin; first < end; first += rows_at_once) {  // w' V
      const index_t count = std::min(rows_at_once, end - first);
      const MatrixView<float> part(tile.data(), layer_.cols, count);
      unpack_rows(layer_, first, part);
      transforms_.v->apply_transposed(part, scratch.data());
      for (index_t i = 0; i < count; ++i) {
        float* row = out.row(first + i);
        for (index_t k = 0; k < layer_.cols; ++k) row[k] = part(k, i);
      }
    }
  }
}

void Dequantizer::finish_columns(index_t begin, index_t end, MatrixView<float> out) const {
  UsageMeter::current().add_flops(static_cast<double>(end - begin) *
                                  transform_flops(layer_.transform, layer_.rows));
  if (layer_.codebook == CodebookKind::trellis) return;
  apply_in_slabs(*transforms_.u, out.middle_cols(begin, end - begin), true);  // Uᵀ …
  if (layer_.rescale.empty() && layer_.output_scale.empty()) return;
#pragma omp parallel for schedule(static)
  for (index_t i = 0; i < layer_.rows; ++i) {  // … D̃⁻¹, and the scale of the row
    float* row = out.row(i);
    if (!layer_.rescale.empty()) {
      for (index_t k = begin; k < end; ++k) row[k] /= layer_.rescale[at(k)];
    }
    if (layer_.output_scale.empty()) continue;
    const float scale = from_f16(layer_.output_scale[at(i)]);
    for (index_t k = begin; k < end; ++k) row[k] *= scale;
  }
}

Matrix<float> dequantize(const QuantizedLinear& layer) {
  Matrix<float> weights(layer.rows, layer.cols);
  const Dequantizer dequantizer(layer);
  dequantizer.fill_rows(0, layer.rows, weights.view());
  dequantizer.finish_columns(0, layer.cols, weights.view());
  if (!layer.padded()) return weights;
  Matrix<float> cropped(layer.outputs(), layer.inputs());
  crop(weights.cview(), cropped.view());
  return cropped;
}

}  // namespace quip
