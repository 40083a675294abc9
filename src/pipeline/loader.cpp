#include "quip/pipeline/loader.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "stored_lines.hpp"

#include "quip/comm/node_memory.hpp"
#include "quip/core/error.hpp"
#include "quip/quant/code/dequantize.hpp"

namespace quip {
namespace {

// Below this a tensor is cheaper read than gathered.
constexpr index_t small_bytes = index_t{1} << 16;

index_t rows_of(const TensorInfo& info) { return info.shape.size() == 1 ? 1 : info.shape[0]; }

/// Returns the share of `count` elements that this rank fills in memory that its node has in
/// common.
Range share_on_node(index_t count, const NodePlace& place) {
  return share_of(count, place.rank, place.size);
}

std::shared_ptr<float> as_floats(const std::shared_ptr<std::byte>& memory) {
  return {memory, reinterpret_cast<float*>(memory.get())};
}

/// Reads to where the values are wanted: each rank of the only node its share.
void read_on_one_node(Collectives& comm, const TensorSource& source, const StoredLines& lines,
                      float* values) {
  const Range mine = share_on_node(lines.count, comm.place());
  agree(comm, [&] { read_to_places(source, lines, mine, values); });
  comm.node_barrier();
}

/// Reads a share on each node; all gather them, and a node's ranks convert together.
void read_on_many_nodes(Collectives& comm, const TensorSource& source, const StoredLines& lines,
                        float* values) {
  const NodePlace place = comm.place();
  const index_t width = size_of(source.info(lines.tensor).dtype) * lines.length;
  const std::shared_ptr<std::byte> raw = allocate_on_node(comm, lines.count * width);
  const std::span<std::byte> bytes(raw.get(), at(lines.count * width));
  const auto part = [&](Range range) {
    return bytes.subspan(at(range.first * width), at(range.count() * width));
  };
  const Range read = share_to_read(lines.count, place);
  agree(comm, [&] { read_lines(source, lines, read, part(read)); });
  comm.node_barrier();
  comm.all_gather_over_nodes(bytes, share_offsets(lines.count, place.nodes, width));
  comm.node_barrier();
  const Range mine = share_on_node(lines.count, place);
  agree(comm, [&] { convert_lines(source, lines, mine, part(mine), values); });
  comm.node_barrier();
}

/// Loads a matrix [rows × cols] of these elements.
Tensor load_lines(Collectives& comm, Backend& backend, const TensorSource& source,
                  const StoredLines& lines, index_t rows, index_t cols) {
  const index_t bytes = lines.elements() * index_t{sizeof(float)};
  std::shared_ptr<float> values;
  if (read_by_all(comm, lines.elements() * size_of(source.info(lines.tensor).dtype))) {
    agree(comm, [&] {
      values = as_floats(allocate_privately(bytes));
      read_to_places(source, lines, {0, lines.count}, values.get());
    });
  } else {
    values = as_floats(allocate_on_node(comm, bytes));
    if (comm.place().nodes == 1) {
      read_on_one_node(comm, source, lines, values.get());
    } else {
      read_on_many_nodes(comm, source, lines, values.get());
    }
  }
  Tensor tensor;
  agree(comm, [&] { tensor = backend.adopt(std::move(values), rows, cols); });
  return tensor;
}

}  // namespace

Range share_to_read(index_t count, const NodePlace& place) {
  const Range node = share_of(count, place.node, place.nodes);
  const Range mine = share_of(node.count(), place.rank, place.size);
  return {node.first + mine.first, node.first + mine.last};
}

bool read_by_all(const Collectives& comm, index_t bytes) {
  return comm.size() == 1 || bytes <= small_bytes;
}

Tensor load_matrix(Collectives& comm, Backend& backend, const TensorSource& source,
                   const WeightHandle& place, index_t rows, index_t cols) {
  return load_lines(comm, backend, source, lines_of(place, rows, cols), rows, cols);
}

Tensor load_rows(Collectives& comm, Backend& backend, const TensorSource& source,
                 const std::string& name, Range rows) {
  const TensorInfo& info = source.info(name);
  const index_t cols = info.elements() / std::max<index_t>(rows_of(info), 1);
  const WeightHandle place{name, info.shape, rows.first * cols, cols};
  return load_matrix(comm, backend, source, place, rows.count(), cols);
}

Tensor load_tensor(Collectives& comm, Backend& backend, const TensorSource& source,
                   const std::string& name) {
  return load_rows(comm, backend, source, name, {0, rows_of(source.info(name))});
}

void load_into(WeightSet& weights, Collectives& comm, Backend& backend, const TensorSource& source,
               const std::vector<TensorSpec>& specs) {
  for (const TensorSpec& spec : specs) {
    weights.insert(spec.name, spec.stored ? load_matrix(comm, backend, source, *spec.stored, 1,
                                                        spec.elements())
                                          : load_tensor(comm, backend, source, spec.name));
  }
}

void broadcast_layer(Collectives& comm, QuantizedLinear& layer, int root) {
  visit_attributes(
      [&](const Attribute& /*attribute*/, auto& value) { comm.broadcast_value(value, root); },
      layer);
  visit_parts([&](const Part& /*part*/, auto& elements) { comm.broadcast(elements, root); }, layer);
  layer.rescaled = !layer.rescale.empty();
}

BlockLoader::BlockLoader(Collectives& comm, Backend& backend, const TensorSource& source,
                         const PackedModel* packed, const Family& family, index_t block)
    : comm_(comm),
      backend_(backend),
      source_(source),
      packed_(packed),
      family_(family),
      block_(block) {}

WeightSet BlockLoader::load() const {
  WeightSet weights;
  load_into(weights, comm_, backend_, source_, family_.block_tensors(block_));
  const BlockPlan& plan = family_.block(block_);
  const index_t dense =
      plan.experts.empty() ? std::ssize(plan.linears) : plan.experts[0].linears.first;
  load({0, dense}, weights);
  return weights;
}

void BlockLoader::load(Range linears, WeightSet& weights) const {
  // One rank reads the block's file, all receive it: the file system sees each byte once.
  const auto reader = static_cast<int>(block_ % comm_.size());
  for (index_t i = linears.first; i < linears.last; ++i) {
    const LinearSpec& linear = family_.linears(block_)[at(i)];
    const std::string name = linear.name + ".weight";
    if (packed_ == nullptr || !packed_->is_quantized(linear.name)) {
      weights.insert(
          name, load_matrix(comm_, backend_, source_, linear.stored, linear.rows, linear.cols));
      continue;
    }
    QuantizedLinear layer;
    agree(comm_, [&] {
      if (comm_.rank() == reader) layer = packed_->read_layer(linear.name).layer;
    });
    broadcast_layer(comm_, layer, reader);
    weights.insert(name, load_dequantized(comm_, backend_, layer));
  }
}

void BlockLoader::drop(Range linears, WeightSet& weights) const {
  for (index_t i = linears.first; i < linears.last; ++i)
    weights.erase(family_.linears(block_)[at(i)].name + ".weight");
}

Tensor load_dequantized(Collectives& comm, Backend& backend, const QuantizedLinear& layer) {
  std::optional<Tensor> made;
  agree(comm, [&] { made = backend.dequantize(layer); });
  if (made) return std::move(*made);
  const NodePlace place = comm.place();
  const std::shared_ptr<float> values =
      as_floats(allocate_on_node(comm, layer.rows * layer.cols * index_t{sizeof(float)}));
  const MatrixView<float> out(values.get(), layer.rows, layer.cols);
  std::optional<Dequantizer> dequantizer;
  agree(comm, [&] {
    dequantizer.emplace(layer);
    const Range mine = share_on_node(layer.rows, place);
    dequantizer->fill_rows(mine.first, mine.last, out);
  });
  comm.node_barrier();
  agree(comm, [&] {
    const Range mine = share_on_node(layer.cols, place);
    dequantizer->finish_columns(mine.first, mine.last, out);
  });
  comm.node_barrier();
  std::shared_ptr<float> weights = values;
  if (layer.padded()) {
    weights = as_floats(
        allocate_on_node(comm, layer.outputs() * layer.inputs() * index_t{sizeof(float)}));
    const Range mine = share_on_node(layer.outputs(), place);
    const MatrixView<float> cropped(weights.get(), layer.outputs(), layer.inputs());
    crop<float>(out.middle_rows(mine.first, mine.count()),
                cropped.middle_rows(mine.first, mine.count()));
    comm.node_barrier();
  }
  Tensor tensor;
  agree(comm, [&] { tensor = backend.adopt(weights, layer.outputs(), layer.inputs()); });
  return tensor;
}

}  // namespace quip
