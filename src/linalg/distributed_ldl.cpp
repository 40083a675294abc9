#include "quip/linalg/distributed_ldl.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include <cblas.h>

#include "quip/core/usage.hpp"

// LAPACK, column-major.
extern "C" void dpotrf_(const char* uplo, const int* n, double* a, const int* lda, int* info);

namespace quip {
namespace {

constexpr index_t columns_at_once = 4;

int as_blas(index_t value) { return static_cast<int>(value); }

/// The place of a block in the lower triangle.
struct Position {
  index_t row;
  index_t col;
};

/// Returns this rank's blocks on and below the diagonal, in block columns [first, last).
std::vector<Position> lower_blocks(const DistributedMatrix& h, index_t first, index_t last) {
  std::vector<Position> blocks;
  if (!h.in_grid()) return blocks;
  const BlockCyclic& layout = h.layout();
  for (index_t j = first; j < last; ++j) {
    if (layout.cols.owner(j) != h.grid_col()) continue;
    for (index_t i = j; i < layout.blocks(); ++i) {
      if (layout.rows.owner(i) == h.grid_row()) blocks.push_back({i, j});
    }
  }
  return blocks;
}

/// The factor of one diagonal block and dpotrf's info, as all ranks get them.
class DiagonalBlock {
 public:
  explicit DiagonalBlock(index_t width) : data_(width * width + 1) {}

  /// Factorises A_kk = C_kk C_kkᵀ on its owner, then sends it to all. Returns dpotrf's info.
  int factor(Collectives& comm, const DistributedMatrix& h, index_t k) {
    const index_t width = h.layout().rows.width(k);
    const int order = as_blas(width);
    if (h.owns(k, k)) {
      double* block = h.block(k, k);
      const int ld = as_blas(h.ld());
      int info = 0;
      dpotrf_("L", &order, block, &ld, &info);
      for (index_t c = 0; c < width; ++c) {
        std::copy_n(block + c * h.ld(), width, data_.data() + c * width);
      }
      data_[width * width] = info;
    }
    comm.broadcast(std::span(data_.data(), at(width * width + 1)), h.layout().owner(k, k));
    return static_cast<int>(data_[width * width]);
  }
  /// Returns the block, column-major and contiguous.
  [[nodiscard]] const double* data() const { return data_.data(); }

 private:
  Buffer<double> data_;
};

/// Updates the column below the diagonal block: A_ik ← A_ik C_kk⁻ᵀ.
void solve_column(const DistributedMatrix& h, index_t k, const double* diagonal) {
  const BlockCyclic& layout = h.layout();
  if (!h.in_grid() || layout.cols.owner(k) != h.grid_col()) return;
  const index_t width = layout.cols.width(k);
#pragma omp parallel for schedule(dynamic)
  for (index_t i = k + 1; i < layout.blocks(); ++i) {
    if (!h.owns(i, k)) continue;
    cblas_dtrsm(CblasColMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit,
                as_blas(layout.rows.width(i)), as_blas(width), 1.0, diagonal, as_blas(width),
                h.block(i, k), as_blas(h.ld()));
  }
}

/// Updates one block of the trailing matrix: A_ij ← A_ij − C_ik C_jkᵀ. The blocks of the column are
/// row-major, their transpose to the BLAS.
void update_block(const DistributedMatrix& h, index_t k, const BlockColumn<double>& column,
                  Position place) {
  const BlockCyclic& layout = h.layout();
  const int depth = as_blas(layout.cols.width(k));
  const int rows = as_blas(layout.rows.width(place.row));
  double* target = h.block(place.row, place.col);
  const int ld = as_blas(h.ld());
  if (place.row == place.col) {
    cblas_dsyrk(CblasColMajor, CblasLower, CblasTrans, rows, depth, -1.0, column.block(place.row),
                depth, 1.0, target, ld);
  } else {
    cblas_dgemm(CblasColMajor, CblasTrans, CblasNoTrans, rows,
                as_blas(layout.cols.width(place.col)), depth, -1.0, column.block(place.row), depth,
                column.block(place.col), depth, 1.0, target, ld);
  }
}

/// Subtracts the products of columns [first, last) of the factor from block columns [begin, end). A
/// block stays in the cache for all of them: at a depth of one block, memory would set the pace.
void update_trailing(const DistributedMatrix& h, index_t first, index_t last,
                     const std::vector<BlockColumn<double>>& columns, index_t begin, index_t end) {
  const std::vector<Position> blocks = lower_blocks(h, begin, end);
#pragma omp parallel for schedule(dynamic)
  for (const Position place : blocks) {
    for (index_t k = first; k < last; ++k) {
      update_block(h, k, columns[at(k % columns_at_once)], place);
    }
  }
}

/// Scales columns below the diagonal: L_ij ← L_ij / C_jj.
void scale_columns(const DistributedMatrix& h, const std::vector<double>& inverse) {
  const std::vector<Position> blocks = lower_blocks(h, 0, h.layout().blocks());
  const BlockCyclic& layout = h.layout();
#pragma omp parallel for schedule(dynamic)
  for (const Position place : blocks) {
    const double* factor = inverse.data() + place.col * layout.cols.block;
    for (index_t c = 0; c < layout.cols.width(place.col); ++c) {
      double* column = h.block(place.row, place.col) + c * h.ld();
      const index_t first = place.row == place.col ? c + 1 : 0;
      for (index_t r = first; r < layout.rows.width(place.row); ++r) {
        column[r] *= factor[at(c)];
      }
    }
  }
}

}  // namespace

index_t block_cholesky(Collectives& comm, DistributedMatrix& h) {
  const BlockCyclic& layout = h.layout();
  std::optional<DiagonalBlock> diagonal;
  std::vector<BlockColumn<double>> columns;
  agree(comm, [&] {
    diagonal.emplace(layout.rows.block);
    for (index_t k = 0; k < std::min(columns_at_once, layout.blocks()); ++k) {
      columns.emplace_back(layout);
    }
  });
  for (index_t first = 0; first < layout.blocks(); first += columns_at_once) {
    const index_t last = std::min(first + columns_at_once, layout.blocks());
    for (index_t k = first; k < last; ++k) {
      const int info = diagonal->factor(comm, h, k);
      if (info != 0) return k * layout.rows.block + info;
      solve_column(h, k, diagonal->data());
      columns[at(k - first)].gather(comm, h, k, k + 1);
      update_trailing(h, k, k + 1, columns, k + 1, last);
    }
    update_trailing(h, first, last, columns, last, layout.blocks());
  }
  return 0;
}

index_t distributed_ldl(Collectives& comm, DistributedMatrix& h,
                        const DistributedCholesky& cholesky, std::span<double> d) {
  const auto n = static_cast<double>(h.layout().n());
  if (h.in_grid()) UsageMeter::current().add_flops(n * n * n / 3 / h.layout().grid.size());
  const index_t minor = cholesky(comm, h);
  if (minor != 0) return minor;
  std::vector<double> inverse = h.diagonal(comm);  // Cholesky → LDLᵀ: L = C diag(C)⁻¹, D = diag(C)²
  for (std::size_t j = 0; j < inverse.size(); ++j) {
    if (!std::isfinite(inverse[j])) return static_cast<index_t>(j) + 1;
    d[j] = inverse[j] * inverse[j];
    inverse[j] = 1.0 / inverse[j];
  }
  scale_columns(h, inverse);
  return 0;
}

}  // namespace quip
