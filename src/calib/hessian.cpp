#include "quip/calib/hessian.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "quip/calib/channel_scales.hpp"
#include "quip/comm/schedule.hpp"
#include "quip/core/usage.hpp"
#include "quip/quant/factor/work.hpp"

namespace quip {
namespace {

/// Returns the number of elements of the lower triangle above a row.
index_t elements_before(index_t row) { return row * (row + 1) / 2; }

}  // namespace

void sum_lower_triangle(MatrixView<double> h, const std::function<void(std::span<double>)>& sum) {
  const std::vector<index_t> pieces = triangle_pieces(h.rows);
  std::vector<double> piece;
  for (std::size_t p = 0; p + 1 < pieces.size(); ++p) {
    const Range rows{pieces[p], pieces[p + 1]};
    piece.clear();
    piece.reserve(at(elements_before(rows.last) - elements_before(rows.first)));
    for (index_t i = rows.first; i < rows.last; ++i) {
      piece.insert(piece.end(), h.row(i), h.row(i) + i + 1);
    }
    sum(piece);
    const double* from = piece.data();
    for (index_t i = rows.first; i < rows.last; ++i) {
      std::copy_n(from, i + 1, h.row(i));
      from += i + 1;
    }
  }
}

std::vector<index_t> triangle_pieces(index_t n) {
  const index_t bytes = elements_before(n) * index_t{sizeof(double)};
  const index_t count = bytes / staged_bytes + 1;
  std::vector<index_t> first{0};
  for (index_t k = 1; k < count; ++k) {  // row²/2 elements before it are k of `count` parts
    const double share = static_cast<double>(k) / static_cast<double>(count);
    first.push_back(std::llround(static_cast<double>(n) * std::sqrt(share)));
  }
  first.push_back(n);
  return first;
}

Matrix<double> exact_hessian(Collectives& comm, Backend& backend, ConstTensorView x,
                             index_t first_sample, index_t sample_length, const std::string& what) {
  const index_t n = x.cols;
  const ChannelScales scales =
      measure_channels(comm, backend, x, first_sample, sample_length, what);
  Matrix<double> h;
  agree(comm, [&] {
    h = Matrix<double>(n, n, 0.0);
    backend.accumulate_hessian(x, scales.scale, h.view());
    UsageMeter::current().add_flops(hessian_flops(n, x.rows));
  });
  if (comm.size() > 1) {
    sum_lower_triangle(h.view(), [&](std::span<double> piece) { comm.all_reduce_sum(piece); });
  }
  scales.apply(h.view());
  return h;
}

}  // namespace quip
