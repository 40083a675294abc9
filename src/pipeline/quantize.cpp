#include "quip/pipeline/quantize.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <set>

#include "job_inputs.hpp"
#include "job_report.hpp"
#include "layer_survey.hpp"

#include "quip/core/error.hpp"
#include "quip/pipeline/block_quantizer.hpp"
#include "quip/pipeline/device_memory.hpp"
#include "quip/pipeline/expert_quantizer.hpp"
#include "quip/pipeline/hidden_states.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/pipeline/mixed_bits.hpp"
#include "quip/pipeline/prefetch.hpp"
#include "quip/pipeline/report.hpp"

namespace quip {
namespace {

// Blocks are alike: the timeline's first shows what the others do, its second the passage from one
// to the next.
constexpr index_t charted_blocks = 2;

/// One job, which moves the samples through the blocks.
class Job {
 public:
  Job(Collectives& comm, Backend& backend, const QuantizeOptions& options, const JobInputs& inputs,
      int threads, Phases& phases, Progress& progress)
      : comm_(comm),
        backend_(backend),
        options_(options),
        source_(*inputs.source),
        family_(*inputs.family),
        progress_(progress),
        phases_(phases),
        shard_(shard_tokens(comm, *inputs.tokens, inputs.samples, family_)),
        streams_(options.stream.on ? 2 : 1),
        shape_{streams_ * inputs.samples, shard_.length, family_.config().hidden},
        keep_(states_to_keep(options.keep_states, shape_, source_)),
        blocks_(family_.config().blocks),
        range_(options.blocks.value_or(Range{0, blocks_})),
        quantizer_(comm, backend, family_, options, phases),
        experts_(comm, backend, family_, options, phases) {
    agree(comm_, [&] {
      if (range_.last > blocks_) {
        fail("--blocks {}:{}: the model has {} blocks", range_.first, range_.last, blocks_);
      }
      layers_ = survey_layers(family_, options_, comm_.size());
      check_hessian_memory(comm_, family_, options_);
    });
    for (const std::string& note : layers_.notes) options_.on_note(note);
    plan_device_memory(comm_, backend_, device_work(threads));
  }

  /// Returns the choice of hidden states that stay on disk.
  [[nodiscard]] KeepStates keep() const { return keep_; }

  /// Warns of properties of the inputs that a user may not expect.
  void note_inputs() const {
    const index_t tokens = samples() * shape_.length;
    if (tokens < layers_.widest) {
      options_.on_note(fmt::format(
          "{} calibration tokens for layers of up to {} inputs: losses will look better than they "
          "are; use more --samples",
          tokens, layers_.widest));
    }
    if (options_.stream.moves()) note_unmoved(tokens);
    if (keep_ == KeepStates::none && !options_.keep_states) {
      options_.on_note(fmt::format(
          "hidden states ({}) would take more room than the model, so none are kept: --resume "
          "computes them again; --keep-states last keeps them",
          human_bytes(static_cast<double>(state_bytes(shape_)))));
    }
  }

  /// Quantizes what is left of the range.
  Ending run(PackedWriter& writer) {
    check_range(writer);
    progress_.start(blocks_, "block");
    write_rest(writer);
    std::optional<index_t> next = unfinished(writer, range_);
    if (next) go_to_nearest(writer, *next);
    while (next) {
      if (position_ < *next) {
        pass_finished(writer, *next);
      } else {
        quantize_block(writer);
      }
      next = unfinished(writer, {std::max(position_, range_.first), range_.last});
      if (stop_requested() && next) return Ending::stopped;
    }
    return unfinished(writer, {0, blocks_}) ? Ending::range_done : Ending::finished;
  }

  nlohmann::json report(const PackedWriter& writer) {
    nlohmann::json report = model_report(source_, layers_.quantized, writer.reports());
    report.update({{"ranks", comm_.size()},
                   {"backend", backend_.describe()},
                   {"tokens", samples() * shape_.length},
                   {"parameters", parameters(source_)},
                   {"wide", wide_report(options_.wide, quantizer_.factorisers(), comm_.size())}});
    if (options_.stream.on) report["stream_distances"] = writer.stream_distances();
    report.update(usage_report(comm_, backend_, phases_));
    return report;
  }

 private:
  [[nodiscard]] DeviceWork device_work(int threads) const {
    return {.family = family_,
            .samples = shard_.samples.count(),
            .length = shard_.length,
            .rank = comm_.rank(),
            .ranks = comm_.size(),
            .threads = threads,
            .kinds = kinds_of_blocks(family_, options_),
            .wide = options_.wide,
            .sequential = options_.sequential(),
            .streams = options_.stream.on,
            .packed = false};
  }

  [[nodiscard]] index_t samples() const { return shape_.samples / streams_; }
  /// Returns the numbers under which this rank's samples are kept.
  [[nodiscard]] Range kept_samples() const {
    return {streams_ * shard_.samples.first, streams_ * shard_.samples.last};
  }
  /// Returns the place of a kept sample in the hidden states of its stream.
  [[nodiscard]] TensorView place_of(index_t kept) const {
    const Tensor& states = kept % streams_ == 0 ? states_ : full_states_;
    return shard_.rows_of(states.view(), kept / streams_ - shard_.samples.first);
  }

  /// Says what --target stream leaves where it is.
  void note_unmoved(index_t tokens) const {
    if (!tokens_suffice(static_cast<double>(tokens), layers_.widest)) {
      options_.on_note(fmt::format(
          "--target stream: {} calibration tokens are fewer than four for each of up to {} inputs; "
          "layers as wide as that keep their own weights as targets; use more --samples",
          tokens, layers_.widest));
    }
    index_t adding = 0;
    for (index_t b = 0; b < blocks_; ++b) adding += adds_to_residual(family_.block(b)) ? 1 : 0;
    if (adding < blocks_) {
      options_.on_note(
          fmt::format("--target stream: in {} of {} blocks no layer adds to the residual as it is, "
                      "and none is moved",
                      blocks_ - adding, blocks_));
    }
  }

  /// Returns the first block of `range` that still has to be quantized.
  [[nodiscard]] static std::optional<index_t> unfinished(const PackedWriter& writer, Range range) {
    for (index_t b = range.first; b < range.last; ++b) {
      if (!writer.has_block(b)) return b;
    }
    return std::nullopt;
  }

  /// True if the output of the block at the present position is needed.
  [[nodiscard]] bool output_needed(const PackedWriter& writer) const {
    const index_t after = position_ + 1;
    if (after == blocks_) return false;
    if (unfinished(writer, {std::max(after, range_.first), range_.last})) return true;
    if (keep_ == KeepStates::all) return true;
    return keep_ == KeepStates::last && unfinished(writer, {after, blocks_});
  }

  /// Checks that the blocks before the range are there: their output is its input.
  void check_range(const PackedWriter& writer) const {
    agree(comm_, [&] {
      for (index_t b = 0; b < range_.first; ++b) {
        if (writer.has_block(b)) continue;
        fail("--blocks {}:{}: block {} is not quantized yet, and those after it depend on it",
             range_.first, range_.last, b);
      }
    });
  }

  void write_rest(PackedWriter& writer) {
    if (writer.has_rest()) return;
    auto scope = phases_.measure("write");
    progress_.update(0, "copy tensors that stay");
    writer.write_rest(source_, remaining_tensors(source_, layers_.quantized));
  }

  /// Embeds the samples, or reads the most advanced hidden states that lead to block `target`.
  void go_to_nearest(PackedWriter& writer, index_t target) {
    auto scope = phases_.measure("load");
    agree(comm_, [&] { family_.prepare(backend_, shard_.length); });
    if (restore(writer, target)) return;
    WeightSet ends;
    load_into(ends, comm_, backend_, source_, family_.end_tensors());
    states_ = embed_shard(comm_, backend_, family_, source_, ends, shard_);
    if (options_.stream.on) {
      agree(comm_, [&] {
        full_states_ = backend_.allocate_samples(shard_.tokens(), shape_.width);
        backend_.copy(states_.cview(), full_states_.view());
      });
    }
    position_ = 0;
  }

  /// Reads states between the present position and `target`; false if none are kept undamaged.
  bool restore(PackedWriter& writer, index_t target) {
    for (std::optional<index_t> kept = writer.states_before(target); kept && *kept > position_;
         kept = writer.states_before(*kept - 1)) {
      if (damaged_.contains(*kept)) continue;
      try {
        std::array<Tensor, 2> read;
        agree(comm_, [&] {
          for (index_t i = 0; i < streams_; ++i) {
            read[at(i)] = backend_.allocate_samples(shard_.tokens(), shape_.width);
          }
        });
        writer.read_states(*kept, shape_, kept_samples(), [&](index_t i, auto values) {
          backend_.upload(values, shard_.rows_of(read[at(i % streams_)].view(),
                                                 i / streams_ - shard_.samples.first));
        });
        states_ = std::move(read[0]);
        full_states_ = std::move(read[1]);
        position_ = *kept;
        return true;
      } catch (const AgreedError& error) {
        damaged_.insert(*kept);
        options_.on_note(
            fmt::format("{}; the samples are forwarded through the finished blocks", error.what()));
      }
    }
    return false;
  }

  /// Forwards the samples through blocks that an earlier run has quantized.
  void pass_finished(PackedWriter& writer, index_t target) {
    if (restore(writer, target)) return;
    progress_.update(position_, "forward, quantized earlier");
    std::optional<PackedModel> packed;
    WeightSet weights;
    {
      auto scope = phases_.measure("load");
      agree(comm_, [&] { packed.emplace(options_.out, Unfinished::allowed); });
    }
    const BlockLoader loader(comm_, backend_, *packed, &*packed, family_, position_);
    {
      auto scope = phases_.measure("load");
      weights = loader.load();
    }
    {
      auto scope = phases_.measure("forward");
      forward_block(comm_, backend_, family_, loader, weights, shard_, states_.view());
    }
    if (options_.stream.on) pass_full();
    keep_states(writer);
    ++position_;
  }

  /// Forwards the unquantized stream through the block at the present position.
  void pass_full() {
    const BlockLoader loader(comm_, backend_, source_, nullptr, family_, position_);
    WeightSet weights;
    {
      auto scope = phases_.measure("load");
      weights = loader.load();
    }
    auto scope = phases_.measure("forward");
    forward_block(comm_, backend_, family_, loader, weights, shard_, full_states_.view());
  }

  void quantize_block(PackedWriter& writer) {
    const index_t b = position_;
    phases_.chart(blocks_made_++ < charted_blocks);
    quantizer_.on_step = [this, b](const std::string& what) { progress_.update(b, what); };
    experts_.on_step = quantizer_.on_step;
    const BlockLoader loader(comm_, backend_, source_, nullptr, family_, b);
    WeightSet weights;
    {
      auto scope = phases_.measure("load");
      weights = loader.load();
    }
    prefetch_.reset();
    if (b + 1 < range_.last && !writer.has_block(b + 1)) {
      prefetch_.emplace(comm_, source_, family_, b + 1);
    }
    const bool has_experts = !family_.block(b).experts.empty();
    std::vector<StoredLayer> layers;
    std::optional<double> distance;
    if (options_.stream.on) {
      Streams streams{{std::move(states_), {}}, {std::move(full_states_), {}}};
      layers = quantizer_.quantize(b, weights, shard_, streams);
      if (has_experts) {
        auto those = experts_.quantize(loader, weights, shard_, streams);
        std::ranges::move(those, std::back_inserter(layers));
      }
      states_ = std::move(streams.quantized.residual);
      full_states_ = std::move(streams.full.residual);
      auto scope = phases_.measure("forward");
      distance = relative_distance(comm_, backend_, shard_, samples(), states_.cview(),
                                   full_states_.cview());
    } else {
      layers = quantizer_.quantize(b, weights, shard_, states_.cview());
      if (has_experts) {
        auto those = experts_.quantize(loader, weights, shard_, states_.view());
        std::ranges::move(those, std::back_inserter(layers));
      }
    }
    {
      auto scope = phases_.measure("write");
      writer.write_block(b, layers, distance);
    }
    if (output_needed(writer)) {
      if (!has_experts && !options_.stream.on) {
        auto scope = phases_.measure("forward");
        forward_shard(comm_, backend_, family_, position_, weights, shard_, states_.view());
      }
      keep_states(writer);
    }
    ++position_;
  }

  /// Keeps the output of the block at the present position.
  void keep_states(PackedWriter& writer) {
    auto scope = phases_.measure("write");
    progress_.update(position_ + 1, "keep hidden states");
    writer.write_states(position_ + 1, shape_, kept_samples(),
                        [&](index_t i, auto out) { backend_.download(place_of(i), out); });
  }

  /// True if a signal has reached any rank.
  [[nodiscard]] bool stop_requested() {
    float stop = options_.stop_requested() ? 1.0F : 0.0F;
    comm_.all_reduce_max(std::span(&stop, 1));
    return stop > 0;
  }

  Collectives& comm_;
  Backend& backend_;
  const QuantizeOptions& options_;
  const TensorSource& source_;
  Family& family_;
  Progress& progress_;
  Phases& phases_;
  SampleShard shard_;
  index_t streams_;   ///< of hidden states
  StateShape shape_;  ///< of what is kept of them: sample by sample, in both streams
  KeepStates keep_;
  index_t blocks_;
  Range range_;
  BlockQuantizer quantizer_;
  ExpertQuantizer experts_;
  LayerSurvey layers_;
  Tensor states_;       ///< the input of block position_
  Tensor full_states_;  ///< the same without any quantization, for --target stream
  index_t position_ = 0;
  index_t blocks_made_ = 0;
  std::optional<Prefetch> prefetch_;  ///< reads the next block to be loaded from the checkpoint
  std::set<index_t> damaged_;         ///< hidden states not to be tried again
};

index_t count_blocks(const PackedWriter& writer, index_t blocks) {
  index_t done = 0;
  for (index_t b = 0; b < blocks; ++b) done += writer.has_block(b) ? 1 : 0;
  return done;
}

}  // namespace

namespace {

/// Returns the bits by layer that an earlier run in the output directory has chosen, if the run
/// goes on with it.
std::optional<std::map<std::string, int>> chosen_earlier(Collectives& comm,
                                                         const QuantizeOptions& options) {
  std::string text;
  agree(comm, [&] {
    if (comm.rank() != 0 || options.start == Start::fresh) return;
    if (const auto found = earlier_header(options.out, "bits_by_layer")) text = found->dump();
  });
  comm.broadcast(text, 0);
  if (text.empty()) return std::nullopt;
  return nlohmann::json::parse(text).get<std::map<std::string, int>>();
}

/// Returns "12 layers of 2 bits, 16 of 3" for the user.
std::string counts_of(const std::map<std::string, int>& bits_by_layer) {
  std::map<int, index_t> counts;
  for (const auto& [layer, bits] : bits_by_layer) ++counts[bits];
  std::string text;
  for (const auto& [bits, count] : counts) {
    text += text.empty() ? fmt::format("{} layers of {} bits", count, bits)
                         : fmt::format(", {} of {}", count, bits);
  }
  return text;
}

}  // namespace

StreamOptions StreamOptions::decided(const Family& family) const {
  StreamOptions decided = *this;
  decided.where_useful = false;
  if (!on || !where_useful) return decided;
  decided.on = false;
  for (index_t b = 0; b < family.config().blocks; ++b) {
    decided.on = decided.on || adds_to_residual(family.block(b));
  }
  return decided;
}

QuantizeOutcome quantize(Collectives& comm, Backend& backend, const QuantizeOptions& asked,
                         int threads, Progress& progress) {
  comm.barrier();  // the timelines of all ranks begin together
  Phases phases;
  const JobInputs inputs = open_inputs(comm, asked);
  QuantizeOptions options = asked;
  options.stream = asked.stream.decided(*inputs.family);
  if (options.mean_bits) {
    const auto earlier = chosen_earlier(comm, options);
    options.bits_by_layer =
        earlier ? *earlier
                : measure_bits(comm, backend, options, *inputs.source, *inputs.family,
                               *inputs.tokens, inputs.samples, phases, progress);
    options.on_note(
        fmt::format("--bits {}: {}", *options.mean_bits, counts_of(options.bits_by_layer)));
  }
  const index_t blocks = inputs.family->config().blocks;
  Job job(comm, backend, options, inputs, threads, phases, progress);
  PackedWriter writer(comm, options.out, manifest_header(comm, options, inputs), options.start,
                      job.keep());
  for (const std::string& note : writer.notes()) options.on_note(note);
  if (writer.complete()) return {Ending::already_complete, blocks, blocks, {}};
  if (asked.stream.on && !options.stream.on) {
    options.on_note("no layer of this model adds to the residual as it is: --target layer");
  }
  job.note_inputs();

  const Ending ending = job.run(writer);
  const index_t done = count_blocks(writer, blocks);
  progress.update(done, ending == Ending::finished ? "done" : "stopped");
  progress.finish();
  if (ending != Ending::finished) return {ending, done, blocks, {}};
  nlohmann::json report = job.report(writer);
  report["threads"] = threads;
  report["seconds"] = phases.timeline().now();
  writer.finish(report);
  return {ending, done, blocks, std::move(report)};
}

}  // namespace quip
