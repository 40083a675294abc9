// With z = 2⁸·h + l + 128 (bytes h, l) and z' = z − 128,
//   Σ z zᵀ = 2¹⁶ Σ h hᵀ + 2⁸ (Σ h lᵀ + Σ l hᵀ) + Σ l lᵀ + 128 (Σ z' + Σ z'ᵀ) + 128² T:
// four products of bytes, whose 32-bit sums are exact for 2¹⁶ tokens (a chunk has at most 2¹¹),
// put together in doubles, exact below 2⁵³.
#include <algorithm>
#include <optional>

#include "hessian.hpp"
#include "int8_kernels.hpp"
#include "int8_slices.hpp"

namespace quip::cpu {
namespace {

constexpr index_t groups_per_block = block_side / Int8Slices::group_channels;
constexpr index_t tile_side =
    4 * block_side;  // channels; both factors of a tile fit in a 2 MiB cache

using Products = std::int32_t[block_side * block_side];
struct BlockProducts {
  alignas(64) Products high;
  alignas(64) Products cross;
  alignas(64) Products low;
};

/// One side of the product, a chunk at a time.
struct Packed {
  Int8Slices slices;
  Buffer<double> offset;  ///< 128 Σ_t z' + 128² T / 2 of each channel

  Packed(index_t tokens, index_t channels) : slices(tokens, channels), offset(channels) {}
};

void multiply(const Int8Kernel& kernel, const Int8Slices& rows, index_t row_group,
              const Int8Slices& cols, index_t col_group, BlockProducts& products) {
  const auto term = [&](Slice left, Slice right, bool accumulate, std::int32_t* c) {
    kernel.multiply(rows.tiles(left, Side::left, row_group),
                    cols.tiles(right, Side::right, col_group), rows.steps(),
                    rows.sums(left, row_group), accumulate, c);
  };
  term(Slice::high, Slice::high, false, products.high);
  term(Slice::high, Slice::low, false, products.cross);
  term(Slice::low, Slice::high, true, products.cross);
  term(Slice::low, Slice::low, false, products.low);
}

/// Adds one row of a block.
QUIP_SIMD void add_row(const std::int32_t* high, const std::int32_t* cross, const std::int32_t* low,
                       double row_offset, const double* col_offset, index_t n, double* sum) {
#pragma omp simd
  for (index_t j = 0; j < n; ++j) {
    sum[j] += 65536.0 * high[j] + 256.0 * cross[j] + low[j] + (row_offset + col_offset[j]);
  }
}

/// Adds the blocks of one tile, or those that touch the lower triangle.
void add_tile(const Int8Kernel& kernel, const Packed& rows, const Packed& cols, bool lower,
              TilePosition tile, MatrixView<double> sum) {
  const index_t last_row = std::min(sum.rows, (tile.row + 1) * tile_side);
  const index_t last_col = std::min(sum.cols, (tile.col + 1) * tile_side);
  BlockProducts products;
  kernel.begin();
  for (index_t col = tile.col * tile_side; col < last_col; col += block_side) {
    const index_t top = tile.row * tile_side;
    for (index_t row = lower ? std::max(top, col) : top; row < last_row; row += block_side) {
      multiply(kernel, rows.slices, row / block_side * groups_per_block, cols.slices,
               col / block_side * groups_per_block, products);
      for (index_t i = 0; i < std::min(block_side, last_row - row); ++i) {
        const index_t reach = lower ? row + i - col + 1 : block_side;
        const index_t width = std::min({block_side, last_col - col, reach});
        add_row(products.high + i * block_side, products.cross + i * block_side,
                products.low + i * block_side, rows.offset.data()[row + i],
                cols.offset.data() + col, width, sum.row(row + i) + col);
      }
    }
  }
  kernel.end();
}

void fill_offsets(const Int8Slices& slices, index_t tokens, std::span<double> offset) {
  const std::int32_t* high = slices.sums(Slice::high, 0);
  const std::int32_t* low = slices.sums(Slice::low, 0);
  for (std::size_t j = 0; j < offset.size(); ++j) {
    offset[j] = 128.0 * (256.0 * high[j] + low[j]) + 8192.0 * static_cast<double>(tokens);
  }
}

}  // namespace

void accumulate_int8(HessianKernel choice, int threads, const Factor& left, const Factor& right,
                     bool lower, MatrixView<double> sum, std::atomic<bool>& outside) {
  const Int8Kernel& kernel = *(choice == HessianKernel::amx_int8 ? amx_kernel() : vnni_kernel());
  const index_t channels = left.x.cols + (lower ? 0 : right.x.cols);
  const index_t chunk = tokens_at_once(left.x.rows, channels, sum, Int8Slices::bytes_per_element);
  Packed rows(chunk, left.x.cols);
  std::optional<Packed> others;
  if (!lower) others.emplace(chunk, right.x.cols);
  const Packed& cols = lower ? rows : *others;
  const std::vector<TilePosition> tiles = tiles_of(sum, tile_side, lower);
  for (index_t first = 0; first < left.x.rows; first += chunk) {
    const index_t tokens = std::min(chunk, left.x.rows - first);
    const auto pack = [&](const Factor& factor, Packed& packed) {
      packed.slices.pack(factor.x.middle_rows(first, tokens), factor.scale, threads, outside);
      if (!outside) fill_offsets(packed.slices, tokens, packed.offset.span());
    };
    pack(left, rows);
    if (others) pack(right, *others);
    if (outside) return;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (const TilePosition tile : tiles) add_tile(kernel, rows, cols, lower, tile, sum);
  }
}

}  // namespace quip::cpu
