#include "quip/pipeline/block_quantizer.hpp"

#include <algorithm>
#include <functional>
#include <iterator>
#include <utility>

#include "quip/core/error.hpp"
#include "quip/pipeline/capture.hpp"
#include "quip/pipeline/loader.hpp"

namespace quip {
BlockQuantizer::BlockQuantizer(Collectives& comm, Backend& backend, const Family& family,
                               const QuantizeOptions& options, Phases& phases)
    : comm_(comm),
      backend_(backend),
      family_(family),
      options_(options),
      phases_(phases),
      narrow_(comm, backend, options, phases) {}

void BlockQuantizer::dequantize_into(WeightSet& weights, const StoredLayer& stored) {
  auto scope = phases_.measure("dequantize");
  weights.insert(stored.name + ".weight", load_dequantized(comm_, backend_, stored.layer));
}

void BlockQuantizer::quantize_wide(LayerGroup group, const LayerInputs& inputs,
                                   const WeightSet& weights,
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
  narrow_.round_group(group, layer.layer, weights, done);
}

std::vector<StoredLayer> BlockQuantizer::quantize(index_t block, WeightSet& weights,
                                                  const SampleShard& shard,
                                                  ConstTensorView states) {
  std::vector<LinearSpec> linears = options_.selected(family_, block);
  std::erase_if(linears, [](const LinearSpec& linear) { return linear.expert >= 0; });
  std::vector<StoredLayer> stored;
  if (linears.empty()) return stored;
  LayerList layers;
  for (const LinearSpec& linear : linears) layers.emplace_back(linear, options_.of(linear.name));
  const auto taps = static_cast<std::size_t>(family_.block(block).dense_taps());
  std::vector<Matrix<double>> hessians(taps);
  LayerList narrow;
  narrow_.on_step = on_step;
  const auto round = [&](const LayerList& readers, std::vector<Matrix<double>> own) {
    narrow_.round(readers, std::move(own), weights, [&](StoredLayer layer) {
      dequantize_into(weights, layer);
      stored.push_back(std::move(layer));
    });
  };
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
          quantize_wide(LayerGroup(readers).subspan(at(group.first), at(group.count())),
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
      round(readers, std::move(only));
    }
  }  // the captured inputs are freed before factors take their place
  if (!narrow.empty()) round(narrow, std::move(hessians));
  for (StoredLayer& layer : rounded) {
    if (!options_.true_sequential) dequantize_into(weights, layer);
    stored.push_back(std::move(layer));
  }
  return in_order(linears, std::move(stored));
}

}  // namespace quip
