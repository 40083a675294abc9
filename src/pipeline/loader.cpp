#include "quip/pipeline/loader.hpp"

#include <algorithm>

#include "quip/core/error.hpp"
#include "quip/quant/dequantize.hpp"

namespace quip {
namespace {

// Below this a tensor is cheaper read than gathered.
constexpr index_t small_bytes = index_t{1} << 16;
constexpr index_t staging_elements = index_t{1} << 20;

struct Extent {
  index_t rows;
  index_t cols;
};

Extent extent_of(const TensorInfo& info) {
  if (info.shape.size() == 1) return {1, info.shape[0]};
  return {info.shape[0], info.elements() / std::max<index_t>(info.shape[0], 1)};
}

/// Calls `convert(first, floats)` for consecutive runs of whole rows; uploads the result.
template <typename Convert>
void upload_in_runs(Backend& backend, TensorView tensor, const Convert& convert) {
  const index_t rows_at_once =
      std::max<index_t>(1, staging_elements / std::max<index_t>(tensor.cols, 1));
  Buffer<float> staging(std::min(rows_at_once, tensor.rows) * tensor.cols);
  for (index_t first = 0; first < tensor.rows; first += rows_at_once) {
    const index_t count = std::min(rows_at_once, tensor.rows - first);
    const auto run = staging.span().first(static_cast<std::size_t>(count * tensor.cols));
    convert(first * tensor.cols, run);
    backend.upload(run, tensor.middle_rows(first, count));
  }
}

void broadcast_layer(Collectives& comm, QuantizedLinear& layer, int root) {
  const auto scalar = [&](auto& value) { comm.broadcast(std::span(&value, 1), root); };
  const auto vector = [&](auto& values) {
    auto size = static_cast<std::uint64_t>(values.size());
    scalar(size);
    values.resize(size);
    comm.broadcast(std::span(values), root);
  };
  scalar(layer.rows);
  scalar(layer.cols);
  scalar(layer.bits);
  scalar(layer.grid);
  scalar(layer.group_size);
  scalar(layer.symmetric);
  scalar(layer.transform);
  scalar(layer.seed_u);
  scalar(layer.seed_v);
  vector(layer.codes);
  vector(layer.scale);
  vector(layer.zero);
  vector(layer.rescale);
}

}  // namespace

Tensor load_rows(Collectives& comm, Backend& backend, const TensorSource& source,
                 const std::string& name, Range rows) {
  const TensorInfo& info = source.info(name);
  const index_t cols = extent_of(info).cols;
  const index_t element = size_of(info.dtype);
  const index_t bytes = rows.count() * cols * element;
  Tensor tensor;
  if (comm.size() == 1 || bytes <= small_bytes) {
    agree(comm, [&] {
      tensor = backend.allocate(rows.count(), cols);
      upload_in_runs(backend, tensor.view(), [&](index_t first, std::span<float> run) {
        read_floats(source, name, rows.first * cols + first, run);
      });
    });
    return tensor;
  }
  Buffer<std::byte> raw;
  const std::vector<index_t> offsets = share_offsets(rows.count() * cols, comm.size(), element);
  agree(comm, [&] {
    raw = Buffer<std::byte>(bytes);
    const auto r = static_cast<std::size_t>(comm.rank());
    const index_t first = offsets[r];
    source.read(name, rows.first * cols * element + first,
                raw.span().subspan(static_cast<std::size_t>(first),
                                   static_cast<std::size_t>(offsets[r + 1] - first)));
  });
  comm.all_gather_bytes(raw.span(), offsets);
  agree(comm, [&] {
    tensor = backend.allocate(rows.count(), cols);
    upload_in_runs(backend, tensor.view(), [&](index_t first, std::span<float> run) {
      to_float(info.dtype,
               raw.span().subspan(static_cast<std::size_t>(first * element),
                                  run.size() * static_cast<std::size_t>(element)),
               run);
      const index_t bad = first_nonfinite(run);
      if (bad >= 0) {
        fail("{}: tensor {} holds a NaN or an infinity at element {}", source.describe(), name,
             rows.first * cols + first + bad);
      }
    });
  });
  return tensor;
}

Tensor load_tensor(Collectives& comm, Backend& backend, const TensorSource& source,
                   const std::string& name) {
  return load_rows(comm, backend, source, name, {0, extent_of(source.info(name)).rows});
}

void load_into(WeightSet& weights, Collectives& comm, Backend& backend, const TensorSource& source,
               const std::vector<TensorSpec>& specs) {
  for (const TensorSpec& spec : specs) {
    weights.insert(spec.name, load_tensor(comm, backend, source, spec.name));
  }
}

WeightSet load_block(Collectives& comm, Backend& backend, const TensorSource& source,
                     const Family& family, index_t block) {
  WeightSet weights;
  load_into(weights, comm, backend, source, family.block_tensors(block));
  for (const LinearSpec& linear : family.linears(block)) {
    const std::string name = linear.name + ".weight";
    weights.insert(name, load_tensor(comm, backend, source, name));
  }
  return weights;
}

WeightSet load_block(Collectives& comm, Backend& backend, const PackedModel& packed,
                     const Family& family, index_t block) {
  WeightSet weights;
  load_into(weights, comm, backend, packed, family.block_tensors(block));
  // One rank reads the block's file, all receive it: the file system sees each byte once.
  const auto reader = static_cast<int>(block % comm.size());
  for (const LinearSpec& linear : family.linears(block)) {
    const std::string name = linear.name + ".weight";
    if (!packed.is_quantized(linear.name)) {
      weights.insert(name, load_tensor(comm, backend, packed, name));
      continue;
    }
    QuantizedLinear layer;
    agree(comm, [&] {
      if (comm.rank() == reader) layer = packed.read_layer(linear.name).layer;
    });
    broadcast_layer(comm, layer, reader);
    agree(comm, [&] { weights.insert(name, upload_dequantized(backend, layer)); });
  }
  return weights;
}

Tensor upload_dequantized(Backend& backend, const QuantizedLinear& layer) {
  Tensor tensor = backend.allocate(layer.rows, layer.cols);
  const Matrix<float> host = dequantize(layer);
  backend.upload(host.span(), tensor.view());
  return tensor;
}

}  // namespace quip
