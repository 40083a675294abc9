#include "quip/pipeline/mixed_bits.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

#include "quip/core/error.hpp"
#include "quip/pipeline/block_quantizer.hpp"
#include "quip/pipeline/divergence.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/pipeline/prefetch.hpp"
#include "quip/pipeline/scoring.hpp"

namespace quip {
namespace {

// Divergences are sums of tiny positive terms: this many tokens tell units apart.
constexpr index_t measured_tokens = 4096;

/// True if an override sets the bits of a layer.
bool has_bits_of_its_own(const QuantizeOptions& options, const std::string& layer) {
  LayerOptions other = options.layer;
  other.bits = options.layer.bits == 4 ? 2 : 4;
  return options.overrides.apply(options.layer, layer).bits ==
         options.overrides.apply(other, layer).bits;
}

/// Returns the units of a block.
std::vector<BitUnit> units_of(const QuantizeOptions& options, const Family& family, index_t block) {
  std::map<int, BitUnit> units;  // by tap
  for (const LinearSpec& linear : options.selected(family, block)) {
    if (has_bits_of_its_own(options, linear.name)) continue;
    BitUnit& unit = units[linear.tap];
    unit.layers.push_back(linear.name);
    unit.weights += static_cast<double>(linear.rows) * static_cast<double>(linear.cols);
  }
  std::vector<BitUnit> found;
  for (auto& [tap, unit] : units) found.push_back(std::move(unit));
  return found;
}

/// Throws Error for a model that is not measured.
void require_measurable(const QuantizeOptions& options, const Family& family) {
  for (index_t b = 0; b < family.config().blocks; ++b) {
    if (family.block(b).experts.empty()) continue;
    fail(
        "--bits {}: bits of experts are not measured; give a whole number, and --override for "
        "layers that are to have others",
        *options.mean_bits);
  }
}

/// Returns the options with which a unit is quantized by itself: scalar codes, whose search is
/// short and whose errors have the shape of any codebook's.
QuantizeOptions measuring(const QuantizeOptions& options) {
  QuantizeOptions measured = options;
  if (options.layer.has_trellis()) {
    measured.layer = {};
    measured.layer.codebook = CodebookKind::scalar;
    measured.layer.seed = options.layer.seed;
    measured.layer.damping = options.layer.damping;
  }
  measured.layer.bits = std::clamp(static_cast<int>(*options.mean_bits), 2, 4);
  measured.mean_bits.reset();
  measured.overrides = {};
  measured.stream.on = false;
  measured.true_sequential = false;
  measured.dump_failing.clear();
  return measured;
}

/// Hidden states in which one unit is quantized.
struct UnitStream {
  std::size_t unit;
  Tensor states;
};

class Measurement {
 public:
  Measurement(Collectives& comm, Backend& backend, const QuantizeOptions& options,
              const TensorSource& source, Family& family, Phases& phases)
      : comm_(comm),
        backend_(backend),
        options_(measuring(options)),
        source_(source),
        family_(family),
        phases_(phases) {}

  /// Sets the divergences of the units, which are those of the blocks one after the other.
  void run(const std::vector<std::vector<BitUnit>>& blocks, std::vector<BitUnit>& units,
           const SampleShard& shard, index_t samples, Progress& progress) {
    agree(comm_, [&] { family_.prepare(backend_, shard.length); });
    WeightSet ends;
    load_into(ends, comm_, backend_, source_, family_.end_tensors());
    Tensor states = embed_shard(comm_, backend_, family_, source_, ends, shard);
    std::vector<UnitStream> streams;
    std::size_t first = 0;
    BlockQuantizer quantizer(comm_, backend_, family_, options_, phases_);
    progress.start(std::ssize(blocks), "block");
    for (index_t b = 0; b < std::ssize(blocks); ++b) {
      progress.update(b, "sensitivity to fewer bits");
      const WeightSet weights = BlockLoader(comm_, backend_, source_, nullptr, family_, b).load();
      std::optional<Prefetch> prefetch;
      if (b + 1 < std::ssize(blocks)) prefetch.emplace(comm_, source_, family_, b + 1);
      WeightSet quantized = WeightSet::over(weights);
      static_cast<void>(quantizer.quantize(b, quantized, shard, states.cview()));
      for (UnitStream& stream : streams) forward(b, weights, shard, stream.states);
      for (const BitUnit& unit : blocks[at(b)]) {
        WeightSet own = WeightSet::over(weights);
        for (const std::string& layer : unit.layers) {
          own.insert(layer + ".weight", quantized.take(layer + ".weight"));
        }
        streams.push_back({first++, copy_of(states)});
        forward(b, own, shard, streams.back().states);
      }
      forward(b, weights, shard, states);
    }
    measure(ends, shard, samples, std::move(states), streams, units);
    progress.update(std::ssize(blocks), "measured");
    progress.finish();
  }

 private:
  void forward(index_t block, const WeightSet& weights, const SampleShard& shard,
               const Tensor& states) {
    auto scope = phases_.measure("sensitivity");
    forward_shard(comm_, backend_, family_, block, weights, shard, states.view());
  }

  [[nodiscard]] Tensor copy_of(const Tensor& states) {
    Tensor copy;
    agree(comm_, [&] {
      copy = backend_.allocate_samples(states.rows(), states.cols());
      backend_.copy(states.cview(), copy.view());
    });
    return copy;
  }

  void measure(const WeightSet& ends, const SampleShard& shard, index_t samples, Tensor states,
               std::vector<UnitStream>& streams, std::vector<BitUnit>& units) {
    auto scope = phases_.measure("sensitivity");
    const auto finish = [&](Tensor own) {
      return finish_shard(comm_, backend_, family_, ends, shard, std::move(own));
    };
    const Tensor reference = finish(std::move(states));
    const HeadInput beside{&source_, &family_, reference.cview()};
    const auto tokens = static_cast<double>(samples * (shard.length - 1));
    std::vector<HeadInput> models;
    for (UnitStream& stream : streams) {
      stream.states = finish(std::move(stream.states));
      models.push_back({&source_, &family_, stream.states.cview()});
    }
    const auto own = divergences(comm_, backend_, beside, models, shard);
    for (std::size_t s = 0; s < streams.size(); ++s) {
      units[streams[s].unit].divergence = add_up(comm_, own[s], shard, samples).divergence / tokens;
    }
  }

  Collectives& comm_;
  Backend& backend_;
  QuantizeOptions options_;
  const TensorSource& source_;
  Family& family_;
  Phases& phases_;
};

std::map<std::string, int> by_layer(const std::vector<BitUnit>& units,
                                    const std::vector<int>& bits) {
  std::map<std::string, int> layers;
  for (std::size_t u = 0; u < units.size(); ++u) {
    for (const std::string& layer : units[u].layers) layers[layer] = bits[u];
  }
  return layers;
}

}  // namespace

std::vector<int> candidate_widths(const LayerOptions& options, double mean) {
  const int least = mean < 2 ? 1 : 2;
  const int most = static_cast<int>(mean) + 3;
  std::vector<int> widths;
  for (int bits = least; bits <= std::min(most, trellis::max_bits); ++bits) {
    if (options.has_trellis() || is_scalar_width(bits)) widths.push_back(bits);
  }
  if (widths.back() < mean) widths.push_back(trellis::max_bits);  // scalar: 4, then 8
  return widths;
}

std::vector<int> allocate_bits(const std::vector<BitUnit>& units, double mean,
                               std::span<const int> widths) {
  double budget = 0;
  for (const BitUnit& unit : units) budget += unit.weights * (mean - widths.front());
  std::vector<std::size_t> place(units.size(), 0);
  for (;;) {
    std::optional<std::size_t> best;
    double most = -1;
    double price = 0;
    for (std::size_t u = 0; u < units.size(); ++u) {
      if (place[u] + 1 == widths.size()) continue;
      const int from = widths[place[u]];
      const int to = widths[place[u] + 1];
      const double cost = units[u].weights * (to - from);
      if (cost > budget) continue;
      const double gain =
          units[u].divergence * (std::exp2(-2.0 * from) - std::exp2(-2.0 * to)) / cost;
      if (gain <= most) continue;
      most = gain;
      best = u;
      price = cost;
    }
    if (!best) break;
    ++place[*best];
    budget -= price;
  }
  std::vector<int> bits;
  for (const std::size_t p : place) bits.push_back(widths[p]);
  return bits;
}

std::map<std::string, int> measure_bits(Collectives& comm, Backend& backend,
                                        const QuantizeOptions& options, const TensorSource& source,
                                        Family& family, const TokenSet& tokens, index_t samples,
                                        Phases& phases, Progress& progress) {
  std::vector<std::vector<BitUnit>> blocks;
  std::vector<BitUnit> units;
  agree(comm, [&] {
    require_measurable(options, family);
    for (index_t b = 0; b < family.config().blocks; ++b) {
      blocks.push_back(units_of(options, family, b));
      units.insert(units.end(), blocks.back().begin(), blocks.back().end());
    }
  });
  const index_t enough = (measured_tokens + tokens.length() - 1) / tokens.length();
  const index_t measured = std::min(samples, enough);
  const SampleShard shard = shard_tokens(comm, tokens, measured, family);
  Measurement(comm, backend, options, source, family, phases)
      .run(blocks, units, shard, measured, progress);
  const std::vector<int> widths = candidate_widths(options.layer, *options.mean_bits);
  return by_layer(units, allocate_bits(units, *options.mean_bits, widths));
}

std::map<std::string, int> even_bits(const QuantizeOptions& options, const Family& family) {
  require_measurable(options, family);
  std::vector<BitUnit> units;
  for (index_t b = 0; b < family.config().blocks; ++b) {
    for (BitUnit& unit : units_of(options, family, b)) {
      unit.divergence = unit.weights;
      units.push_back(std::move(unit));
    }
  }
  const std::vector<int> widths = candidate_widths(options.layer, *options.mean_bits);
  return by_layer(units, allocate_bits(units, *options.mean_bits, widths));
}

}  // namespace quip
