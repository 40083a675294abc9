#include "quip/plan/memory.hpp"

#include <algorithm>

#include "walk_steps.hpp"

#include "quip/backend/device_work.hpp"
#include "quip/calib/distributed_hessian.hpp"
#include "quip/comm/schedule.hpp"
#include "quip/pipeline/block_quantizer.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/pipeline/round_layer.hpp"

namespace quip::plan {
namespace {

constexpr index_t mib = index_t{1} << 20;
// Of the processor's Hessian kernels: Int8Slices and tokens_at_once.
constexpr index_t slice_bytes = 4;
constexpr index_t fewest_tokens = 256;
constexpr index_t most_tokens = 2048;
// Below this a read from the mapped checkpoint leaves its pages resident (model/safetensors).
constexpr index_t release_bytes = mib;
// Pages that the system maps around one that is touched.
constexpr index_t page_cluster = index_t{64} << 10;
constexpr index_t probes = 4;  // of a tensor, for the checkpoint's fingerprint

using Linears = decltype(BlockKind::linears);

/// Sizes that all moments of a kind of block share.
class Sizes {
 public:
  Sizes(const PlannedJob& job, const Layout& layout, int rank, const BlockKind& kind)
      : job_(job),
        layout_(layout),
        ledger_(rank, layout.ranks(), layout.place_of(rank)),
        family_(*job.model.family),
        kind_(kind) {
    for (const auto& planned : kind.linears) {
      if (!wide().covers(planned.first.cols)) narrow_.push_back(planned);
    }
    samples_ = share_of(job.samples, rank, layout.ranks()).count();
  }

  [[nodiscard]] const Family& family() const { return family_; }
  [[nodiscard]] const Linears& linears() const { return kind_.linears; }
  /// Those that one rank factorises.
  [[nodiscard]] const Linears& narrow() const { return narrow_; }
  [[nodiscard]] const WideOptions& wide() const { return job_.options.wide; }
  [[nodiscard]] index_t tokens() const { return samples_ * job_.length; }
  /// Samples that a rank works on side by side.
  [[nodiscard]] index_t units() const { return std::min<index_t>(layout_.threads, samples_); }
  /// Samples, and rows that are rounded, lie there.
  [[nodiscard]] bool on_device() const { return layout_.gpus_per_node > 0; }

  [[nodiscard]] index_t block_elements() const {
    index_t elements = 0;
    for (const TensorSpec& tensor : family_.block_tensors(kind_.block)) {
      elements += job_.model.source->info(tensor.name).elements();
    }
    for (const LinearSpec& linear : family_.linears(kind_.block))
      elements += linear.rows * linear.cols;
    return elements;
  }
  /// The Hessians that a rank holds whole.
  [[nodiscard]] index_t hessian_bytes() const {
    index_t bytes = 0;
    for (int tap = 0; tap < family_.taps(); ++tap) {
      const bool read = std::any_of(linears().begin(), linears().end(), [tap](const auto& planned) {
        return planned.first.tap == tap;
      });
      const index_t n = family_.tap_width(tap);
      if (read && !wide().covers(n)) bytes += n * n * double_bytes;
    }
    return bytes;
  }
  /// One sample on its way through the block's widest stage: what goes in and what comes out.
  [[nodiscard]] index_t stage_bytes() const {
    index_t widest = 0;
    for (int stage = 1; stage <= family_.taps(); ++stage) {
      index_t outputs = family_.tap_width(stage - 1);
      if (stage < family_.taps()) outputs += family_.tap_width(stage);
      for (const LinearSpec& linear : family_.linears(kind_.block)) {
        if (linear.tap + 1 == stage && stage < family_.taps()) outputs += linear.rows;
      }
      widest = std::max(widest, outputs);
    }
    const index_t scores = std::min<index_t>(128, job_.length) * job_.length;
    return (job_.length * widest + scores) * float_bytes;
  }
  /// Pages of the checkpoint that stay mapped: what was read in small pieces, and on rank 0 those
  /// that the fingerprint touched.
  [[nodiscard]] index_t mapped_bytes() const {
    const TensorSource& source = *job_.model.source;
    const std::string table = family_.embedding().name;
    index_t mapped = 0;
    index_t largest = 0;
    for (const std::string& name : source.names()) {
      const TensorInfo& info = source.info(name);
      largest = std::max(largest, info.bytes());
      index_t touched = read_of(info);
      if (name == table) touched = embedding_bytes(info);
      if (ledger_.rank() == 0) touched = std::max(touched, probes * page_cluster);
      mapped += std::min(touched, info.bytes());
    }
    return mapped;
  }
  [[nodiscard]] std::vector<int> owners() const {
    std::vector<index_t> orders;
    for (const auto& [linear, options] : narrow_) orders.push_back(linear.cols);
    return assign_owners(orders, ledger_.size());
  }
  [[nodiscard]] int rank() const { return ledger_.rank(); }
  [[nodiscard]] int ranks() const { return ledger_.size(); }

 private:
  [[nodiscard]] index_t read_of(const TensorInfo& info) const {
    if (read_by_all(ledger_, info.bytes())) return info.bytes();
    const index_t bytes =
        share_to_read(info.elements(), ledger_.place()).count() * size_of(info.dtype);
    const index_t at_once = std::min(bytes, staging_elements * size_of(info.dtype));
    return at_once >= release_bytes ? 0 : bytes;
  }
  /// Rows of the tokens, each of which may bring a cluster of pages.
  [[nodiscard]] index_t embedding_bytes(const TensorInfo& info) const {
    const index_t row = info.shape[1] * size_of(info.dtype);
    return std::min(info.bytes(), tokens() * std::max(row, page_cluster));
  }
  static constexpr index_t staging_elements = index_t{1} << 19;

  const PlannedJob& job_;
  const Layout& layout_;
  Ledger ledger_;
  const Family& family_;
  const BlockKind& kind_;
  Linears narrow_;
  index_t samples_ = 0;
};

/// Beyond H itself while it is factorised.
index_t factor_work(index_t n, const LayerOptions& options) {
  if (options.feedback() == Feedback::inverse) return n * n * double_bytes;
  return options.feedback() == Feedback::constrained ? 3 * n * n * double_bytes : 0;
}

/// Room for the sum over tokens of a Hessian of order n, and for its exchange.
index_t summing_work(const Sizes& sizes, index_t n) {
  const index_t chunk_budget = std::max(32 * mib, n * n) / (n * slice_bytes);
  const index_t chunk =
      std::min(sizes.tokens(), std::clamp(chunk_budget, fewest_tokens, most_tokens));
  const index_t parts = sizes.ranks() > 1 ? shared_piece_bytes(sizes.ranks()) : 0;
  const index_t piece = std::min(staged_bytes, n * (n + 1) / 2 * double_bytes);
  const index_t exchange = sizes.ranks() > 1 ? piece + parts : 0;
  return std::max(chunk * n * slice_bytes, exchange);
}

/// A wide layer from its inputs to its codes, while they are still there.
index_t wide_work(const Sizes& sizes, const LinearSpec& linear) {
  const index_t n = linear.cols;
  const BlockCyclic layout = sizes.wide().layout(n, sizes.ranks());
  index_t spread = 0;
  if (sizes.rank() < layout.grid.size()) {
    spread = layout.rows.extent_of(layout.grid.row_of(sizes.rank())) *
             layout.cols.extent_of(layout.grid.col_of(sizes.rank())) * double_bytes;
  }
  const index_t transformed = sizes.on_device() ? 0 : sizes.tokens() * n * float_bytes;
  const index_t panels = 2 * n * hessian_panel_width(n, sizes.ranks()) * double_bytes;
  const Range rows = row_share(linear.rows, sizes.rank(), sizes.ranks());
  const index_t tiles = sizes.on_device() ? 0 : 3 * rows.count() * n * float_bytes;
  const index_t passing = 2 * n * LowerPanels::block * float_bytes;
  return spread + std::max(transformed + panels, tiles + passing);
}

Footprint capturing(const Sizes& sizes) {
  const index_t width = sizes.family().config().hidden;
  const index_t n = widest_tap(sizes.family());
  const index_t tokens = sizes.tokens();
  index_t wide = 0;
  index_t summing = 0;
  for (const auto& [linear, options] : sizes.linears()) {
    if (sizes.wide().covers(linear.cols)) {
      wide = std::max(wide, wide_work(sizes, linear));
    } else {
      summing = std::max(summing, summing_work(sizes, linear.cols));
    }
  }
  Footprint footprint{"capture, hessian",
                      {{"hidden states", tokens * width * float_bytes},
                       {"running residual", tokens * width * float_bytes},
                       {"captured inputs", tokens * n * float_bytes},
                       {"Hessians", sizes.hessian_bytes()},
                       // Both, although one follows the other: the allocator keeps small pieces.
                       {"work", summing + sizes.units() * sizes.stage_bytes()}}};
  if (wide > 0) footprint.items.emplace_back("wide layer", wide);
  return footprint;
}

Footprint rounding(const Sizes& sizes) {
  const std::vector<int> owners = sizes.owners();
  index_t prepared = 0;  // of the layers that this rank factorises
  index_t visitor = 0;   // of the layer that is rounded
  index_t work = 0;
  std::vector<bool> needed(static_cast<std::size_t>(sizes.family().taps()), false);
  for (std::size_t i = 0; i < owners.size(); ++i) {
    const auto& [linear, options] = sizes.narrow()[i];
    const index_t bytes = rounding_panel_bytes(linear.cols, options);
    const Range rows = row_share(linear.rows, sizes.rank(), sizes.ranks());
    const index_t tiles = rows.count() * linear.cols * float_bytes;
    visitor = std::max(visitor, bytes);
    index_t here = 2 * tiles;
    if (owners[i] == sizes.rank()) {
      prepared += bytes;
      here += factor_work(linear.cols, options);
      needed[static_cast<std::size_t>(linear.tap)] = true;
    }
    work = std::max(work, here);
  }
  index_t hessians = 0;
  for (int tap = 0; tap < sizes.family().taps(); ++tap) {
    if (!needed[static_cast<std::size_t>(tap)]) continue;
    const index_t n = sizes.family().tap_width(tap);
    hessians += n * n * double_bytes;
  }
  const index_t states = sizes.tokens() * sizes.family().config().hidden * float_bytes;
  return {"factor, round",
          {{"hidden states", states},
           {"Hessians", hessians},
           {"factors", std::max(prepared, visitor)},
           {"work", work}}};
}

/// Where samples and rows lie on the device, their host memory is what overflows from there.
void move_to_device(const Layout& layout, const DeviceNeeds& needs, Footprint& capture) {
  const index_t share = layout.gpu_memory_of_rank();
  const index_t in_host = share > 0 ? needs.overflow(share) : 0;
  if (in_host > 0) capture.items.emplace_back("activations", in_host);
  std::erase_if(capture.items, [](const auto& item) {
    return item.first == "hidden states" || item.first == "running residual" ||
           item.first == "captured inputs";
  });
}

/// The fullest moment of one kind of block, and the bytes of its weights.
std::pair<Footprint, index_t> fullest_moment(const Sizes& sizes, const Layout& layout,
                                             const DeviceNeeds& device) {
  Footprint capture = capturing(sizes);
  if (sizes.on_device()) move_to_device(layout, device, capture);
  Footprint fullest = rounding(sizes);
  if (capture.total() > fullest.total()) fullest = std::move(capture);
  const index_t weights = sizes.block_elements() * float_bytes;
  fullest.items.emplace_back("weights of a block", weights);
  return {std::move(fullest), weights};
}

}  // namespace

std::vector<Memory> memory_of(const PlannedJob& job, const Layout& layout, int ranks,
                              index_t baseline) {
  DeviceWork work{.family = *job.model.family,
                  .length = job.length,
                  .ranks = layout.ranks(),
                  .threads = layout.threads,
                  .kinds = kinds_of_blocks(*job.model.family, job.options),
                  .wide = job.options.wide,
                  .true_sequential = job.options.true_sequential};
  std::vector<Memory> all(static_cast<std::size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    Memory& memory = all[static_cast<std::size_t>(rank)];
    work.rank = rank;
    work.samples = share_of(job.samples, rank, layout.ranks()).count();
    if (layout.gpus_per_node > 0) memory.device = device_needs(work);
    for (const BlockKind& kind : work.kinds) {
      auto [fullest, weights] =
          fullest_moment(Sizes(job, layout, rank, kind), layout, memory.device);
      if (fullest.total() <= memory.rank.total()) continue;
      memory.rank = std::move(fullest);
      memory.shared = layout.ranks_per_node > 1 ? weights : 0;
    }
    memory.rank.items.emplace_back("mapped checkpoint",
                                   Sizes(job, layout, rank, work.kinds.front()).mapped_bytes());
    memory.rank.items.emplace_back("program and libraries", baseline);
  }
  return all;
}

}  // namespace quip::plan
