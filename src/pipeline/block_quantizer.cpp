#include "quip/pipeline/block_quantizer.hpp"

#include <algorithm>
#include <functional>
#include <iterator>
#include <numeric>
#include <utility>

#include "quip/backend/quantizer.hpp"
#include "quip/core/error.hpp"
#include "quip/io/matrix_file.hpp"
#include "quip/pipeline/capture.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/pipeline/round_layer.hpp"

namespace quip {
namespace {

double cube(index_t n) {
  return static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
}

/// Returns the layers in the order of `linears`.
std::vector<StoredLayer> in_order(const std::vector<LinearSpec>& linears,
                                  std::vector<StoredLayer> layers) {
  std::vector<StoredLayer> ordered;
  ordered.reserve(linears.size());
  for (const LinearSpec& linear : linears) {
    ordered.push_back(std::move(*std::ranges::find(layers, linear.name, &StoredLayer::name)));
  }
  return ordered;
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

/// The weights of a group as one matrix, each layer padded to what its transform asks for.
class StackedWeights {
 public:
  StackedWeights(Backend& backend, std::span<const std::pair<LinearSpec, LayerOptions>> group,
                 const WeightSet& weights) {
    const auto host = [&](std::size_t i) {
      return backend.on_host(weights[group[i].first.name + ".weight"], room_);
    };
    if (group.size() == 1) {
      view_ = host(0);
      return;
    }
    index_t rows = 0;
    for (const auto& [linear, options] : group) {
      rows += padded(options.effective_transform(), linear.rows);
    }
    const index_t cols = group[0].first.cols;
    stack_ = Matrix<float>(rows, cols, 0.0F);
    index_t first = 0;
    for (std::size_t i = 0; i < group.size(); ++i) {
      const MatrixView<const float> own = host(i);
      std::copy_n(own.data, own.size(), stack_.view().row(first));
      first += padded(group[i].second.effective_transform(), own.rows);
    }
    view_ = stack_.cview();
  }
  StackedWeights(const StackedWeights&) = delete;
  StackedWeights& operator=(const StackedWeights&) = delete;
  ~StackedWeights() = default;

  [[nodiscard]] MatrixView<const float> view() const { return view_; }

 private:
  Matrix<float> room_;
  Matrix<float> stack_;
  MatrixView<const float> view_;
};

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

BlockQuantizer::BlockQuantizer(Collectives& comm, Backend& backend, const Family& family,
                               const QuantizeOptions& options, Phases& phases)
    : comm_(comm), backend_(backend), family_(family), options_(options), phases_(phases) {}

PreparedLayer BlockQuantizer::prepare(const LinearSpec& linear, const LayerOptions& options,
                                      MatrixView<const float> weights,
                                      Matrix<double> hessian) const {
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

std::vector<PreparedLayer> BlockQuantizer::factorise(const WeightSet& weights,
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
      const Group group = Group(layers).subspan(at(groups[g].first), at(groups[g].count()));
      const StackedWeights stack(backend_, group, weights);
      prepared[g] = prepare(linear, group[0].second, stack.view(), std::move(h));
    }
  });
  return prepared;
}

void BlockQuantizer::round_group(Group group, PreparedLayer& prepared, const WeightSet& weights,
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

void BlockQuantizer::round(const LayerList& layers, std::vector<Matrix<double>> hessians,
                           WeightSet& weights, std::vector<StoredLayer>& stored) {
  const std::vector<Range> groups = input_groups(layers);
  const std::vector<int> owners = assign_owners(orders_of(layers, groups), comm_.size());
  std::vector<PreparedLayer> prepared =
      factorise(weights, layers, groups, std::move(hessians), owners);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    {
      auto scope = phases_.measure("round");
      broadcast_prepared(comm_, prepared[g], owners[g]);
    }
    round_group(Group(layers).subspan(at(groups[g].first), at(groups[g].count())), prepared[g],
                weights, [&](StoredLayer layer) {
                  dequantize_into(weights, layer);
                  stored.push_back(std::move(layer));
                });
    prepared[g] = {};
  }
}

void BlockQuantizer::dequantize_into(WeightSet& weights, const StoredLayer& stored) {
  auto scope = phases_.measure("dequantize");
  weights.insert(stored.name + ".weight", load_dequantized(comm_, backend_, stored.layer));
}

void BlockQuantizer::quantize_wide(Group group, const LayerInputs& inputs, const WeightSet& weights,
                                   const std::function<void(StoredLayer)>& done) {
  const auto& [linear, options] = group[0];
  on_step("Hessian and factor of " + linear.type);
  WideLayer layer;
  {
    const StackedWeights stack(backend_, group, weights);
    layer = prepare_wide_layer(comm_, backend_, inputs, stack.view(), options, options_.wide,
                               linear.name, phases_);
  }
  factorisers_[linear.cols].insert(layer.cholesky);
  round_group(group, layer.layer, weights, done);
}

std::vector<StoredLayer> BlockQuantizer::quantize(index_t block, WeightSet& weights,
                                                  const SampleShard& shard,
                                                  ConstTensorView states) {
  const std::vector<LinearSpec> linears = options_.selected(family_, block);
  std::vector<StoredLayer> stored;
  if (linears.empty()) return stored;
  LayerList layers;
  for (const LinearSpec& linear : linears) layers.emplace_back(linear, options_.of(linear.name));
  const std::size_t taps = family_.block(block).taps.size();
  std::vector<Matrix<double>> hessians(taps);
  LayerList narrow;
  std::vector<StoredLayer> rounded;  // wide layers: their weights stay until all is captured
  {
    Capture capture(comm_, backend_, family_, block, shard, states, phases_);
    for (std::size_t tap = 0; tap < taps; ++tap) {
      LayerList readers;
      std::ranges::copy_if(layers, std::back_inserter(readers), [&](const auto& layer) {
        return layer.first.tap == static_cast<int>(tap);
      });
      on_step("capture");
      capture.advance(weights);
      if (readers.empty()) continue;  // --skip leaves all of them as they are
      const LinearSpec& first = readers.front().first;
      if (options_.wide.covers(first.cols)) {
        for (const Range group : input_groups(readers)) {
          quantize_wide(Group(readers).subspan(at(group.first), at(group.count())),
                        capture.inputs(), weights, [&](StoredLayer layer) {
                          rounded.push_back(std::move(layer));
                          if (options_.true_sequential) dequantize_into(weights, rounded.back());
                        });
        }
        continue;
      }
      on_step("Hessian of " + first.type);
      hessians[tap] = capture.hessian(first.name);
      if (!options_.true_sequential) {
        narrow.insert(narrow.end(), readers.begin(), readers.end());
        continue;
      }
      std::vector<Matrix<double>> only(taps);
      only[tap] = std::move(hessians[tap]);
      round(readers, std::move(only), weights, stored);
    }
  }  // the captured inputs are freed before factors take their place
  if (!narrow.empty()) round(narrow, std::move(hessians), weights, stored);
  for (StoredLayer& layer : rounded) {
    if (!options_.true_sequential) dequantize_into(weights, layer);
    stored.push_back(std::move(layer));
  }
  return in_order(linears, std::move(stored));
}

}  // namespace quip
