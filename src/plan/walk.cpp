#include "quip/plan/walk.hpp"

#include <array>
#include <regex>
#include <set>

#include "../pipeline/job_inputs.hpp"
#include "../quant/method_factors.hpp"
#include "../store/manifest.hpp"
#include "../store/rest_file.hpp"
#include "../store/run_start.hpp"

#include "quip/calib/hessian.hpp"
#include "quip/core/error.hpp"
#include "quip/model/work.hpp"
#include "quip/pipeline/block_quantizer.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/pipeline/round_layer.hpp"
#include "quip/quant/layer.hpp"
#include "quip/quant/work.hpp"

namespace quip::plan {
namespace {

const std::string a_digest(32, '0');
constexpr const char* temporary_name = ".states_00001.h5.tmp.0000000";
constexpr auto float_bytes = static_cast<index_t>(sizeof(float));
constexpr index_t layer_structure_bytes = 2300;  // of HDF5, around a layer's datasets

void do_nothing() {}

/// The block's entry in the manifest, as long as it will be.
std::string entry_of(index_t block, const std::vector<LinearSpec>& linears) {
  BlockEntry entry;
  entry.block = block;
  entry.file = fmt::format("blocks/block_{:05}.h5", block);
  entry.file_digest = a_digest;
  for (const LinearSpec& linear : linears) {
    entry.layers.push_back(linear.name);
    entry.digests.push_back(a_digest);
    entry.shapes.push_back({linear.rows, linear.cols});
  }
  return store::json_text(store::to_json(entry));
}

index_t stored_bytes(const LinearSpec& linear, const LayerOptions& options) {
  index_t bytes = linear.rows * ((linear.cols * options.bits + 7) / 8);
  if (options.rescale()) bytes += linear.cols * float_bytes;
  if (options.grid() == GridKind::incoherent) return bytes + float_bytes;
  const index_t grids = linear.rows * groups_of(linear.cols, options.group_size);
  return bytes + grids * float_bytes + (options.symmetric ? 0 : (grids * options.bits + 7) / 8);
}

/// Messages of allocate_on_node.
void allocate_on_node(Ledger& ledger, index_t bytes) {
  agree(ledger, do_nothing);
  if (ledger.place().nodes == ledger.size() || bytes == 0) return;
  std::array<std::int64_t, 2> handle{};
  ledger.node_broadcast(std::as_writable_bytes(std::span(handle)));
  agree(ledger, do_nothing);
}

}  // namespace

std::vector<LinearSpec> selected_linears(const PlannedJob& job, index_t block) {
  std::vector<LinearSpec> linears = job.model.family->linears(block);
  if (job.options.skip.empty()) return linears;
  const std::regex skip(job.options.skip);
  std::erase_if(linears,
                [&](const LinearSpec& linear) { return std::regex_search(linear.name, skip); });
  return linears;
}

Walk::Walk(const PlannedJob& job, const Layout& layout)
    : job_(job), layout_(layout), blocks_(job.model.family->config().blocks) {
  const Family& family = *job.model.family;
  if (job.length > family.max_length()) {
    fail("--length {}: the model takes at most {} tokens", job.length, family.max_length());
  }
  std::set<std::string> quantized;
  for (index_t b = 0; b < blocks_; ++b) {
    const std::vector<LinearSpec> linears = selected_linears(job, b);
    for (const LinearSpec& linear : linears) {
      quantized.insert(linear.name + ".weight");
      const LayerOptions of_layer = options_of(linear);
      if (job.options.wide.covers(linear.cols)) {
        job.options.wide.check(linear.name, linear.cols, of_layer, layout.ranks());
      }
    }
    block_entries_.push_back(entry_of(b, linears));
  }
  if (quantized.empty()) fail("--skip '{}' leaves nothing to quantize", job.options.skip);
  for (const std::string& name : job.model.source->names()) {
    if (!quantized.contains(name)) rest_.push_back(job.model.source->info(name));
  }
  manifest_ = store::new_manifest(manifest_header(job.options, job.samples, family.config().text,
                                                  a_digest, a_digest))
                  .dump();
}

LayerOptions Walk::options_of(const LinearSpec& linear) const {
  return job_.options.overrides.apply(job_.options.layer, linear.name);
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
  ledger.count_text(std::ssize(manifest_), 0);
  ledger.count_text(std::ssize(std::string("[]")), 0);  // no notes
  save_manifest(ledger);
  agree(ledger, do_nothing);
  agree(ledger, do_nothing);  // the range of blocks
}

void Walk::save_manifest(Ledger& ledger) const {
  agree(ledger, do_nothing);
  ledger.add_file(std::ssize(manifest_), 0);
}

void Walk::write_rest(Ledger& ledger) const {
  ledger.enter("write");
  const auto tensors = static_cast<index_t>(rest_.size());
  const std::vector<store::Chunk> chunks = store::chunks_of(rest_);
  agree(ledger, do_nothing);
  ledger.count_text(std::ssize(std::string(".rest.h5.tmp.0000000")), 0);
  ledger.count_text(std::ssize(a_digest), 0);
  ledger.count_broadcast(tensors * index_t{sizeof(index_t)}, 0);
  agree(ledger, do_nothing);
  std::vector<index_t> offsets{0};
  for (index_t r = 0; r < ledger.size(); ++r) {  // chunks go to the ranks in turn
    const index_t count = (std::ssize(chunks) + ledger.size() - 1 - r) / ledger.size();
    offsets.push_back(offsets.back() + count * std::ssize(a_digest));
  }
  for (index_t c = ledger.rank(); c < std::ssize(chunks); c += ledger.size()) {
    ledger.add_read(chunks[static_cast<std::size_t>(c)].bytes);
    ledger.add_written(chunks[static_cast<std::size_t>(c)].bytes);
  }
  ledger.count_gather(offsets);
  ledger.add_durable(1);
  agree(ledger, do_nothing);
  save_manifest(ledger);
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
      ledger.count_gather_over_nodes(share_offsets(count, place.nodes, size_of(info.dtype)));
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
  const std::vector<LinearSpec> linears = selected_linears(job_, b);
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
  const auto [found, fresh] = triangles_.try_emplace({ledger.rank(), n});
  if (fresh) {
    Ledger sums(ledger.rank(), ledger.size(), ledger.place());
    const std::vector<index_t> pieces = triangle_pieces(n);
    for (std::size_t p = 0; p + 1 < pieces.size(); ++p) {
      const auto before = [](index_t row) { return row * (row + 1) / 2; };
      sums.count_sum(before(pieces[p + 1]) - before(pieces[p]));
    }
    found->second = sums.current();
  }
  ledger.add(found->second);
}

void Walk::round(Ledger& ledger, const std::vector<LinearSpec>& linears) {
  std::vector<index_t> orders;
  for (const LinearSpec& linear : linears) orders.push_back(linear.cols);
  const std::vector<int> owners = assign_owners(orders, ledger.size());
  ledger.enter("factor");
  agree(ledger, do_nothing);
  for (std::size_t i = 0; i < linears.size(); ++i) {
    if (owners[i] != ledger.rank()) continue;
    ledger.add_flops(factor_flops(linears[i].cols, options_of(linears[i])));
  }
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const LayerOptions options = options_of(linears[i]);
    ledger.enter("round");
    broadcast_prepared(ledger, linears[i].cols, options, owners[i]);
    round_layer(ledger, linears[i], options, nullptr);
    ledger.enter("dequantize");
    dequantize(ledger, linears[i], options);
  }
}

void Walk::broadcast_prepared(Ledger& ledger, index_t n, const LayerOptions& options,
                              int root) const {
  if (ledger.size() == 1) return;
  const auto panels = [&](bool there) {
    LowerPanels shape;  // without room for elements
    shape.n = there ? n : 0;
    ledger.count_broadcast(sizeof(index_t), root);
    agree(ledger, do_nothing);
    ledger.count_broadcast(shape.panel_offset(shape.blocks()) * float_bytes, root);
    ledger.count_broadcast(shape.n * index_t{sizeof(double)}, root);
  };
  panels(true);
  panels(options.method == Method::optq || options.method == Method::ldl_admm);
  panels(options.effective_passes() > 0);
  const bool ordered = !column_order(options, std::array{1.0}).empty();
  ledger.count_text(ordered ? n * index_t{sizeof(index_t)} : 0, root);
  ledger.count_text(options.rescale() ? n * float_bytes : 0, root);
  ledger.count_text(0, root);  // no dead channels
  ledger.count_text(n * index_t{sizeof(double)}, root);
  const PreparedLayer scalars;
  const auto value = [&](const auto& one) { ledger.count_broadcast(sizeof(one), root); };
  value(scalars.weight_rms);
  value(scalars.loss_unit);
  value(scalars.trace_d);
  value(scalars.trace_ratio);
  value(scalars.weight_incoherence);
  value(scalars.spectra);
  value(scalars.damping);
  value(scalars.damping_tries);
  value(scalars.dead_channels);
  value(scalars.seed_u);
  value(scalars.seed_v);
  value(scalars.seed_rounding);
}

void Walk::gather_rows(Ledger& ledger, index_t rows, index_t per_row) {
  std::vector<index_t>& offsets = row_offsets_[{rows, per_row}];
  if (offsets.empty()) {
    offsets.push_back(0);
    for (int r = 0; r < ledger.size(); ++r) {
      offsets.push_back(row_share(rows, r, ledger.size()).last * per_row);
    }
  }
  ledger.count_gather(offsets);
}

void Walk::round_layer(Ledger& ledger, const LinearSpec& linear, const LayerOptions& options,
                       const BlockCyclic* wide) {
  const index_t n = linear.cols;
  const auto rows =
      static_cast<double>(row_share(linear.rows, ledger.rank(), ledger.size()).count());
  const double each = rounding_flops(n, options, options.effective_passes());
  agree(ledger, do_nothing);
  ledger.add_flops(transform_rows_flops(options.effective_transform(), linear.rows, n,
                                        static_cast<index_t>(rows)));
  if (options.grid() == GridKind::incoherent && !options.rho) {
    const RhoSearch search(linear.rows, options.bits);
    const auto pairs = search.sampled() * std::ssize(search.candidates());
    agree(ledger, do_nothing);
    if (wide != nullptr) stream_panels(ledger, *wide);
    ledger.count_sum(pairs);
    ledger.add_flops(each * static_cast<double>(pairs) * rows / static_cast<double>(linear.rows));
  }
  agree(ledger, do_nothing);
  if (wide != nullptr) stream_panels(ledger, *wide);
  ledger.add_flops(rows * (each + reference_flops(n)));
  gather_rows(ledger, linear.rows, (n * options.bits + 7) / 8);
  if (options.grid() == GridKind::minmax) {
    const index_t groups = groups_of(n, options.group_size);
    gather_rows(ledger, linear.rows, groups * float_bytes);
    if (!options.symmetric) gather_rows(ledger, linear.rows, groups);
  }
  ledger.count_maximum(2 * float_bytes);
  gather_rows(ledger, linear.rows, sizeof(RowLoss));
}

void Walk::dequantize(Ledger& ledger, const LinearSpec& linear, const LayerOptions& options) const {
  allocate_on_node(ledger, linear.rows * linear.cols * float_bytes);
  agree(ledger, do_nothing);
  ledger.node_barrier();
  agree(ledger, do_nothing);
  ledger.node_barrier();
  agree(ledger, do_nothing);
  const NodePlace place = ledger.place();
  const TransformKind kind = options.effective_transform();
  const auto part = [&](index_t count) {
    return static_cast<double>(share_of(count, place.rank, place.size).count());
  };
  ledger.add_flops(part(linear.rows) * transform_flops(kind, linear.cols) +
                   part(linear.cols) * transform_flops(kind, linear.rows));
}

void Walk::write_block(Ledger& ledger, index_t b, const std::vector<LinearSpec>& linears) const {
  ledger.enter("write");
  const int writer = static_cast<int>(b % ledger.size());
  agree(ledger, do_nothing);
  index_t bytes = 0;
  for (const LinearSpec& linear : linears) {
    bytes += stored_bytes(linear, options_of(linear)) + layer_structure_bytes;
  }
  ledger.add_file(bytes, writer);
  if (ledger.rank() == writer) ledger.add_read(bytes);  // for its digest
  ledger.count_text(std::ssize(block_entries_[static_cast<std::size_t>(b)]), writer);
  save_manifest(ledger);
}

/// The samples through the quantized block, and what comes out onto disk.
void Walk::forward(Ledger& ledger, index_t b) const {
  ledger.enter("forward");
  agree(ledger, do_nothing);
  ledger.add_flops(static_cast<double>(samples_of(ledger).count()) *
                   block_flops(*job_.model.family, b, job_.length));
  ledger.enter("write");
  if (job_.options.keep_states != KeepStates::none) write_states(ledger);
}

void Walk::write_states(Ledger& ledger) const {
  agree(ledger, do_nothing);
  ledger.count_text(std::ssize(std::string(temporary_name)), 0);
  ledger.count_text(std::ssize(a_digest), 0);
  ledger.count_broadcast(sizeof(index_t), 0);
  agree(ledger, do_nothing);
  ledger.add_written(samples_of(ledger).count() * job_.length * job_.model.family->config().hidden *
                     float_bytes);
  ledger.count_gather(share_offsets(job_.samples, ledger.size(), std::ssize(a_digest)));
  ledger.add_durable(1);
  agree(ledger, do_nothing);
  save_manifest(ledger);
  agree(ledger, do_nothing);
}

}  // namespace quip::plan
