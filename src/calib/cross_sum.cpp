#include "quip/calib/cross_sum.hpp"

#include <algorithm>

#include "quip/core/usage.hpp"
#include "quip/quant/factor/work.hpp"

namespace quip {
namespace {

constexpr index_t piece_bytes = index_t{64} << 20;
constexpr index_t row_unit = 32;

/// Sums rows [first, last) of C over this rank's tokens.
Matrix<double> sum_own(Collectives& comm, Backend& backend, const CrossInput& input, Range rows) {
  Matrix<double> sum;
  agree(comm, [&] {
    sum = Matrix<double>(rows.count(), input.x.cols, 0.0);
    backend.accumulate_cross(
        input.e.middle_cols(rows.first, rows.count()),
        std::span(input.e_scales.scale).subspan(at(rows.first), at(rows.count())), input.x,
        input.x_scales.scale, sum.view());
    UsageMeter::current().add_flops(cross_flops(rows.count(), input.x.cols, input.x.rows));
  });
  return sum;
}

/// Turns row `row` of the integers' sum into one of C.
void scale_row(const CrossInput& input, index_t row, double* sum) {
  const double factor = input.e_scales.row_unit(row);
  for (index_t j = 0; j < input.x.cols; ++j) sum[j] *= factor / input.x_scales.scale[at(j)];
}

Range common(Range a, Range b) {
  const Range both{std::max(a.first, b.first), std::min(a.last, b.last)};
  return both.first < both.last ? both : Range{a.first, a.first};
}

}  // namespace

std::vector<index_t> cross_pieces(index_t m, index_t n) {
  const index_t bytes = n * index_t{sizeof(double)};
  const index_t step = std::max<index_t>(piece_bytes / bytes / row_unit, 1) * row_unit;
  std::vector<index_t> first;
  for (index_t row = 0; row < m; row += step) first.push_back(row);
  first.push_back(m);
  return first;
}

Matrix<double> cross_sum_rows(Collectives& comm, Backend& backend, const CrossInput& input,
                              const std::vector<Range>& rows) {
  const index_t n = input.x.cols;
  const Range own = rows[at(comm.rank())];
  Matrix<double> mine;
  agree(comm, [&] { mine = Matrix<double>(own.count(), n); });
  const std::vector<index_t> pieces = cross_pieces(input.e.cols, n);
  for (std::size_t p = 0; p + 1 < pieces.size(); ++p) {
    const Range piece{pieces[p], pieces[p + 1]};
    const Matrix<double> sum = sum_own(comm, backend, input, piece);
    std::vector<index_t> offsets{0};
    for (const Range of_rank : rows) {
      offsets.push_back(offsets.back() + common(piece, of_rank).count() * n);
    }
    Matrix<double> dealt;  // rank by rank
    agree(comm, [&] {
      dealt = Matrix<double>(piece.count(), n);
      for (int r = 0; r < comm.size(); ++r) {
        const Range part = common(piece, rows[at(r)]);
        std::copy_n(sum.row(part.first - piece.first), part.count() * n,
                    dealt.data() + offsets[at(r)]);
      }
    });
    if (comm.size() > 1) comm.reduce_scatter_sum(dealt.span(), offsets);
    const Range part = common(piece, own);
    if (part.count() == 0) continue;
    std::copy_n(dealt.data() + offsets[at(comm.rank())], part.count() * n,
                mine.row(part.first - own.first));
  }
#pragma omp parallel for
  for (index_t i = 0; i < own.count(); ++i) scale_row(input, own.first + i, mine.row(i));
  return mine;
}

}  // namespace quip
