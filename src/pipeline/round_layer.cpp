#include "quip/pipeline/round_layer.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

#include "quip/core/usage.hpp"
#include "quip/quant/factor/layer_statistics.hpp"
#include "quip/quant/layer.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip {
namespace {

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

template <typename T>
void broadcast_value(Collectives& comm, T& value, int root) {
  comm.broadcast(std::span(&value, 1), root);
}

template <typename T>
void broadcast_vector(Collectives& comm, std::vector<T>& values, int root) {
  auto size = static_cast<std::uint64_t>(values.size());
  broadcast_value(comm, size, root);
  values.resize(size);
  comm.broadcast(std::span(values), root);
}

/// Joins every rank's rows: `mine` holds this rank's, `per_row` elements a row.
template <typename T>
std::vector<T> gather_rows(Collectives& comm, const std::vector<T>& mine, index_t rows,
                           index_t per_row) {
  std::vector<T> all(at(rows * per_row));
  std::vector<index_t> offsets{0};
  for (int r = 0; r < comm.size(); ++r) {
    offsets.push_back(row_share(rows, r, comm.size()).last * per_row *
                      static_cast<index_t>(sizeof(T)));
  }
  const Range share = row_share(rows, comm.rank(), comm.size());
  std::copy(mine.begin(), mine.end(), all.begin() + share.first * per_row);
  comm.all_gather_bytes(std::as_writable_bytes(std::span(all)), offsets);
  return all;
}

/// Where a layer is rounded: by `quantizer`, unless its panels pass by and some rank has no room to
/// hold them there (collective).
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
  if (options.grid() == GridKind::minmax) return {};
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

LayerStatistics summarise(const PreparedLayer& layer, const LayerOptions& options,
                          const std::vector<RowLoss>& losses, double rho, float largest) {
  LayerStatistics statistics;
  double reference = 0;
  for (const RowLoss& row : losses) {  // in row order: the same sum on any number of ranks
    statistics.proxy_loss += row.loss;
    reference += row.reference;
  }
  statistics.relative_proxy_loss = reference > 0 ? statistics.proxy_loss / reference : 0.0;
  const double energy = static_cast<double>(losses.size()) * layer.weight_rms * layer.weight_rms;
  const double limit = std::ldexp(energy * layer.trace_d, -2 * options.bits);
  statistics.rate_distortion_ratio = limit > 0 ? statistics.proxy_loss / limit : 0.0;
  statistics.incoherence_before = layer.weight_incoherence;
  statistics.incoherence_after =
      layer.weight_rms > 0 ? static_cast<double>(largest) / layer.weight_rms : 0.0;
  statistics.proxy_loss *= layer.loss_unit;
  if (options.spectra) statistics.spectra = layer.spectra;
  statistics.trace_ratio = layer.trace_ratio;
  statistics.damping = layer.damping;
  statistics.damping_tries = layer.damping_tries;
  statistics.dead_channels = layer.dead_channels;
  statistics.rho = rho;
  return statistics;
}

/// Empty panels stay empty.
void broadcast_panels(Collectives& comm, LowerPanels& panels, int root) {
  index_t n = panels.n;
  broadcast_value(comm, n, root);
  agree(comm, [&] {
    if (comm.rank() != root) panels = LowerPanels(n);
  });
  comm.broadcast(panels.panels.span(), root);
  comm.broadcast(std::span(panels.diagonal), root);
}

/// The whole layer on every rank, from each rank's rows, the largest of whose weights is `largest`.
StoredLayer join(Collectives& comm, const std::string& name, MatrixView<const float> weights,
                 const PreparedLayer& layer, const LayerOptions& options, const RoundedRows& mine,
                 const FoundRho& found, float largest) {
  const index_t rows = weights.rows;
  const auto [rho, rounds] = found;
  StoredLayer stored;
  stored.name = name;
  stored.method = to_string(options.method);
  QuantizedLinear& out = stored.layer;
  out.rows = rows;
  out.cols = weights.cols;
  out.bits = options.bits;
  out.grid = options.grid();
  out.group_size = options.group_size;
  out.symmetric = options.symmetric;
  out.transform = options.effective_transform();
  if (out.transform != TransformKind::none) {
    out.seed_u = layer.seed_u;
    out.seed_v = layer.seed_v;
  }
  out.rescale = layer.rescale;
  out.codes = gather_rows(comm, mine.codes, rows, out.row_bytes());
  if (out.grid == GridKind::minmax) {
    out.scale = gather_rows(comm, mine.scale, rows, out.groups());
    if (!out.symmetric) out.zero = gather_rows(comm, mine.zero, rows, out.groups());
  } else {
    out.scale = {incoherent_scale(layer, rho)};
  }
  std::array<float, 2> most{largest, static_cast<float>(mine.passes)};
  comm.all_reduce_max(most);
  stored.statistics =
      summarise(layer, options, gather_rows(comm, mine.losses, rows, 1), rho, most[0]);
  stored.statistics.rho_rounds = rounds;
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

void broadcast_prepared(Collectives& comm, PreparedLayer& layer, int root) {
  if (comm.size() == 1) return;
  broadcast_panels(comm, layer.factor, root);
  broadcast_panels(comm, layer.feedback, root);
  broadcast_panels(comm, layer.hessian, root);
  broadcast_vector(comm, layer.order, root);
  broadcast_vector(comm, layer.rescale, root);
  broadcast_vector(comm, layer.dead, root);
  broadcast_vector(comm, layer.added, root);
  broadcast_value(comm, layer.weight_rms, root);
  broadcast_value(comm, layer.loss_unit, root);
  broadcast_value(comm, layer.trace_d, root);
  broadcast_value(comm, layer.trace_ratio, root);
  broadcast_value(comm, layer.weight_incoherence, root);
  broadcast_value(comm, layer.spectra, root);
  broadcast_value(comm, layer.damping, root);
  broadcast_value(comm, layer.damping_tries, root);
  broadcast_value(comm, layer.dead_channels, root);
  broadcast_value(comm, layer.seed_u, root);
  broadcast_value(comm, layer.seed_v, root);
  broadcast_value(comm, layer.seed_rounding, root);
}

StoredLayer round_layer(Collectives& comm, const std::string& name, MatrixView<const float> weights,
                        const PreparedLayer& layer, const LayerOptions& options,
                        Quantizer& quantizer) {
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
  return join(comm, name, weights, layer, options, rounded, found, largest);
}

}  // namespace quip
