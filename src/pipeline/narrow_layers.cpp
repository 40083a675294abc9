#include "quip/pipeline/narrow_layers.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "quip/backend/quantizer.hpp"
#include "quip/core/error.hpp"
#include "quip/io/matrix_file.hpp"
#include "quip/pipeline/round_layer.hpp"
#include "quip/quant/transform/transform_kind.hpp"

namespace quip {
namespace {

double cube(index_t n) {
  return static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
}

/// Returns the indices of `values`, largest value first; equal values keep their order.
std::vector<std::size_t> largest_first(const std::vector<index_t>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::greater(), [&](std::size_t i) { return values[i]; });
  return order;
}

Matrix<double> copy_of(const Matrix<double>& h) {
  Matrix<double> copy(h.rows(), h.cols());
  std::copy_n(h.data(), h.size(), copy.data());
  return copy;
}

/// Returns the orders of the groups' Hessians.
std::vector<index_t> orders_of(const LayerList& layers, const std::vector<Range>& groups) {
  std::vector<index_t> orders;
  orders.reserve(groups.size());
  for (const Range group : groups) orders.push_back(layers[at(group.first)].first.cols);
  return orders;
}

}  // namespace

std::vector<Range> input_groups(const LayerList& layers) {
  std::vector<Range> groups;
  for (index_t i = 0; i < std::ssize(layers); ++i) {
    const auto& [linear, options] = layers[at(i)];
    if (!groups.empty() && options.shares_inputs()) {
      const auto& [first, others] = layers[at(groups.back().first)];
      LayerOptions same = options;  // bits concern the codes alone
      same.bits = others.bits;
      if (first.tap == linear.tap && same == others) {
        ++groups.back().last;
        continue;
      }
    }
    groups.push_back({i, i + 1});
  }
  return groups;
}

std::vector<int> assign_owners(const std::vector<index_t>& orders, int ranks) {
  std::vector<double> load(at(ranks), 0.0);
  std::vector<int> owners(orders.size());
  for (const std::size_t i : largest_first(orders)) {
    const auto lightest = std::min_element(load.begin(), load.end());
    owners[i] = static_cast<int>(lightest - load.begin());
    *lightest += cube(orders[i]);
  }
  return owners;
}

std::vector<int> owners_of(const LayerList& layers, const std::vector<Range>& groups, int ranks,
                           std::span<const int> by_layer) {
  if (by_layer.empty()) return assign_owners(orders_of(layers, groups), ranks);
  std::vector<int> owners;
  owners.reserve(groups.size());
  for (const Range group : groups) owners.push_back(by_layer[at(group.first)]);
  return owners;
}

std::vector<StoredLayer> in_order(const std::vector<LinearSpec>& linears,
                                  std::vector<StoredLayer> layers) {
  std::vector<StoredLayer> ordered;
  ordered.reserve(linears.size());
  for (const LinearSpec& linear : linears) {
    ordered.push_back(std::move(*std::ranges::find(layers, linear.name, &StoredLayer::name)));
  }
  return ordered;
}

NarrowLayers::NarrowLayers(Collectives& comm, Backend& backend, const QuantizeOptions& options,
                           Phases& phases)
    : comm_(comm), backend_(backend), options_(options), phases_(phases) {}

PreparedLayer NarrowLayers::prepare(const LinearSpec& linear, const LayerOptions& options,
                                    MatrixView<const float> weights, Matrix<double> hessian) const {
  const bool dumps = !options_.dump_failing.empty();
  const Matrix<double> kept = dumps ? copy_of(hessian) : Matrix<double>();
  try {
    return backend_.quantizer().prepare(weights, std::move(hessian), options, linear.name);
  } catch (const Error& error) {
    if (!dumps) throw;
    const std::string file = (options_.dump_failing / (linear.name + ".h5")).string();
    write_layer_problem(file, linear.name, weights, kept.cview());
    fail(
        "{}; replay with quip quantize-layer --weights {}:weights --hessian {}:hessian --name {} "
        "and the same options",
        error.what(), file, file, linear.name);
  }
}

std::vector<PreparedLayer> NarrowLayers::factorise(const WeightSet& weights,
                                                   const LayerList& layers,
                                                   const std::vector<Range>& groups,
                                                   std::vector<Matrix<double>> hessians,
                                                   const std::vector<int>& owners) {
  auto scope = phases_.measure("factor");
  std::vector<PreparedLayer> prepared(groups.size());
  const auto first_of = [&](std::size_t g) -> const LinearSpec& {
    return layers[at(groups[g].first)].first;
  };
  // A Hessian is handed over, not copied, to the last of this rank's groups that needs it.
  std::vector<int> users(hessians.size(), 0);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    if (owners[g] == comm_.rank()) ++users[at(first_of(g).tap)];
  }
  for (std::size_t tap = 0; tap < hessians.size(); ++tap) {
    if (users[tap] == 0) hessians[tap] = {};
  }
  agree(comm_, [&] {
    for (const std::size_t g : largest_first(orders_of(layers, groups))) {
      if (owners[g] != comm_.rank()) continue;
      const LinearSpec& linear = first_of(g);
      on_step("factor " + linear.type);
      const auto unit = phases_.timeline().record("factor " + linear.name);
      const std::size_t tap = at(linear.tap);
      Matrix<double> h = --users[tap] == 0 ? std::move(hessians[tap]) : copy_of(hessians[tap]);
      const LayerGroup group =
          LayerGroup(layers).subspan(at(groups[g].first), at(groups[g].count()));
      const StackedWeights stack(backend_, group, weights);
      prepared[g] = prepare(linear, group[0].second, stack.view(), std::move(h));
    }
  });
  return prepared;
}

void NarrowLayers::round_group(LayerGroup group, PreparedLayer& prepared, const WeightSet& weights,
                               const std::function<void(StoredLayer)>& done) {
  const std::vector<float> scales = prepared.output_scale;
  index_t first = 0;
  const auto round_one = [&](const LinearSpec& linear, const LayerOptions& options) {
    const auto scope = phases_.measure("round");
    Matrix<float> room;
    const auto host = backend_.on_host(weights[linear.name + ".weight"], room);
    if (group.size() > 1) {
      agree(comm_, [&] {
        const QuantizedLinear shape = described(options, linear.rows, linear.cols);
        const auto own = scales.empty() ? std::span<const float>()
                                        : std::span(scales).subspan(at(first), at(shape.rows));
        const Matrix<float> wider =
            shape.padded() ? pad(host, shape.rows, shape.cols) : Matrix<float>();
        take_member(prepared, own, shape.padded() ? wider.cview() : host, options, linear.name);
        first += shape.rows;
      });
    }
    return round_layer(comm_, linear.name, host, prepared, options, backend_.quantizer());
  };
  for (const auto& [linear, options] : group) {
    on_step("round " + linear.type);
    done(round_one(linear, options));
  }
}

void NarrowLayers::round(const LayerList& layers, std::vector<Matrix<double>> hessians,
                         const WeightSet& weights, const std::function<void(StoredLayer)>& done,
                         std::span<const int> owners_by_layer) {
  const std::vector<Range> groups = input_groups(layers);
  const std::vector<int> owners = owners_of(layers, groups, comm_.size(), owners_by_layer);
  std::vector<PreparedLayer> prepared =
      factorise(weights, layers, groups, std::move(hessians), owners);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    {
      auto scope = phases_.measure("round");
      broadcast_prepared(comm_, prepared[g], owners[g]);
    }
    round_group(LayerGroup(layers).subspan(at(groups[g].first), at(groups[g].count())), prepared[g],
                weights, done);
    prepared[g] = {};
  }
}

}  // namespace quip
