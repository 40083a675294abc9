#include "quip/pipeline/device_memory.hpp"

#include <algorithm>

#include <spdlog/spdlog.h>

#include "quip/backend/device_work.hpp"
#include "quip/core/error.hpp"
#include "quip/pipeline/report.hpp"
#include "quip/pipeline/round_layer.hpp"
#include "quip/quant/layer.hpp"

namespace quip {
namespace {

constexpr index_t float_bytes = sizeof(float);

/// fp32, and in bfloat16 those that products read.
index_t weight_bytes(const Family& family) {
  index_t bytes = 0;
  for (const TensorSpec& tensor : family.block_tensors(0)) {
    index_t elements = 1;
    for (const index_t extent : tensor.shape) elements *= extent;
    bytes += elements * float_bytes;
  }
  for (const LinearSpec& linear : family.linears(0)) {
    bytes += linear.rows * linear.cols * float_bytes + bf16_bytes(linear.rows, linear.cols);
  }
  return bytes;
}

/// One sample in the widest stage of a block: what goes in and in between, what comes out, and
/// what goes in in bfloat16.
index_t unit_bytes(const DeviceWork& work) {
  const Family& family = work.family;
  index_t most = 0;
  for (int stage = 0; stage <= family.taps(); ++stage) {
    const index_t in = stage > 0 ? family.tap_width(stage - 1) : 0;
    const index_t out = stage < family.taps() ? family.tap_width(stage) : 0;
    const index_t floats = in + out + family.scratch_width(stage);
    most = std::max(most, work.length * floats * float_bytes + bf16_bytes(work.length, in));
  }
  return most * std::min<index_t>(device_lanes(work.threads), work.samples);
}

index_t widest_tap(const Family& family) {
  index_t widest = 0;
  for (int tap = 0; tap < family.taps(); ++tap) widest = std::max(widest, family.tap_width(tap));
  return widest;
}

/// Of one layer: what its rounding holds whole, and beyond that in pieces.
struct LayerNeeds {
  index_t fixed = 0;
  index_t pieces = 0;
};

LayerNeeds rounding_needs(const DeviceWork& work, const LinearSpec& linear) {
  const LayerOptions options = work.options(linear.name);
  const index_t n = linear.cols;
  const index_t rows = row_share(linear.rows, work.rank, work.ranks).count();
  const index_t lane = rounding_lane_bytes(n, options) + n * float_bytes;
  const RhoSearch search(linear.rows, options.bits);
  const index_t tried = std::min<index_t>(search.sampled(), rows) * std::ssize(search.candidates());
  LayerNeeds needs;
  needs.fixed = rounding_bytes(n, options, rows, tried);
  needs.pieces = rows * (lane + n * float_bytes);
  return needs;
}

struct Work {
  index_t rounding = 0;  ///< what cannot be cut
  index_t pieces = 0;
  index_t wide = 0;  ///< rounding of wide layers, which the host does where there is no room
  index_t dequantizing = 0;
};

Work quantizing_needs(const DeviceWork& work) {
  Work most;
  for (const LinearSpec& linear : work.linears) {
    // The weights come beside those that they replace.
    const index_t weights = linear.rows * linear.cols * float_bytes;
    most.dequantizing =
        std::max(most.dequantizing,
                 weights + dequantize_bytes(linear.rows, linear.cols, work.options(linear.name)));
    const LayerNeeds needs = rounding_needs(work, linear);
    if (work.wide.covers(linear.cols)) {
      most.wide = std::max(most.wide, needs.fixed);
      continue;
    }
    most.rounding = std::max(most.rounding, needs.fixed);
    most.pieces = std::max({most.pieces, needs.pieces, factor_bytes(linear.cols)});
  }
  return most;
}

}  // namespace

DeviceNeeds device_needs(const DeviceWork& work) {
  const Family& family = work.family;
  const index_t tokens = work.samples * work.length;
  const index_t states = tokens * family.config().hidden * float_bytes;
  const index_t weights = weight_bytes(family);
  const index_t libraries = workspace_bytes(work.threads);
  const index_t units = unit_bytes(work);
  Footprint forward{"forward",
                    {{"weights of a block", weights},
                     {"workspaces of libraries", libraries},
                     {"hidden states", states},
                     {"work", units}}};
  DeviceNeeds needs;
  needs.fixed = weights + libraries + units;
  needs.samples = states;
  needs.fullest = forward;
  if (work.packed) {
    for (const LinearSpec& linear : family.linears(0)) {
      // As by default: the options are the packed model's.
      const index_t bytes = dequantize_bytes(linear.rows, linear.cols, LayerOptions{});
      needs.fixed = std::max(needs.fixed, weights + libraries + bytes);
    }
  }
  if (work.linears.empty()) return needs;

  // Of a wide layer the transformed inputs, too.
  const bool wide = std::any_of(work.linears.begin(), work.linears.end(),
                                [&](const LinearSpec& l) { return work.wide.covers(l.cols); });
  const index_t captured = (wide ? 2 : 1) * tokens * widest_tap(family) * float_bytes;
  const index_t tile = largest_pieces(widest_tap(family), tokens).bytes();
  Footprint capture = forward;
  capture.moment = "capture, hessian";
  capture.items.insert(capture.items.begin() + 3,
                       {{"running residual", states}, {"captured inputs", captured}});
  const Work work_bytes = quantizing_needs(work);
  capture.items.back().second = std::max({units, tile, work_bytes.wide});

  Footprint round = work.true_sequential ? capture : forward;
  round.moment = "factor, round";
  round.items.back().second =
      std::max(work_bytes.rounding + work_bytes.pieces, work_bytes.dequantizing);

  needs.samples += states + captured;
  needs.fixed =
      weights + libraries + std::max({units, work_bytes.rounding, work_bytes.dequantizing});
  needs.pieces = std::max({tile, work_bytes.pieces, work_bytes.wide});
  for (const Footprint& moment : {capture, round}) {
    if (moment.total() > needs.fullest.total()) needs.fullest = moment;
  }
  return needs;
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
