// The part of the walk from the captured inputs of a block to its dequantized layers.
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <iterator>

#include "walk_steps.hpp"

#include "quip/calib/cross_sum.hpp"
#include "quip/calib/distributed_hessian.hpp"
#include "quip/calib/hessian.hpp"
#include "quip/calib/owned_hessian.hpp"
#include "quip/model/work.hpp"
#include "quip/pipeline/expert_quantizer.hpp"
#include "quip/pipeline/round_layer.hpp"
#include "quip/quant/factor/work.hpp"
#include "quip/quant/layer.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip::plan {
namespace {

class LayerWalk {
 public:
  LayerWalk(const PlannedJob& job, const Layout& layout, Ledger& ledger)
      : job_(job),
        layout_(layout),
        options_(job.options),
        on_device_(layout.gpus_per_node > 0),
        ledger_(ledger),
        samples_(static_cast<double>(share_of(job.samples, ledger.rank(), ledger.size()).count())),
        tokens_(static_cast<index_t>(samples_) * job.length) {}

  /// Follows the layers that read one tap, then those of the next.
  void block(const LayerList& layers, int taps) {
    LayerList narrow;
    for (int tap = 0; tap < taps; ++tap) {
      const LayerList readers = readers_of(layers, tap);
      if (readers.empty()) continue;
      if (options_.wide.covers(readers.front().first.cols)) {
        for (const Range group : input_groups(readers)) wide_group(readers, group);
        continue;
      }
      hessian(readers.front().first.cols);
      if (options_.sequential()) {
        round(readers);
      } else {
        narrow.insert(narrow.end(), readers.begin(), readers.end());
      }
    }
    if (!narrow.empty()) round(narrow);
  }

  /// Follows both streams through a block, layer after layer (BlockQuantizer). `begins`: nothing
  /// is quantized before, so that they are equal until something is.
  void streams(const LayerList& layers, const BlockPlan& plan, bool begins) {
    const auto advance = [&](int stage) {  // of both streams
      ledger_.enter("capture");
      for (int stream = 0; stream < 2; ++stream) {
        ledger_.vote();
        ledger_.add_flops(samples_ * stage_flops(plan, stage, job_.length));
      }
    };
    EqualStreams equal{begins, begins};
    ledger_.enter("capture");
    ledger_.vote();  // room for captured inputs
    ledger_.vote();
    for (int tap = 0; tap < plan.dense_taps(); ++tap) {
      advance(tap);
      const LayerList readers = readers_of(layers, tap);
      if (readers.empty()) continue;
      const index_t n = readers.front().first.cols;
      const bool wide = options_.wide.covers(n);
      if (!wide) hessian(n);
      if (options_.stream.moves() && adds_to_residual(plan)) {
        walk_targets(job_, layout_, readers, equal, ledger_);
      }
      if (wide) {
        for (const Range group : input_groups(readers)) wide_group(readers, group);
      } else {
        round(readers);
      }
      equal.inputs = false;
      const auto adds = [](const auto& layer) { return layer.first.adds; };
      if (std::ranges::any_of(readers, adds)) equal.residual = false;
    }
    advance(plan.dense_taps());
  }

  /// Follows a block's experts (pipeline/expert_quantizer).
  void experts(const BlockKind& kind, const std::function<void(const LinearSpec&)>& load) {
    const BlockPlan& plan = job_.model.family->block(kind.blocks[0]);
    if (options_.stream.on) {
      ledger_.enter("capture");
      for (int vote = 0; vote < 3; ++vote) ledger_.vote();  // both routings, and what is missing
    } else {
      ledger_.enter("forward");
      ledger_.vote();  // room for what experts read
      ledger_.vote();
      ledger_.add_flops(samples_ * block_flops(plan, job_.length));
    }
    ledger_.enter("hessian");
    ledger_.count_sum(1);
    if (options_.averages_experts()) hessian(plan.width(plan.taps.back().slot));
    const index_t step = experts_at_once(plan, ledger_.size());
    for (index_t first = 0; first < std::ssize(plan.experts); first += step) {
      const Range group{first, std::min(first + step, std::ssize(plan.experts))};
      ledger_.enter("load");
      for (index_t e = group.first; e < group.last; ++e) {
        const Range own = plan.experts[at(e)].linears;
        for (index_t i = own.first; i < own.last; ++i) load(plan.linears[at(i)]);
      }
      ledger_.enter("capture");
      ledger_.count_sum(group.count());
      const auto inputs = static_cast<int>(plan.experts[at(first)].inputs.size());
      for (int input = 0; input < inputs; ++input) {
        expert_hessians(plan, group, input);
        if (options_.sequential()) round_experts(kind, plan, group, {input, input + 1});
      }
      if (!options_.sequential()) round_experts(kind, plan, group, {0, inputs});
      ledger_.enter("forward");
      for (index_t e = group.first; e < group.last; ++e) {
        for (int stream = 0; stream < stream_count(); ++stream) ledger_.vote();
      }
    }
    for (int stream = 0; stream < stream_count(); ++stream) ledger_.vote();
  }

 private:
  [[nodiscard]] int stream_count() const { return options_.stream.on ? 2 : 1; }

  [[nodiscard]] static LayerList readers_of(const LayerList& layers, int tap) {
    LayerList readers;
    std::copy_if(layers.begin(), layers.end(), std::back_inserter(readers),
                 [tap](const auto& layer) { return layer.first.tap == tap; });
    return readers;
  }

  void expert_hessians(const BlockPlan& plan, Range group, int input) {
    const bool all = options_.experts == ExpertHessians::all;
    if (!all) {
      const Slot gathered = plan.experts[at(group.first)].inputs[0].slot;
      const double share = plan.activations[at(gathered)].rows.value().share;
      const index_t m = expert_errors(plan, group, input);
      owned_hessians(plan, group, input, m, [share](index_t tokens) {
        return static_cast<index_t>(std::llround(static_cast<double>(tokens) * share));
      });
    }
    if (input > 0 && options_.averages_experts()) {
      const index_t every = averaged_step(options_, job_.samples * job_.length);
      owned_hessians(plan, group, input, 0,
                     [every](index_t tokens) { return (tokens + every - 1) / every; });
    }
    ledger_.enter("hessian");
    ledger_.vote();
  }

  [[nodiscard]] bool moves_experts(const BlockPlan& plan) const {
    return options_.stream.moves() && options_.experts == ExpertHessians::routed &&
           adds_to_residual(plan);
  }

  /// Follows what experts are to make up for at one of their inputs, and returns its width.
  index_t expert_errors(const BlockPlan& plan, Range group, int input) {
    if (!moves_experts(plan)) return 0;
    const Range own = plan.experts[at(group.first)].linears;
    index_t reader = own.first;
    while (plan.linears[at(reader)].input != input) ++reader;
    const LinearSpec& linear = plan.linears[at(reader)];
    const bool drifts = options_.stream.drift > 0;
    if (!options_.stream.moves(linear)) return 0;
    const Slot gathered = plan.experts[at(group.first)].inputs[0].slot;
    const double share = plan.activations[at(gathered)].rows.value().share;
    ledger_.enter("capture");
    for (index_t e = group.first; e < group.last; ++e) {
      for (int vote = 0; drifts && vote < 2; ++vote) ledger_.vote();
      for (int vote = 0; linear.adds && vote < 2; ++vote) ledger_.vote();
      if (drifts && linear.adds) {
        const auto tokens = static_cast<index_t>(static_cast<double>(tokens_) * share);
        ledger_.add_flops(cross_flops(linear.rows, linear.cols, tokens));
      }
    }
    return linear.adds ? linear.rows : linear.cols;
  }

  /// `m`: rows of what is summed beside H. `taken`: how many of the first tokens an expert takes.
  void owned_hessians(const BlockPlan& plan, Range group, int input, index_t m,
                      const std::function<index_t(index_t)>& taken) {
    const index_t n = plan.width(plan.experts[at(group.first)].inputs[at(input)].slot);
    const Range samples = share_of(job_.samples, ledger_.rank(), ledger_.size());
    const index_t own = taken(samples.last * job_.length) - taken(samples.first * job_.length);
    const index_t tokens = taken(job_.samples * job_.length);
    const bool travel = ledger_.size() > 1 && rows_travel(tokens, n, m);
    ledger_.enter("capture");
    for (index_t e = group.first; e < group.last; ++e) ledger_.vote();
    ledger_.enter("hessian");
    ledger_.vote();
    ledger_.count_maximum(group.count() * (n + m) * float_bytes);
    ledger_.all_gather_bytes(
        {}, share_offsets(group.count() * ledger_.size(), ledger_.size(), sizeof(index_t)));
    ledger_.vote();
    ledger_.vote();
    std::vector<index_t> offsets{0};
    for (int r = 0; r < ledger_.size(); ++r) {
      offsets.push_back(offsets.back());
      for (index_t e = group.first; e < group.last; ++e) {
        if (travel && owner_of(plan, group, e, input) == r)
          offsets.back() += own * (n + m) * index_t{sizeof(std::int16_t)};
      }
    }
    if (ledger_.size() > 1) ledger_.all_to_all_bytes({}, offsets, {}, {});
    const std::vector<index_t> pieces = triangle_pieces(n);
    const auto before = [](index_t row) { return row * (row + 1) / 2; };
    for (index_t e = group.first; e < group.last && tokens > 0; ++e) {
      ledger_.vote();
      const int owner = owner_of(plan, group, e, input);
      if (!travel || owner == ledger_.rank()) {
        const index_t summed = travel ? tokens : own;
        ledger_.add_flops(hessian_flops(n, summed) + cross_flops(m, n, summed));
      }
      const auto to_owner = [&](index_t elements) {
        std::vector<index_t> parts(at(ledger_.size()) + 1, 0);
        std::fill(parts.begin() + owner + 1, parts.end(), elements);
        if (ledger_.size() > 1) ledger_.reduce_scatter_sum({}, parts);
      };
      for (std::size_t p = 0; !travel && p + 1 < pieces.size(); ++p)
        to_owner(before(pieces[p + 1]) - before(pieces[p]));
      if (!travel && m > 0) to_owner(m);  // their norms
      const std::vector<index_t> rows = cross_pieces(m, n);
      for (std::size_t p = 0; !travel && p + 1 < rows.size(); ++p)
        to_owner((rows[p + 1] - rows[p]) * n);
    }
  }

  [[nodiscard]] int owner_of(const BlockPlan& plan, Range group, index_t e, int input) const {
    return expert_owner(plan, e - group.first, input, ledger_.size());
  }

  /// Follows the layers of some experts that read some of their inputs.
  void round_experts(const BlockKind& kind, const BlockPlan& plan, Range group, Range inputs) {
    const auto [layers, owners] = expert_layers(plan, kind.linears, group, inputs, ledger_.size());
    if (layers.empty()) return;
    const bool together = rounds_together(plan, ledger_.size());
    if (moves_experts(plan)) expert_targets(layers, owners, together);
    if (together) return round(layers, owners);
    LayerList mine;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      if (owners[i] == ledger_.rank()) mine.push_back(layers[i]);
    }
    if (!mine.empty()) {
      Ledger alone(0, 1, NodePlace{});
      LayerWalk walk(job_, layout_, alone);
      walk.dequantizes_ = false;
      walk.round(mine);
      ledger_.add(alone);
    }
    ledger_.enter("other");
    ledger_.vote();
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const auto& [linear, options] = layers[i];
      ledger_.enter("round");
      broadcast_stored(linear, options, owners[i]);
      dequantize(linear, options);
    }
  }

  void expert_targets(const LayerList& layers, const std::vector<int>& owners, bool together) {
    ledger_.enter("factor");
    ledger_.vote();
    int factorised = -1;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const LinearSpec& linear = layers[i].first;
      if (!options_.stream.moves(linear)) continue;
      if (owners[i] == ledger_.rank()) {
        const index_t n = linear.cols;
        if (factorised != linear.tap) {
          ledger_.add_flops(ridge_flops(n) + product_flops(linear.adds ? linear.rows : n, n));
        }
        factorised = linear.tap;
        if (!linear.adds) ledger_.add_flops(product_flops(linear.rows, n));
      }
      if (!together) continue;
      ledger_.count_broadcast(linear.rows * linear.cols * float_bytes, owners[i]);
      ledger_.count_broadcast(double_bytes, owners[i]);
    }
    ledger_.vote();
  }

  void broadcast_stored(const LinearSpec& linear, const LayerOptions& options, int root) {
    ledger_.count_text(std::ssize(linear.name), root);
    ledger_.count_text(std::ssize(to_string(options.method)), root);
    const QuantizedLinear layer = described(options, linear.rows, linear.cols);
    visit_attributes([&](const Attribute& /*attribute*/,
                         const auto& value) { ledger_.count_broadcast(sizeof(value), root); },
                     layer);
    visit_parts(
        [&](const Part& part, const auto& elements) {
          ledger_.count_text(part.count() * index_t{sizeof(elements[0])}, root);
        },
        layer);
    LayerStatistics statistics;
    if (options.spectra) statistics.spectra.emplace();
    if (options_.experts == ExpertHessians::routed && options_.stream.moves(linear))
      statistics.target_shift.emplace();
    visit_statistics([&](const char* /*name*/,
                         const auto& value) { ledger_.count_broadcast(sizeof(value), root); },
                     statistics);
    ledger_.count_broadcast(sizeof(statistics.rho_rounds), root);
  }

  void hessian(index_t n) {
    ledger_.enter("hessian");
    count_channels(ledger_, n);
    ledger_.vote();
    ledger_.add_flops(hessian_flops(n, tokens_));
    const auto before = [](index_t row) { return row * (row + 1) / 2; };
    const std::vector<index_t> pieces = triangle_pieces(n);
    for (std::size_t p = 0; p + 1 < pieces.size(); ++p) {
      ledger_.count_sum(before(pieces[p + 1]) - before(pieces[p]));
    }
  }

  void wide_group(const LayerList& layers, Range group) {
    const auto& [linear, options] = layers[at(group.first)];
    const index_t n = padded(options.effective_transform(), linear.cols);
    const BlockCyclic layout = options_.wide.layout(n, ledger_.size());
    ledger_.enter("hessian");
    count_channels(ledger_, linear.cols);
    ledger_.vote();  // the diagonal
    ledger_.count_sum(linear.cols);
    ledger_.vote();  // dead channels and damping, from the diagonal
    ledger_.vote();  // transformed inputs
    ledger_.add_flops(static_cast<double>(tokens_) *
                      transform_flops(options.effective_transform(), n));
    count_channels(ledger_, n);
    count_panels(ledger_, layout, tokens_);

    ledger_.enter("factor");
    ledger_.count_sum(n);
    count_cholesky(ledger_, layout);
    ledger_.count_sum(n);
    ledger_.vote();  // the panels to gather

    round_group(layers, group, &layout);
  }

  void round_group(const LayerList& layers, Range group, const BlockCyclic* wide) {
    for (index_t i = group.first; i < group.last; ++i) {
      const auto& [linear, options] = layers[at(i)];
      ledger_.enter("round");
      if (group.count() > 1) ledger_.vote();
      round_layer(linear, options, wide);
      if (dequantizes_) dequantize(linear, options);
    }
  }

  void round(const LayerList& layers, std::span<const int> owners_by_layer = {}) {
    const std::vector<Range> groups = input_groups(layers);
    const std::vector<int> owners = owners_of(layers, groups, ledger_.size(), owners_by_layer);
    ledger_.enter("factor");
    ledger_.vote();
    for (std::size_t g = 0; g < groups.size(); ++g) {
      index_t rows = 0;
      for (index_t i = groups[g].first; i < groups[g].last; ++i) {
        const auto& [linear, options] = layers[at(i)];
        rows += padded(options.effective_transform(), linear.rows);
      }
      const auto& [linear, options] = layers[at(groups[g].first)];
      const index_t n = padded(options.effective_transform(), linear.cols);
      ledger_.enter("factor");
      if (owners[g] == ledger_.rank()) ledger_.add_flops(factor_flops(n, options));
      ledger_.enter("round");
      broadcast_prepared(n, rows, options, owners[g]);
      round_group(layers, groups[g], nullptr);
    }
  }

  void broadcast_prepared(index_t n, index_t rows, const LayerOptions& options, int root) {
    if (ledger_.size() == 1) return;
    const auto panels = [&](bool there) {
      LowerPanels shape;  // without room for elements
      shape.n = there ? n : 0;
      ledger_.count_broadcast(sizeof(index_t), root);
      ledger_.vote();
      ledger_.count_broadcast(shape.panel_offset(shape.blocks()) * float_bytes, root);
      ledger_.count_broadcast(shape.n * double_bytes, root);
    };
    panels(true);
    panels(options.has_feedback_of_its_own());
    panels(options.effective_passes() > 0);
    const bool ordered = !column_order(options, std::array{1.0}).empty();
    ledger_.count_text(ordered ? n * index_t{sizeof(index_t)} : 0, root);
    ledger_.count_text(options.rescale() ? n * float_bytes : 0, root);
    ledger_.count_text(options.scales_outputs() ? rows * float_bytes : 0, root);
    ledger_.count_text(0, root);  // no dead channels
    ledger_.count_text(n * double_bytes, root);
    const PreparedLayer scalars;
    visit_scalars([&](const auto& value) { ledger_.count_broadcast(sizeof(value), root); },
                  scalars);
  }

  /// `wide`: the layout of a factor that no rank holds; else null.
  void round_layer(const LinearSpec& linear, const LayerOptions& options, const BlockCyclic* wide) {
    const QuantizedLinear rounded = described(options, linear.rows, linear.cols);
    const index_t n = rounded.cols;
    const index_t rows = row_share(rounded.rows, ledger_.rank(), ledger_.size()).count();
    if (rounded.padded()) ledger_.vote();
    const double each = rounding_flops(n, options, options.effective_passes());
    const bool passing = wide != nullptr && !on_device_;
    if (wide != nullptr && on_device_) {
      ledger_.vote();
      ledger_.count_maximum(float_bytes);  // the ranks' room
      stream_panels(*wide);
    }
    ledger_.vote();  // the rows' transform
    ledger_.add_flops(transform_rows_flops(options.effective_transform(), rounded.rows, n, rows));
    if (options.searches_rho()) {
      const RhoSearch search(rounded.rows, options.bits);
      const auto pairs = search.sampled() * std::ssize(search.candidates());
      ledger_.vote();
      if (passing) stream_panels(*wide);
      ledger_.count_sum(pairs);
      ledger_.add_flops(each * static_cast<double>(pairs * rows) /
                        static_cast<double>(rounded.rows));
    }
    ledger_.vote();
    if (passing) stream_panels(*wide);
    double measured = options.has_trellis() ? 0 : reference_flops(n);
    if (options.scales_outputs()) measured += measure_flops(n);
    ledger_.add_flops(static_cast<double>(rows) * (each + measured));
    const auto gather_rows = [&](index_t per_row) {
      ledger_.all_gather_bytes({}, row_offsets(rounded.rows, ledger_.size(), per_row));
    };
    visit_parts(
        [&](const Part& part, const auto& elements) {
          const index_t element = sizeof(elements[0]);
          if (part.by_row) gather_rows(part.count() / rounded.rows * element);
        },
        rounded);
    ledger_.count_maximum(2 * float_bytes);
    if (options.scales_outputs()) {  // and refitted
      ledger_.vote();
      if (passing) stream_panels(*wide);
      gather_rows(sizeof(std::uint16_t));
    }
    gather_rows(sizeof(RowLoss));
  }

  /// Gathers the panels of the factor one by one, from the last.
  void stream_panels(const BlockCyclic& layout) {
    for (index_t b = layout.blocks() - 1; b >= 0; --b) {
      ledger_.all_gather_bytes({}, column_offsets(layout, b, b, float_bytes, ledger_.size()));
    }
    ledger_.vote();
  }

  void dequantize(const LinearSpec& linear, const LayerOptions& options) {
    const TransformKind kind = options.effective_transform();
    const QuantizedLinear layer = described(options, linear.rows, linear.cols);
    ledger_.enter("dequantize");
    ledger_.vote();  // the backend may do it
    if (on_device_) {
      ledger_.add_flops(transform_rows_flops(kind, layer.rows, layer.cols, layer.rows));
      return;
    }
    allocate_on_node(ledger_, layer.rows * layer.cols * float_bytes);
    for (int pass = 0; pass < 2; ++pass) {  // rows, then columns
      ledger_.vote();
      ledger_.node_barrier();
    }
    if (layer.padded()) {
      allocate_on_node(ledger_, linear.rows * linear.cols * float_bytes);
      ledger_.node_barrier();
    }
    ledger_.vote();
    const NodePlace place = ledger_.place();
    const auto part = [&](index_t count) {
      return static_cast<double>(share_of(count, place.rank, place.size).count());
    };
    ledger_.add_flops(part(layer.rows) * transform_flops(kind, layer.cols) +
                      part(layer.cols) * transform_flops(kind, layer.rows));
  }

  const PlannedJob& job_;
  const Layout& layout_;
  const QuantizeOptions& options_;
  bool on_device_;
  bool dequantizes_ = true;  ///< each layer when it is rounded
  Ledger& ledger_;
  double samples_;  ///< those of this rank
  index_t tokens_;
};

}  // namespace

void walk_layers(const PlannedJob& job, const Layout& layout, const BlockKind& kind,
                 Ledger& ledger) {
  LayerWalk(job, layout, ledger)
      .block(kind.linears, job.model.family->block(kind.blocks[0]).dense_taps());
}

void walk_streams(const PlannedJob& job, const Layout& layout, const BlockKind& kind, bool begins,
                  Ledger& ledger) {
  LayerList layers = kind.linears;
  std::erase_if(layers, [](const auto& layer) { return layer.first.expert >= 0; });
  LayerWalk(job, layout, ledger).streams(layers, job.model.family->block(kind.blocks[0]), begins);
}

void walk_experts(const PlannedJob& job, const Layout& layout, const BlockKind& kind,
                  Ledger& ledger, const std::function<void(const LinearSpec&)>& load) {
  LayerWalk(job, layout, ledger).experts(kind, load);
}

}  // namespace quip::plan
