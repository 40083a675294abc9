#include "quip/linalg/distributed_matrix.hpp"

#include <algorithm>

namespace quip {

DistributedMatrix::DistributedMatrix(const BlockCyclic& layout, int rank)
    : layout_(layout), rank_(rank) {
  if (!in_grid()) return;
  const index_t rows = layout.rows.extent_of(grid_row());
  ld_ = std::max<index_t>(rows, 1);
  data_ = Buffer<double>(rows * layout.cols.extent_of(grid_col()));
}

double* DistributedMatrix::block(index_t i, index_t j) const {
  const index_t row = layout_.rows.local_block(i) * layout_.rows.block;
  const index_t col = layout_.cols.local_block(j) * layout_.cols.block;
  return data_.data() + col * ld_ + row;
}

std::vector<double> DistributedMatrix::diagonal(Collectives& comm) const {
  std::vector<double> values(at(layout_.n()), 0.0);
  for (index_t b = 0; b < layout_.blocks(); ++b) {
    if (!owns(b, b)) continue;
    double* out = values.data() + b * layout_.rows.block;
    for (index_t i = 0; i < layout_.rows.width(b); ++i) out[i] = block(b, b)[i * (ld_ + 1)];
  }
  comm.all_reduce_sum(values);  // one rank's value and zeros: exact
  return values;
}

void DistributedMatrix::set_diagonal(std::span<const double> values) {
  for (index_t b = 0; b < layout_.blocks(); ++b) {
    if (!owns(b, b)) continue;
    const double* from = values.data() + b * layout_.rows.block;
    for (index_t i = 0; i < layout_.rows.width(b); ++i) block(b, b)[i * (ld_ + 1)] = from[i];
  }
}

template <typename T>
BlockColumn<T>::BlockColumn(const BlockCyclic& layout)
    : layout_(layout), data_(layout.n() * layout.cols.block) {}

template <typename T>
index_t BlockColumn<T>::offset_of(int grid_row) const {
  index_t rows = 0;
  for (int p = 0; p < grid_row; ++p) rows += layout_.rows.extent_of(p, first_);
  return rows * layout_.cols.width(column_);
}

template <typename T>
const T* BlockColumn<T>::block(index_t i) const {
  const int p = layout_.rows.owner(i);
  const index_t before =
      layout_.rows.local_block(i) - (layout_.rows.blocks_of(p) - layout_.rows.blocks_of(p, first_));
  return data_.data() + offset_of(p) + before * layout_.rows.block * layout_.cols.width(column_);
}

template <typename T>
MatrixView<T> BlockColumn<T>::copy_to(T* room) const {
  const index_t width = layout_.cols.width(column_);
  const index_t above = first_ * layout_.rows.block;
  const MatrixView<T> out(room, layout_.n() - above, width);
#pragma omp parallel for schedule(static)
  for (index_t i = first_; i < layout_.blocks(); ++i) {
    std::copy_n(block(i), layout_.rows.width(i) * width, out.row(i * layout_.rows.block - above));
  }
  return out;
}

template <typename T>
void BlockColumn<T>::pack(const DistributedMatrix& matrix) {
  const index_t width = layout_.cols.width(column_);
#pragma omp parallel for schedule(static)
  for (index_t i = first_; i < layout_.blocks(); ++i) {
    if (!matrix.owns(i, column_)) continue;
    const double* from = matrix.block(i, column_);
    T* to = data_.data() + (block(i) - data_.data());
    for (index_t r = 0; r < layout_.rows.width(i); ++r) {
      for (index_t c = 0; c < width; ++c) {
        to[r * width + c] = static_cast<T>(from[c * matrix.ld() + r]);
      }
    }
  }
}

std::vector<index_t> column_offsets(const BlockCyclic& layout, index_t j, index_t first,
                                    index_t element, int ranks) {
  std::vector<index_t> offsets{0};
  for (int rank = 0; rank < ranks; ++rank) {
    const bool sends =
        rank < layout.grid.size() && layout.grid.col_of(rank) == layout.cols.owner(j);
    const index_t rows = sends ? layout.rows.extent_of(layout.grid.row_of(rank), first) : 0;
    offsets.push_back(offsets.back() + rows * layout.cols.width(j) * element);
  }
  return offsets;
}

template <typename T>
void BlockColumn<T>::gather(Collectives& comm, const DistributedMatrix& matrix, index_t j,
                            index_t first) {
  column_ = j;
  first_ = first;
  pack(matrix);
  offsets_ = column_offsets(layout_, j, first, sizeof(T), comm.size());
  const auto elements = offsets_.back() / static_cast<index_t>(sizeof(T));
  comm.all_gather_bytes(std::as_writable_bytes(std::span(data_.data(), at(elements))), offsets_);
}

template class BlockColumn<float>;
template class BlockColumn<double>;

}  // namespace quip
