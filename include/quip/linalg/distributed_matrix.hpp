// A symmetric matrix in fp64 that no rank holds as a whole.
#pragma once

#include <span>
#include <vector>

#include "quip/comm/collectives.hpp"
#include "quip/linalg/distribution.hpp"

namespace quip {

/// This rank's blocks of an n × n matrix, as ScaLAPACK lays them out: one column-major matrix whose
/// rows are the local rows. Ranks beyond the grid hold nothing. The lower triangle counts.
class DistributedMatrix {
 public:
  DistributedMatrix() = default;
  /// Leaves the blocks uninitialised.
  DistributedMatrix(const BlockCyclic& layout, int rank);

  [[nodiscard]] const BlockCyclic& layout() const { return layout_; }
  [[nodiscard]] bool in_grid() const { return rank_ < layout_.grid.size(); }
  [[nodiscard]] int grid_row() const { return layout_.grid.row_of(rank_); }
  [[nodiscard]] int grid_col() const { return layout_.grid.col_of(rank_); }
  [[nodiscard]] bool owns(index_t i, index_t j) const { return layout_.owner(i, j) == rank_; }
  /// Returns block (i, j), which this rank owns: column-major, columns ld() apart.
  [[nodiscard]] double* block(index_t i, index_t j) const;
  [[nodiscard]] index_t ld() const { return ld_; }
  [[nodiscard]] double* data() const { return data_.data(); }
  [[nodiscard]] index_t local_size() const { return data_.size(); }

  /// Returns the diagonal on every rank (collective).
  [[nodiscard]] std::vector<double> diagonal(Collectives& comm) const;
  /// Sets the diagonal elements of this rank's blocks to those of `values` [n].
  void set_diagonal(std::span<const double> values);

 private:
  BlockCyclic layout_;
  int rank_ = 0;
  index_t ld_ = 1;
  Buffer<double> data_;
};

/// Returns where each rank's part of block column `j` from block row `first` on begins, in bytes of
/// elements of `element` bytes each, and where the last ends.
[[nodiscard]] std::vector<index_t> column_offsets(const BlockCyclic& layout, index_t j,
                                                  index_t first, index_t element, int ranks);

/// The blocks from some row on of one block column, on every rank. T is float or double.
template <typename T>
class BlockColumn {
 public:
  /// Allocates room for the longest column.
  explicit BlockColumn(const BlockCyclic& layout);

  /// Brings blocks (i, j) with i ≥ first from their owners (collective).
  void gather(Collectives& comm, const DistributedMatrix& matrix, index_t j, index_t first);
  /// Returns block (i, j) of the column last gathered: row-major, contiguous.
  [[nodiscard]] const T* block(index_t i) const;
  /// Copies the column last gathered to `room`, and returns it there, row-major [n − first ×
  /// width].
  MatrixView<T> copy_to(T* room) const;

 private:
  void pack(const DistributedMatrix& matrix);
  /// Returns the offset of the blocks of one grid row.
  [[nodiscard]] index_t offset_of(int grid_row) const;

  BlockCyclic layout_;
  index_t column_ = 0;
  index_t first_ = 0;
  Buffer<T> data_;
  std::vector<index_t> offsets_;  ///< in bytes, by rank
};

}  // namespace quip
