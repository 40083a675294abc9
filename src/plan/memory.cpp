#include "quip/plan/memory.hpp"

#include <algorithm>
#include <set>

#include "walk_steps.hpp"

#include "quip/backend/device_work.hpp"
#include "quip/calib/cross_sum.hpp"
#include "quip/calib/distributed_hessian.hpp"
#include "quip/comm/schedule.hpp"
#include "quip/linalg/ldl.hpp"
#include "quip/pipeline/expert_quantizer.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/pipeline/round_layer.hpp"

namespace quip::plan {
namespace {

constexpr index_t mib = index_t{1} << 20;
// Int8Slices and tokens_at_once of the processor's Hessian kernels.
constexpr index_t slice_bytes = 4;
constexpr index_t fewest_tokens = 256;
constexpr index_t most_tokens = 2048;
// Below this a read from the mapped checkpoint leaves its pages resident (model/safetensors).
constexpr index_t release_bytes = mib;
// Pages that the system maps around one that is touched.
constexpr index_t page_cluster = index_t{64} << 10;
constexpr index_t staging_elements = index_t{1} << 19;  // read at a time
constexpr index_t probes = 4;  // for the checkpoint's fingerprint, in a tensor

/// Sizes that all moments of a kind of block share.
struct Sizes {
  Sizes(const PlannedJob& job, const Layout& layout, int rank_number, const BlockKind& kind_of)
      : source(*job.model.source),
        family(*job.model.family),
        kind(kind_of),
        wide(job.options.wide),
        rank(rank_number),
        ranks(layout.ranks()),
        comm(rank, ranks, layout.place_of(rank)),
        on_device(layout.gpus_per_node > 0),
        options(job.options),
        length(job.length) {
    for (const auto& planned : kind.linears) {
      if (planned.first.expert >= 0) continue;
      if (!wide.covers(planned.first.cols)) narrow.push_back(planned);
    }
    const index_t samples = share_of(job.samples, rank, ranks).count();
    tokens = samples * length;
    units = std::min<index_t>(layout.threads, samples);
  }

  [[nodiscard]] const BlockPlan& plan() const { return family.block(kind.blocks[0]); }
  [[nodiscard]] index_t block_elements() const {
    index_t elements = 0;
    for (const TensorSpec& tensor : family.block_tensors(kind.blocks[0])) {
      elements += tensor.elements();
    }
    const index_t together = experts_at_once(plan(), ranks);
    for (const LinearSpec& linear : family.linears(kind.blocks[0])) {
      if (linear.expert < together) elements += linear.rows * linear.cols;
    }
    return elements;
  }
  /// Returns the bytes of one sample where the block takes the most, with the scores of attention.
  [[nodiscard]] index_t unit_bytes() const {
    const std::vector<index_t> live = live_widths(plan());
    const index_t scores = std::min<index_t>(128, length) * length;
    return (length * *std::max_element(live.begin(), live.end()) + scores) * float_bytes;
  }
  /// Returns the number of streams of hidden states.
  [[nodiscard]] index_t streams() const { return options.stream.on ? 2 : 1; }
  /// Returns what is held of all tokens between the taps of a block, by what it is.
  [[nodiscard]] std::vector<std::pair<std::string, index_t>> captured() const {
    const index_t states = tokens * family.config().hidden * float_bytes;
    return {{"hidden states", states},
            {options.stream.on ? "second stream" : "running residual", states},
            {"captured inputs", streams() * tokens * plan().carried_width * float_bytes}};
  }
  /// Returns the bytes of the checkpoint that stay mapped: what was read in small pieces, and on
  /// rank 0 those that the fingerprint touched.
  [[nodiscard]] index_t mapped_bytes() const {
    const std::string table = family.embedding().name;
    index_t mapped = 0;
    for (const std::string& name : source.names()) {
      const TensorInfo& info = source.info(name);
      index_t touched = read_of(info);
      if (name == table) touched = embedding_bytes(info);
      if (rank == 0) touched = std::max(touched, probes * page_cluster);
      mapped += std::min(touched, info.bytes());
    }
    return mapped;
  }
  [[nodiscard]] index_t read_of(const TensorInfo& info) const {
    if (read_by_all(comm, info.bytes())) return info.bytes();
    const index_t bytes =
        share_to_read(info.elements(), comm.place()).count() * size_of(info.dtype);
    const index_t at_once = std::min(bytes, staging_elements * size_of(info.dtype));
    return at_once >= release_bytes ? 0 : bytes;
  }
  /// Counts rows of the tokens, each of which may bring a cluster of pages.
  [[nodiscard]] index_t embedding_bytes(const TensorInfo& info) const {
    const index_t row = info.shape[1] * size_of(info.dtype);
    return std::min(info.bytes(), tokens * std::max(row, page_cluster));
  }
  const TensorSource& source;
  const Family& family;
  const BlockKind& kind;
  const WideOptions& wide;
  int rank;
  int ranks;
  Ledger comm;
  bool on_device;  ///< samples, and rows that are rounded, lie there
  const QuantizeOptions& options;
  index_t length;
  index_t tokens = 0;  ///< on this rank
  index_t units = 0;   ///< samples that it works on side by side
  LayerList narrow;    ///< those that one rank factorises
};

/// Returns how many times a rank's rows are there at once, in rounding or in measuring.
index_t rounding_copies(const LayerOptions& options) { return options.scales_outputs() ? 3 : 2; }

/// Returns the bytes needed beyond H itself while it is factorised.
index_t factor_work(index_t n, const LayerOptions& options) {
  // Candidates for scales: a copy of H, and the eigenvectors of another.
  if (options.scales_outputs()) return 2 * n * n * double_bytes;
  if (options.feedback() == Feedback::inverse) return n * n * double_bytes;
  return options.feedback() == Feedback::constrained ? 3 * n * n * double_bytes : 0;
}

/// Returns the room for the sum over tokens of a Hessian of order n, and for its exchange.
index_t summing_work(const Sizes& sizes, index_t n) {
  const index_t chunk_budget = std::max(32 * mib, n * n) / (n * slice_bytes);
  const index_t chunk =
      std::min(sizes.tokens, std::clamp(chunk_budget, fewest_tokens, most_tokens));
  const index_t parts = sizes.ranks > 1 ? shared_piece_bytes(sizes.ranks) : 0;
  const index_t piece = std::min(staged_bytes, n * (n + 1) / 2 * double_bytes);
  const index_t exchange = sizes.ranks > 1 ? piece + parts : 0;
  return std::max(chunk * n * slice_bytes, exchange);
}

/// Returns the bytes of a wide layer from its inputs to its codes, while they are still there.
index_t wide_work(const Sizes& sizes, const LinearSpec& linear) {
  const index_t n = linear.cols;
  const BlockCyclic layout = sizes.wide.layout(n, sizes.ranks);
  index_t spread = 0;
  if (sizes.rank < layout.grid.size()) {
    spread = layout.rows.extent_of(layout.grid.row_of(sizes.rank)) *
             layout.cols.extent_of(layout.grid.col_of(sizes.rank)) * double_bytes;
  }
  const index_t transformed = sizes.on_device ? 0 : sizes.tokens * n * float_bytes;
  const index_t panels = 2 * n * hessian_panel_width(n, sizes.ranks) * double_bytes;
  const Range rows = row_share(linear.rows, sizes.rank, sizes.ranks);
  const index_t tiles = sizes.on_device ? 0 : 3 * rows.count() * n * float_bytes;
  const index_t passing = 2 * n * LowerPanels::block * float_bytes;
  return spread + std::max(transformed + panels, tiles + passing);
}

index_t hessian_bytes(const BlockPlan& plan, const std::set<int>& taps) {
  index_t bytes = 0;
  for (const int tap : taps) bytes += plan.tap_width(tap) * plan.tap_width(tap) * double_bytes;
  return bytes;
}

index_t largest_hessian(const BlockPlan& plan, const std::set<int>& taps) {
  index_t bytes = 0;
  for (const int tap : taps) bytes = std::max(bytes, hessian_bytes(plan, {tap}));
  return bytes;
}

/// Returns the bytes of the targets of a tap's layers, and of making them (StreamTarget).
index_t moving(const Sizes& sizes) {
  index_t most = 0;
  for (const auto& [linear, options] : sizes.kind.linears) {
    if (linear.expert >= 0) continue;
    const index_t n = linear.cols;
    const index_t m = linear.adds ? linear.rows : n;
    const index_t piece = cross_pieces(m, n)[1] * n * double_bytes;
    const index_t own = (m / sizes.ranks + solve_rows_unit) * n * double_bytes;
    const index_t ridge = sizes.wide.covers(n) ? 0 : n * n * double_bytes;
    const index_t drift = linear.adds ? 0 : n * n * float_bytes;
    most = std::max(most, sizes.tokens * m * float_bytes + ridge + drift + own + 2 * piece);
  }
  return most + 2 * largest_tap(sizes.kind.linears) * float_bytes;
}

Footprint capturing(const Sizes& sizes) {
  index_t wide = 0;
  index_t summing = 0;
  std::set<int> whole;  // taps whose Hessians a rank holds
  for (const auto& [linear, options] : sizes.kind.linears) {
    if (linear.expert >= 0) continue;
    if (sizes.wide.covers(linear.cols)) {
      wide = std::max(wide, wide_work(sizes, linear));
    } else {
      summing = std::max(summing, summing_work(sizes, linear.cols));
      whole.insert(linear.tap);
    }
  }
  Footprint footprint{"capture, hessian", sizes.captured()};
  footprint.items.emplace_back("Hessians", sizes.options.sequential()
                                               ? largest_hessian(sizes.plan(), whole)
                                               : hessian_bytes(sizes.plan(), whole));
  // Both, although one follows the other: the allocator keeps small pieces. And as much again of
  // activations, which come and go in many sizes.
  footprint.items.emplace_back("work", summing + 2 * sizes.units * sizes.unit_bytes());
  if (wide > 0) footprint.items.emplace_back("wide layer", wide);
  if (sizes.options.stream.moves()) footprint.items.emplace_back("targets", moving(sizes));
  return footprint;
}

Footprint rounding(const Sizes& sizes) {
  const std::vector<Range> groups = input_groups(sizes.narrow);
  const std::vector<int> owners = owners_of(sizes.narrow, groups, sizes.ranks);
  index_t prepared = 0;  // factors of the layers that this rank makes
  index_t visitor = 0;   // factors of the layer that is rounded
  index_t work = 0;
  std::set<int> needed;  // taps of these layers
  for (std::size_t g = 0; g < owners.size(); ++g) {
    for (index_t i = groups[g].first; i < groups[g].last; ++i) {
      const auto& [linear, options] = sizes.narrow[at(i)];
      const QuantizedLinear layer = described(options, linear.rows, linear.cols);
      const index_t bytes = rounding_panel_bytes(layer.cols, options);
      const Range rows = row_share(layer.rows, sizes.rank, sizes.ranks);
      const index_t tiles = rows.count() * layer.cols * float_bytes;
      visitor = std::max(visitor, bytes);
      index_t here = rounding_copies(options) * tiles;
      if (owners[g] == sizes.rank) {
        if (i == groups[g].first) prepared += bytes;
        here += factor_work(layer.cols, options);
        needed.insert(linear.tap);
      }
      work = std::max(work, here);
    }
  }
  const bool one_by_one = sizes.options.sequential();
  Footprint footprint{"factor, round", sizes.captured()};
  if (!one_by_one) footprint.items.resize(1);  // what was captured is freed
  footprint.items.emplace_back("Hessians", one_by_one ? largest_hessian(sizes.plan(), needed)
                                                      : hessian_bytes(sizes.plan(), needed));
  footprint.items.emplace_back("factors", one_by_one ? visitor : std::max(prepared, visitor));
  footprint.items.emplace_back("work", work);
  if (sizes.options.stream.moves()) {
    footprint.items.emplace_back("targets", 2 * largest_tap(sizes.kind.linears) * float_bytes);
  }
  return footprint;
}

/// Returns the moment in which this rank works on an expert that it owns.
Footprint experts(const Sizes& sizes) {
  const BlockPlan& plan = sizes.plan();
  const Tap& tap = plan.taps.back();
  index_t hessians = plan.width(tap.slot) * plan.width(tap.slot) * double_bytes;  // the common one
  for (const Tap& input : plan.experts[0].inputs) {
    hessians += plan.width(input.slot) * plan.width(input.slot) * double_bytes;
  }
  index_t work = 0;
  const index_t together = experts_at_once(plan, sizes.ranks);
  for (const auto& [linear, options] : sizes.kind.linears) {
    if (linear.expert < 0) continue;
    const QuantizedLinear layer = described(options, linear.rows, linear.cols);
    const index_t rows = rounds_together(plan, sizes.ranks)
                             ? row_share(layer.rows, sizes.rank, sizes.ranks).count()
                             : layer.rows;
    const double share = plan.activations[at(plan.experts[0].inputs[0].slot)].rows.value().share;
    const auto routed =
        static_cast<index_t>(share * static_cast<double>(sizes.tokens)) * layer.cols * float_bytes;
    work = std::max({work, summing_work(sizes, layer.cols) + together * routed,
                     factor_work(layer.cols, options) + rounding_panel_bytes(layer.cols, options) +
                         rounding_copies(options) * rows * layer.cols * float_bytes});
  }
  const index_t states = sizes.tokens * sizes.family.config().hidden * float_bytes;
  return {"experts",
          {{"hidden states", sizes.streams() * states},
           {"captured inputs",
            sizes.streams() * sizes.tokens *
                (sizes.options.stream.on ? plan.carried_width : plan.width_at(tap)) * float_bytes},
           {"Hessians", hessians},
           {"work", work}}};
}

/// Leaves in host memory what overflows from the device, where samples and rows lie.
void move_to_device(const Layout& layout, const DeviceNeeds& needs, Footprint& capture) {
  const index_t share = layout.gpu_memory_of_rank();
  const index_t in_host = share > 0 ? needs.overflow(share) : 0;
  if (in_host > 0) capture.items.emplace_back("activations", in_host);
  std::erase_if(capture.items, [](const auto& item) {
    return item.first == "hidden states" || item.first == "running residual" ||
           item.first == "second stream" || item.first == "captured inputs";
  });
}

/// Returns the fullest moment of one kind of block, and the bytes of its weights.
std::pair<Footprint, index_t> fullest_moment(const Sizes& sizes, const Layout& layout,
                                             const DeviceNeeds& device) {
  Footprint capture = capturing(sizes);
  if (sizes.on_device) move_to_device(layout, device, capture);
  Footprint fullest = rounding(sizes);
  if (capture.total() > fullest.total()) fullest = std::move(capture);
  if (!sizes.plan().experts.empty()) {
    Footprint own = experts(sizes);
    if (sizes.on_device) move_to_device(layout, device, own);
    if (own.total() > fullest.total()) fullest = std::move(own);
  }
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
                  .sequential = job.options.sequential(),
                  .streams = job.options.stream.on};
  std::vector<Memory> all(at(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    Memory& memory = all[at(rank)];
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
