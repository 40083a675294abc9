// The part of the walk that follows layers whose Hessian is spread over ranks.
#include <algorithm>

#include "walk_steps.hpp"

#include "quip/calib/distributed_hessian.hpp"
#include "quip/plan/walk.hpp"
#include "quip/quant/factor/work.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip::plan {

void Walk::measure_channels(Ledger& ledger, index_t n) const {
  agree(ledger, do_nothing);
  ledger.count_maximum(n * float_bytes);
  ledger.count_sum(1);
  agree(ledger, do_nothing);
}

void Walk::wide_layer(Ledger& ledger, const LinearSpec& linear, const LayerOptions& options) {
  const index_t n = linear.cols;
  const BlockCyclic layout = job_.options.wide.layout(n, ledger.size());
  const index_t tokens = samples_of(ledger).count() * job_.length;
  ledger.enter("hessian");
  measure_channels(ledger, n);
  agree(ledger, do_nothing);  // the diagonal
  ledger.count_sum(n);
  agree(ledger, do_nothing);  // what follows from it
  agree(ledger, do_nothing);  // transformed inputs
  ledger.add_flops(static_cast<double>(tokens) * transform_flops(options.effective_transform(), n));
  measure_channels(ledger, n);
  once(ledger, "wide sum", n, [&](Ledger& books) { distributed_hessian(books, layout); });
  ledger.add_flops(hessian_flops(n, tokens));

  ledger.enter("factor");
  ledger.count_sum(n);
  once(ledger, "wide factor", n, [&](Ledger& books) { block_cholesky(books, layout); });
  ledger.count_sum(n);
  if (ledger.rank() < layout.grid.size()) {
    const auto order = static_cast<double>(n);
    ledger.add_flops(order * order * order / 3 / layout.grid.size());
  }
  agree(ledger, do_nothing);  // the panels to gather

  ledger.enter("round");
  round_layer(ledger, linear, options, &layout);
  ledger.enter("dequantize");
  dequantize(ledger, linear, options);
}

void Walk::distributed_hessian(Ledger& ledger, const BlockCyclic& layout) const {
  const index_t step = hessian_panel_width(layout.n(), ledger.size()) / layout.cols.block;
  agree(ledger, do_nothing);
  for (index_t first = 0; first < layout.blocks(); first += step) {
    agree(ledger, do_nothing);
    const index_t last = std::min(first + step, layout.blocks());
    ledger.reduce_scatter_sum({}, panel_offsets(layout, first, last, ledger.size()));
  }
}

/// ScaLAPACK's own exchanges are not counted: there the program's factorisation stands for them.
void Walk::block_cholesky(Ledger& ledger, const BlockCyclic& layout) const {
  agree(ledger, do_nothing);
  for (index_t k = 0; k < layout.blocks(); ++k) {
    const index_t width = layout.rows.width(k);
    ledger.count_broadcast((width * width + 1) * double_bytes, layout.owner(k, k));
    ledger.all_gather_bytes({}, column_offsets(layout, k, k + 1, double_bytes, ledger.size()));
  }
}

/// Into the devices' memory.
void Walk::gather_factor(Ledger& ledger, const BlockCyclic& layout) {
  agree(ledger, do_nothing);
  ledger.count_maximum(sizeof(float));  // has everyone room?
  stream_panels(ledger, layout);
}

/// Every panel of the factor comes by, from the last.
void Walk::stream_panels(Ledger& ledger, const BlockCyclic& layout) {
  once(ledger, "wide panels", layout.n(), [&](Ledger& books) {
    for (index_t b = layout.blocks() - 1; b >= 0; --b) {
      books.all_gather_bytes({}, column_offsets(layout, b, b, float_bytes, books.size()));
    }
  });
  agree(ledger, do_nothing);
}

}  // namespace quip::plan
