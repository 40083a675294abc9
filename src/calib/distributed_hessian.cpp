#include "quip/calib/distributed_hessian.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "quip/core/usage.hpp"
#include "quip/quant/factor/work.hpp"

namespace quip {
namespace {

constexpr index_t rows_at_once = 64;
// Activations are packed anew for each panel: narrower ones cost up to twice the time.
constexpr index_t narrowest_panel = 1024;
constexpr index_t widest_panel = 2048;

/// Visits the blocks of H on or below the diagonal in columns [first, last) of blocks.
template <typename Visit>
void for_lower_blocks(const BlockCyclic& layout, index_t first, index_t last, int rank,
                      const Visit& visit) {
  for (index_t j = first; j < last; ++j) {
    for (index_t i = j; i < layout.blocks(); ++i) {
      if (layout.owner(i, j) == rank) visit(i, j);
    }
  }
}

/// One panel of the sum, its elements in the order of their owners.
class PanelBuffer {
 public:
  PanelBuffer(const BlockCyclic& layout, index_t width, int ranks)
      : layout_(layout), ranks_(ranks), sum_(layout.n() * width), packed_(layout.n() * width) {}

  /// Makes room for block columns [first, last).
  void start(index_t first, index_t last) {
    first_ = first;
    last_ = last;
    std::fill_n(sum_.data(), view().size(), 0.0);
    offsets_ = panel_offsets(layout_, first, last, ranks_);
  }

  /// Returns the panel from the diagonal of its first column on down.
  [[nodiscard]] MatrixView<double> view() const {
    const index_t left = first_ * layout_.cols.block;
    const index_t right = std::min(layout_.n(), last_ * layout_.cols.block);
    return {sum_.data(), layout_.n() - left, right - left};
  }

  /// Sums over ranks, and leaves this rank's blocks in `h` (collective).
  void deliver(Collectives& comm, const ChannelScales& scales, double factor,
               DistributedMatrix& h) {
#pragma omp parallel for schedule(dynamic)
    for (int r = 0; r < comm.size(); ++r) pack(r);
    comm.reduce_scatter_sum({packed_.data(), at(offsets_.back())}, offsets_);
    const double* from = packed_.data() + offsets_[at(comm.rank())];
    const index_t block = layout_.rows.block;
    for_lower_blocks(layout_, first_, last_, comm.rank(), [&](index_t i, index_t j) {
      double* out = h.block(i, j);
      for (index_t r = 0; r < layout_.rows.width(i); ++r) {
        for (index_t c = 0; c < layout_.cols.width(j); ++c) {
          out[c * h.ld() + r] = *from++ * (scales.unit(i * block + r, j * block + c) * factor);
        }
      }
    });
  }

 private:
  void pack(int rank) const {
    const MatrixView<double> sum = view();
    double* to = packed_.data() + offsets_[at(rank)];
    for_lower_blocks(layout_, first_, last_, rank, [&](index_t i, index_t j) {
      const index_t width = layout_.cols.width(j);
      for (index_t r = 0; r < layout_.rows.width(i); ++r) {
        const double* row = sum.row((i - first_) * layout_.rows.block + r);
        to = std::copy_n(row + (j - first_) * layout_.cols.block, width, to);
      }
    });
  }

  const BlockCyclic& layout_;
  int ranks_;
  index_t first_ = 0;
  index_t last_ = 0;
  Buffer<double> sum_;
  Buffer<double> packed_;
  std::vector<index_t> offsets_;  ///< by rank
};

}  // namespace

std::vector<double> hessian_diagonal(Collectives& comm, Backend& backend, ConstTensorView x,
                                     const ChannelScales& scales) {
  std::vector<double> sum(at(x.cols), 0.0);
  agree(comm, [&] {
    const index_t units = (x.rows + rows_at_once - 1) / rows_at_once;
    backend.for_each_unit(units, [&](index_t unit) {
      const index_t first = unit * rows_at_once;
      const index_t count = std::min(rows_at_once, x.rows - first);
      Matrix<float> room;
      const ConstTensorView host = backend.on_host(x.middle_rows(first, count), room);
      std::vector<double> part(sum.size(), 0.0);
      for (index_t t = 0; t < count; ++t) {
        for (index_t j = 0; j < x.cols; ++j) {
          const auto z = static_cast<double>(std::nearbyint(host(t, j) * scales.scale[at(j)]));
          part[at(j)] += z * z;
        }
      }
#pragma omp critical(quip_hessian_diagonal)
      for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += part[j];  // integers: any order
    });
  });
  comm.all_reduce_sum(sum);
  for (index_t j = 0; j < x.cols; ++j) sum[at(j)] *= scales.unit(j, j);
  return sum;
}

index_t hessian_panel_width(index_t n, int ranks) {
  const index_t unit = Backend::hessian_panel_unit;
  const index_t share = n / (8 * ranks) / unit * unit;
  return std::min((n + unit - 1) / unit * unit, std::clamp(share, narrowest_panel, widest_panel));
}

std::vector<index_t> panel_offsets(const BlockCyclic& layout, index_t first, index_t last,
                                   int ranks) {
  std::vector<index_t> offsets(at(ranks) + 1, 0);
  for (index_t j = first; j < last; ++j) {
    for (index_t i = j; i < layout.blocks(); ++i) {
      offsets[at(layout.owner(i, j)) + 1] += layout.rows.width(i) * layout.cols.width(j);
    }
  }
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  return offsets;
}

void distributed_hessian(Collectives& comm, Backend& backend, ConstTensorView x,
                         const ChannelScales& scales, double factor, DistributedMatrix& h) {
  const BlockCyclic& layout = h.layout();
  const index_t width = hessian_panel_width(layout.n(), comm.size());
  const index_t step = width / layout.cols.block;
  std::unique_ptr<PanelBuffer> panel;
  agree(comm, [&] { panel = std::make_unique<PanelBuffer>(layout, width, comm.size()); });
  for (index_t first = 0; first < layout.blocks(); first += step) {
    agree(comm, [&] {
      panel->start(first, std::min(first + step, layout.blocks()));
      backend.accumulate_hessian_panel(x, scales.scale, first * layout.cols.block, panel->view());
    });
    panel->deliver(comm, scales, factor, h);
  }
  UsageMeter::current().add_flops(hessian_flops(x.cols, x.rows));
}

}  // namespace quip
