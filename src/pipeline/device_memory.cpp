#include "quip/pipeline/device_memory.hpp"

#include <algorithm>
#include <map>

#include <spdlog/spdlog.h>

#include "quip/backend/device_work.hpp"
#include "quip/core/error.hpp"
#include "quip/pipeline/expert_quantizer.hpp"
#include "quip/pipeline/report.hpp"
#include "quip/pipeline/round_layer.hpp"
#include "quip/quant/layer.hpp"

namespace quip {
namespace {

constexpr index_t float_bytes = sizeof(float);

/// Returns the bytes of a block in fp32, and in bfloat16 those that products read.
index_t weight_bytes(const Family& family, index_t block, int ranks) {
  index_t bytes = 0;
  for (const TensorSpec& tensor : family.block_tensors(block)) {
    bytes += tensor.elements() * float_bytes;
  }
  const index_t together = experts_at_once(family.block(block), ranks);
  for (const LinearSpec& linear : family.linears(block)) {
    if (linear.expert >= together) continue;
    bytes += linear.rows * linear.cols * float_bytes + bf16_bytes(linear.rows, linear.cols);
  }
  return bytes;
}

/// Returns the bytes of the samples in hand where a block takes the most: activations, and the
/// input of a linear in bfloat16.
index_t unit_bytes(const DeviceWork& work, const BlockPlan& plan) {
  const std::vector<index_t> live = live_widths(plan);
  index_t most = 0;
  for (std::size_t i = 0; i < live.size(); ++i) {
    const auto* linear = std::get_if<op::Linear>(&plan.operations[i]);
    const index_t rounded = linear != nullptr ? bf16_bytes(work.length, linear->cols) : 0;
    most = std::max(most, work.length * live[i] * float_bytes + rounded);
  }
  return most * std::min<index_t>(device_lanes(work.threads), work.samples);
}

/// The needs of rounding, enough for any of a block's layers.
struct RoundingNeeds {
  index_t whole = 0;  ///< bytes that cannot be cut
  index_t pieces = 0;
  index_t wide = 0;  ///< those of wide layers, which the host rounds where there is no room
};

RoundingNeeds rounding_needs(const DeviceWork& work, const BlockKind& kind) {
  RoundingNeeds most;
  for (const auto& [linear, options] : kind.linears) {
    const QuantizedLinear layer = described(options, linear.rows, linear.cols);  // with padding
    const index_t n = layer.cols;
    const index_t rows = row_share(layer.rows, work.rank, work.ranks).count();
    const RhoSearch search(layer.rows, options.bits);
    const index_t tried =
        std::min<index_t>(search.sampled(), rows) * std::ssize(search.candidates());
    const index_t whole = rounding_bytes(n, options, rows, tried);
    if (work.wide.covers(n)) {
      most.wide = std::max(most.wide, whole);
      continue;
    }
    const index_t lanes = rows * (rounding_lane_bytes(n, options) + 2 * n * float_bytes);
    most.whole = std::max(most.whole, whole);
    most.pieces = std::max({most.pieces, lanes, factor_bytes(n)});
  }
  return most;
}

/// Returns the bytes for turning codes into weights, one layer after another.
index_t dequantizing_needs(const DeviceWork& work, const BlockKind& kind) {
  index_t most = 0;
  for (const auto& [linear, options] : kind.linears) {
    index_t bytes = dequantize_bytes(linear.rows, linear.cols, options);
    // Those just quantized come beside the weights that they replace.
    if (!work.packed) bytes += linear.rows * linear.cols * float_bytes;
    most = std::max(most, bytes);
  }
  return most;
}

DeviceNeeds needs_of(const DeviceWork& work, const BlockKind& kind) {
  const Family& family = work.family;
  const index_t tokens = work.samples * work.length;
  const index_t states = tokens * family.config().hidden * float_bytes;
  const index_t weights = weight_bytes(family, kind.blocks[0], work.ranks);
  const index_t libraries = workspace_bytes(work.threads);
  const BlockPlan& plan = family.block(kind.blocks[0]);
  const index_t units = unit_bytes(work, plan);
  Footprint forward{"forward",
                    {{"weights of a block", weights},
                     {"workspaces of libraries", libraries},
                     {"hidden states", states},
                     {"work", units}}};
  DeviceNeeds needs;
  const index_t dequantizing = dequantizing_needs(work, kind);
  needs.fixed = weights + libraries + std::max(units, dequantizing);
  needs.samples = states;
  needs.fullest = forward;
  if (work.packed || kind.linears.empty()) return needs;

  // A wide layer takes the transformed inputs, too.
  const bool wide = std::ranges::any_of(
      kind.linears, [&](const auto& planned) { return work.wide.covers(planned.first.cols); });
  index_t captured = (wide ? 2 : 1) * tokens * plan.carried_width * float_bytes;
  index_t second = states;  // the running residual
  if (work.streams) {
    second += tokens * widest_errors(kind.linears) * float_bytes;
    captured += tokens * plan.carried_width * float_bytes;
  }
  const index_t tile = largest_pieces(widest_tap(plan), tokens).bytes();
  Footprint capture = forward;
  capture.moment = "capture, hessian";
  capture.items.insert(capture.items.begin() + 3,
                       {{work.streams ? "second stream" : "running residual", second},
                        {"captured inputs", captured}});
  const RoundingNeeds rounding = rounding_needs(work, kind);
  capture.items.back().second = std::max({units, tile, rounding.wide});

  Footprint round = work.sequential ? capture : forward;
  round.moment = "factor, round";
  round.items.back().second = std::max(rounding.whole + rounding.pieces, dequantizing);

  needs.samples += second + captured;
  needs.fixed = std::max(needs.fixed, weights + libraries + rounding.whole);
  if (work.streams) {
    const index_t moved = 2 * largest_tap(kind.linears) * float_bytes;
    needs.fixed += moved;
    for (Footprint* moment : {&capture, &round}) moment->items.emplace_back("targets", moved);
  }
  needs.pieces = std::max({tile, rounding.pieces, rounding.wide});
  for (const Footprint& moment : {capture, round}) {
    if (moment.total() > needs.fullest.total()) needs.fullest = moment;
  }
  return needs;
}

}  // namespace

index_t widest_errors(const LayerList& layers) {
  index_t widest = 0;
  for (const auto& [linear, options] : layers) {
    widest = std::max(widest, linear.adds ? linear.rows : linear.cols);
  }
  return widest;
}

index_t largest_tap(const LayerList& layers) {
  std::map<int, index_t> elements;
  index_t largest = 0;
  for (const auto& [linear, options] : layers) {
    if (linear.expert > 0) continue;  // of experts, one
    index_t& of_tap = elements[linear.tap + linear.input];
    of_tap += linear.rows * linear.cols;
    largest = std::max(largest, of_tap);
  }
  return largest;
}

index_t widest_tap(const BlockPlan& plan) {
  index_t widest = 0;
  for (const Tap& tap : plan.taps) widest = std::max(widest, plan.width(tap.slot));
  return widest;
}

std::vector<BlockKind> kinds_of_blocks(const Family& family, const QuantizeOptions& options) {
  std::vector<BlockKind> kinds;
  std::vector<std::pair<std::vector<index_t>, std::vector<LayerOptions>>> known;
  const auto selected = options.selected(family, Range{0, family.config().blocks});
  for (index_t b = 0; b < std::ssize(selected); ++b) {
    BlockKind kind{{b}, {}};
    std::vector<index_t> shapes;
    std::vector<LayerOptions> of_layers;
    for (const TensorSpec& tensor : family.block_tensors(b)) {
      shapes.insert(shapes.end(), tensor.shape.begin(), tensor.shape.end());
    }
    for (const LinearSpec& linear : family.linears(b)) {
      shapes.insert(shapes.end(), {linear.rows, linear.cols});
    }
    for (const LinearSpec& linear : selected[at(b)]) {
      shapes.insert(shapes.end(), {linear.rows, linear.cols, linear.tap});
      of_layers.push_back(options.of(linear.name));
      kind.linears.emplace_back(linear, of_layers.back());
    }
    std::pair outline(std::move(shapes), std::move(of_layers));
    const auto found = std::find(known.begin(), known.end(), outline);
    if (found != known.end()) {
      kinds[at(found - known.begin())].blocks.push_back(b);
      continue;
    }
    known.push_back(std::move(outline));
    kinds.push_back(std::move(kind));
  }
  return kinds;
}

DeviceNeeds device_needs(const DeviceWork& work) {
  DeviceNeeds most;
  for (const BlockKind& kind : work.kinds) {
    const DeviceNeeds needs = needs_of(work, kind);
    most.fixed = std::max(most.fixed, needs.fixed);
    most.pieces = std::max(most.pieces, needs.pieces);
    most.samples = std::max(most.samples, needs.samples);
    if (needs.fullest.total() > most.fullest.total()) most.fullest = needs.fullest;
  }
  return most;
}

void plan_device_memory(Collectives& comm, Backend& backend, const DeviceWork& work) {
  const auto memory = backend.memory();
  if (!memory) return;
  float short_of = 0;  // bytes
  agree(comm, [&] {
    const DeviceNeeds needs = device_needs(work);
    if (needs.fixed > memory->available) {
      fail(
          "{}: the weights of a block and the work on them take {}, and {} are free; use GPUs with "
          "more memory, fewer ranks on each GPU, or --backend cpu",
          memory->where, human_bytes(static_cast<double>(needs.fixed)),
          human_bytes(static_cast<double>(memory->available)));
    }
    const index_t kept = needs.kept(memory->total);
    backend.keep_for_work(kept);
    short_of = static_cast<float>(kept + needs.samples - memory->available);
  });
  comm.all_reduce_max(std::span(&short_of, 1));
  if (short_of > 0 && comm.rank() == 0) {
    spdlog::warn(
        "GPU memory: {} of activations do not fit beside the work on them and stay in host memory, "
        "which is slower; more GPUs, or fewer --samples, keep them on the devices",
        human_bytes(short_of));
  }
}

}  // namespace quip
