// The layout of a matrix over a grid of ranks: pure values, no communication.
#pragma once

#include <algorithm>
#include <string>

#include "quip/core/matrix.hpp"

namespace quip {

/// One dimension: n indices in blocks, dealt to `processes` like cards (ScaLAPACK's block-cyclic
/// distribution with the first block at process 0).
struct CyclicAxis {
  index_t n = 0;
  index_t block = 1;
  int processes = 1;

  [[nodiscard]] index_t blocks() const { return (n + block - 1) / block; }
  /// Returns the number of indices in block b: the last may be shorter.
  [[nodiscard]] index_t width(index_t b) const { return std::min(block, n - b * block); }
  [[nodiscard]] int owner(index_t b) const { return static_cast<int>(b % processes); }
  /// Returns the number of block b among its owner's blocks.
  [[nodiscard]] index_t local_block(index_t b) const { return b / processes; }
  /// Returns the number, among all blocks, of block `local` of process p.
  [[nodiscard]] index_t global_block(index_t local, int p) const { return local * processes + p; }
  /// Returns the number of blocks from `first` on that process p holds.
  [[nodiscard]] index_t blocks_of(int p, index_t first = 0) const;
  /// Returns the number of indices in those.
  [[nodiscard]] index_t extent_of(int p, index_t first = 0) const;
};

/// Rows × columns of ranks; rank r is at (r / cols, r % cols).
struct GridShape {
  int rows = 1;
  int cols = 1;

  [[nodiscard]] int size() const { return rows * cols; }
  [[nodiscard]] int rank_at(int row, int col) const { return row * cols + col; }
  [[nodiscard]] int row_of(int rank) const { return rank / cols; }
  [[nodiscard]] int col_of(int rank) const { return rank % cols; }
  friend bool operator==(const GridShape&, const GridShape&) = default;
};

/// Returns "2x3".
[[nodiscard]] std::string to_string(const GridShape& grid);
/// Throws Error unless `text` reads ROWSxCOLUMNS, both positive.
[[nodiscard]] GridShape parse_grid_shape(const std::string& text);
/// Returns the grid for a matrix of `blocks` × `blocks` blocks: no dimension exceeds `blocks`; of
/// the grids with the most of `ranks` the one nearest to a square, not wider than high.
[[nodiscard]] GridShape choose_grid_shape(int ranks, index_t blocks);

/// A square matrix over a grid.
struct BlockCyclic {
  CyclicAxis rows;
  CyclicAxis cols;
  GridShape grid;

  BlockCyclic() = default;
  BlockCyclic(index_t n, index_t block, GridShape shape)
      : rows{n, block, shape.rows}, cols{n, block, shape.cols}, grid(shape) {}
  [[nodiscard]] index_t n() const { return rows.n; }
  [[nodiscard]] index_t blocks() const { return rows.blocks(); }
  /// Returns the rank that holds block (i, j).
  [[nodiscard]] int owner(index_t i, index_t j) const {
    return grid.rank_at(rows.owner(i), cols.owner(j));
  }
};

}  // namespace quip
