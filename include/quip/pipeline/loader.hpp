// Weights from a source into backend memory, read once per group of ranks.
#pragma once

#include <string>
#include <vector>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/model/family.hpp"
#include "quip/model/tensor_source.hpp"
#include "quip/quant/quantized_linear.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {

/// Rows [first, first + count) of a tensor (1-D tensors are one row), as fp32. Collective: each
/// rank reads its share of the bytes, then all gather; a small tensor is read by every rank. Throws
/// AgreedError naming the tensor if it holds a NaN or an infinity.
[[nodiscard]] Tensor load_rows(Collectives& comm, Backend& backend, const TensorSource& source,
                               const std::string& name, Range rows);

/// A whole tensor.
[[nodiscard]] Tensor load_tensor(Collectives& comm, Backend& backend, const TensorSource& source,
                                 const std::string& name);

/// Every tensor of `specs` (collective).
void load_into(WeightSet& weights, Collectives& comm, Backend& backend, const TensorSource& source,
               const std::vector<TensorSpec>& specs);

/// The weights of a block from a checkpoint (collective).
[[nodiscard]] WeightSet load_block(Collectives& comm, Backend& backend, const TensorSource& source,
                                   const Family& family, index_t block);

/// The weights of a block from a packed model: quantized layers are dequantized (collective).
[[nodiscard]] WeightSet load_block(Collectives& comm, Backend& backend, const PackedModel& packed,
                                   const Family& family, index_t block);

/// Ŵ in backend memory.
[[nodiscard]] Tensor upload_dequantized(Backend& backend, const QuantizedLinear& layer);

}  // namespace quip
