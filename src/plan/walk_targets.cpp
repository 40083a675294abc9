// The part of the walk in which layers are moved to what makes up for losses before them.
#include <algorithm>
#include <vector>

#include "walk_steps.hpp"

#include "quip/calib/cross_sum.hpp"
#include "quip/calib/distributed_hessian.hpp"
#include "quip/linalg/ldl.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/pipeline/stream_target.hpp"
#include "quip/quant/factor/work.hpp"

namespace quip::plan {
namespace {

index_t row_units(index_t rows) { return (rows + solve_rows_unit - 1) / solve_rows_unit; }

/// Follows StreamTarget::make for the layers of one tap.
class TargetWalk {
 public:
  TargetWalk(const PlannedJob& job, const Layout& layout, index_t inputs, Ledger& ledger)
      : job_(job),
        layout_(layout),
        stream_(job.options.stream),
        n_(inputs),
        wide_(job.options.wide.covers(inputs)),
        ledger_(ledger),
        tokens_(share_of(job.samples, ledger.rank(), ledger.size()).count() * job.length) {}

  void run(const LayerList& readers, EqualStreams equal) {
    ledger_.enter("hessian");
    count_channels(ledger_, n_);
    if (!tokens_suffice(static_cast<double>(job_.samples * job_.length), n_)) return;
    bool drift_fitted = false;
    for (const auto& [linear, options] : readers) {
      share_rows();
      if (linear.adds || wide_) {
        if (!stream_.moves(linear)) continue;
        const bool drifted = stream_.drift > 0 && !equal.inputs;
        const bool missed = stream_.residual > 0 && linear.adds && !equal.residual;
        fit(linear.rows, stream_.drift > 0 ? cross_flops(linear.rows, n_, tokens_) : 0,
            drifted || missed);
        if (!drifted && !missed) continue;
      } else {
        if (stream_.drift == 0) continue;
        if (!drift_fitted) {
          share_rows();
          fit(n_, 0, !equal.inputs);
          if (!equal.inputs) gather_over_nodes(n_);
        }
        drift_fitted = true;
        if (equal.inputs) continue;
        ledger_.enter("factor");
        ledger_.add_flops(product_flops(own_rows(linear.rows), n_));
      }
      ledger_.enter("factor");
      gather_over_nodes(linear.rows);
      ledger_.enter("other");
      ledger_.count_sum(2 * linear.rows);
      ledger_.vote();
    }
  }

 private:
  /// Follows what ranks tell each other of their rows.
  void share_rows() {
    ledger_.enter("other");
    ledger_.all_gather_bytes({},
                             share_offsets(ledger_.size(), ledger_.size(), 2 * sizeof(index_t)));
  }

  /// Follows a fit of m errors, which take `flops` to make; `any`: they are not zero.
  void fit(index_t m, double flops, bool any) {
    ledger_.enter("capture");
    ledger_.vote();
    ledger_.add_flops(flops);
    ledger_.enter("hessian");
    count_channels(ledger_, m);
    if (!any) return;
    ledger_.vote();  // their norms
    ledger_.count_sum(m);
    sum(m);
    ledger_.enter("factor");
    if (wide_) {
      solve_spread();
    } else {
      if (!factorised_) ledger_.add_flops(ridge_flops(n_));
      ledger_.vote();
    }
    factorised_ = true;
    ledger_.add_flops(product_flops(own_rows(m), n_));
    ledger_.count_sum(m);
  }

  /// Follows cross_sum_rows.
  void sum(index_t m) {
    ledger_.vote();
    const std::vector<index_t> pieces = cross_pieces(m, n_);
    for (std::size_t p = 0; p + 1 < pieces.size(); ++p) {
      ledger_.vote();
      ledger_.add_flops(cross_flops(pieces[p + 1] - pieces[p], n_, tokens_));
      ledger_.vote();
      if (ledger_.size() > 1)
        ledger_.reduce_scatter_sum({}, dealt_rows(m, {pieces[p], pieces[p + 1]}, n_));
    }
  }

  void solve_spread() {
    const BlockCyclic layout = job_.options.wide.layout(n_, ledger_.size());
    if (!factorised_) {
      ledger_.vote();
      count_panels(ledger_, layout, tokens_);
      ledger_.count_sum(n_);
      count_cholesky(ledger_, layout);
      ledger_.count_sum(n_);
      ledger_.vote();
    }
    ledger_.vote();
    for (int sweep = 0; sweep < 2; ++sweep) {
      for (index_t b = 0; b < layout.blocks(); ++b)
        ledger_.all_gather_bytes({}, column_offsets(layout, b, b, double_bytes, ledger_.size()));
    }
  }

  /// Follows RowShares::gather.
  void gather_over_nodes(index_t rows) {
    const NodePlace place = ledger_.place();
    allocate_on_node(ledger_, rows * n_ * float_bytes);
    ledger_.vote();
    ledger_.node_barrier();
    if (place.nodes == 1) return;
    std::vector<index_t> offsets;
    for (const index_t unit : share_offsets(row_units(rows), place.nodes))
      offsets.push_back(std::min(rows, unit * solve_rows_unit) * n_ * float_bytes);
    ledger_.all_gather_over_nodes({}, offsets);
    ledger_.node_barrier();
  }

  /// Returns where each rank's rows of a layer, of those in `piece`, begin in what is dealt out,
  /// and the end, times `width`.
  [[nodiscard]] std::vector<index_t> dealt_rows(index_t rows, Range piece, index_t width) const {
    std::vector<index_t> offsets{0};
    for (int r = 0; r < ledger_.size(); ++r) {
      const Range units = share_to_read(row_units(rows), layout_.place_of(r));
      const index_t first = std::max(units.first * solve_rows_unit, piece.first);
      const index_t last = std::min(units.last * solve_rows_unit, piece.last);
      offsets.push_back(offsets.back() + std::max<index_t>(last - first, 0) * width);
    }
    return offsets;
  }
  /// Returns the number of this rank's rows, of those of a layer.
  [[nodiscard]] index_t own_rows(index_t rows) const {
    const std::vector<index_t> dealt = dealt_rows(rows, {0, rows}, 1);
    return dealt[at(ledger_.rank()) + 1] - dealt[at(ledger_.rank())];
  }

  const PlannedJob& job_;
  const Layout& layout_;
  const StreamOptions& stream_;
  index_t n_;  ///< inputs of the layers
  bool wide_;
  Ledger& ledger_;
  index_t tokens_;  ///< those of this rank
  bool factorised_ = false;
};

}  // namespace

void count_channels(Ledger& ledger, index_t n) {
  ledger.vote();
  ledger.count_maximum(n * float_bytes);
  ledger.count_sum(1);
  ledger.vote();
}

void count_panels(Ledger& ledger, const BlockCyclic& layout, index_t tokens) {
  ledger.vote();
  const index_t step = hessian_panel_width(layout.n(), ledger.size()) / layout.cols.block;
  for (index_t first = 0; first < layout.blocks(); first += step) {
    ledger.vote();
    const index_t last = std::min(first + step, layout.blocks());
    ledger.reduce_scatter_sum({}, panel_offsets(layout, first, last, ledger.size()));
  }
  ledger.add_flops(hessian_flops(layout.n(), tokens));
}

void count_cholesky(Ledger& ledger, const BlockCyclic& layout) {
  ledger.vote();
  for (index_t k = 0; k < layout.blocks(); ++k) {
    const index_t width = layout.rows.width(k);
    ledger.count_broadcast((width * width + 1) * double_bytes, layout.owner(k, k));
    ledger.all_gather_bytes({}, column_offsets(layout, k, k + 1, double_bytes, ledger.size()));
  }
  const auto order = static_cast<double>(layout.n());
  if (ledger.rank() >= layout.grid.size()) return;
  ledger.add_flops(order * order * order / 3 / layout.grid.size());
}

void walk_targets(const PlannedJob& job, const Layout& layout, const LayerList& readers,
                  EqualStreams equal, Ledger& ledger) {
  TargetWalk(job, layout, readers.front().first.cols, ledger).run(readers, equal);
}

}  // namespace quip::plan
