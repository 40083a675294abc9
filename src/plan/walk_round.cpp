// The part of the walk from Hessians that ranks hold whole to rounded layers.
#include <array>

#include "walk_steps.hpp"

#include "quip/pipeline/block_quantizer.hpp"
#include "quip/pipeline/round_layer.hpp"
#include "quip/plan/walk.hpp"
#include "quip/quant/factor/factor.hpp"
#include "quip/quant/factor/work.hpp"
#include "quip/quant/layer.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip::plan {

void Walk::round(Ledger& ledger, const std::vector<LinearSpec>& linears) {
  std::vector<index_t> orders;
  orders.reserve(linears.size());
  for (const LinearSpec& linear : linears) orders.push_back(linear.cols);
  const std::vector<int> owners = assign_owners(orders, ledger.size());
  ledger.enter("factor");
  agree(ledger, do_nothing);
  for (std::size_t i = 0; i < linears.size(); ++i) {
    if (owners[i] != ledger.rank()) continue;
    ledger.add_flops(factor_flops(linears[i].cols, options_of(linears[i])));
  }
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const LayerOptions options = options_of(linears[i]);
    ledger.enter("round");
    broadcast_prepared(ledger, linears[i].cols, options, owners[i]);
    round_layer(ledger, linears[i], options, nullptr);
    ledger.enter("dequantize");
    dequantize(ledger, linears[i], options);
  }
}

void Walk::broadcast_prepared(Ledger& ledger, index_t n, const LayerOptions& options,
                              int root) const {
  if (ledger.size() == 1) return;
  const auto panels = [&](bool there) {
    LowerPanels shape;  // without room for elements
    shape.n = there ? n : 0;
    ledger.count_broadcast(sizeof(index_t), root);
    agree(ledger, do_nothing);
    ledger.count_broadcast(shape.panel_offset(shape.blocks()) * float_bytes, root);
    ledger.count_broadcast(shape.n * index_t{sizeof(double)}, root);
  };
  panels(true);
  panels(options.method == Method::optq || options.method == Method::ldl_admm);
  panels(options.effective_passes() > 0);
  const bool ordered = !column_order(options, std::array{1.0}).empty();
  ledger.count_text(ordered ? n * index_t{sizeof(index_t)} : 0, root);
  ledger.count_text(options.rescale() ? n * float_bytes : 0, root);
  ledger.count_text(0, root);  // no dead channels
  ledger.count_text(n * index_t{sizeof(double)}, root);
  const PreparedLayer scalars;
  const auto value = [&](const auto& one) { ledger.count_broadcast(sizeof(one), root); };
  value(scalars.weight_rms);
  value(scalars.loss_unit);
  value(scalars.trace_d);
  value(scalars.trace_ratio);
  value(scalars.weight_incoherence);
  value(scalars.spectra);
  value(scalars.damping);
  value(scalars.damping_tries);
  value(scalars.dead_channels);
  value(scalars.seed_u);
  value(scalars.seed_v);
  value(scalars.seed_rounding);
}

void Walk::gather_rows(Ledger& ledger, index_t rows, index_t per_row) {
  std::vector<index_t>& offsets = row_offsets_[{rows, per_row}];
  if (offsets.empty()) {
    offsets.push_back(0);
    for (int r = 0; r < ledger.size(); ++r) {
      offsets.push_back(row_share(rows, r, ledger.size()).last * per_row);
    }
  }
  ledger.count_gather(offsets);
}

void Walk::round_layer(Ledger& ledger, const LinearSpec& linear, const LayerOptions& options,
                       const BlockCyclic* wide) {
  const index_t n = linear.cols;
  const auto rows =
      static_cast<double>(row_share(linear.rows, ledger.rank(), ledger.size()).count());
  const double each = rounding_flops(n, options, options.effective_passes());
  const bool held = wide == nullptr || layout_.gpus_per_node > 0;
  if (wide != nullptr && held) gather_factor(ledger, *wide);
  agree(ledger, do_nothing);  // the rows' transform
  ledger.add_flops(transform_rows_flops(options.effective_transform(), linear.rows, n,
                                        static_cast<index_t>(rows)));
  if (options.grid() == GridKind::incoherent && !options.rho) {
    const RhoSearch search(linear.rows, options.bits);
    const auto pairs = search.sampled() * std::ssize(search.candidates());
    agree(ledger, do_nothing);
    if (!held) stream_panels(ledger, *wide);
    ledger.count_sum(pairs);
    ledger.add_flops(each * static_cast<double>(pairs) * rows / static_cast<double>(linear.rows));
  }
  agree(ledger, do_nothing);
  if (!held) stream_panels(ledger, *wide);
  ledger.add_flops(rows * (each + reference_flops(n)));
  gather_rows(ledger, linear.rows, (n * options.bits + 7) / 8);
  if (options.grid() == GridKind::minmax) {
    const index_t groups = groups_of(n, options.group_size);
    gather_rows(ledger, linear.rows, groups * float_bytes);
    if (!options.symmetric) gather_rows(ledger, linear.rows, groups);
  }
  ledger.count_maximum(2 * float_bytes);
  gather_rows(ledger, linear.rows, sizeof(RowLoss));
}

void Walk::dequantize(Ledger& ledger, const LinearSpec& linear, const LayerOptions& options) const {
  const TransformKind kind = options.effective_transform();
  agree(ledger, do_nothing);  // does the backend do it?
  if (layout_.gpus_per_node > 0) {
    ledger.add_flops(transform_rows_flops(kind, linear.rows, linear.cols, linear.rows));
    return;
  }
  allocate_on_node(ledger, linear.rows * linear.cols * float_bytes);
  agree(ledger, do_nothing);
  ledger.node_barrier();
  agree(ledger, do_nothing);
  ledger.node_barrier();
  agree(ledger, do_nothing);
  const NodePlace place = ledger.place();
  const auto part = [&](index_t count) {
    return static_cast<double>(share_of(count, place.rank, place.size).count());
  };
  ledger.add_flops(part(linear.rows) * transform_flops(kind, linear.cols) +
                   part(linear.cols) * transform_flops(kind, linear.rows));
}

}  // namespace quip::plan
