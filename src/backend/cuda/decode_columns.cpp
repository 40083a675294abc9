#include "decode_columns.hpp"

#include <vector>

#include "backend/cuda/kernels/trellis_kernels.hpp"
#include "copies.hpp"

#include "quip/quant/code/dequantize.hpp"

namespace quip::cuda {
namespace {

/// Returns part of a matrix of bytes on the device.
DeviceBuffer<std::uint8_t> upload_part(Context& context, MatrixView<const std::uint8_t> part) {
  auto there = context.buffer<std::uint8_t>(part.size(), "packed codes");
  upload<std::uint8_t>(context.lane(), part, there.view(part.rows, part.cols));
  return there;
}

}  // namespace

CodeGrids::CodeGrids(Context& context, const QuantizedLinear& layer) {
  std::vector<float> steps;
  std::vector<float> offsets;
  for (index_t i = 0; i < layer.grids(); ++i) {
    const RowGrid grid = grid_of(layer, i);
    steps.push_back(grid.step);
    offsets.push_back(grid.offset);
  }
  step_ = to_device(context, std::span<const float>(steps), "grids");
  offset_ = to_device(context, std::span<const float>(offsets), "grids");
  matrix_ = {.bits = layer.bits,
             .single = layer.grid == GridKind::incoherent,
             .step = step_.data(),
             .offset = offset_.data(),
             .groups = layer.groups(),
             .group_size = static_cast<std::uint32_t>(layer.group_size)};
}

CodeMatrix CodeGrids::matrix(const std::uint8_t* packed, index_t row_bytes, index_t first) const {
  CodeMatrix matrix = matrix_;
  matrix.packed = packed;
  matrix.row_bytes = row_bytes;
  matrix.first_column = static_cast<std::uint32_t>(first);
  return matrix;
}

ColumnDecoder::ColumnDecoder(Context& context, const QuantizedLinear& layer)
    : context_(context), layer_(layer) {
  if (layer.codebook == CodebookKind::trellis) {
    values_ =
        to_device<float>(context, trellis::codebook_values(layer.trellis), "values of states");
  } else {
    grids_ = CodeGrids(context, layer);
  }
}

void ColumnDecoder::decode(index_t first, MatrixView<float> out) const {
  if (layer_.codebook == CodebookKind::trellis) {
    decode_states(first, out);
  } else {
    decode_levels(first, out);
  }
}

void ColumnDecoder::decode_levels(index_t first, MatrixView<float> out) const {
  const index_t row_bytes = packed_bytes(out.cols, layer_.bits);
  const auto codes = upload_part(context_, {layer_.codes.data() + packed_bytes(first, layer_.bits),
                                            layer_.rows, row_bytes, layer_.row_bytes()});
  const StepOutput<float> to{{out.data, out.ld, 1}};
  unpack_codes(context_.lane().get(), grids_.matrix(codes.data(), row_bytes, first), to, out.rows,
               out.cols);
}

void ColumnDecoder::decode_states(index_t first, MatrixView<float> out) const {
  constexpr index_t side = trellis::tile_side;
  const index_t tile_bytes = 2 * trellis::packed_words(layer_.bits);
  const auto codes =
      upload_part(context_, {layer_.codes.data() + first / side * tile_bytes, layer_.rows / side,
                             out.cols / side * tile_bytes, layer_.cols / side * tile_bytes});
  spread_states(context_.lane().get(),
                {.inputs = out.cols,
                 .bits = layer_.bits,
                 .codes = reinterpret_cast<const std::uint16_t*>(codes.data()),
                 .values = values_.data()},
                out);
}

}  // namespace quip::cuda
