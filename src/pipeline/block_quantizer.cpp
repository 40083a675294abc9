#include "quip/pipeline/block_quantizer.hpp"

#include <algorithm>
#include <functional>
#include <iterator>
#include <utility>

#include "quip/core/error.hpp"
#include "quip/pipeline/capture.hpp"
#include "quip/pipeline/loader.hpp"

namespace quip {

struct BlockQuantizer::Work {
  std::vector<LinearSpec> linears;
  LayerList layers;
  std::size_t taps;
  std::vector<StoredLayer> stored = {};

  [[nodiscard]] LayerList readers_of(std::size_t tap) const {
    LayerList readers;
    std::ranges::copy_if(layers, std::back_inserter(readers), [&](const auto& layer) {
      return layer.first.tap == static_cast<int>(tap);
    });
    return readers;
  }
};

BlockQuantizer::BlockQuantizer(Collectives& comm, Backend& backend, const Family& family,
                               const QuantizeOptions& options, Phases& phases)
    : comm_(comm),
      backend_(backend),
      family_(family),
      options_(options),
      phases_(phases),
      narrow_(comm, backend, options, phases),
      target_(comm, backend, options, phases) {}

Tensor BlockQuantizer::dequantized(const StoredLayer& stored) {
  auto scope = phases_.measure("dequantize");
  return load_dequantized(comm_, backend_, stored.layer);
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

BlockQuantizer::Work BlockQuantizer::work_of(index_t block) const {
  std::vector<LinearSpec> linears = options_.selected(family_, block);
  std::erase_if(linears, [](const LinearSpec& linear) { return linear.expert >= 0; });
  LayerList layers;
  for (const LinearSpec& linear : linears) layers.emplace_back(linear, options_.of(linear.name));
  return {std::move(linears), std::move(layers),
          static_cast<std::size_t>(family_.block(block).dense_taps())};
}

std::vector<StoredLayer> BlockQuantizer::quantize(index_t block, WeightSet& weights,
                                                  const SampleShard& shard,
                                                  ConstTensorView states) {
  Work work = work_of(block);
  if (work.linears.empty()) return {};
  std::vector<Matrix<double>> hessians(work.taps);
  LayerList narrow;
  narrow_.on_step = on_step;
  const auto round = [&](const LayerList& readers, std::vector<Matrix<double>> own) {
    narrow_.round(readers, std::move(own), weights, [&](StoredLayer layer) {
      weights.insert(layer.name + ".weight", dequantized(layer));
      work.stored.push_back(std::move(layer));
    });
  };
  std::vector<StoredLayer> rounded;  // wide layers: their weights stay until all is captured
  {
    Capture capture(comm_, backend_, family_, block, shard, states, phases_);
    for (std::size_t tap = 0; tap < work.taps; ++tap) {
      const LayerList readers = work.readers_of(tap);
      on_step("capture");
      capture.advance(weights);
      if (readers.empty()) continue;  // --skip leaves all of them as they are
      const LinearSpec& first = readers.front().first;
      if (options_.wide.covers(first.cols)) {
        for (const Range group : input_groups(readers)) {
          quantize_wide(LayerGroup(readers).subspan(at(group.first), at(group.count())),
                        capture.inputs(), weights, [&](StoredLayer layer) {
                          rounded.push_back(std::move(layer));
                          if (!options_.sequential()) return;
                          weights.insert(rounded.back().name + ".weight",
                                         dequantized(rounded.back()));
                        });
        }
        continue;
      }
      on_step("Hessian of " + first.type);
      hessians[tap] = capture.hessian(first.name);
      if (!options_.sequential()) {
        narrow.insert(narrow.end(), readers.begin(), readers.end());
        continue;
      }
      std::vector<Matrix<double>> only(work.taps);
      only[tap] = std::move(hessians[tap]);
      round(readers, std::move(only));
    }
  }  // the captured inputs are freed before factors take their place
  if (!narrow.empty()) round(narrow, std::move(hessians));
  for (StoredLayer& layer : rounded) {
    if (!options_.sequential()) weights.insert(layer.name + ".weight", dequantized(layer));
    work.stored.push_back(std::move(layer));
  }
  return in_order(work.linears, std::move(work.stored));
}

std::vector<StoredLayer> BlockQuantizer::quantize(index_t block, WeightSet& weights,
                                                  const SampleShard& shard, Streams& streams) {
  Work work = work_of(block);
  const bool moves = adds_to_residual(family_.block(block));
  narrow_.on_step = on_step;
  Capture full(comm_, backend_, family_, block, shard, std::move(streams.full.residual), phases_);
  Capture quantized(comm_, backend_, family_, block, shard, std::move(streams.quantized.residual),
                    phases_);
  std::vector<std::pair<std::string, Tensor>> made;  // what the unquantized stream must not see
  const auto replace = [&] {
    for (auto& [name, tensor] : made) weights.insert(name, std::move(tensor));
    made.clear();
  };
  for (std::size_t tap = 0; tap < work.taps; ++tap) {
    const LayerList readers = work.readers_of(tap);
    on_step("capture");
    full.advance(weights);
    replace();
    quantized.advance(weights);
    if (readers.empty()) continue;
    const LinearSpec& first = readers.front().first;
    const bool wide = options_.wide.covers(first.cols);
    Matrix<double> hessian;
    if (!wide) {
      on_step("Hessian of " + first.type);
      hessian = quantized.hessian(first.name);
    }
    on_step("targets of " + first.type);
    const TapStreams both{quantized.inputs(), full.inputs().x, quantized.residual(),
                          full.residual()};
    const StreamTargets targets =
        target_.make(readers, both, hessian.cview(), weights, shard, moves);
    const auto done = [&](StoredLayer layer) {
      made.emplace_back(layer.name + ".weight", dequantized(layer));
      const auto shift = targets.shifts.find(layer.name);
      if (shift != targets.shifts.end()) layer.statistics.target_shift = shift->second;
      work.stored.push_back(std::move(layer));
    };
    if (!wide) {
      std::vector<Matrix<double>> only(work.taps);
      only[tap] = std::move(hessian);
      narrow_.round(readers, std::move(only), targets.weights, done);
      continue;
    }
    for (const Range group : input_groups(readers)) {
      quantize_wide(LayerGroup(readers).subspan(at(group.first), at(group.count())),
                    quantized.inputs(), targets.weights, done);
    }
  }
  if (family_.block(block).experts.empty()) {
    streams.full.residual = full.finish(weights);
    replace();
    streams.quantized.residual = quantized.finish(weights);
  } else {
    full.advance(weights);
    streams.full = full.release();
    replace();
    quantized.advance(weights);
    streams.quantized = quantized.release();
  }
  return in_order(work.linears, std::move(work.stored));
}

}  // namespace quip
