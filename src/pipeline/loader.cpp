#include "quip/pipeline/loader.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "quip/comm/node_memory.hpp"
#include "quip/core/error.hpp"
#include "quip/quant/code/dequantize.hpp"

namespace quip {
namespace {

// Below this a tensor is cheaper read than gathered.
constexpr index_t small_bytes = index_t{1} << 16;
constexpr index_t staging_elements = index_t{1} << 20;

index_t rows_of(const TensorInfo& info) { return info.shape.size() == 1 ? 1 : info.shape[0]; }

/// Returns the share of `count` elements that this rank fills in memory that its node has in
/// common.
Range share_on_node(index_t count, const NodePlace& place) {
  return share_of(count, place.rank, place.size);
}

std::span<float> part_of(float* values, Range range) {
  return {values + range.first, at(range.count())};
}

std::shared_ptr<float> as_floats(const std::shared_ptr<std::byte>& memory) {
  return {memory, reinterpret_cast<float*>(memory.get())};
}

/// Elements [first, first + count) of a tensor.
struct Slice {
  const TensorSource& source;
  const TensorInfo& info;
  index_t first;
  index_t count;
};

/// Reads to where the values are wanted: each rank of the only node its share.
void read_on_one_node(Collectives& comm, const Slice& slice, float* values) {
  const Range mine = share_on_node(slice.count, comm.place());
  agree(comm, [&] {
    read_floats(slice.source, slice.info.name, slice.first + mine.first, part_of(values, mine));
  });
  comm.node_barrier();
}

void convert(const Slice& slice, std::span<const std::byte> raw, Range range, float* values) {
  const index_t element = size_of(slice.info.dtype);
  for (index_t first = range.first; first < range.last; first += staging_elements) {
    const index_t count = std::min(staging_elements, range.last - first);
    const std::span<float> run = part_of(values, {first, first + count});
    to_float(slice.info.dtype, raw.subspan(at(first * element), at(count * element)), run);
    const index_t bad = first_nonfinite(run);
    if (bad >= 0) {
      fail("{}: tensor {} holds a NaN or an infinity at element {}", slice.source.describe(),
           slice.info.name, slice.first + first + bad);
    }
  }
}

/// Reads a share on each node; all gather them, and a node's ranks convert together.
void read_on_many_nodes(Collectives& comm, const Slice& slice, float* values) {
  const NodePlace place = comm.place();
  const index_t element = size_of(slice.info.dtype);
  const std::shared_ptr<std::byte> raw = allocate_on_node(comm, slice.count * element);
  const std::span<std::byte> bytes(raw.get(), at(slice.count * element));
  const Range mine = share_to_read(slice.count, place);
  agree(comm, [&] {
    slice.source.read(slice.info.name, (slice.first + mine.first) * element,
                      bytes.subspan(at(mine.first * element), at(mine.count() * element)));
  });
  comm.node_barrier();
  comm.all_gather_over_nodes(bytes, share_offsets(slice.count, place.nodes, element));
  comm.node_barrier();
  agree(comm, [&] { convert(slice, bytes, share_on_node(slice.count, place), values); });
  comm.node_barrier();
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

Tensor load_rows(Collectives& comm, Backend& backend, const TensorSource& source,
                 const std::string& name, Range rows) {
  const TensorInfo& info = source.info(name);
  const index_t cols = info.elements() / std::max<index_t>(rows_of(info), 1);
  const Slice slice{source, info, rows.first * cols, rows.count() * cols};
  std::shared_ptr<float> values;
  if (read_by_all(comm, slice.count * size_of(info.dtype))) {
    agree(comm, [&] {
      values = as_floats(allocate_privately(slice.count * index_t{sizeof(float)}));
      read_floats(source, name, slice.first, part_of(values.get(), {0, slice.count}));
    });
  } else {
    values = as_floats(allocate_on_node(comm, slice.count * index_t{sizeof(float)}));
    if (comm.place().nodes == 1) {
      read_on_one_node(comm, slice, values.get());
    } else {
      read_on_many_nodes(comm, slice, values.get());
    }
  }
  Tensor tensor;
  agree(comm, [&] { tensor = backend.adopt(std::move(values), rows.count(), cols); });
  return tensor;
}

Tensor load_tensor(Collectives& comm, Backend& backend, const TensorSource& source,
                   const std::string& name) {
  return load_rows(comm, backend, source, name, {0, rows_of(source.info(name))});
}

void load_into(WeightSet& weights, Collectives& comm, Backend& backend, const TensorSource& source,
               const std::vector<TensorSpec>& specs) {
  for (const TensorSpec& spec : specs) {
    weights.insert(spec.name, load_tensor(comm, backend, source, spec.name));
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
          name, load_rows(comm_, backend_, source_, linear.stored.tensor, linear.stored_rows()));
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
