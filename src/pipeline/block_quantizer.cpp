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

std::vector<index_t> orders_of(const std::vector<LinearSpec>& linears) {
  std::vector<index_t> orders;
  orders.reserve(linears.size());
  for (const LinearSpec& linear : linears) orders.push_back(linear.cols);
  return orders;
}

}  // namespace

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

PreparedLayer BlockQuantizer::prepare(const LinearSpec& linear, MatrixView<const float> weights,
                                      Matrix<double> hessian) const {
  const LayerOptions options = options_.of(linear.name);
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
                                                     const std::vector<LinearSpec>& linears,
                                                     std::vector<Matrix<double>> hessians,
                                                     const std::vector<int>& owners) {
  auto scope = phases_.measure("factor");
  std::vector<PreparedLayer> prepared(linears.size());
  // A Hessian is handed over, not copied, to the last of this rank's layers that needs it.
  std::vector<int> users(hessians.size(), 0);
  for (std::size_t i = 0; i < linears.size(); ++i) {
    if (owners[i] == comm_.rank()) ++users[at(linears[i].tap)];
  }
  for (std::size_t tap = 0; tap < hessians.size(); ++tap) {
    if (users[tap] == 0) hessians[tap] = {};
  }
  agree(comm_, [&] {
    for (const std::size_t i : largest_first(orders_of(linears))) {
      if (owners[i] != comm_.rank()) continue;
      const LinearSpec& linear = linears[i];
      on_step("factor " + linear.type);
      const auto unit = phases_.timeline().record("factor " + linear.name);
      const std::size_t tap = at(linear.tap);
      Matrix<double> h = --users[tap] == 0 ? std::move(hessians[tap]) : copy_of(hessians[tap]);
      Matrix<float> room;
      const auto host = backend_.on_host(weights[linear.name + ".weight"], room);
      prepared[i] = prepare(linear, host, std::move(h));
    }
  });
  return prepared;
}

void BlockQuantizer::round(const std::vector<LinearSpec>& linears,
                           std::vector<Matrix<double>> hessians, WeightSet& weights,
                           std::vector<StoredLayer>& stored) {
  const std::vector<int> owners = assign_owners(orders_of(linears), comm_.size());
  std::vector<PreparedLayer> prepared = factorise(weights, linears, std::move(hessians), owners);
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const LinearSpec& linear = linears[i];
    on_step("round " + linear.type);
    {
      auto scope = phases_.measure("round");
      broadcast_prepared(comm_, prepared[i], owners[i]);
      Matrix<float> room;
      const auto host = backend_.on_host(weights[linear.name + ".weight"], room);
      stored.push_back(round_layer(comm_, linear.name, host, prepared[i], options_.of(linear.name),
                                   backend_.quantizer()));
      prepared[i] = {};
    }
    dequantize_into(weights, stored.back());
  }
}

void BlockQuantizer::dequantize_into(WeightSet& weights, const StoredLayer& stored) {
  auto scope = phases_.measure("dequantize");
  weights.insert(stored.name + ".weight", load_dequantized(comm_, backend_, stored.layer));
}

StoredLayer BlockQuantizer::quantize_wide(const LinearSpec& linear, const LayerInputs& inputs,
                                          const WeightSet& weights) {
  const LayerOptions options = options_.of(linear.name);
  Matrix<float> room;
  const auto host = backend_.on_host(weights[linear.name + ".weight"], room);
  on_step("Hessian and factor of " + linear.type);
  const WideLayer layer = prepare_wide_layer(comm_, backend_, inputs, host, options, options_.wide,
                                             linear.name, phases_);
  factorisers_[linear.cols].insert(layer.cholesky);
  on_step("round " + linear.type);
  auto scope = phases_.measure("round");
  return round_layer(comm_, linear.name, host, layer.layer, options, backend_.quantizer());
}

std::vector<StoredLayer> BlockQuantizer::quantize(index_t block, WeightSet& weights,
                                                  const SampleShard& shard,
                                                  ConstTensorView states) {
  const std::vector<LinearSpec> linears = options_.selected(family_, block);
  std::vector<StoredLayer> stored;
  if (linears.empty()) return stored;
  const std::size_t taps = at(family_.taps());
  std::vector<Matrix<double>> hessians(taps);
  std::vector<LinearSpec> narrow;
  std::vector<StoredLayer> rounded;  // wide layers: their weights stay until all is captured
  {
    Capture capture(comm_, backend_, family_, block, shard, states, phases_);
    for (std::size_t tap = 0; tap < taps; ++tap) {
      std::vector<LinearSpec> readers;
      std::copy_if(linears.begin(), linears.end(), std::back_inserter(readers),
                   [&](const LinearSpec& linear) { return linear.tap == static_cast<int>(tap); });
      on_step("capture");
      capture.advance(weights);
      if (readers.empty()) continue;  // --skip leaves all of them as they are
      if (options_.wide.covers(readers.front().cols)) {
        for (const LinearSpec& linear : readers) {
          rounded.push_back(quantize_wide(linear, capture.inputs(), weights));
          if (options_.true_sequential) dequantize_into(weights, rounded.back());
        }
        continue;
      }
      on_step("Hessian of " + readers.front().type);
      hessians[tap] = capture.hessian(readers.front().name);
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
