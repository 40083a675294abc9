#include "quip/plan/walk.hpp"

#include <algorithm>
#include <type_traits>

#include "pipeline/job_inputs.hpp"
#include "pipeline/layer_survey.hpp"
#include "pipeline/stored_lines.hpp"
#include "store/manifest.hpp"
#include "store/rest_file.hpp"
#include "store/run_start.hpp"
#include "walk_steps.hpp"

#include "quip/core/error.hpp"
#include "quip/model/work.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/quant/factor/factor.hpp"

namespace quip::plan {
namespace {

const std::string a_digest(32, '0');
constexpr index_t layer_structure_bytes = 2300;  // taken by HDF5 around a layer's datasets

/// Returns the block's entry in the manifest, as long as it will be.
nlohmann::json entry_of(index_t block, const std::vector<LinearSpec>& linears) {
  BlockEntry entry;
  entry.block = block;
  entry.file = fmt::format("blocks/block_{:05}.h5", block);
  entry.file_digest = a_digest;
  for (const LinearSpec& linear : linears) {
    entry.layers.push_back(linear.name);
    entry.digests.push_back(a_digest);
    entry.shapes.push_back({linear.rows, linear.cols});
  }
  return to_json(entry);
}

/// Returns a layer's report with numbers of the usual length.
nlohmann::json report_of(const LinearSpec& linear, const LayerOptions& options,
                         const QuantizedLinear& layer, bool moved) {
  StoredLayer stored{linear.name, to_string(options.method), layer, {}};
  if (linear.expert >= 0) stored.statistics.tokens = 1000;
  if (moved) stored.statistics.target_shift.emplace();
  visit_statistics(
      [](const char* /*name*/, auto& value) {
        if constexpr (std::is_same_v<decltype(value), double&>) value = 1.0 / 3;
      },
      stored.statistics);
  return to_json(stored);
}

}  // namespace

Walk::Walk(const PlannedJob& job, const Layout& layout)
    : job_(job), layout_(layout), blocks_(job.model.family->config().blocks) {
  const Family& family = *job.model.family;
  if (job.length > family.max_length()) {
    fail("--length {}: the model takes at most {} tokens", job.length, family.max_length());
  }
  const LayerSurvey survey = survey_layers(family, job.options, layout.ranks());
  notes_ = survey.notes;
  kinds_ = kinds_of_blocks(family, job.options);
  const StateShape states{job.samples * streams(), job.length, family.config().hidden};
  keeps_states_ =
      states_to_keep(job.options.keep_states, states, *job.model.source) != KeepStates::none;
  nlohmann::json manifest = new_manifest(
      manifest_header(job.options, job.samples, family.config().text, a_digest, a_digest));
  manifest_ = manifest.dump();
  manifest_bytes_.push_back(std::ssize(json_text(manifest)));
  std::vector<TensorInfo> rest;
  for (const std::string& name : remaining_tensors(*job.model.source, survey.quantized)) {
    rest.push_back(job.model.source->info(name));
    manifest["rest"][name] = to_json(RestEntry{rest.back(), 0, a_digest});
  }
  rest_tensors_ = std::ssize(rest);
  for (const Chunk& chunk : chunks_of(rest)) chunks_.push_back(chunk.bytes);
  manifest_bytes_.push_back(std::ssize(json_text(manifest)));
  for (const auto& linears : job.options.selected(family, Range{0, blocks_})) {
    nlohmann::json entry = entry_of(std::ssize(block_entry_bytes_), linears);
    block_entry_bytes_.push_back(std::ssize(json_text(entry)));
    index_t& bytes = block_file_bytes_.emplace_back();
    for (const LinearSpec& linear : linears) {
      const LayerOptions options = job.options.of(linear.name);
      const QuantizedLinear layer = described(options, linear.rows, linear.cols);
      entry["report"].push_back(report_of(linear, options, layer, job.options.stream.moves()));
      bytes += stored_bytes(layer) + layer_structure_bytes;
    }
    if (job.options.stream.on) entry["stream_distance"] = 1.0 / 3;
    const std::string text = json_text(entry);  // each line stands four further in there
    const index_t lines = std::count(text.begin(), text.end(), '\n');
    manifest_bytes_.push_back(manifest_bytes_.back() + std::ssize(text) + 4 * lines);
  }
}

index_t Walk::samples_of(const Ledger& ledger) const {
  return share_of(job_.samples, ledger.rank(), ledger.size()).count();
}

std::unique_ptr<Ledger> Walk::of_rank(int rank) const {
  const auto fresh = [&] {
    return std::make_unique<Ledger>(rank, layout_.ranks(), layout_.place_of(rank));
  };
  auto owned = fresh();
  Ledger& ledger = *owned;
  start(ledger);
  write_rest(ledger);
  embed(ledger);
  const bool streams = job_.options.stream.on;
  const index_t first = first_quantized();
  for (const BlockKind& kind : kinds_) {
    const auto layers = fresh();
    const auto experts = fresh();
    const bool has_experts = !job_.model.family->block(kind.blocks[0]).experts.empty();
    if (streams) {
      walk_streams(job_, layout_, kind, false, *layers);
    } else if (!kind.linears.empty()) {
      walk_layers(job_, layout_, kind, *layers);
    }
    if (has_experts) {
      walk_experts(job_, layout_, kind, *experts, [&](const LinearSpec& linear) {
        load_lines(*experts, lines_of(linear.stored, linear.rows, linear.cols));
      });
    }
    if (!streams) layers->add(*experts);
    for (const index_t b : kind.blocks) {
      load_block(ledger, b);
      if (streams) {
        const auto own = fresh();
        if (b <= first) walk_streams(job_, layout_, kind, true, *own);
        ledger.add(b <= first ? *own : *layers);
        ledger.add(*experts);
        ledger.enter("forward");  // how far the streams are apart
        ledger.vote();
        ledger.count_sum(2 * job_.samples);
      } else if (!kind.linears.empty()) {
        quantize_block(ledger, b, *layers);
      }
      write_block(ledger, b);
      if (b + 1 < blocks_) {
        if (!has_experts && !streams) forward(ledger, b);
        keep_states(ledger, b);
      }
      ledger.enter("other");
      ledger.count_maximum(float_bytes);  // a request to stop
    }
  }
  return owned;
}

index_t Walk::first_quantized() const {
  index_t first = blocks_;
  for (const BlockKind& kind : kinds_) {
    if (!kind.linears.empty()) first = std::min(first, kind.blocks[0]);
  }
  return first;
}

/// Follows inputs, samples, the header's digests and the output directory.
void Walk::start(Ledger& ledger) const {
  ledger.enter("other");
  for (int step = 0; step < 4; ++step) ledger.vote();
  const index_t sample_bytes = job_.length * index_t{sizeof(std::int32_t)};
  if (ledger.rank() == 0) ledger.add_read(job_.samples * sample_bytes);
  ledger.add_read(samples_of(ledger) * sample_bytes);
  for (int digest = 0; digest < 2; ++digest) ledger.count_text(std::ssize(a_digest), 0);
  ledger.vote();
  if (layout_.gpus_per_node > 0) {  // pipeline/device_memory
    ledger.vote();
    ledger.count_maximum(float_bytes);
  }
  ledger.count_text(std::ssize(manifest_), 0);
  ledger.count_text(std::ssize(std::string("[]")), 0);  // no notes
  save_manifest(ledger, 0);
  ledger.vote();
  ledger.vote();  // the range of blocks
}

void Walk::embed(Ledger& ledger) const {
  ledger.enter("load");
  const Family& family = *job_.model.family;
  ledger.vote();
  for (const TensorSpec& tensor : family.end_tensors()) load_lines(ledger, lines_of(tensor));
  ledger.vote();
  const TensorSpec& table = family.embedding();
  ledger.add_read(samples_of(ledger) * job_.length * table.shape[1] *
                  size_of(job_.model.source->info(table.name).dtype));
  if (job_.options.stream.on) ledger.vote();  // the second stream
}

void Walk::load_lines(Ledger& ledger, const StoredLines& lines) const {
  const index_t element = size_of(job_.model.source->info(lines.tensor).dtype);
  const index_t bytes = lines.elements() * element;
  if (read_by_all(ledger, bytes)) {
    ledger.add_read(lines.count * lines.extent() * element);
    ledger.vote();
  } else {
    const NodePlace place = ledger.place();
    ledger.add_read(share_to_read(lines.count, place).count() * lines.extent() * element);
    allocate_on_node(ledger, lines.elements() * float_bytes);
    if (place.nodes > 1) {
      allocate_on_node(ledger, bytes);
      ledger.vote();
      ledger.node_barrier();
      ledger.all_gather_over_nodes({},
                                   share_offsets(lines.count, place.nodes, lines.length * element));
      ledger.node_barrier();
    }
    ledger.vote();
    ledger.node_barrier();
  }
  ledger.vote();
}

void Walk::load_block(Ledger& ledger, index_t b) const {
  ledger.enter("load");
  const Family& family = *job_.model.family;
  for (const TensorSpec& tensor : family.block_tensors(b)) load_lines(ledger, lines_of(tensor));
  for (const LinearSpec& linear : family.linears(b)) {
    if (linear.expert >= 0) continue;
    load_lines(ledger, lines_of(linear.stored, linear.rows, linear.cols));
  }
}

/// `layers`: the costs of its layers once their inputs are captured.
void Walk::quantize_block(Ledger& ledger, index_t b, const Ledger& layers) const {
  const BlockPlan& plan = job_.model.family->block(b);
  ledger.enter("capture");
  ledger.vote();  // room for the captured inputs
  for (int tap = 0; tap < plan.dense_taps(); ++tap) {
    ledger.vote();
    ledger.add_flops(static_cast<double>(samples_of(ledger)) * stage_flops(plan, tap, job_.length));
  }
  ledger.add(layers);
}

/// Follows the samples through the quantized block.
void Walk::forward(Ledger& ledger, index_t b) const {
  const Family& family = *job_.model.family;
  ledger.enter("forward");
  ledger.vote();
  ledger.add_flops(static_cast<double>(samples_of(ledger)) *
                   block_flops(family.block(b), job_.length));
}

/// Follows the hidden states onto disk.
void Walk::keep_states(Ledger& ledger, index_t b) const {
  const Family& family = *job_.model.family;
  if (!keeps_states_) return;
  ledger.enter("write");
  write_together(
      ledger, ".states_00001.h5.tmp.0000000", 1,
      samples_of(ledger) * streams() * job_.length * family.config().hidden * float_bytes,
      share_offsets(job_.samples, ledger.size(), streams() * std::ssize(a_digest)));
  save_manifest(ledger, b + 2);
  ledger.vote();
}

void Walk::write_together(Ledger& ledger, const char* temporary, index_t tensors, index_t bytes,
                          const std::vector<index_t>& digests) const {
  ledger.vote();
  ledger.count_text(std::ssize(std::string(temporary)), 0);
  ledger.count_text(std::ssize(a_digest), 0);
  ledger.count_broadcast(tensors * index_t{sizeof(index_t)}, 0);
  ledger.vote();
  ledger.add_written(bytes);
  // Collectives::gather begins with the texts' lengths.
  ledger.all_gather_bytes({}, share_offsets(ledger.size(), ledger.size(), sizeof(index_t)));
  ledger.all_gather_bytes({}, digests);
  ledger.add_durable(1);
  ledger.vote();
}

void Walk::write_rest(Ledger& ledger) const {
  std::vector<index_t> digests{0};
  index_t bytes = 0;
  for (index_t r = 0; r < ledger.size(); ++r) {  // chunks go to the ranks in turn
    digests.push_back(digests.back());
    for (index_t c = r; c < std::ssize(chunks_); c += ledger.size()) {
      digests.back() += std::ssize(a_digest);
      if (r == ledger.rank()) bytes += chunks_[at(c)];
    }
  }
  ledger.enter("write");
  ledger.add_read(bytes);
  write_together(ledger, ".rest.h5.tmp.0000000", rest_tensors_, bytes, digests);
  save_manifest(ledger, 1);
}

void Walk::write_block(Ledger& ledger, index_t b) const {
  const int writer = static_cast<int>(b % ledger.size());
  ledger.enter("write");
  ledger.vote();
  ledger.add_file(block_file_bytes_[at(b)], writer);
  if (ledger.rank() == writer) ledger.add_read(block_file_bytes_[at(b)]);  // for its digest
  ledger.count_text(block_entry_bytes_[at(b)], writer);
  save_manifest(ledger, b + 2);
}

void Walk::save_manifest(Ledger& ledger, index_t listed) const {
  ledger.vote();
  ledger.add_file(manifest_bytes_[at(listed)], 0);
}

}  // namespace quip::plan
