#include "quip/pipeline/round_layer.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>

#include "quip/core/usage.hpp"
#include "quip/quant/factor/layer_statistics.hpp"
#include "quip/quant/factor/work.hpp"
#include "quip/quant/layer.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip {
namespace {

/// Joins every rank's rows: `mine` holds this rank's, `per_row` elements a row.
template <typename T>
std::vector<T> gather_rows(Collectives& comm, const std::vector<T>& mine, index_t rows,
                           index_t per_row) {
  std::vector<T> all(at(rows * per_row));
  const Range share = row_share(rows, comm.rank(), comm.size());
  std::copy(mine.begin(), mine.end(), all.begin() + share.first * per_row);
  comm.all_gather_bytes(std::as_writable_bytes(std::span(all)),
                        row_offsets(rows, comm.size(), per_row * index_t{sizeof(T)}));
  return all;
}

/// Chooses the rounder of a layer: `quantizer`, unless the panels pass by and some rank has no room
/// to hold them there (collective).
Quantizer& choose(Collectives& comm, Quantizer& quantizer, const PreparedLayer& layer,
                  const LayerOptions& options, index_t rows) {
  if (layer.factor.resident() || &quantizer == &host_quantizer()) return quantizer;
  float missing = 0;
  agree(comm, [&] { missing = quantizer.has_room(layer, options, rows) ? 0.0F : 1.0F; });
  comm.all_reduce_max(std::span(&missing, 1));
  return missing > 0 ? host_quantizer() : quantizer;
}

struct FoundRho {
  double rho = 0;
  int rounds = 0;
};

FoundRho find_rho(Collectives& comm, LayerRows& mine, const LayerOptions& options, index_t rows) {
  if (options.grid() == GridKind::minmax || options.has_trellis()) return {};
  if (options.rho) return {*options.rho, 0};
  RhoSearch search(rows, options.bits);
  int rounds = 0;
  for (; !search.candidates().empty(); ++rounds) {
    std::vector<double> losses;
    agree(comm, [&] { losses = mine.evaluate(search); });
    comm.all_reduce_sum(losses);  // one rank's value and zeros: exact
    search.advance(losses);
  }
  return {search.result(), rounds};
}

// Losses are left where damping is taken off, in fp32: beside it they must not vanish.
constexpr double smallest_share = 1e-4;
constexpr double smallest_weight = 1e-12;  // the grid's own floor is 1e-16

LayerStatistics summarise(const PreparedLayer& layer, const LayerOptions& options,
                          const std::vector<RowLoss>& losses, double rho, float largest) {
  LayerStatistics statistics;
  double reference = 0;
  for (const RowLoss& row : losses) {  // in row order: the same sum on any number of ranks
    statistics.proxy_loss += row.loss;
    reference += row.reference;
  }
  double rows = static_cast<double>(losses.size());
  if (!layer.output_scale.empty()) {  // a row of W' weighs what its scale makes of it
    rows = 0;
    for (const float scale : layer.output_scale) rows += double{scale} * scale;
  }
  const double energy = rows * layer.weight_rms * layer.weight_rms;
  const double damping = *std::min_element(layer.added.begin(), layer.added.end());
  const bool measured =
      layer.loss_unit > 0 && layer.weight_rms > smallest_weight && statistics.proxy_loss >= 0 &&
      reference > smallest_share * damping * energy * static_cast<double>(layer.added.size());
  statistics.relative_proxy_loss = statistics.proxy_loss / reference;
  statistics.rate_distortion_ratio =
      statistics.proxy_loss / std::ldexp(energy * layer.trace_d, -2 * options.bits);
  statistics.incoherence_before = layer.weight_incoherence;
  statistics.incoherence_after =
      layer.weight_rms > 0 ? static_cast<double>(largest) / layer.weight_rms : 0.0;
  statistics.proxy_loss *= layer.loss_unit;
  if (!measured) {
    statistics.proxy_loss = statistics.relative_proxy_loss = statistics.rate_distortion_ratio =
        std::numeric_limits<double>::quiet_NaN();
  }
  if (options.spectra) statistics.spectra = layer.spectra;
  statistics.trace_ratio = layer.trace_ratio;
  statistics.damping = layer.damping;
  statistics.damping_tries = layer.damping_tries;
  statistics.dead_channels = layer.dead_channels;
  statistics.rho = rho;
  return statistics;
}

void broadcast_panels(Collectives& comm, LowerPanels& panels, int root) {
  index_t n = panels.n;
  comm.broadcast_value(n, root);
  agree(comm, [&] {
    if (comm.rank() != root) panels = LowerPanels(n);
  });
  comm.broadcast(panels.panels.span(), root);
  comm.broadcast(std::span(panels.diagonal), root);
}

/// Refits the output scales of a layer to all that is coded, and returns its losses by row.
std::vector<RowLoss> refit_rows(Collectives& comm, LayerRows& rows, QuantizedLinear& stored) {
  const Range share = row_share(stored.rows, comm.rank(), comm.size());
  std::vector<std::uint16_t>& all = stored.row_scales();
  std::vector<RowLoss> losses;
  std::vector<std::uint16_t> mine;
  agree(comm, [&] {
    for (const RowNorms& norms : rows.measure(stored)) {
      mine.push_back(all[at(share.first) + mine.size()]);
      losses.push_back(refit(norms, mine.back()));
    }
    UsageMeter::current().add_flops(static_cast<double>(share.count()) *
                                    measure_flops(stored.cols));
  });
  all = gather_rows(comm, mine, stored.rows, 1);
  return gather_rows(comm, losses, stored.rows, 1);
}

/// Makes the whole layer, of `rows` rows, on every rank from each rank's `mine`, which have been
/// `rounded`; their largest weight is `largest`.
StoredLayer join(Collectives& comm, const std::string& name, index_t rows,
                 const PreparedLayer& layer, const LayerOptions& options, LayerRows& mine,
                 RoundedRows rounded, const FoundRho& found, float largest) {
  StoredLayer stored{name, to_string(options.method), std::move(rounded.layer), {}};
  stored.layer.rows = rows;
  const auto gather = [&](const Part& part, auto& elements) {
    if (part.by_row) elements = gather_rows(comm, elements, rows, part.count() / rows);
  };
  visit_parts(gather, stored.layer);
  std::array<float, 2> most{largest, static_cast<float>(rounded.passes)};
  comm.all_reduce_max(most);
  const std::vector<RowLoss> losses = options.scales_outputs()
                                          ? refit_rows(comm, mine, stored.layer)
                                          : gather_rows(comm, rounded.losses, rows, 1);
  stored.statistics = summarise(layer, options, losses, found.rho, most[0]);
  stored.statistics.rho_rounds = found.rounds;
  stored.statistics.passes = static_cast<int>(most[1]);
  return stored;
}

}  // namespace

Range row_share(index_t rows, int rank, int size) {
  const index_t units = (rows + RowTiles::lane_unit - 1) / RowTiles::lane_unit;
  const Range share = share_of(units, rank, size);
  return {std::min(rows, share.first * RowTiles::lane_unit),
          std::min(rows, share.last * RowTiles::lane_unit)};
}

std::vector<index_t> row_offsets(index_t rows, int ranks, index_t row_bytes) {
  std::vector<index_t> offsets{0};
  for (int r = 0; r < ranks; ++r) offsets.push_back(row_share(rows, r, ranks).last * row_bytes);
  return offsets;
}

void broadcast_prepared(Collectives& comm, PreparedLayer& layer, int root) {
  if (comm.size() == 1) return;
  broadcast_panels(comm, layer.factor, root);
  broadcast_panels(comm, layer.feedback, root);
  broadcast_panels(comm, layer.hessian, root);
  comm.broadcast(layer.order, root);
  comm.broadcast(layer.rescale, root);
  comm.broadcast(layer.output_scale, root);
  comm.broadcast(layer.dead, root);
  comm.broadcast(layer.added, root);
  visit_scalars([&](auto& value) { comm.broadcast_value(value, root); }, layer);
}

StoredLayer round_layer(Collectives& comm, const std::string& name, MatrixView<const float> weights,
                        const PreparedLayer& layer, const LayerOptions& options,
                        Quantizer& quantizer) {
  const QuantizedLinear shape = described(options, weights.rows, weights.cols);
  if (shape.padded()) {
    Matrix<float> wider;
    agree(comm, [&] { wider = pad(weights, shape.rows, shape.cols); });
    StoredLayer stored = round_layer(comm, name, wider.cview(), layer, options, quantizer);
    stored.layer.row_padding = shape.row_padding;
    stored.layer.col_padding = shape.col_padding;
    return stored;
  }
  const Range share = row_share(weights.rows, comm.rank(), comm.size());
  Quantizer& where = choose(comm, quantizer, layer, options, share.count());
  std::unique_ptr<LayerRows> mine;
  agree(comm, [&] {
    mine = where.rows(weights, layer, options, share);
    UsageMeter::current().add_flops(transform_rows_flops(
        options.effective_transform(), weights.rows, weights.cols, share.count()));
  });
  const FoundRho found = find_rho(comm, *mine, options, weights.rows);
  RoundedRows rounded;
  float largest = 0;
  agree(comm, [&] {
    rounded = mine->round(found.rho);
    largest = mine->largest();
  });
  return join(comm, name, weights.rows, layer, options, *mine, std::move(rounded), found, largest);
}

}  // namespace quip
