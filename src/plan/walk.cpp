#include "quip/plan/walk.hpp"

#include <algorithm>
#include <type_traits>

#include "pipeline/job_inputs.hpp"
#include "pipeline/layer_survey.hpp"
#include "store/manifest.hpp"
#include "store/run_start.hpp"
#include "walk_steps.hpp"

#include "quip/calib/hessian.hpp"
#include "quip/core/error.hpp"
#include "quip/model/work.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/quant/factor/work.hpp"

namespace quip::plan {
namespace {

/// The block's entry in the manifest, as long as it will be.
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
nlohmann::json report_of(const LinearSpec& linear, const LayerOptions& options) {
  StoredLayer layer{
      linear.name, to_string(options.method), described(options, linear.rows, linear.cols), {}};
  visit_statistics(
      [](const char* /*name*/, auto& value) {
        if constexpr (std::is_same_v<decltype(value), double&>) value = 1.0 / 3;
      },
      layer.statistics);
  return to_json(layer);
}

}  // namespace

Walk::Walk(const PlannedJob& job, const Layout& layout)
    : job_(job), layout_(layout), blocks_(job.model.family->config().blocks) {
  const Family& family = *job.model.family;
  if (job.length > family.max_length()) {
    fail("--length {}: the model takes at most {} tokens", job.length, family.max_length());
  }
  const LayerSurvey survey = survey_layers(family, job.options, layout.ranks());
  for (const std::string& name : remaining_tensors(*job.model.source, survey.quantized)) {
    rest_.push_back(job.model.source->info(name));
  }
  nlohmann::json manifest = new_manifest(
      manifest_header(job.options, job.samples, family.config().text, a_digest, a_digest));
  manifest_ = manifest.dump();
  for (const TensorInfo& tensor : rest_) {
    manifest["rest"][tensor.name] = to_json(RestEntry{tensor, 0, a_digest});
  }
  manifest_bytes_.push_back(std::ssize(json_text(manifest)));
  for (index_t b = 0; b < blocks_; ++b) {
    const std::vector<LinearSpec> linears = job.options.selected(family, b);
    nlohmann::json entry = entry_of(b, linears);
    block_entries_.push_back(json_text(entry));
    for (const LinearSpec& linear : linears) {
      entry["report"].push_back(report_of(linear, options_of(linear)));
    }
    const std::string text = json_text(entry);  // each line stands four further in there
    const index_t lines = std::count(text.begin(), text.end(), '\n');
    manifest_bytes_.push_back(manifest_bytes_.back() + std::ssize(text) + 4 * lines);
  }
}

LayerOptions Walk::options_of(const LinearSpec& linear) const {
  return job_.options.of(linear.name);
}

Range Walk::samples_of(const Ledger& ledger) const {
  return share_of(job_.samples, ledger.rank(), ledger.size());
}

std::unique_ptr<Ledger> Walk::of_rank(int rank) {
  auto owned = std::make_unique<Ledger>(rank, layout_.ranks(), layout_.place_of(rank));
  Ledger& ledger = *owned;
  start(ledger);
  write_rest(ledger);
  embed(ledger);
  for (index_t b = 0; b < blocks_; ++b) {
    block(ledger, b);
    if (b + 1 < blocks_) forward(ledger, b);
    ledger.enter("other");
    ledger.count_maximum(sizeof(float));  // is a stop asked for?
  }
  return owned;
}

/// Inputs, samples, the header's digests, the output directory.
void Walk::start(Ledger& ledger) const {
  ledger.enter("other");
  for (int step = 0; step < 4; ++step) agree(ledger, do_nothing);
  const index_t tokens = job_.samples * job_.length;
  if (ledger.rank() == 0) ledger.add_read(tokens * index_t{sizeof(std::int32_t)});
  ledger.add_read(samples_of(ledger).count() * job_.length * index_t{sizeof(std::int32_t)});
  for (int digest = 0; digest < 2; ++digest) ledger.count_text(std::ssize(a_digest), 0);
  agree(ledger, do_nothing);
  if (layout_.gpus_per_node > 0) {  // pipeline/device_memory
    agree(ledger, do_nothing);
    ledger.count_maximum(sizeof(float));
  }
  ledger.count_text(std::ssize(manifest_), 0);
  ledger.count_text(std::ssize(std::string("[]")), 0);  // no notes
  save_manifest(ledger, 0);
  agree(ledger, do_nothing);
  agree(ledger, do_nothing);  // the range of blocks
}

void Walk::embed(Ledger& ledger) const {
  ledger.enter("load");
  const Family& family = *job_.model.family;
  agree(ledger, do_nothing);
  for (const TensorSpec& tensor : family.end_tensors()) {
    load_tensor(ledger, job_.model.source->info(tensor.name));
  }
  agree(ledger, do_nothing);
  const TensorSpec table = family.embedding();
  ledger.add_read(samples_of(ledger).count() * job_.length * table.shape[1] *
                  size_of(job_.model.source->info(table.name).dtype));
}

void Walk::load_tensor(Ledger& ledger, const TensorInfo& info) const {
  const index_t count = info.elements();
  if (read_by_all(ledger, info.bytes())) {
    ledger.add_read(info.bytes());
    agree(ledger, do_nothing);
  } else {
    const NodePlace place = ledger.place();
    ledger.add_read(share_to_read(count, place).count() * size_of(info.dtype));
    allocate_on_node(ledger, count * float_bytes);
    if (place.nodes > 1) {
      allocate_on_node(ledger, info.bytes());
      agree(ledger, do_nothing);
      ledger.node_barrier();
      ledger.all_gather_over_nodes({}, share_offsets(count, place.nodes, size_of(info.dtype)));
      ledger.node_barrier();
    }
    agree(ledger, do_nothing);
    ledger.node_barrier();
  }
  agree(ledger, do_nothing);
}

void Walk::load_block(Ledger& ledger, index_t b) const {
  ledger.enter("load");
  const Family& family = *job_.model.family;
  for (const TensorSpec& tensor : family.block_tensors(b)) {
    load_tensor(ledger, job_.model.source->info(tensor.name));
  }
  for (const LinearSpec& linear : family.linears(b)) {
    load_tensor(ledger, job_.model.source->info(linear.name + ".weight"));
  }
}

void Walk::block(Ledger& ledger, index_t b) {
  load_block(ledger, b);
  const Family& family = *job_.model.family;
  const std::vector<LinearSpec> linears = job_.options.selected(*job_.model.family, b);
  if (!linears.empty()) {
    ledger.enter("capture");
    agree(ledger, do_nothing);  // room for the captured inputs
    std::vector<LinearSpec> narrow;
    for (int tap = 0; tap < family.taps(); ++tap) {
      capture(ledger, b, tap);
      std::vector<LinearSpec> readers = linears;
      std::erase_if(readers, [&](const LinearSpec& linear) { return linear.tap != tap; });
      if (readers.empty()) continue;
      if (job_.options.wide.covers(readers.front().cols)) {
        for (const LinearSpec& linear : readers) wide_layer(ledger, linear, options_of(linear));
        continue;
      }
      hessian(ledger, family.tap_width(tap));
      if (job_.options.true_sequential) {
        round(ledger, readers);
      } else {
        narrow.insert(narrow.end(), readers.begin(), readers.end());
      }
    }
    if (!narrow.empty()) round(ledger, narrow);
  }
  write_block(ledger, b, linears);
}

void Walk::capture(Ledger& ledger, index_t b, int tap) const {
  ledger.enter("capture");
  agree(ledger, do_nothing);
  ledger.add_flops(static_cast<double>(samples_of(ledger).count()) *
                   stage_flops(*job_.model.family, b, tap, job_.length));
}

void Walk::hessian(Ledger& ledger, index_t n) {
  ledger.enter("hessian");
  measure_channels(ledger, n);
  agree(ledger, do_nothing);
  ledger.add_flops(hessian_flops(n, samples_of(ledger).count() * job_.length));
  once(ledger, "triangle", n, [&](Ledger& books) {
    const std::vector<index_t> pieces = triangle_pieces(n);
    for (std::size_t p = 0; p + 1 < pieces.size(); ++p) {
      const auto before = [](index_t row) { return row * (row + 1) / 2; };
      books.count_sum(before(pieces[p + 1]) - before(pieces[p]));
    }
  });
}

void Walk::once(Ledger& ledger, const char* what, index_t n,
                const std::function<void(Ledger&)>& work) {
  const auto [found, fresh] = costs_.try_emplace({what, ledger.rank(), n});
  if (fresh) {
    Ledger books(ledger.rank(), ledger.size(), ledger.place());
    work(books);
    found->second = books.current();
  }
  ledger.add(found->second);
}

/// The samples through the quantized block, and what comes out onto disk.
void Walk::forward(Ledger& ledger, index_t b) const {
  ledger.enter("forward");
  agree(ledger, do_nothing);
  ledger.add_flops(static_cast<double>(samples_of(ledger).count()) *
                   block_flops(*job_.model.family, b, job_.length));
  ledger.enter("write");
  const StateShape shape{job_.samples, job_.length, job_.model.family->config().hidden};
  if (states_to_keep(job_.options.keep_states, shape, *job_.model.source) != KeepStates::none) {
    write_states(ledger, b + 1);
  }
}

}  // namespace quip::plan
