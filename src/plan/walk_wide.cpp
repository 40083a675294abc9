// The part of the walk that follows layers whose Hessian is spread over ranks.
#include <algorithm>
#include <vector>

#include "walk_steps.hpp"

#include "quip/calib/distributed_hessian.hpp"
#include "quip/plan/walk.hpp"
#include "quip/quant/factor/work.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip::plan {
namespace {

/// Elements of the blocks on or below the diagonal in block columns [first, last), by rank.
std::vector<index_t> panel_elements(const BlockCyclic& layout, index_t first, index_t last,
                                    int ranks) {
  std::vector<index_t> elements(static_cast<std::size_t>(ranks), 0);
  for (index_t j = first; j < last; ++j) {
    for (index_t i = j; i < layout.blocks(); ++i) {
      elements[static_cast<std::size_t>(layout.owner(i, j))] +=
          layout.rows.width(i) * layout.cols.width(j);
    }
  }
  return elements;
}

/// Block column `j` from block row `first` on, from its owners to all.
void gather_column(Ledger& ledger, const BlockCyclic& layout, index_t j, index_t first,
                   index_t element) {
  std::vector<index_t> offsets{0};
  for (int rank = 0; rank < ledger.size(); ++rank) {
    const bool sends =
        rank < layout.grid.size() && layout.grid.col_of(rank) == layout.cols.owner(j);
    const index_t rows = sends ? layout.rows.extent_of(layout.grid.row_of(rank), first) : 0;
    offsets.push_back(offsets.back() + rows * layout.cols.width(j) * element);
  }
  ledger.count_gather(offsets);
}

/// Follows `work` once for each key and remembers what it cost.
template <typename Costs, typename Work>
void once(Costs& costs, Ledger& ledger, index_t n, const Work& work) {
  const auto [found, fresh] = costs.try_emplace({ledger.rank(), n});
  if (fresh) {
    Ledger books(ledger.rank(), ledger.size(), ledger.place());
    work(books);
    found->second = books.current();
  }
  ledger.add(found->second);
}

}  // namespace

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
  once(wide_sums_, ledger, n, [&](Ledger& books) { distributed_hessian(books, layout); });
  ledger.add_flops(hessian_flops(n, tokens));

  ledger.enter("factor");
  ledger.count_sum(n);
  once(wide_factors_, ledger, n, [&](Ledger& books) { block_cholesky(books, layout); });
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
    const std::vector<index_t> elements =
        panel_elements(layout, first, std::min(first + step, layout.blocks()), ledger.size());
    index_t total = 0;
    for (const index_t count : elements) total += count;
    ledger.count_reduce_scatter(total, elements[static_cast<std::size_t>(ledger.rank())]);
  }
}

/// ScaLAPACK's own exchanges are not counted: there the program's factorisation stands for them.
void Walk::block_cholesky(Ledger& ledger, const BlockCyclic& layout) const {
  agree(ledger, do_nothing);
  for (index_t k = 0; k < layout.blocks(); ++k) {
    const index_t width = layout.rows.width(k);
    ledger.count_broadcast((width * width + 1) * double_bytes, layout.owner(k, k));
    gather_column(ledger, layout, k, k + 1, double_bytes);
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
  once(wide_panels_, ledger, layout.n(), [&](Ledger& books) {
    for (index_t b = layout.blocks() - 1; b >= 0; --b) {
      gather_column(books, layout, b, b, float_bytes);
    }
  });
  agree(ledger, do_nothing);
}

}  // namespace quip::plan
